"""`config.self_distill`: the image tower learns from an average of itself.

The teacher, an exponential moving average of the image tower and of the heads,
sees the image. Two terms: the student sees parts of it and predicts the teacher's
output for all of it (SILC); the student sees it with some patches hidden, and
predicts the teacher's outputs there (TIPS). Outputs are distributions over
prototypes, as of DINO. The keys and their defaults are those of `Settings`.

Batches may have `local` [B, V, s, s, 3], the parts that the student sees; if not,
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
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision import optax as bv_optax
from big_vision.trainers.proj.image_text.additions import Addition
from big_vision.trainers.proj.image_text.views import (
  Head,
  Tower,
  crop,
  random_boxes,
)

NAME = "distill"  # Of the parameters.


@dataclass(frozen=True)
class Settings:
  """Keys of `config.self_distill`.

  Attributes:
    weight: factor of both terms.
    start: fraction of the training before which nothing of this happens: the
      teacher is the student, and heads keep their initial values.
    decay: of the moving average, per step.
    local_weight: of the local views; 0 switches them off.
    views: V, if they are cut here.
    local_size: side of local views in pixels, a multiple of the patch size; None
      is the nearest to 3/7 of the image, such as 96 of 224.
    area: (lowest, highest) fraction of the image that a local view shows.
    masked_weight: of the hidden patches; 0 switches them off.
    mask_ratio: fraction of patches that are hidden.
    hidden, bottleneck, prototypes: widths of the heads, see `Head`.
    student_temperature, teacher_temperature: of the softmax.
    centre_decay: of the running mean of the teacher's outputs, per step.
  """

  weight: float = 1.0
  start: float = 0.8
  decay: float = 0.999
  local_weight: float = 1.0
  views: int = 8
  local_size: int | None = None
  area: tuple[float, float] = (0.05, 0.4)
  masked_weight: float = 0.25
  mask_ratio: float = 0.5
  hidden: int = 2048
  bottleneck: int = 256
  prototypes: int = 8192
  student_temperature: float = 0.1
  teacher_temperature: float = 0.04
  centre_decay: float = 0.9

  def __post_init__(self):
    inf = float("inf")
    for name, low, high in (
      ("weight", 0, inf), ("start", 0, 1), ("decay", 0, 1),
      ("local_weight", 0, inf), ("views", 1, inf), ("masked_weight", 0, inf),
      ("mask_ratio", 0, 1), ("hidden", 1, inf), ("bottleneck", 1, inf),
      ("prototypes", 2, inf), ("student_temperature", 1e-6, inf),
      ("teacher_temperature", 1e-6, inf), ("centre_decay", 0, 1),
    ):  # fmt: skip
      value = getattr(self, name)
      if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(
          f"config.self_distill.{name} = {value!r} must be a number from {low} "
          f"to {high}."
        )
    if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] <= 1:
      raise ValueError(
        f"config.self_distill.area = {self.area!r} must be (lowest, highest), "
        "fractions of the image."
      )
    if not self.local_weight and not self.masked_weight:
      raise ValueError(
        "config.self_distill: local_weight and masked_weight are both 0; leave "
        "self_distill away instead."
      )


def cross_entropy(student, teacher, centre, student_temp, teacher_temp):
  """Cross entropy of the student against the sharpened, centred teacher (nats).

  Args:
    student: [..., K] outputs of the head.
    teacher: the same of the teacher, to which no gradient flows.
    centre: [K], what is subtracted from the teacher's.
    student_temp, teacher_temp: float.

  Returns:
    [...], -Σ_k p_k log q_k with p = softmax((teacher - centre) / teacher_temp)
    and q = softmax(student / student_temp).

  References:
    Caron et al. 2021, DINO, eq. 2 and section 3.1.
  """
  centre = centre.reshape(*[1] * (teacher.ndim - 1), -1)
  p = jax.nn.softmax((jax.lax.stop_gradient(teacher) - centre) / teacher_temp)
  return -jnp.sum(p * jax.nn.log_softmax(student / student_temp), axis=-1)


def make(setup, model):
  """The Addition.

  Args:
    setup: Setup, with `config.self_distill`.
    model: linen module with two inputs, whose parameters `img` are those of the
      image tower; its `out` has `img/pre_logits` [B, D] and
      `img/pre_logits_2d` [B, h, w, D].

  Raises:
    ValueError: a value of the config is wrong, or the model does not fit.
  """
  s = _settings(setup.config.self_distill)
  tower = Tower(model, setup.batch_shapes, s)
  head = Head(s.hidden, s.bottleneck, s.prototypes)
  terms = [
    name
    for name, weight in (("local", s.local_weight), ("masked", s.masked_weight))
    if weight
  ]
  first = math.ceil(s.start * setup.total_steps)  # Of the steps, from 0.

  def init(rng, params, batch):
    del params, batch
    features = jnp.zeros([1, tower.width])
    names = ("local", "masked", "token")
    keys = dict(zip(names, jax.random.split(rng, 3), strict=True))
    own = {name: head.init(keys[name], features)["params"] for name in terms}
    if "masked" in terms:
      shape = (tower.stem_width,)
      own["mask_token"] = 0.02 * jax.random.normal(keys["token"], shape)
    return own

  def draw(rng, batch):
    num = batch["image"].shape[0]
    to_cut, to_hide = jax.random.split(rng)
    drawn = {}
    if "local" in terms and "local" not in batch:
      drawn["local_boxes"] = random_boxes(to_cut, (num, s.views), s.area)
    if "masked" in terms:
      order = jax.random.uniform(to_hide, (num, tower.num_patches))
      drawn["hidden_patches"] = jnp.argsort(order)[:, : tower.num_hidden]
    return drawn

  def project(heads, name, x):
    return head.apply({"params": heads[name]}, x)

  def embed(params, batch, out, rng, state):
    del out
    teacher, centre = state["teacher"], state["collections"][NAME]
    keys = jax.random.split(rng)
    pooled, patches = tower.full(params, teacher["img"], batch["image"])
    compare = lambda name, student, target: cross_entropy(
      student, target, centre[name], s.student_temperature,
      s.teacher_temperature,
    )  # fmt: skip
    z = {}
    if "local" in terms:
      target = project(teacher[NAME], "local", pooled)  # [b, K]
      views = batch.get("local")
      if views is None:
        views = crop(batch["image"], batch["local_boxes"], tower.local_size)
      num, v = views.shape[:2]
      x = tower.local(params, views.reshape(num * v, *views.shape[2:]), keys[0])
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
    centre = {
      name: s.centre_decay * state["collections"][NAME][name]
      + (1 - s.centre_decay) * jnp.mean(z[f"{name}_target"], axis=0)
      for name in terms
    }
    measured = {f"train/{name}_loss": value[name] for name in terms}
    return total, measured | {"collections": {NAME: centre}}

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

  return Addition(
    name=NAME,
    init=init,
    draw=draw,
    embed=embed,
    loss=loss,
    extra_state=extra_state,
    post_update=post_update,
    is_active=lambda step: step - 1 >= first,
  )


def _settings(config):
  """Settings of `config.self_distill`; ValueError for keys they do not have."""
  known = [f.name for f in fields(Settings)]
  for key in config:
    if key not in known:
      raise lookup.unknown("key", key, known, "self_distill")
  return Settings(**dict(config))
