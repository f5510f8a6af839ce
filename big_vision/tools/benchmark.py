"""Measures the speed of training steps, input pipeline and checkpoints.

  python -m big_vision.tools.benchmark [--parts step,input,checkpoint]
    [--model vit --variant S/16 --res 224 --batch 8 --dtype float32]
    [--pp STRING] [--json FILE]
  python -m big_vision.tools.benchmark --parts source [--examples 20000]

step        seconds per step and images/s of the model on synthetic data, next
            to a plain flax step of the same ViT; time to the first step
input       images/s of a preprocessing string on JPEGs of 500x375 pixels
source      images/s, memory and time to resume for kinds of TFDS files
checkpoint  how long the loop waits for a save, and how long saving and loading
            take, also relative to a plain file as large on the same disk

The parts `step` and `checkpoint` need no TensorFlow, `step` no orbax either.
docs/benchmarks.md has the method and figures.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from big_vision import command_line
from big_vision.benchmarks.measure import num_cpus, peak_memory, timed_rounds

PARTS = ("step", "input", "checkpoint", "source")
DEFAULT_PARTS = ("step", "input", "checkpoint")
DEFAULT_PP = (
  "decode_jpeg_and_inception_crop({res})|flip_lr|value_range(-1, 1)"
  '|onehot({classes}, key="label", key_result="labels")'
  '|keep("image", "labels")'
)


class _Config(dict):
  """Holds the few keys of a trainer's config, without ml_collections."""

  __getattr__ = dict.__getitem__


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak of a device, in FLOP/s of dense bfloat16 products.

  Args:
    device_kind: `jax.Device.device_kind`.

  Returns:
    The peak, or None if the kind is not known.
  """
  from big_vision.planning import chips

  chip = chips.of_device(device_kind)
  return chip.flops if chip else None


class _Trainer:
  """Holds a training state on the devices and the step that advances it."""

  def __init__(self, recipe, tx, args):
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from big_vision.training import step as step_lib

    self._start = time.perf_counter()
    mesh = Mesh(np.array(jax.devices()[: args.devices]), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    shape = (args.batch, args.res, args.res, 3)
    rng = np.random.default_rng(0)
    labels = rng.integers(args.classes, size=args.batch)
    self.batch = jax.device_put(
      {
        "image": rng.uniform(-1, 1, shape).astype(np.float32),
        "labels": np.eye(args.classes, dtype=np.float32)[labels],
      },
      NamedSharding(mesh, PartitionSpec("data")),
    )

    def init(key, batch):
      params = recipe.init(key, batch)
      return {"params": params, "opt": tx(params).init(params)}

    shapes = jax.eval_shape(init, jax.random.key(0), self.batch)
    shardings = jax.tree.map(lambda _: replicated, shapes)
    self.state = jax.jit(init, out_shardings=shardings)(
      jax.random.key(0), self.batch
    )
    self.rng = jax.device_put(jax.random.key(1), replicated)
    self.num_params = sum(
      int(np.prod(x.shape)) for x in jax.tree.leaves(shapes["params"])
    )
    self._jitted = step_lib.make_update(
      recipe, tx(shapes["params"]), _Config(), shardings, replicated
    )

  def first_step(self):
    """Compiles and runs one step; sets `flops`, `seconds_to_first_step`."""
    # Counted before compilation: the same number on every platform.
    lowered = self._jitted.lower(self.state, self.batch, {}, self.rng)
    self.flops = (lowered.cost_analysis() or {}).get("flops")
    self._step = lowered.compile()
    self.run(1)
    self.seconds_to_first_step = time.perf_counter() - self._start

  def run(self, steps):
    """Runs steps and waits for the last one."""
    for _ in range(steps):
      self.state, out = self._step(self.state, self.batch, {}, self.rng)
    out["training_loss"].block_until_ready()


def make_trainer(args: argparse.Namespace) -> tuple[Any, Any]:
  """Makes the model with the trainer's update step, AdamW and clipping.

  Args:
    args: the arguments of the command line.

  Returns:
    (`_Trainer`, model).
  """
  import jax.numpy as jnp

  from big_vision import losses, models
  from big_vision import optax as bv_optax
  from big_vision.training import recipe as recipe_lib

  kw = {"dtype_mm": args.dtype, **json.loads(args.model_kw)}
  model, _ = models.build(
    {"model_name": args.model, "model": {"variant": args.variant, **kw}},
    num_classes=args.classes,
  )

  def init(rng, batch):
    return model.init(rng, jnp.zeros_like(batch["image"][:1]))["params"]

  def loss_fn(params, batch, rng, state):
    logits, _ = model.apply(
      {"params": params}, batch["image"], train=True, rngs={"dropout": rng}
    )
    loss = losses.softmax_xent(
      logits=logits, labels=batch["labels"], reduction=True
    )
    return loss, {}

  config = _Config(
    optax_name="scale_by_adam",
    optax={},
    lr=1e-3,
    wd=1e-4,
    grad_clip_norm=1.0,
    schedule=_Config(warmup_steps=10, decay_type="cosine"),
  )
  sched_kw = dict(total_steps=10_000, batch_size=args.batch, data_size=10**6)
  tx = lambda params: bv_optax.make(config, params, sched_kw=sched_kw)[0]
  recipe = recipe_lib.Recipe(init=init, loss_fn=loss_fn)
  return _Trainer(recipe, tx, args), model


def make_reference(
  model: Any, batch: dict[str, Any]
) -> tuple[Callable[[int], None], int]:
  """Makes a plain flax ViT and a plain step to compare with.

  Args:
    model: the model of `make_trainer`, a ViT; determines the sizes.
    batch: dict with "image" [B, H, W, 3] and one-hot "labels" [B, C].

  Returns:
    Tuple (`run(steps)`, which runs steps and waits for the last one; number of
    parameters).
  """
  import flax.linen as nn
  import jax
  import jax.numpy as jnp
  import optax

  dtype = jnp.dtype(model.dtype_mm)

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):  # [B, L, D]
      y = nn.LayerNorm(dtype=dtype)(x)
      x += nn.MultiHeadDotProductAttention(model.num_heads, dtype=dtype)(y, y)
      y = nn.LayerNorm(dtype=dtype)(x)
      y = nn.Dense(model.mlp_dim or 4 * model.width, dtype=dtype)(y)
      return x + nn.Dense(model.width, dtype=dtype)(nn.gelu(y))

  class ViT(nn.Module):
    @nn.compact
    def __call__(self, image):  # [B, H, W, 3]
      patch = tuple(model.patch_size)
      x = nn.Conv(model.width, patch, patch, dtype=dtype)(image)
      x = x.reshape(x.shape[0], -1, model.width)
      shape = (1, *x.shape[1:])
      x += self.param("posemb", nn.initializers.normal(0.02), shape, dtype)
      for _ in range(model.depth):
        x = Block()(x)
      x = nn.LayerNorm()(x).mean(axis=1)
      return nn.Dense(model.num_classes, kernel_init=nn.initializers.zeros)(x)

  vit = ViT()
  tx = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=1e-4)
  )

  def loss_fn(params, batch):
    logits = vit.apply({"params": params}, batch["image"])
    return optax.softmax_cross_entropy(logits, batch["labels"]).mean()

  def step(params, opt, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt, loss

  step = jax.jit(step, donate_argnums=(0, 1))
  params = jax.jit(vit.init)(jax.random.key(0), batch["image"][:1])["params"]
  # Where the batch is, which may be on several devices.
  mesh = batch["image"].sharding.mesh
  params = jax.device_put(
    params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  )
  num_params = sum(x.size for x in jax.tree.leaves(params))
  state = [params, jax.jit(tx.init)(params)]

  def run(steps):
    for _ in range(steps):
      *state[:], loss = step(*state, batch)
    loss.block_until_ready()

  run(2)  # Compiles, the second time for the layouts of the first results.
  return run, num_params


def benchmark_step(args: argparse.Namespace) -> dict[str, Any]:
  """Times the training step.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  import jax

  args.devices = args.devices or len(jax.devices())
  if args.batch % args.devices:
    raise ValueError(
      f"--batch={args.batch} is not divisible by {args.devices} devices."
    )
  trainer, model = make_trainer(args)
  trainer.first_step()
  memory = peak_memory()  # Before the reference takes its part.
  fns = {"big_vision": trainer.run}
  if args.model == "vit" and args.reference:
    fns["plain_flax"], num_params = make_reference(model, trainer.batch)
  seconds = timed_rounds(fns, args.steps, args.rounds)

  best = seconds["big_vision"]["best"]
  result = {
    "model": f"{args.model} {args.variant}",
    "resolution": args.res,
    "batch": args.batch,
    "devices": args.devices,
    "dtype": args.dtype,
    "num_params": trainer.num_params,
    "seconds_to_first_step": trainer.seconds_to_first_step,
    "seconds_per_step": seconds,
    "images_per_second": args.batch / best,
    "peak_memory": memory,
  }
  if "plain_flax" in seconds:
    result["num_params_plain_flax"] = num_params
    result["time_relative_to_plain_flax"] = best / seconds["plain_flax"]["best"]
  if trainer.flops and trainer.flops > 0:
    result["flops_per_step"] = trainer.flops
    result["flops_per_second"] = trainer.flops / best
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak:
      result["share_of_peak_bfloat16"] = (
        trainer.flops / best / (peak * args.devices)
      )
  return result


def benchmark_checkpoint(args: argparse.Namespace) -> dict[str, Any]:
  """Times saves of a training state.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  import jax

  from big_vision.benchmarks import storage

  trainer, _ = make_trainer(args)
  with tempfile.TemporaryDirectory(dir=args.dir) as folder:
    seconds = storage.measure(trainer.state, folder, args.rounds)
  return {
    "model": f"{args.model} {args.variant}",
    "bytes": sum(x.nbytes for x in jax.tree.leaves(trainer.state)),
    "bytes_on_disk": int(seconds["bytes"][-1]),
    "seconds_blocked": statistics.median(seconds["blocked"]),
    "seconds_until_on_disk": statistics.median(seconds["saved"]),
    "seconds_to_load": statistics.median(seconds["loaded"]),
    # Of files as large: the least of each, since other load only adds.
    "save_relative_to_disk": min(seconds["saved"]) / min(seconds["written"]),
    "load_relative_to_disk": min(seconds["loaded"]) / min(seconds["read"]),
    "megabytes_per_second_of_disk": {
      "write": seconds["bytes"][-1] / 1e6 / min(seconds["written"]),
      "read": seconds["bytes"][-1] / 1e6 / min(seconds["read"]),
    },
    "peak_memory": peak_memory(),
  }


def describe_machine() -> dict[str, Any]:
  """Returns the facts about the machine that figures depend on."""
  machine = {
    "platform": f"{platform.system()} {platform.machine()}",
    "cpu_cores": num_cpus(),
    "python": platform.python_version(),
  }
  if "jax" in sys.modules:
    import jax

    machine["devices"] = len(jax.devices())
    machine["device_kind"] = jax.devices()[0].device_kind
    machine["jax"] = jax.__version__
  return machine


def format_table(results: dict[str, Any]) -> str:
  """Formats results as lines of text, one figure per line.

  Args:
    results: part -> dict of figures; their names contain the units.

  Returns:
    The text.
  """

  def rows(tree, prefix=""):
    for key, value in tree.items():
      if isinstance(value, dict):
        yield from rows(value, f"{prefix}{key}/")
      else:
        if isinstance(value, float) and abs(value) < 1000:
          text = f"{value:.4g}"
        else:
          text = value if isinstance(value, str) else f"{value:,.0f}"
        yield f"{prefix}{key}", text

  lines = []
  for part, tree in results.items():
    table = list(rows(tree))
    width = max(len(key) for key, _ in table)
    lines += [part] + [f"  {key:<{width}}  {text}" for key, text in table]
  return "\n".join(lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line; see the top of the file.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Namespace.
  """
  parser = command_line.make_parser("big_vision.tools.benchmark", __doc__)
  add = parser.add_argument
  add("--parts", default=",".join(DEFAULT_PARTS), help="Separated by commas.")
  add("--model", default="vit", help="As config.model_name.")
  add("--variant", default="S/16", help="As config.model.variant.")
  add("--model_kw", default="{}", help='JSON, for example {"scan": true}.')
  add("--res", type=int, default=224, help="Side of the images in pixels.")
  add("--batch", type=int, default=8, help="Images per step.")
  add("--devices", type=int, help="How many (default: all).")
  add("--classes", type=int, default=1000, help="Number of classes.")
  add("--dtype", default="float32", help="Of matrix products: or bfloat16.")
  add("--steps", type=int, default=5, help="Per round.")
  add("--rounds", type=int, default=3, help="The best one counts.")
  add(
    "--reference",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="Also measure a plain flax step of the same ViT.",
  )
  add("--pp", default=DEFAULT_PP, help="{res} and {classes} are filled in.")
  add("--images", type=int, default=256, help="Number of JPEGs.")
  add("--examples", type=int, default=20_000, help="Size of the dataset.")
  add("--dir", help="For what is written (default: the temporary folder).")
  add("--json", help="Also write the figures to this file.")
  args = parser.parse_args(argv)
  args.parts = args.parts.split(",")
  for part in args.parts:
    if part not in PARTS:
      parser.error(f"--parts: {part!r} is none of {', '.join(PARTS)}")
  return args


def _input_part(name):
  """Makes a part that needs TensorFlow, which is imported when it runs."""

  def run(args):
    from big_vision.benchmarks import inputs

    return getattr(inputs, name)(args)

  return run


_BENCHMARKS = {
  "step": benchmark_step,
  "checkpoint": benchmark_checkpoint,
  "input": _input_part("benchmark_input"),
  "source": _input_part("benchmark_source"),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Runs the parts and prints a table.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Dict of part -> figures.
  """
  args = parse_args(argv)
  results = {"machine": {}}
  for part in args.parts:
    print(f"Measuring {part} ...", file=sys.stderr)
    results[part] = _BENCHMARKS[part](args)
  results["machine"] = describe_machine()
  print(format_table(results))
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(results, f, indent=2)
  return results


if __name__ == "__main__":
  main()
