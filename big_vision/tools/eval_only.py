"""Evaluates a model with the evaluators of a config, without training.

  python -m big_vision.tools.eval_only --config CONFIG --workdir DIR

Keys of the config: `model_name`, `model`, `num_classes`, `model_init` (a
checkpoint; without it the random initialization is evaluated), `model_load`,
`evals`, in which `params="ema"` measures the average of the parameters that the
checkpoint has; `init_shapes` and `init_types` of the model's inputs, by default one
float32 [1, 224, 224, 3]; `eval_repeats` (1), which becomes the metrics' step;
`mesh`, `precision`, `sharding_rules`, `sharding_strategy`, `loss` and `pp_modules`
as for training; `no_profile`, names of evaluators not to profile.

Evaluators may use the predict functions `predict`, `loss` and `model`.
"""

from typing import Any

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import jax
import jax.numpy as jnp
from absl import app, flags, logging
from flax import errors
from flax import linen as nn

from big_vision import (
  checkpoints,
  devices,
  fs,
  guards,
  lookup,
  losses,
  metrics,
  models,
  precision,
  profiler,
  sharding,
  trees,
  workdir,
)
from big_vision.chrono import chrono
from big_vision.evaluators import build as eval_build
from big_vision.evaluators import common as eval_common
from big_vision.evaluators import validate as eval_validate
from big_vision.models import attention, load_errors
from big_vision.training import (
  agreement,
  cli,
  config_flag,
  console,
  label_check,
  peers,
)
from big_vision.training import params as params_lib
from big_vision.types import ConfigLike, LoadFn, Params, TrainState

# Features that are the first, second input of a model, as when training.
INPUTS = ("image", "labels")


def make_predict_fns(config: ConfigLike, model: Any) -> dict[str, Any]:
  """Makes the functions that evaluators may call.

  Args:
    config: ConfigDict; reads `loss` and the number of `init_shapes`.
    model: linen module.

  Returns:
    Dict: `predict` (the result of the model; with `outputs`, names in its `out`,
    a tuple of these), `loss` ({"loss": [B]}), both
    `(train_state, batch, **kw)`; `model`, the module itself.
  """
  inputs = INPUTS[: len(config.get("init_shapes", [()]))]
  loss = losses.get(config.get("loss", "sigmoid_xent"), "loss")

  def predict(state, batch, outputs=None, **kw):
    args = [batch.get(k) for k in inputs]
    result = model.apply({"params": state["params"]}, *args, **kw)
    if outputs is None:
      return result
    return tuple(trees.tree_get(result[1], name) for name in outputs)

  def predict_loss(state, batch, **kw):
    logits, *_ = predict(state, batch, **kw)
    labels = batch["labels"]
    return {"loss": loss(logits=logits, labels=labels, reduction=False)}

  return {"predict": predict, "loss": predict_loss, "model": model}


def make_params(
  config: ConfigLike, model: nn.Module | None, load: LoadFn | None
) -> Params:
  """Makes parameters on the CPU: initialized, then loaded from `model_init`.

  Args:
    config: ConfigDict of the run.
    model: linen module.
    load: reads `config.model_init`, see `models.build`; None if there is none.

  Returns:
    Tree of arrays.

  Raises:
    ValueError: `init_types` has another length than `init_shapes`, or the
      checkpoint does not fit the model.
  """
  shapes = _input_shapes(config)
  types = config.get("init_types", ["float32"] * len(shapes))
  if len(types) != len(shapes):
    raise ValueError(
      f"config.init_types={types} should be as long as config.init_shapes="
      f"{shapes}."
    )

  @devices.jit_cpu()
  def init():
    pairs = zip(shapes, types, strict=True)
    zeros = [jnp.zeros(tuple(s), t) for s, t in pairs]
    params = nn.unbox(model.init(jax.random.PRNGKey(42), *zeros)["params"])
    return precision.parameters(params, config)

  params = init()
  if not load:
    console.note(
      "There is no config.model_init: a random initialization is evaluated."
    )
    return params
  loaded = load(params)
  params_lib.check_shapes(loaded, params)
  return loaded


def _average(config: ConfigLike, model: Any, **kw: Any) -> TrainState:
  """Reads the average of the parameters if an evaluator measures it."""
  every = eval_build.entries(config).items()
  asking = [n for n, cfg in every if cfg.get("params") == eval_build.EMA]
  if not asking:
    return {}
  init = config.get("model_init")
  if not init:
    raise lookup.ConfigError(
      f"config.evals.{asking[0]}.params = 'ema' needs config.model_init, a "
      "checkpoint of a run with config.ema_decay."
    )
  init = jax.tree.map(checkpoints.averaged, load_errors.plain(init))
  _, load = models.build({**config, "model_init": init}, **kw)
  return {checkpoints.AVERAGE: make_params(config, model, load)}


def _input_shapes(config):
  return config.get("init_shapes", [(1, 224, 224, 3)])


@guards.transfers
def evaluate(config: ConfigLike, output_dir: str | None = None) -> None:
  """Runs all evaluators of a config.

  Args:
    config: ConfigDict, see the top of this file.
    output_dir: folder for the metrics; None writes nothing.

  Raises:
    ValueError: the config is wrong. It is checked before the model is loaded.
  """
  _refuse_keys_of_training(config)
  mesh = devices.mesh_of(config)
  flat = mesh.devices.flatten()
  lookup.preprocessing(config)
  kw = {"num_classes": config.num_classes} if "num_classes" in config else {}
  shape = tuple(_input_shapes(config)[0])
  size = shape[1:3] if len(shape) == 4 else None
  model, load = models.build(config, image_size=size, **kw)
  predict_fns = make_predict_fns(config, model)
  eval_validate.validate(config, predict_fns, flat)
  label_check.check_evaluators(config)

  if output_dir:
    fs.makedirs(output_dir)
  # The config of a training stays: its run and readers of its model need it.
  trained = output_dir and checkpoints.latest(f"{output_dir}/checkpoint.bv")
  writer = metrics.BigVisionMetricWriter(
    workdir=output_dir, config=None if trained else config
  )
  chrono.inform(measure=writer.measure, write_note=console.note)
  try:
    writer.step_start(0)
    with chrono.log_timing("z/secs/init"):
      params = make_params(config, model, load)
      average = _average(config, model, image_size=size, **kw)
      num_params = sum(x.size for x in jax.tree.leaves(params))
      strategy = config.get("sharding_strategy", [(".*", "replicate")])
      rules = sharding.axis_rules(config)
      with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        state = {"params": params, **average}
        where = sharding.infer_sharding(state, strategy=strategy, mesh=mesh)
        state = devices.reshard(state, where)
    writer.measure("num_params", num_params)

    evaluators = eval_common.from_config(
      config,
      predict_fns,
      lambda name: console.note(f"Initializing evaluator: {name}..."),
      get_steps=lambda key, cfg: None,  # All run, whenever they are due.
      devices=flat,
      workdir=output_dir or "",
      get_step=lambda: chrono.prev_step,
    )
    with (
      jax.set_mesh(mesh),
      nn.logical_axis_rules(rules),
      precision.context(config),
      attention.context(config),
    ):
      for repeat in range(config.get("eval_repeats", 1)):
        if repeat:
          writer.step_start(repeat)
        chrono.inform(first_step=repeat)
        for name, evaluator, _, prefix in evaluators:
          _measure(config, writer, name, evaluator, prefix, state)
        writer.step_end()
  finally:
    writer.close()
  devices.sync()


def _refuse_keys_of_training(config):
  if (config.get("model") or {}).get("reinit"):
    raise lookup.ConfigError(
      "config.model.reinit is for training, it has no effect here."
    )
  if path := config.get("resume"):
    raise lookup.ConfigError(
      f"config.resume={path!r} is for training, it has no effect here. To "
      "evaluate a checkpoint, give it as config.model_init."
    )


def _measure(config, writer, name, evaluator, prefix, state):
  """Runs one evaluator and writes its metrics."""
  console.note(f"{name} evaluation...")
  skip = name in config.get("no_profile", [])
  with (
    chrono.log_timing(f"z/secs/eval/{name}"),
    profiler.profile(name, noop=skip),
    jax.transfer_guard("disallow"),
  ):
    results = {}
    try:
      for key, value in evaluator.run(state):
        value = jax.device_get(value)
        results[key] = writer.measure(f"{prefix}{key}", value)
    except errors.ScopeParamShapeError as e:
      raise lookup.ConfigError(
        f"config.evals.{name} has inputs of another size than "
        f"config.init_shapes={_input_shapes(config)}, which parameters have the "
        f"size of: set init_shapes. ({str(e).partition(' (https')[0]})"
      ) from e
  console.results(name, results)


def main(argv: Any) -> None:
  """Evaluates the config of the flags of `training/cli.py`.

  Args:
    argv: what flags have left of the command line.
  """
  config_flag.check_arguments(argv)
  args = flags.FLAGS
  if args.config is None:
    raise SystemExit("--config is required: a config with model and evals.")
  with peers.running(args.workdir):
    cli.start_jax()
    agreement.check(args.config, args.workdir)
    if args.profile and args.workdir:
      profiler.configure(fs.join(args.workdir, "profile"))
    evaluate(args.config, args.workdir)
  workdir.maybe_cleanup_workdir(args.workdir, args.cleanup, logging.info)


if __name__ == "__main__":
  app.run(main)
