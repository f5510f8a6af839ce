"""The loss of captioning, on image tokens that come from nowhere."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest
import scipy.special

from big_vision.models.proj.image_text import captioner
from big_vision.trainers.proj.image_text import captioning

pytestmark = pytest.mark.usefixtures("quick_compilation")
V, B, L, T = 7, 6, 5, 4
DECODER = dict(vocab_size=V, width=8, depth=1, mlp_dim=16, num_heads=2)


class Model(nn.Module):
  """The image is its own tokens."""

  def __call__(self, image, text=None, **kw):
    del text, kw
    tokens = image[0] if isinstance(image, tuple) else image
    return None, None, {"img/encoded": tokens}


def batch(**kw):
  r = np.random.default_rng(0)
  mask = np.array([[0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]] * 2)
  return {
    "image": r.normal(size=(B, T, 3)).astype(np.float32),
    "cap_tokens": r.integers(V, size=(B, L)).astype(np.int32),
    "cap_mask": mask.astype(np.int32),
    "cap_task": np.array([0, 1, 2, 2, 0, 1], np.int32),
    **kw,
  }


def make(shapes=None, **kw):
  setup = types.SimpleNamespace(
    config=mlc.ConfigDict({"captioning": DECODER | kw}),
    batch_shapes=jax.eval_shape(batch) if shapes is None else shapes,
  )
  return captioning.make(setup, Model())


def log_softmax(x):
  return scipy.special.log_softmax(np.asarray(x, np.float64), axis=-1)


@pytest.fixture(scope="module")
def computed():
  """(z, loss, measurements, NumPy's losses [B, L]) with parallel prediction."""
  addition, data = make(weight=0.5), batch()
  key = jax.random.key(0)
  params = {"captioner": jax.jit(addition.init)(key, {}, data)}
  parallel = np.array([1, 0, 0, 1, 0, 0], bool)
  out = {"img/encoded": jnp.asarray(data["image"])}
  z = jax.jit(lambda p, d: addition.embed(p, d, out, key, {}))(
    params, {**data, "cap_parallel": parallel}
  )
  loss, measured = addition.loss(z, {})
  logits = captioner.Model(**DECODER).apply(
    {"params": params["captioner"]},
    data["image"], data["cap_tokens"], data["cap_mask"], parallel,
  )  # fmt: skip
  own = np.take_along_axis(
    log_softmax(logits), data["cap_tokens"][:, :, None], axis=-1
  )[..., 0]
  return z, loss, measured, -own * data["cap_mask"]


def test_loss_is_the_mean_over_all_predicted_tokens(computed):
  z, loss, measured, nats = computed
  mask, task = batch()["cap_mask"], batch()["cap_task"]
  np.testing.assert_allclose(z["nats"], nats.sum(1), rtol=1e-4, atol=1e-6)
  want = nats.sum() / mask.sum()
  np.testing.assert_allclose(loss, 0.5 * want, rtol=1e-5)
  np.testing.assert_allclose(measured["train/caption_loss"], want, rtol=1e-5)
  for i, name in enumerate(captioning.TASKS):
    own = task == i
    np.testing.assert_allclose(
      measured[f"train/caption_loss_{name}"],
      nats[own].sum() / mask[own].sum(),
      rtol=1e-5,
    )


def test_a_batch_without_any_predicted_token_has_loss_0(computed):
  z = jax.tree.map(jnp.zeros_like, computed[0])
  assert make().loss(z, {})[0] == 0


def test_only_captions_are_predicted_in_parallel():
  every = make(parallel=1.0)
  drawn = every.draw(jax.random.key(0), batch())["cap_parallel"]
  np.testing.assert_array_equal(drawn, batch()["cap_task"] == 0)
  data = batch(cap_tokens=np.zeros([4000, L], np.int32))
  del data["cap_task"]
  assert every.draw(jax.random.key(0), data)["cap_parallel"].all()
  drawn = make().draw(jax.random.key(0), data)["cap_parallel"]
  assert abs(np.mean(drawn) - 0.5) < 0.03
  assert (
    not make(parallel=0).draw(jax.random.key(0), data)["cap_parallel"].any()
  )


@pytest.mark.slow
def test_predict_functions_and_padded_patches():
  """NaFlex: patches that do not exist change nothing."""
  exists = np.ones([B, T], np.int32)
  exists[:, 3] = 0
  pixels = batch()["image"]
  one = batch(image=(pixels, exists))
  pixels = pixels + np.array([0, 0, 0, 1.0], np.float32)[None, :, None]
  other = batch(image=(pixels, exists))
  addition = make()
  params = {"captioner": jax.jit(addition.init)(jax.random.key(0), {}, one)}
  state = {"params": params}
  loss = jax.jit(addition.predict_fns["caption_loss"])
  got = loss(state, one)["loss"]
  np.testing.assert_allclose(got, loss(state, other)["loss"], atol=1e-6)
  assert got.shape == (B,) and got[2] == 0 and got[0] > 0
  tokens = jax.jit(addition.predict_fns["caption"])(state, one)
  given = np.cumsum(one["cap_mask"], axis=1) == 0
  np.testing.assert_array_equal(tokens[given], one["cap_tokens"][given])


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(weight=-1), "captioning.weight = -1"),
    (dict(parallel=1.5), "captioning.parallel = 1.5.*0 to 1"),
    (dict(vocab_size=None), "captioning.vocab_size is required"),
    (dict(dept=3), "config.captioning.*dept"),
  ],
)
def test_bad_configs(kw, message):
  with pytest.raises(ValueError, match=message):
    make(**kw)


def test_batches_must_have_the_tokens():
  shapes = jax.eval_shape(batch)
  with pytest.raises(ValueError, match="cap_mask.*locca"):
    make({k: v for k, v in shapes.items() if k != "cap_mask"})
  with pytest.raises(ValueError, match=r"must both be \[B, L\]"):
    make({**shapes, "cap_mask": jax.ShapeDtypeStruct((B, L + 1), jnp.int32)})
