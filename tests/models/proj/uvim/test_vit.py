"""Stage I of UViM: recorded numbers, the codebook, checkpoints, bad settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoints, lookup
from big_vision.models.proj.uvim import quantizers, vit

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = dict(
  inputs={"in1": (10, 3), "in2": (25,)},
  outputs={"out1": (5,), "out2": (20,)},
  input_size=(32, 32),
  code_len=4,
  width=16,
  mlp_dim=64,
  num_heads=4,
  enc_depth=1,
  dec_depth=1,
  dict_size=8,
)
CONTEXT = dict(with_encoder_ctx=True, with_decoder_ctx=True)
KEYS = {"params": jax.random.PRNGKey(0), "state": jax.random.PRNGKey(1)}


def wave(*shape):
  size = int(np.prod(shape))
  return np.sin(0.01 * np.arange(size)).astype(np.float32).reshape(shape)


def inputs(num=2):
  return {"in1": wave(num, 16, 10, 3), "in2": wave(num, 16, 25)}


@functools.cache
def made(**kw):
  """(model, its variables), perturbed."""
  model = vit.Model(**{**SMALL, **kw})
  ctx = wave(2, 32, 32, 3)
  variables = jax.jit(lambda: model.init(KEYS, inputs(), ctx=ctx))()
  move = lambda x: np.float32(
    x + 0.05 * np.sin(np.arange(x.size, dtype=np.float64)).reshape(x.shape)
  )
  return model, {**variables, "params": jax.tree.map(move, variables["params"])}


def test_recorded_numbers():
  """Those of the original code, for the same parameters and inputs."""
  model, variables = made(**CONTEXT)
  initial = jax.jit(
    lambda: model.init(KEYS, inputs(), ctx=wave(2, 32, 32, 3))
  )()["params"]  # fmt: skip
  leaves = jax.tree.leaves(initial)
  assert sum(x.size for x in leaves) == 15321
  total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in leaves)
  assert total == pytest.approx(1851.57, rel=1e-5)
  logits, out = model.apply(variables, inputs(), ctx=wave(2, 32, 32, 3))
  first = np.asarray(logits["out1"])
  assert first.shape == (2, 16, 5)
  assert np.abs(first).mean() == pytest.approx(0.113788, rel=2e-5)
  np.testing.assert_allclose(
    first.ravel()[:3], [0.1624, 0.14419, -0.0065882], rtol=2e-4
  )
  assert set(out) == {"stem", "bottleneck", "bottleneck_q", "code", "logits"}


def test_codes_decode_to_the_same_labels():
  model, variables = made(**CONTEXT)
  ctx = wave(2, 32, 32, 3)
  logits, out = model.apply(variables, inputs(), ctx=ctx)
  decoded, _ = model.apply(
    variables, out["code"], ctx=ctx, discrete_input=True, method=model.decode
  )
  for name in logits:
    np.testing.assert_allclose(decoded[name], logits[name], atol=2e-5)


def train(model, variables, x, **kw):
  keys = {"dropout": jax.random.key(2), "vqvae": jax.random.key(3)}
  return model.apply(variables, x, train=True, rngs=keys, **kw)


def test_the_dictionary_follows_the_vectors():
  model, variables = made(dict_momentum=0.9, min_count=0.0)
  (_, out), new = train(model, variables, inputs(), mutable=["state"])
  z, code = np.asarray(out["bottleneck"]), np.asarray(out["code"])
  old = variables["state"]
  for k in range(8):
    mine = z[code == k].reshape(-1, 16)
    np.testing.assert_allclose(
      new["state"]["dictionary"][k],
      0.9 * old["dictionary"][k] + mine.sum(0),
      atol=1e-5,
    )
    assert new["state"]["counts"][k] == pytest.approx(0.9 + len(mine))


def test_statistics_leave_the_update_to_the_caller():
  """In two halves and as a whole: the same dictionary."""
  model, variables = made(dict_momentum=0.9, min_count=1.0)
  _, whole = train(model, variables, inputs(), mutable=["state"])
  parts = []
  for i in range(2):
    half = {k: v[i : i + 1] for k, v in inputs().items()}
    _, new = train(
      model, variables, half, update_dict=False, mutable=[vit.STATISTICS]
    )
    parts.append(new[vit.STATISTICS])
  total = jax.tree.map(jnp.add, *parts)
  # The key that the model itself would take.
  key = _first_key(model, variables)
  updated = model.updated(variables["state"], total, key)
  np.testing.assert_allclose(
    updated["counts"], whole["state"]["counts"], rtol=1e-6
  )
  np.testing.assert_allclose(
    updated["dictionary"], whole["state"]["dictionary"], atol=1e-5
  )


def _first_key(model, variables):
  with_key = lambda m: m.make_rng("vqvae")
  return model.apply(
    variables, rngs={"vqvae": jax.random.key(3)}, method=with_key
  )


def test_sums_over_a_mapped_axis():
  """The two forms of distribution: a named axis, or one array."""
  model, variables = made(dict_momentum=0.9)
  _, whole = train(model, variables, inputs(), mutable=["state"])
  split = {k: v[:, None] for k, v in inputs().items()}  # Of two devices.
  _, parts = jax.vmap(
    lambda x: train(model, variables, x, mutable=["state"]), axis_name="batch"
  )(split)
  for i in range(2):
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5),
      parts["state"],
      whole["state"],
    )


@pytest.mark.parametrize("kind", ["seq", "random"])
def test_code_dropout(kind):
  """Later codes are left out more often; all of them some time, none always."""
  model, variables = made(code_dropout=kind, code_len=9, bottleneck_resize=True)
  kept = jax.vmap(
    lambda key: model.apply(
      variables,
      rngs={"dropout": key},
      method=lambda m: m._kept_codes(2),
    )
  )(jax.random.split(jax.random.key(0), 2000))
  kept = np.asarray(kept).reshape(-1, 9)
  num = kept.sum(axis=1)
  # A uniform number decides how many stay.
  np.testing.assert_allclose(
    np.bincount(num, minlength=10) / len(num), 0.1, atol=0.02
  )
  share = kept.mean(axis=0)
  if kind == "seq":
    assert np.all(kept == (np.arange(9) < num[:, None]))
    np.testing.assert_allclose(share, np.linspace(1, 0, 11)[1:-1], atol=0.03)
  else:
    np.testing.assert_allclose(share, 0.5, atol=0.03)


FSQ = dict(quantizer="fsq", fsq_levels=(4, 3, 3), dict_size=36)


def test_finite_scalar_quantization():
  model, variables = made(**FSQ)
  assert "state" not in variables
  assert variables["params"]["encoder_head"]["kernel"].shape == (16, 3)
  (logits, out), new = train(model, variables, inputs(), mutable=["state"])
  assert not new.get("state")
  assert 0 <= out["codebook_zeros_ratio"] < 1
  decoded, _ = model.apply(
    variables, out["code"], discrete_input=True, method=model.decode
  )
  np.testing.assert_allclose(decoded["out1"], logits["out1"], atol=2e-5)
  words = model.apply(variables, method=model.get_codewords)
  np.testing.assert_array_equal(words, quantizers.fsq_codewords((4, 3, 3)))


@pytest.mark.parametrize(
  "kw, match",
  [
    (dict(code_dropout="sequence"), "config.model.code_dropout: .*random, seq"),
    (dict(quantizer="vqq"), "config.model.quantizer: .*'vq'"),
    (dict(code_len=5, bottleneck_resize=True), "code_len=5 is not a square"),
    (dict(input_size=(30, 32)), r"input_size=\(30, 32\) is not divisible"),
    (dict(quantizer="fsq"), "make 512 codes; config.model.dict_size=8"),
    (dict(posemb="sin"), "config.model.posemb"),
  ],
)
def test_bad_settings(kw, match):
  model = vit.Model(**{**SMALL, **kw})
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, KEYS, inputs())


def test_image_that_is_missing_or_of_another_size():
  model, variables = made(**CONTEXT)
  with pytest.raises(lookup.ConfigError, match='keep "image"'):
    model.apply(variables, inputs())
  with pytest.raises(lookup.ConfigError, match=r"input_size is \(32, 32\)"):
    model.apply(variables, inputs(), ctx=wave(2, 16, 32, 3))


def test_load(tmp_path):
  """From a file, a run's checkpoint, and with the names of old files."""
  _, variables = made()
  path = f"{tmp_path}/stage_1.npz"
  checkpoints.save_checkpoint(variables, path)
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  for initial in (None, jax.eval_shape(lambda: variables)):
    params, state = vit.load(initial, path)
    same(params, variables["params"])
    same(state, variables["state"])

  run = f"{tmp_path}/run/checkpoint.bv"
  manager = checkpoints.CheckpointManager()
  checkpoints.save_checkpoint_ts(manager, {**variables, "opt": {"x": np.ones(2)}}, run, 3)  # fmt: skip
  manager.close()
  same(vit.load(variables, run), (variables["params"], variables["state"]))

  old = dict(variables["params"])
  old["Encoder"], old["Decoder"] = old.pop("encoder"), old.pop("decoder")
  same(
    vit.load(variables, {**variables, "params": old})[0], variables["params"]
  )
  kept, _ = vit.load(variables, path, dont_load=["params/head_.*"])
  same(kept, variables["params"])
  with pytest.raises(ValueError, match="params/head_out1"):
    less = {k: v for k, v in variables["params"].items() if k != "head_out1"}
    vit.load(variables, {**variables, "params": less})
  with pytest.raises(lookup.ConfigError, match="not a checkpoint of stage I"):
    vit.load(variables, {"a": 1})
