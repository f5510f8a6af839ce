"""What detectors predict, against a greedy loop over the whole model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from big_vision.models.proj.uvim import vtt
from big_vision.trainers.proj.reward_tune import detection_reward as dr
from big_vision.trainers.proj.reward_tune import predict_fns

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, L, SIZE = 4, 12, 8
SETTINGS = dict(name="detection_reward", max_level=4, num_cls=2)
MODEL = vtt.Model(
  patches=dict(size=(4, 4)),
  num_heads=2,
  num_layers=1,
  mlp_dim=16,
  emb_dim=16,
  vocab_size=dr.Settings.of(SETTINGS).vocab_size,
  seq_len=L,
  input_size=(SIZE, SIZE),
)
FNS = predict_fns.get_predict_fns(MODEL, SETTINGS)


@pytest.fixture(scope="module")
def made():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(B, SIZE, SIZE, 3)).astype(np.float32)
  labels = rng.integers(0, 10, (B, L)).astype(np.int32)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), image, labels)
  draw = lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32)
  state = {"params": jax.tree.map(draw, shapes["params"])}
  return state, {"image": image, "labels": labels}


def test_detect(made):
  state, batch = made
  forward = jax.jit(MODEL.apply)
  seq = np.zeros([B, L], np.int32)
  for i in range(L):
    logits = np.asarray(forward(state, batch["image"], seq))
    seq[:, i] = logits[:, i].argmax(-1)
  np.testing.assert_array_equal(FNS["sample"](state, batch), seq)
  got = jax.jit(FNS["detect"])(state, batch)
  boxes, labels, conf = dr.seq2box(seq, 4, 2, 2)
  np.testing.assert_array_equal(got["boxes"], boxes)
  np.testing.assert_array_equal(got["labels"], labels)
  np.testing.assert_array_equal(got["is_box"], np.asarray(conf) > 0)
  p = scipy.special.softmax(logits[:, 5::6, :3].astype(np.float64), -1)
  np.testing.assert_allclose(got["scores"], p[..., 2], rtol=1e-4)
  result = dr.reward_fn(seq[:, None], batch["labels"], SETTINGS)[1]["result"]
  for name in ("reward", "num_matches", "nms_penalty"):
    np.testing.assert_allclose(got[name], result[name][:, 0], rtol=1e-6)
  few = FNS["detect"](state, {"image": batch["image"][1:3]})
  np.testing.assert_array_equal(few["boxes"], boxes[1:3])
  assert "reward" not in few


def test_samples_depend_on_seed_and_image_alone(made):
  state, batch = made
  fn = jax.jit(functools.partial(FNS["sample"], temperature=1.0))
  one, other = fn(state, batch, jnp.uint32(0)), fn(state, batch, jnp.uint32(1))
  assert (np.asarray(one) != np.asarray(other)).any(axis=1).all()
  turned = {"image": batch["image"][::-1].copy()}
  np.testing.assert_array_equal(fn(state, turned, jnp.uint32(0)), one[::-1])


def test_names():
  assert sorted(FNS) == ["detect", "sample", "validation"]
  others = predict_fns.get_predict_fns(MODEL, {"name": "captioning_reward"})
  assert sorted(others) == ["sample", "validation"]
