"""Losses of self-distillation in NumPy, with a tiny tower."""

import types

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest
import scipy.special
import toy_towers

from big_vision import views
from big_vision.models import prototype_head
from big_vision.trainers.proj.image_text import self_distill

pytestmark = pytest.mark.usefixtures("quick_compilation")
K, B, V = 7, 3, 2
HEAD = dict(hidden=6, bottleneck=4, prototypes=K)
SMALL = dict(HEAD, views=V, local_size=8, start=0.0)


def batch(size=B):
  r = np.random.default_rng(0)
  return {"image": r.normal(size=(size, 16, 16, 3)).astype(np.float32)}


def make(data=None, total_steps=10, **kw):
  setup = types.SimpleNamespace(
    config=mlc.ConfigDict({"self_distill": SMALL | kw}),
    batch_shapes=jax.eval_shape(lambda: data or batch()),
    total_steps=total_steps,
  )
  return self_distill.make(setup, toy_towers.Model())


def softmax(x):
  return scipy.special.softmax(np.asarray(x, np.float64), axis=-1)


def xent(student, teacher, center, ts=0.1, tt=0.04):
  p = softmax((np.asarray(teacher, np.float64) - center) / tt)
  return -np.sum(p * np.log(softmax(np.asarray(student) / ts)), axis=-1)


@pytest.fixture(scope="module")
def computed():
  """All that a step computes."""
  aux, data = make(weight=3.0, local_weight=0.5), batch()
  keys = jax.random.split(jax.random.key(0), 6)
  params = jax.jit(toy_towers.Model().init)(keys[0], data["image"])["params"]
  params["distill"] = jax.jit(aux.init)(keys[1], params, data)
  noise = lambda k, tree: jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(k, x.shape), tree
  )
  state = jax.jit(aux.extra_state)(params)
  assert not np.any(jax.tree.leaves(state["collections"])[0])
  state["teacher"] = noise(keys[2], state["teacher"])
  state["collections"] = noise(keys[3], state["collections"])
  drawn = aux.draw(keys[4], data)
  embed = jax.jit(lambda p, b: aux.embed(p, b, {}, keys[5], state))
  z = embed(params, {**data, **drawn})
  return types.SimpleNamespace(
    aux=aux, data=data, params=params, state=state, drawn=drawn, z=z,
    embed=embed, result=aux.loss(z, state),
  )  # fmt: skip


def outputs(img, image, name, heads, **kw):
  """[..., K] of the pooled output ("local"), or of the patches ("masked")."""
  out = toy_towers.ImageTower().apply({"params": img}, image, **kw)[1]
  x = out["pre_logits_2d" if name == "masked" else "pre_logits"]
  return np.asarray(
    prototype_head.PrototypeHead(**HEAD).apply({"params": heads[name]}, x)
  )


def test_local_views(computed):
  c = computed
  teacher = c.state["teacher"]
  target = outputs(teacher["img"], c.data["image"], "local",
                   teacher["distill"])  # fmt: skip
  np.testing.assert_allclose(c.z["local_target"], target, atol=1e-5)
  assert c.drawn["local_boxes"].shape == (B, V, 4)
  parts = views.crop(c.data["image"], c.drawn["local_boxes"], 8)
  center = np.asarray(c.state["collections"]["distill"]["local"])
  img = c.params["img"]  # Positions are stretched over the part.
  grid = img["pos_embedding"].reshape(1, 4, 4, -1)
  grid = jax.image.resize(grid, (1, 2, 2, grid.shape[-1]), "linear")
  small = {**img, "pos_embedding": grid.reshape(1, 4, -1)}
  each = [
    xent(
      outputs(small, parts[:, v], "local", c.params["distill"]),
      target,
      center[None],
    )
    for v in range(V)
  ]
  np.testing.assert_allclose(c.z["local"], np.mean(each, axis=0), rtol=1e-4)


def test_masked_patches(computed):
  c = computed
  teacher = c.state["teacher"]
  target = outputs(teacher["img"], c.data["image"], "masked",
                   teacher["distill"]).reshape(B, 16, K)  # fmt: skip
  hidden = np.asarray(c.drawn["hidden_patches"])
  assert hidden.shape == (B, 8)
  where = np.zeros([B, 16], bool)
  np.put_along_axis(where, hidden, True, axis=1)
  assert (where.sum(axis=1) == 8).all()  # Half of them, all different.
  token = c.params["distill"]["mask_token"]
  student = outputs(
    c.params["img"], c.data["image"], "masked", c.params["distill"],
    replace=(where.reshape(B, 4, 4), token),
  ).reshape(B, 16, K)  # fmt: skip
  center = np.asarray(c.state["collections"]["distill"]["masked"])
  each = xent(student, target, center[None, None])  # [B, 16]
  want = [each[i, where[i]].mean() for i in range(B)]
  np.testing.assert_allclose(c.z["masked"], want, rtol=1e-4)
  want = [target[i, where[i]].mean(axis=0) for i in range(B)]
  np.testing.assert_allclose(c.z["masked_target"], want, atol=1e-5)


def test_weights_and_center(computed):
  c = computed
  loss, measured = c.result
  local, masked = np.mean(c.z["local"]), np.mean(c.z["masked"])
  np.testing.assert_allclose(
    loss, 3.0 * (0.5 * local + 0.25 * masked), rtol=1e-5
  )
  assert measured["train/local_loss"] == pytest.approx(float(local), rel=1e-5)
  assert measured["train/masked_loss"] == pytest.approx(float(masked), rel=1e-5)
  for name, new in measured["collections"]["distill"].items():
    old = np.asarray(c.state["collections"]["distill"][name])
    mean = np.mean(c.z[f"{name}_target"], axis=0)
    np.testing.assert_allclose(new, 0.9 * old + 0.1 * mean, atol=1e-6)


def test_views_of_the_preprocessing_are_used(computed):
  c = computed
  parts = np.asarray(views.crop(c.data["image"], c.drawn["local_boxes"], 8))
  data = {**c.data, "local": parts}
  aux = make(data)
  assert "local_boxes" not in aux.draw(jax.random.key(0), data)
  z = c.embed(c.params, {**data, **c.drawn})
  np.testing.assert_allclose(z["local"], c.z["local"], rtol=1e-5)


@pytest.mark.parametrize("term", ["local", "masked"])
def test_each_term_alone(term):
  other = {"local": "masked", "masked": "local"}[term]
  aux = make(**{f"{other}_weight": 0.0})
  own = jax.eval_shape(lambda: aux.init(jax.random.key(0), {}, batch()))
  assert set(own) == {term, *(["mask_token"] if term == "masked" else [])}
  state = aux.extra_state({"img": {}, "distill": own})
  assert set(state["collections"]["distill"]) == {term}
  drawn = jax.eval_shape(lambda: aux.draw(jax.random.key(0), batch()))
  assert len(drawn) == 1


def counted(n):
  """State of an optimizer after n steps."""
  opt = optax.scale_by_schedule(lambda count: 1.0)
  return opt.init({})._replace(count=jnp.int32(n))


def test_teacher_and_heads_before_and_after_the_start():
  aux = make(total_steps=8, start=0.7, decay=0.75)
  # 5.6 of 8 steps: the first is the one after 6.
  assert [aux.is_active(s) for s in (1, 6, 7, 8)] == [
    False,
    False,
    True,
    True,
  ]
  tree = lambda x: {
    "img": {"w": jnp.float32(x)},
    "distill": {"h": jnp.float32(x)},
  }

  def update(n):
    old = {"params": tree(1), "teacher": tree(5), "opt": counted(n)}
    new = {**old, "params": tree(2), "opt": counted(n + 1)}
    return jax.jit(aux.post_update)(old, new)

  before = update(5)
  assert before["params"]["img"]["w"] == 2
  assert before["params"]["distill"]["h"] == 1  # As it was.
  assert before["teacher"]["img"]["w"] == 2  # The student.
  assert before["teacher"]["distill"]["h"] == 1
  after = update(6)
  assert after["params"]["distill"]["h"] == 2
  for x in jax.tree.leaves(after["teacher"]):
    assert x == 0.75 * 5 + 0.25 * 2
  assert make().is_active(1)
  assert not make(start=1.0).is_active(10)


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(start=1.5), "self_distill.start = 1.5.*0 to 1"),
    (dict(decay="0.9"), "self_distill.decay = '0.9'"),
    (dict(view=3), "self_distill.view is not a known key.*'views'"),
    (dict(area=(0.5, 0.2)), r"self_distill.area = \(0.5, 0.2\)"),
    (dict(local_weight=0, masked_weight=0), "both 0"),
    (
      dict(centre_decay=0.5, center_decay=0.5),
      "centre_decay is the old name of config.self_distill.center_decay",
    ),
  ],
)
def test_bad_configs(kw, message):
  with pytest.raises(ValueError, match=message):
    make(**kw)


def test_old_names_of_keys():
  new = jax.tree.map(jnp.ones_like, make_z())
  state = {
    "collections": {"distill": {"local": jnp.zeros(K), "masked": jnp.zeros(K)}}
  }
  _, measured = make(centre_decay=0.25).loss(new, state)
  for x in jax.tree.leaves(measured["collections"]):
    np.testing.assert_allclose(x, 0.75)


def make_z():
  """The shapes of what the loss gets."""
  target = jnp.zeros([B, K])
  return {
    "local": jnp.zeros(B), "masked": jnp.zeros(B),
    "local_target": target, "masked_target": target,
  }  # fmt: skip
