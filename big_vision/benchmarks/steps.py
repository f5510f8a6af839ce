"""Training steps to measure: the trainer's own, and a plain flax one of its ViT."""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import contrastive, losses, models, precision
from big_vision import optax as bv_optax
from big_vision.planning import flops
from big_vision.training import recipe as recipe_lib
from big_vision.training import step as step_lib

TWO_TOWERS = "proj.image_text.two_towers"
TOKENS, _VOCABULARY = 64, 32_000  # Of texts, as SigLIP has them.


class _Config(dict):
  """Holds the few keys of a trainer's config, without ml_collections."""

  __getattr__ = dict.__getitem__


class Trainer:
  """Holds a training state on the devices and the step that advances it."""

  def __init__(
    self,
    recipe: recipe_lib.Recipe,
    tx: Callable[[Any], optax.GradientTransformation],
    args: argparse.Namespace,
  ) -> None:
    """Initializes the state, and puts a batch on the devices.

    Args:
      recipe: what is trained.
      tx: parameters -> optimizer.
      args: of the command line.
    """
    self._start = time.perf_counter()
    config = _Config(precision=args.dtype)
    mesh = Mesh(np.array(jax.devices()[: args.devices]), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    self.where = NamedSharding(mesh, PartitionSpec("data"))
    self.host_batch = _make_batch(args)
    self.batch = jax.device_put(self.host_batch, self.where)

    def init(key, batch):
      params = precision.parameters(recipe.init(key, batch), config)
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
      recipe, tx(shapes["params"]), config, shardings, replicated
    )

  def first_step(self, options: dict[str, Any] | None = None) -> None:
    """Compiles and runs one step; sets `flops`, `seconds_to_first_step`.

    Args:
      options: more options for the compiler.
    """
    # Counted before compilation: the same number on every platform.
    lowered = self._jitted.lower(self.state, self.batch, {}, self.rng)
    self.flops = (lowered.cost_analysis() or {}).get("flops")
    self.compiled = lowered.compile(compiler_options=options)
    self.run(1)
    self.seconds_to_first_step = time.perf_counter() - self._start

  def run(self, steps: int, batches: Iterator[Any] | None = None) -> None:
    """Runs steps and waits for the last one.

    Args:
      steps: how many.
      batches: each step takes the next one; None: all have the same batch.
    """
    for _ in range(steps):
      batch = self.batch if batches is None else next(batches)
      self.state, out = self.compiled(self.state, batch, {}, self.rng)
    out["training_loss"].block_until_ready()

  def planned_flops(self) -> int:
    """Counts the FLOPs of a step as `tools.plan` does."""
    args = (self.state, self.batch, {}, self.rng)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args
    )
    return flops.of_function(self._jitted, *shapes)


def _make_batch(args):
  """Makes images, and one-hot labels or the tokens of texts."""
  rng = np.random.default_rng(0)
  shape = (args.batch, args.res, args.res, 3)
  if getattr(args, "uint8", False):
    image = rng.integers(0, 256, shape, np.uint8)
  else:
    image = rng.uniform(-1, 1, shape).astype(np.float32)
  if args.model == TWO_TOWERS:
    labels = rng.integers(_VOCABULARY, size=(args.batch, TOKENS))
    return {"image": image, "labels": labels.astype(np.int32)}
  labels = rng.integers(args.classes, size=args.batch)
  return {
    "image": image,
    "labels": np.eye(args.classes, dtype=np.float32)[labels],
  }


def scaled(batch: dict[str, Any]) -> dict[str, Any]:
  """Scales images from uint8 to [-1, 1], as the op `value_range(-1, 1)`."""
  image = jnp.asarray(batch["image"], jnp.float32) / 127.5 - 1
  return {**batch, "image": image}


def _sizes(variant):
  """Reads R50x1 as depth and width, which ResNets are made from."""
  resnet = re.fullmatch(r"R(\d+)x(\d+)", variant)
  if not resnet:
    return {"variant": variant}
  return {"depth": int(resnet[1]), "width": int(resnet[2])}


def _make_model(args):
  """Makes the model; `two_towers` is that of SigLIP."""
  kw = json.loads(args.model_kw)
  if args.model != TWO_TOWERS:
    model = {**_sizes(args.variant), **kw}
    config = {"model_name": args.model, "model": model}
    config["precision"] = args.dtype
    return models.build(config, num_classes=args.classes)[0]
  from big_vision.configs.proj.image_text import common

  model = common.siglip_model(args.variant, _VOCABULARY)
  config = {"model_name": args.model, "model": {**model, **kw}}
  config["precision"] = args.dtype
  return models.build(config)[0]


def make_trainer(args: argparse.Namespace) -> tuple[Trainer, nn.Module]:
  """Makes the model with the trainer's update step, AdamW and clipping.

  Args:
    args: the arguments of the command line; with `uint8` images are that, and
      the step scales them.

  Returns:
    (Trainer, model).
  """
  model = _make_model(args)
  pairs = args.model == TWO_TOWERS
  inputs = ("image", "labels") if pairs else ("image",)

  def init(rng, batch):
    first = [jnp.zeros_like(batch[k][:1]) for k in inputs]
    return model.init(rng, *first)["params"]

  def loss_fn(params, batch, rng, state):
    *z, out = model.apply(
      {"params": params},
      *(batch[k] for k in inputs),
      train=True,
      rngs={"dropout": rng},
    )
    if pairs:
      return contrastive.sigmoid(*z, out["t"], out["b"])[0], {}
    loss = losses.softmax_xent(
      logits=z[0], labels=batch["labels"], reduction=True
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
  augment = None
  if getattr(args, "uint8", False):
    augment = lambda batch, rng: (scaled(batch), rng)
  recipe = recipe_lib.Recipe(init=init, loss_fn=loss_fn, augment=augment)
  return Trainer(recipe, tx, args), model


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
