"""Distillation: a student learns to compute what its teachers compute.

  python -m big_vision.trainers.proj.distill.distill --config CONFIG --workdir DIR

"Knowledge distillation: A good teacher is patient and consistent",
https://arxiv.org/abs/2106.05237: student and teachers receive the same crop of
the same image, mixed with the same other image. Keys of the config, with t for
each of the names in `teachers`:

  student_name, student, student_init, student_load: the model that is trained.
  t_name, t, t_init, t_load: a teacher; t_init is required, "" is random.
  t_dtype: dtype to keep its parameters in, for example "bfloat16".
  distance, distance_kw: see `losses.distance`; default kl, None leaves it out.
  features: layers of teachers that the student predicts, see `features.py`.

A batch may hold an image for one model alone, under the name of the model.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import functools

import jax
import jax.numpy as jnp
from absl import app

from big_vision import lookup, losses, mixup
from big_vision.lookup import getfirst
from big_vision.models import common
from big_vision.trainers.proj.distill import features
from big_vision.training import cli, loading
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup


def build(setup: Setup, mixup_shards: int = 1) -> Recipe:
  """Makes the recipe of distillation.

  Args:
    setup: batches have `image` [B, H, W, C] or entries named like the models,
      and possibly `labels` [B, N], which are only measured against.
    mixup_shards: number of parts of a batch; examples mix within a part.

  Returns:
    The Recipe. Only the student is trained and stored. The loss and the
    student's predict functions take further arguments of the student's call as
    keywords.

  Raises:
    ValueError: the config lacks a model or a checkpoint, or a model does not
      fit.
  """
  config = setup.config
  names = ["student", *config.teachers]
  made = {
    name: setup.make_model(name, num_classes=setup.num_classes)
    for name in names
  }
  models = {name: model for name, (model, _) in made.items()}
  matched = features.from_config(config)
  distance = functools.partial(
    losses.distance,
    kind=config.get("distance", "kl"),
    **config.get("distance_kw", {}),
  )
  compares_logits = config.get("distance", "kl") is not None
  # One key per model, in this order, whatever key the loop gives.
  _, *keys = jax.random.split(
    jax.random.PRNGKey(config.get("seed", 0)), len(names) + 1
  )
  keys = dict(zip(names, keys, strict=True))

  def init_model(name, batch):
    image = jnp.zeros_like(getfirst(batch, name, "image"), jnp.float32)
    params = models[name].init(keys[name], image)["params"]
    if "init_head_bias" in config:
      common.set_head_bias(params, config.init_head_bias)
    return params

  def forward(name, params, batch, **kw):
    params = {k: v for k, v in params.items() if k != features.PROJECTIONS}
    image = getfirst(batch, name, "image")
    return models[name].apply({"params": params}, image, **kw)

  def init(rng, batch):
    del rng
    params = init_model("student", batch)
    if matched:
      out = lambda name: forward(name, init_model(name, batch), batch)[1]
      outs = {
        name: jax.eval_shape(functools.partial(out, name)) for name in names
      }
      key = jax.random.fold_in(keys["student"], 1)
      params[features.PROJECTIONS] = features.init(matched, outs, key)
    return params

  def loss_fn(params, batch, rng, state, **student_kw):
    rngs = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
    logits, outs = {}, {}
    for name in names:
      trained = name == "student"
      logits[name], outs[name] = forward(
        name,
        params if trained else state["frozen"][name],
        batch,
        train=trained,
        rngs={"dropout": rngs[name]},
        **(student_kw if trained else {}),
      )
    if compares_logits:
      _check_classes(logits)
    measured = {}
    for name in names if compares_logits else ["student"]:
      p = jax.nn.log_softmax(logits[name])
      measured[f"entropy_{name}"] = -jnp.sum(jnp.exp(p) * p, axis=-1).mean()
      if "labels" in batch:
        measured[f"task_loss_{name}"] = losses.softmax_xent(
          logits=logits[name], labels=batch["labels"]
        )
    parts = {}
    if compares_logits:
      for t in config.teachers:
        each = distance(logits["student"], logits[t])
        parts[f"distill_loss_{t}"] = jnp.mean(each)
    for i, feature in enumerate(matched):
      projection = params[features.PROJECTIONS][str(i)]
      parts[f"feature_loss_{i}"] = features.loss(feature, projection, outs)
    loss = measured["distill_loss"] = sum(parts.values())
    return loss, {**measured, **parts}

  def augment(batch, rng):
    mixed = [k for k in ("image", "labels", *names) if k in batch]
    cfg = config.mixup
    num_shards = cfg.get("num_shards") or mixup_shards
    mix = mixup.get_mixup(rng, cfg.p, num_shards, cfg.get("n", 2))
    rng, _, out = mix(**{k: batch[k] for k in mixed})
    return {**batch, **out}, rng

  def frozen(name):
    init = lambda: init_model(name, setup.batch_shapes)
    return loading.frozen(setup, name, made[name][1], init)

  return Recipe(
    init=init,
    load=loading.without(made["student"][1], [features.PROJECTIONS]),
    loss_fn=loss_fn,
    augment=augment if (config.get("mixup") or {}).get("p") else None,
    frozen={t: frozen(t) for t in config.teachers},
    params_name="student",
    predict_fns=_predict_fns(forward, config.teachers),
  )


def _check_classes(logits):
  """Raises ConfigError if models have different numbers of outputs."""
  num = {name: x.shape[-1] for name, x in logits.items()}
  for name, n in num.items():
    if n != num["student"]:
      raise lookup.ConfigError(
        f"config.{name}: the teacher has {n} classes, the student "
        f"{num['student']} (config.num_classes, unless config.student.num_classes"
        " says otherwise). Use a teacher of the same classes, or config.distance "
        "= None with config.features."
      )


def _predict_fns(forward, teachers):
  """Makes functions of each model, the ensemble, and pairs with the student."""

  def student(state, batch, **kw):
    return forward("student", state["params"], batch, **kw)

  def teacher(name):
    return lambda state, batch: forward(name, state["frozen"][name], batch)

  def ensemble(state, batch):
    logits = [teacher(t)(state, batch)[0] for t in teachers]
    return jnp.mean(jax.nn.softmax(jnp.stack(logits)), axis=0), {}

  def pair(other):
    return lambda state, batch, **kw: (
      student(state, batch, **kw),
      other(state, batch),
    )

  fns = {"student_fwd": student, "teacher_ensemble_fwd": ensemble}
  fns["student_teacher_ensemble_fwd"] = pair(ensemble)
  for t in teachers:
    fns[f"{t}_fwd"] = teacher(t)
    fns[f"student_{t}_fwd"] = pair(teacher(t))
  return fns


main = cli.main_for(build, model="student")

if __name__ == "__main__":
  app.run(main)
