"""What evaluators ask of PaliGemma, on one device and on several."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.models.proj.paligemma import decode, paligemma
from big_vision.trainers.proj.paligemma import predict_fns

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, T, V, L, EOS = 8, 5, 6, 3, 1
MODEL = paligemma.Model(
  img=dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=(2, 2),
           pool_type="none", head_zeroinit=False),
  llm=dict(variant="gemma_2b", width=8, depth=2, mlp_dim=16, num_heads=2,
           num_kv_heads=1, head_dim=4, vocab_size=V, cache_dtype=None,
           remat_policy="none"),
)  # fmt: skip
FNS = predict_fns.get_all(MODEL)
KW = dict(max_decode_len=L, eos_token=EOS)


@functools.cache
def batch():
  rng = np.random.default_rng(0)
  mask = np.arange(T) < rng.integers(2, T + 1, size=(B, 1))
  return {
    "image": rng.normal(size=(B, 4, 4, 3)).astype(np.float32),
    "text": np.where(mask, rng.integers(V, size=(B, T)), 0),
    "mask_ar": np.where(mask, 0, 1),
    "mask_input": mask.astype(np.int32),
    "_mask": np.arange(B) < B - 1,
    "id": np.arange(B),
  }


@functools.cache
def state():
  init = lambda: MODEL.init(jax.random.key(0), *predict_fns.inputs(batch()))
  rng = np.random.default_rng(1)
  fill = lambda x: (0.5 * rng.standard_normal(x.shape)).astype(x.dtype)
  return jax.tree.map(fill, dict(jax.eval_shape(init)))


def test_names():
  names = "logits image_avg_repr decode decode_with_logp beam_decode"
  assert set(FNS) == set(names.split())


def test_logits():
  logits, out = jax.jit(FNS["logits"])(state(), batch())
  data = batch()
  want, _ = jax.jit(MODEL.apply)(
    state(), data["image"], data["text"][:, :-1], data["mask_ar"][:, :-1]
  )
  assert logits.shape == (B, T - 1, V)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(out["text_logits"], logits)


def test_image_avg_repr():
  fn = jax.jit(FNS["image_avg_repr"], static_argnames="key")
  got, out = fn(state(), batch())
  assert got.shape == (B, 8)
  np.testing.assert_allclose(got, out["img/pre_logits"].mean(1), rtol=1e-5)
  got, _ = fn(state(), batch(), key="img/pre_logits_2d")
  want = out["img/pre_logits_2d"].mean((1, 2))
  np.testing.assert_allclose(got, want, rtol=1e-5)


@functools.cache
def plain():
  """Greedy answers and their log-probabilities."""
  fn = functools.partial(decode.sample, model=MODEL, **KW)
  return jax.jit(fn)(state()["params"], batch(), jax.random.PRNGKey(0))


def on(devices):
  """State and batch as a run has them."""
  put = functools.partial(
    bv_devices.make_fsarray_from_local_slice, global_devices=devices
  )
  sharding = bv_devices.batch_sharding(devices)
  everywhere = NamedSharding(sharding.mesh, PartitionSpec())
  data = {k: put(x) for k, x in batch().items()}
  return jax.device_put(state(), everywhere), data


@pytest.mark.multidevice
def test_answers_are_split_as_batches_are(monkeypatch):
  want, traced, real = plain(), [], decode.sample
  monkeypatch.setattr(
    decode, "sample", lambda *args, **kw: traced.append(kw) or real(*args, **kw)
  )
  fns = predict_fns.get_all(MODEL)
  devices = np.asarray(jax.devices()[:4])
  args, kw = on(devices), dict(devices=devices, **KW)
  with jax.transfer_guard("disallow"):
    tokens, logp = fns["decode_with_logp"](*args, **kw, eos_look_behind=3)
    args[1].pop("id")  # Nothing is compiled again.
    again = fns["decode"](*args, **kw, seed=3)
  assert len(traced) == 1
  np.testing.assert_array_equal(tokens, want.tokens)
  np.testing.assert_array_equal(again, tokens)
  np.testing.assert_allclose(logp, want.logp, rtol=1e-5, atol=1e-6)
  assert tokens.sharding.device_set == set(devices)
  assert tokens.sharding.shard_shape(tokens.shape) == (B // 4, L)
  assert not tokens[-1].any() and (want.tokens[:-1] > 1).any()


@pytest.mark.multidevice
@pytest.mark.parametrize("num", [4, 3])
def test_beams(monkeypatch, num):
  """All devices have all answers if they do not divide them."""
  traced = []

  def search(params, batch, **kw):
    traced.append(kw)
    return 2 * batch["text"][:, :L]

  monkeypatch.setattr(decode, "beam_search", search)
  fns = predict_fns.get_all(MODEL)
  devices, data = np.asarray(jax.devices()[:num]), batch()
  for _ in range(2):
    got = fns["beam_decode"](state(), data, devices=devices, beam_size=2, **KW)
  np.testing.assert_array_equal(got, 2 * data["text"][:, :L])
  assert traced == [dict(model=MODEL, beam_size=2, **KW)]
  assert got.sharding.device_set == set(devices)
  assert got.sharding.is_fully_replicated == (num == 3)


def test_what_is_drawn():
  """The same for the same seed."""
  devices = np.asarray(jax.devices()[:1])
  kw = dict(devices=devices, sampler="temperature(2)", best_of_n=2, **KW)
  draw = lambda seed: np.asarray(
    FNS["decode"](state(), batch(), seed=seed, **kw)
  )
  np.testing.assert_array_equal(draw(0), draw(0))
  assert (draw(0) != draw(1)).any()


def test_packs_are_kept_apart():
  data = {
    "image_segment_ids": np.array([[1, 2, 0]]),
    "text_segment_ids": np.array([[1, 1, 2, 0]]),
    "text_positions": np.array([[0, 1, 0, 0]]),
  }
  found = predict_fns.segments(data)
  want = ([[1, 2, 0]], [[1, 1, 2]], [[0, 1, 0]])
  for x, y in zip(found, want, strict=True):
    np.testing.assert_array_equal(x, y)
  assert predict_fns.segments(batch()) is None
