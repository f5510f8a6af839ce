"""Distillation: a student learns to compute what its teachers compute.

  python -m big_vision.trainers.proj.distill.distill --config CONFIG --workdir DIR

"Knowledge distillation: A good teacher is patient and consistent",
https://arxiv.org/abs/2106.05237: student and teachers see the same crop of the
same image, mixed with the same other image. Keys of the config, with t for each
of the names in `teachers`:

  student_name, student, student_init, student_load: the model that is trained.
  t_name, t, t_init, t_load: a teacher; t_init is required, "" is for one with
    random parameters.
  t_dtype: dtype to keep its parameters in, for example "bfloat16".
  distance, distance_kw: see `evaluators.proj.distill.distance.dist`; default kl.
    None: logits are not compared.
  features: list of dicts with `teacher`, `student_layer`, `teacher_layer` (paths
    in the models' `out`) and optionally `weight`, `distance` ("l2") and its
    arguments: intermediate results that the student should predict, by a linear
    layer of its own. So teachers without classes can be used.

A batch may hold images of their own for models, under their names.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app

from big_vision import losses, mixup, trees
from big_vision.evaluators.proj.distill.distance import dist
from big_vision.training import cli, recipe

PROJECTIONS = "distill_projections"  # Of features, among the parameters.


def getfirst(d, *keys):
  """The value of the first of the keys that is in `d`; KeyError if none is."""
  for key in keys:
    if key in d:
      return d[key]
  raise KeyError(f"None of {keys} in {list(d)}.")


def build(setup, mixup_shards=1):
  """The recipe of distillation.

  Args:
    setup: Setup. Batches have `image` [B, H, W, C] or entries named like the
      models, and possibly `labels` [B, N], which are only measured against.
    mixup_shards: int, parts of a batch whose examples mix among themselves.

  Returns:
    The Recipe; what is trained and stored is the student alone. Its loss and
    the predict functions of the student take further arguments of the student's
    call as keywords.
  """
  config = setup.config
  names = ["student", *config.teachers]
  made = {
    name: setup.make_model(name, num_classes=config.num_classes)
    for name in names
  }
  models = {name: model for name, (model, _) in made.items()}
  features = [dict(f) for f in config.get("features") or ()]
  distance = functools.partial(
    dist, kind=config.get("distance", "kl"), **config.get("distance_kw", {})
  )
  compares_logits = config.get("distance", "kl") is not None
  # One key per model, in this order, whatever key the loop would give.
  _, *keys = jax.random.split(
    jax.random.PRNGKey(config.get("seed", 0)), len(names) + 1
  )
  keys = dict(zip(names, keys, strict=True))

  def init_model(name, batch):
    image = jnp.zeros_like(getfirst(batch, name, "image"), jnp.float32)
    params = models[name].init(keys[name], image)["params"]
    if "init_head_bias" in config:
      bias = params["head"]["bias"]
      params["head"]["bias"] = jnp.full_like(bias, config.init_head_bias)
    return params

  def forward(name, params, batch, **kw):
    params = {k: v for k, v in params.items() if k != PROJECTIONS}
    image = getfirst(batch, name, "image")
    return models[name].apply({"params": params}, image, **kw)

  def init(rng, batch):
    del rng
    params = init_model("student", batch)
    if features:
      outs = {
        name: _out_shapes(forward, init_model, name, batch) for name in names
      }
      key = jax.random.fold_in(keys["student"], 1)
      params[PROJECTIONS] = _init_projections(features, outs, key)
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
    for i, feature in enumerate(features):
      parts[f"feature_loss_{i}"] = _feature_loss(
        feature, params[PROJECTIONS][str(i)], outs
      )
    loss = measured["distill_loss"] = sum(parts.values())
    return loss, {**measured, **parts}

  def augment(batch, rng):
    mixed = [k for k in ("image", "labels", *names) if k in batch]
    mix = mixup.get_mixup(
      rng, config.mixup.p, mixup_shards, config.mixup.get("n", 2)
    )
    rng, _, out = mix(**{k: batch[k] for k in mixed})
    return {**batch, **out}, rng

  return recipe.Recipe(
    init=init,
    load=_load_student(made["student"][1]),
    loss_fn=loss_fn,
    augment=augment if (config.get("mixup") or {}).get("p") else None,
    frozen={
      t: _load_teacher(setup, t, made[t][1], init_model) for t in names[1:]
    },
    params_name="student",
    predict_fns=_predict_fns(forward, config.teachers),
  )


def _load_student(load):
  """`Recipe.load`: projections are no part of a checkpoint of the model."""
  if load is None:
    return None

  def fn(params):
    model = {k: v for k, v in params.items() if k != PROJECTIONS}
    return {**params, **load(model)}

  return fn


def _load_teacher(setup, name, load, init_model):
  """Parameters of a teacher."""
  init = lambda: init_model(name, setup.batch_shapes)
  if f"{name}_init" not in setup.config:
    raise ValueError(
      f"config.{name}_init is required: the checkpoint of the teacher, or '' for "
      "random parameters."
    )
  params = load(jax.eval_shape(init)) if load else jax.jit(init)()
  if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params)):
    raise ValueError(
      f"config.{name}_load: a teacher must be loaded as a whole, without "
      "dont_load."
    )
  if dtype := setup.config.get(f"{name}_dtype"):
    params = jax.tree.map(lambda x: x.astype(dtype), params)
  return params


def _predict_fns(forward, teachers):
  """Each model, the ensemble of teachers, and pairs with the student."""

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


def _out_shapes(forward, init_model, name, batch):
  """Shapes of all that a model computes."""
  return jax.eval_shape(
    lambda: forward(name, init_model(name, batch), batch)[1]
  )


def _init_projections(features, outs, rng):
  """Kernel and bias of the linear layer of every feature."""
  layers = {}
  for i, f in enumerate(features):
    x = trees.tree_get(outs["student"], f["student_layer"])
    z = trees.tree_get(outs[f["teacher"]], f["teacher_layer"])
    layer = nn.Dense(z.shape[-1])
    key = jax.random.fold_in(rng, i)
    layers[str(i)] = layer.init(key, jnp.zeros(x.shape, x.dtype))["params"]
  return layers


def _feature_loss(feature, projection, outs):
  """Mean distance of a projected layer of the student to one of a teacher."""
  x = trees.tree_get(outs["student"], feature["student_layer"])
  z = trees.tree_get(outs[feature["teacher"]], feature["teacher_layer"])
  x = nn.Dense(z.shape[-1]).apply({"params": projection}, x)
  if x.shape != z.shape:
    if x.ndim != 4 or z.ndim != 4:
      raise ValueError(
        f"config.features: {feature['student_layer']!r} of the student is "
        f"{x.shape}, {feature['teacher_layer']!r} of the teacher {z.shape}. Only "
        "maps [B, h, w, D] are resized."
      )
    x = jax.image.resize(x, z.shape, "bilinear")
  rest = {
    k: v
    for k, v in feature.items()
    if k
    not in ("teacher", "student_layer", "teacher_layer", "weight", "distance")
  }
  each = dist(x, z, feature.get("distance", "l2"), **rest)
  return feature.get("weight", 1.0) * jnp.mean(each)


main = cli.main_for(build, model="student")

if __name__ == "__main__":
  app.run(main)
