"""`config.self_distill`: the image tower learns from an average of itself.

The teacher, an exponential moving average of the image tower and of the heads,
receives the image. There are two terms. The student receives parts of the image
and predicts the teacher's output for all of it (SILC). The student receives the
image with some patches hidden and predicts the teacher's outputs there (TIPS).
Outputs are distributions over prototypes, as in DINO. The keys and their
defaults are in `self_distill_settings.py`.

Batches may have `local` [B, V, s, s, 3], the parts for the student. Otherwise
they are cut from the image.

References:
  Caron et al. 2021, DINO (eq. 2 and 4), https://arxiv.org/abs/2104.14294
  Zhou et al. 2021, iBOT (masked patches), https://arxiv.org/abs/2111.07832
  Naeem et al. 2023, SILC (eq. 2), https://arxiv.org/abs/2310.13355
  Maninis et al. 2024, TIPS (section 3.2), https://arxiv.org/abs/2410.16512
  Tschannen et al. 2025, SigLIP 2 (section 2.3), https://arxiv.org/abs/2502.14786

Shapes: `B` batch, `V` views, `h, w` grid of patches, `M` hidden patches, `D`
width, `K` prototypes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import losses, views
from big_vision import optax as bv_optax
from big_vision.models.prototype_head import PrototypeHead
from big_vision.trainers.proj.image_text import self_distill_settings
from big_vision.trainers.proj.image_text.aux_losses import AuxLoss
from big_vision.trainers.proj.image_text.image_tower import ImageTower
from big_vision.training.setup import Setup
from big_vision.types import Array, Params

NAME = "distill"  # Of the parameters.


def make(setup: Setup, model: Any) -> AuxLoss:
  """Makes the auxiliary loss.

  Args:
    setup: reads `self_distill` of its config, shapes of batches, total steps.
    model: linen module with two inputs, whose parameters `img` are those of the
      image tower; its `out` has `img/pre_logits` [B, D] and
      `img/pre_logits_2d` [B, h, w, D].

  Returns:
    The AuxLoss.

  Raises:
    ValueError: a value of the config is wrong, or the model does not fit.
  """
  s = self_distill_settings.read(setup.config.self_distill)
  tower = ImageTower(model, setup.batch_shapes, s)
  head = PrototypeHead(s.hidden, s.bottleneck, s.prototypes)
  terms = [
    name
    for name, weight in (("local", s.local_weight), ("masked", s.masked_weight))
    if weight
  ]
  first = math.ceil(s.start * setup.total_steps)  # Of the steps, from 0.

  def init(rng, params, batch):
    del params, batch
    features = jnp.zeros([1, tower.width])
    *keys, key = jax.random.split(rng, 3)
    own: Params = {
      name: head.init(key, features)["params"]
      for name, key in zip(("local", "masked"), keys, strict=True)
      if name in terms
    }
    if "masked" in terms:
      own["mask_token"] = 0.02 * jax.random.normal(key, (tower.stem_width,))
    return own

  def draw(rng, batch):
    num = batch["image"].shape[0]
    to_cut, to_hide = jax.random.split(rng)
    drawn = {}
    if "local" in terms and "local" not in batch:
      drawn["local_boxes"] = views.random_boxes(to_cut, (num, s.views), s.area)
    if "masked" in terms:
      order = jax.random.uniform(to_hide, (num, tower.num_patches))
      drawn["hidden_patches"] = jnp.argsort(order)[:, : tower.num_hidden]
    return drawn

  def project(heads: Params, name: str, x: Array) -> Any:
    return head.apply({"params": heads[name]}, x)

  def embed(params, batch, out, rng, state):
    del out
    teacher, center = state["teacher"], state["collections"][NAME]
    keys = jax.random.split(rng)
    pooled, patches = tower.full(params, teacher["img"], batch["image"])
    compare = lambda name, student, target: losses.self_distillation_xent(
      student, target, center[name], s.student_temperature,
      s.teacher_temperature,
    )  # fmt: skip
    z = {}
    if "local" in terms:
      target = project(teacher[NAME], "local", pooled)  # [b, K]
      parts = batch.get("local")
      if parts is None:
        boxes = batch["local_boxes"]
        parts = views.crop(batch["image"], boxes, tower.local_size)
      num, v = parts.shape[:2]
      x = tower.local(params, parts.reshape(num * v, *parts.shape[2:]), keys[0])
      x = project(params[NAME], "local", x).reshape(num, v, -1)
      each = compare("local", x, target[:, None])  # [b, V]
      z["local"], z["local_target"] = jnp.mean(each, axis=1), target
    if "masked" in terms:
      at = batch["hidden_patches"]  # [b, M]
      take = lambda x: jnp.take_along_axis(
        x.reshape(len(x), -1, x.shape[-1]), at[:, :, None], axis=1
      )
      target = project(teacher[NAME], "masked", take(patches))  # [b, M, K]
      token = params[NAME]["mask_token"]
      x = tower.masked(params, batch["image"], at, token, keys[1])
      x = project(params[NAME], "masked", take(x))
      each = compare("masked", x, target)  # [b, M]
      z["masked"] = jnp.mean(each, axis=1)
      z["masked_target"] = jnp.mean(target, axis=1)
    return z

  def loss(z, state):
    value = {name: jnp.mean(z[name]) for name in terms}
    weights = {"local": s.local_weight, "masked": s.masked_weight}
    total = s.weight * sum(weights[name] * value[name] for name in terms)
    center = {
      name: s.center_decay * state["collections"][NAME][name]
      + (1 - s.center_decay) * jnp.mean(z[f"{name}_target"], axis=0)
      for name in terms
    }
    measured = {f"train/{name}_loss": value[name] for name in terms}
    return total, measured | {"collections": {NAME: center}}

  def extra_state(params):
    return {
      "teacher": {"img": params["img"], NAME: params[NAME]},
      "collections": {NAME: {name: jnp.zeros(s.prototypes) for name in terms}},
    }

  def post_update(old, new):
    active = bv_optax.get_count(old["opt"], jittable=True) >= first
    if first:
      # Weight decay would bring the heads to 0 before they are used.
      own = jax.tree.map(
        lambda a, b: jnp.where(active, b, a),
        old["params"][NAME],
        new["params"][NAME],
      )
      new = {**new, "params": {**new["params"], NAME: own}}
    decay = jnp.where(active, s.decay, 0.0)
    follow = lambda t, p: (decay * t + (1 - decay) * p).astype(t.dtype)
    student = {name: new["params"][name] for name in old["teacher"]}
    return {**new, "teacher": jax.tree.map(follow, old["teacher"], student)}

  return AuxLoss(
    name=NAME,
    init=init,
    draw=draw,
    embed=embed,
    loss=loss,
    extra_state=extra_state,
    post_update=post_update,
    is_active=lambda step: step - 1 >= first,
  )
