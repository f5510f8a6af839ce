"""BERT against an implementation in NumPy of the original variables."""

import dataclasses
import hashlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.models.proj.flaxformer import bert, bert_test_util
from big_vision.models.proj.image_text import two_towers

pytestmark = pytest.mark.usefixtures("quick_compilation")
TINY = bert.Config(
  width=8, depth=2, mlp_dim=12, num_heads=2, vocab_size=20, max_len=10
)
ENCODER = "BertEncoder_0"
LAYER = f"{ENCODER}/encoder_block/layer_sequence/layers_"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(bert.CONFIGS, "tiny", TINY)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def shapes(model, length=6):
  text = jax.ShapeDtypeStruct((1, length), jnp.int32)
  return jax.eval_shape(model.init, jax.random.PRNGKey(0), text)["params"]


def filled(model, seed=0, std=0.5):
  rng = np.random.default_rng(seed)
  fill = lambda x: np.float32(std * rng.standard_normal(x.shape))
  return jax.tree.map(fill, shapes(model))


def variables(config=TINY, seed=0):
  """Values of an original BERT, none of them neutral."""
  rng = np.random.default_rng(seed)
  return {
    name: np.float32(0.5 * rng.standard_normal(shape))
    for name, shape in bert_test_util.variable_shapes(config).items()
  }


def apply(model, params, *inputs):
  return jax.jit(lambda p, *x: model.apply({"params": p}, *x))(params, *inputs)


TEXT = np.array([[5, 3, 19, 1, 0, 0], [5, 7, 8, 2, 11, 4], [5, 0, 0, 0, 0, 0]])


class NumpyBert:
  """One text without padding, in float64, from the original variables."""

  def __init__(self, variables, num_heads=TINY.num_heads):
    self.v = {k: x.astype(np.float64) for k, x in variables.items()}
    self.num_heads = num_heads

  def dense(self, name, x):
    return x @ self.v[f"{name}/kernel"] + self.v[f"{name}/bias"]

  def norm(self, name, x):
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * self.v[f"{name}/gamma"] + self.v[f"{name}/beta"]

  def __call__(self, text):
    table = lambda name: self.v[f"bert/embeddings/{name}_embeddings"]
    x = table("word")[text] + table("position")[: len(text)]
    x = self.norm("bert/embeddings/LayerNorm", x + table("token_type")[0])
    depth = len({k.split("/")[2] for k in self.v if "/layer_" in k})
    for i in range(depth):
      x = self.layer(f"bert/encoder/layer_{i}", x)
    return x

  def layer(self, name, x):
    q, k, v = (
      np.split(self.dense(f"{name}/attention/self/{n}", x), self.num_heads, -1)
      for n in ("query", "key", "value")
    )
    heads = []
    for h in range(self.num_heads):
      p = np.exp(q[h] @ k[h].T / np.sqrt(q[h].shape[-1]))
      heads.append(p / p.sum(-1, keepdims=True) @ v[h])
    y = self.dense(f"{name}/attention/output/dense", np.concatenate(heads, -1))
    x = self.norm(f"{name}/attention/output/LayerNorm", x + y)
    y = self.dense(f"{name}/intermediate/dense", x)
    y *= 0.5 + 0.5 * np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))
    y = self.dense(f"{name}/output/dense", y)
    return self.norm(f"{name}/output/LayerNorm", x + y)


@pytest.mark.tf
def test_original_checkpoint(tmp_path):
  """Loaded from files, and the function that the variables stand for."""
  original = variables()
  extra = {"global_step": np.int64(7)}
  for name in ("bert/encoder/layer_0/output/dense/kernel/adam_m",
               "bert/embeddings/word_embeddings/adam_v"):  # fmt: skip
    extra[name] = np.zeros(1, np.float32)
  bert_test_util.save_checkpoint(tmp_path, {**original, **extra})

  model = bert.Model("tiny", 3, head_zeroinit=False)
  start = filled(model, seed=1)
  params = bert.load(start, str(tmp_path), None, ["head/.*"])
  x, out = apply(model, params, TEXT)
  reference = NumpyBert(original)
  for text, got in zip(TEXT, out["transformed"], strict=True):
    text = text[text != 0]
    np.testing.assert_allclose(got[: len(text)], reference(text), atol=2e-5)
  np.testing.assert_array_equal(out["pre_logits"], out["transformed"][:, 0])
  head = start["head"]
  assert params["head"]["kernel"] is head["kernel"]
  want = np.asarray(out["pre_logits"]) @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(x, want, atol=1e-5)
  np.testing.assert_array_equal(x, out["logits"])

  # Without a model, everything but the head.
  encoder = {k: v for k, v in params.items() if k != "head"}
  same(bert.load(None, str(tmp_path)), encoder)


@pytest.mark.tf
@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_damaged_original_checkpoint(tmp_path, suffix):
  bert_test_util.save_checkpoint(tmp_path, variables())
  file = tmp_path / f"bert_model.ckpt.{suffix}"
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 8
  for bad in (content, content[: len(content) // 2], b""):
    file.write_bytes(bad)
    with pytest.raises(ValueError, match=f"{tmp_path}/bert_model.ckpt") as e:
      bert.load(None, str(tmp_path))
    assert "\n" not in str(e.value)


def same(a, b):
  assert named(a).keys() == named(b).keys()
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.tf
def test_original_checkpoint_of_another_size(tmp_path):
  path = str(tmp_path)
  original = variables(dataclasses.replace(TINY, max_len=13))
  bert_test_util.save_checkpoint(path, original)
  model = bert.Model("tiny")
  table = bert.load(shapes(model), path)[ENCODER]["embedder"]
  np.testing.assert_array_equal(
    table["embedders_position_ids"]["embedding"],
    original["bert/embeddings/position_embeddings"][:10],
  )
  with pytest.raises(ValueError, match=" - head/kernel"):
    bert.load(shapes(bert.Model("tiny", 3)), path)

  larger = variables(dataclasses.replace(TINY, vocab_size=21))
  bert_test_util.save_checkpoint(path, larger)
  message = r"token_ids.*\(21, 8\).*\(20, 8\).*config.model.text.config"
  with pytest.raises(ValueError, match=message):
    bert.load(shapes(model), path)
  deeper = variables(dataclasses.replace(TINY, depth=3))
  bert_test_util.save_checkpoint(path, deeper)
  with pytest.raises(ValueError, match=rf" \+ {LAYER}2/mlp_block"):
    bert.load(shapes(model), path)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_load_ordinary_checkpoint(tmp_path, dtype):
  model = bert.Model("tiny", 3)
  params = jax.tree.map(lambda x: x.astype(dtype), filled(model))
  path = str(tmp_path / "x.npz")
  np.savez(path, **{f"params/{k}": v for k, v in named(params).items()})
  same(bert.load(shapes(model), path, {"config": "tiny"}), params)
  same(bert.load(None, path), params)
  start = shapes(bert.Model("tiny", 4))
  with pytest.raises(ValueError, match=r"head/bias.*\(3,\).*\(4,\)"):
    bert.load(start, path)
  out = bert.load(start, path, None, dont_load=["head/.*"])
  assert out["head"]["bias"] is start["head"]["bias"]
  same(out[ENCODER], params[ENCODER])
  without_head = bert.load(shapes(bert.Model("tiny")), path, None, "head/.*")
  same(without_head, {ENCODER: params[ENCODER]})


@pytest.mark.parametrize(
  "config, depth, width, mlp_dim, count",
  [
    # The usual counts include the pooler, a dense layer.
    ("base", 12, 768, 3072, 109_482_240 - 768 * 769),
    ("large", 24, 1024, 4096, 335_141_888 - 1024 * 1025),
  ],
)
def test_parameters(config, depth, width, mlp_dim, count):
  got = named(shapes(bert.Model(config, num_classes=5)))
  want = {
    f"{ENCODER}/embedder/embedders_token_ids/embedding": (30522, width),
    f"{ENCODER}/embedder/embedders_position_ids/embedding": (512, width),
    f"{ENCODER}/embedder/embedders_segment_ids/embedding": (2, width),
    "head/kernel": (width, 5),
    "head/bias": (5,),
  }
  dense = {}
  for name in ("query", "key", "value"):
    dense[f"attention_block/attention_layer/{name}"] = (width, width)
  dense["attention_block/dense_layer"] = (width, width)
  dense["mlp_block/mlp/dense_layer"] = (width, mlp_dim)
  dense["mlp_block/dense_layer"] = (mlp_dim, width)
  norms = [f"{ENCODER}/layer_norm"]
  for i in range(depth):
    for name, shape in dense.items():
      want[f"{LAYER}{i}/{name}/kernel"] = shape
      want[f"{LAYER}{i}/{name}/bias"] = shape[1:]
    norms += [f"{LAYER}{i}/{b}_block/layer_norm" for b in ("attention", "mlp")]
  for name in norms:
    want[f"{name}/scale"] = want[f"{name}/bias"] = (width,)
  assert {k: x.shape for k, x in got.items()} == want
  assert all(x.dtype == jnp.float32 for x in got.values())
  encoder = [np.prod(s) for k, s in want.items() if k.startswith(ENCODER)]
  assert sum(encoder) == count


def key_of(path, counter):
  """As Flax derives the key of a parameter from that of the model."""
  data = b"".join(n.encode() for n in path.split("/")) + bytes([counter])
  digest = hashlib.sha1(data).digest()
  return jax.random.fold_in(
    jax.random.PRNGKey(0), int.from_bytes(digest[:4], "big")
  )


def test_initial_values():
  model = bert.Model("tiny", 3)
  params = named(jax.jit(model.init)(jax.random.PRNGKey(0), TEXT)["params"])
  for name, x in params.items():
    if name.endswith("bias") or name == "head/kernel":
      np.testing.assert_array_equal(x, np.zeros_like(x), err_msg=name)
    elif name.endswith("scale"):
      np.testing.assert_array_equal(x, np.ones_like(x), err_msg=name)
    else:
      assert 0.02 < np.abs(x).max() <= 0.04, name
  for name in (f"{ENCODER}/embedder/embedders_token_ids/embedding",
               f"{LAYER}1/attention_block/attention_layer/key/kernel",
               f"{LAYER}0/mlp_block/mlp/dense_layer/kernel"):  # fmt: skip
    x, key = params[name], key_of(name.rpartition("/")[0], 1)
    want = 0.02 * jax.random.truncated_normal(key, -2, 2, x.shape)
    np.testing.assert_allclose(x, want, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("head_zeroinit", [True, False])
def test_head(monkeypatch, head_zeroinit):
  """Optional; zero at first, or not."""
  no_layers = dataclasses.replace(TINY, depth=0)
  monkeypatch.setitem(bert.CONFIGS, "none", no_layers)
  model = bert.Model("none", 3, head_zeroinit=head_zeroinit)
  head = jax.jit(model.init)(jax.random.PRNGKey(0), TEXT)["params"]["head"]
  assert (np.abs(head["kernel"]).min() > 0) == (not head_zeroinit)
  np.testing.assert_array_equal(head["bias"], np.zeros(3))
  x, out = jax.eval_shape(
    lambda: bert.Model("none").init_with_output(jax.random.PRNGKey(0), TEXT)[0]
  )
  assert x.shape == out["pre_logits"].shape == (3, 8) and "logits" not in out


def test_padding_changes_nothing():
  model = bert.Model("tiny", 3)
  params = filled(model)
  _, short = apply(model, params, TEXT[:2, :4])
  padded = np.pad(TEXT[:2, :4], [(0, 0), (0, 5)])
  _, long = apply(model, params, padded)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6)
  close(long["transformed"][:, :4], short["transformed"])
  close(long["logits"], short["logits"])
  assert np.isfinite(long["transformed"]).all()
  # All other tokens are seen, also by the first.
  changed = padded.copy()
  changed[:, 3] += 1
  _, other = apply(model, params, changed)
  assert np.abs(other["pre_logits"] - long["pre_logits"]).min(1).max() > 1e-4


def test_dropout():
  model = bert.Model("tiny")
  params = filled(model)
  text = np.full((4, 6), 3)

  @jax.jit
  def run(key):
    return model.apply(
      {"params": params},
      text,
      train=True,
      rngs={"dropout": key},
      capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
    )

  (x, _), state = run(jax.random.PRNGKey(1))
  (y, _), _ = run(jax.random.PRNGKey(2))
  calm, _ = apply(model, params, text)
  assert min(np.abs(x - y).max(), np.abs(x - calm).max()) > 1e-2
  dropped = {k: np.asarray(v) for k, v in named(state).items()}
  assert len(dropped) == 1 + 2 * 2
  for name, z in dropped.items():
    # Only after the MLP it is the same for all tokens of a text.
    per_text = (z == 0).all(1) == (z == 0).any(1)
    assert per_text.all() == ("mlp_block" in name), name
    assert (z == 0).any(), name


def test_attention_dropout_is_not_shared():
  """Neither by texts nor by heads."""
  config = dataclasses.replace(TINY, dropout=0.5)
  module = bert.Attention(config)
  x = np.ones((3, 4, 8), np.float32)
  mask = np.ones((3, 1, 4, 4), bool)
  eye = {"kernel": np.eye(8, dtype=np.float32), "bias": np.zeros(8, np.float32)}
  params = dict.fromkeys(("query", "key", "value"), eye)
  rngs = {"dropout": jax.random.PRNGKey(0)}
  out = jax.jit(lambda p: module.apply(p, x, mask, False, rngs=rngs))(
    {"params": params}
  )
  # A multiple of 1 / 4 / 0.5 for each text, query, and head.
  weights = np.asarray(out).reshape(3, 4, 2, 4)
  np.testing.assert_array_equal(weights, weights[..., :1].repeat(4, -1))
  assert set(np.unique(weights)) <= {0, 0.5, 1, 1.5, 2}
  assert (weights[0] != weights[1]).any()
  assert (weights[:, :, 0] != weights[:, :, 1]).any()


def test_errors_of_the_model():
  with pytest.raises(ValueError, match="config.model.text.config.*'base'"):
    shapes(bert.Model("bas"))
  with pytest.raises(ValueError, match="10 positions.*11 tokens.*max_len"):
    shapes(bert.Model("tiny"), length=11)


@pytest.mark.tf
def test_text_tower(tmp_path):
  """In a LiT model, whose image tower starts afresh."""
  config = dict(
    image=dict(variant="mu/16"),
    text=dict(config="tiny", head_zeroinit=False),
    text_model="proj.flaxformer.bert",
    out_dim=(None, 32),
  )
  model = two_towers.Model(**config)
  image = np.zeros((3, 16, 16, 3), np.float32)
  abstract = jax.eval_shape(model.init, jax.random.PRNGKey(0), image, TEXT)
  assert abstract.keys() == {"params"}
  start = abstract["params"]
  original = variables()
  bert_test_util.save_checkpoint(tmp_path, original)
  params = two_towers.load(
    start,
    {"txt": str(tmp_path)},
    config,
    txt_load_kw={"dont_load": ["head/.*"]},
  )
  assert params["img"] is start["img"]
  tower = params["txt"]
  tower["head"] = {"kernel": np.eye(8, 32, dtype=np.float32),
                   "bias": np.zeros(32, np.float32)}  # fmt: skip
  _, ztxt, out = apply(model, {"txt": tower, "t": np.zeros(1)}, None, TEXT)
  want = NumpyBert(original)(TEXT[1])[0]
  np.testing.assert_allclose(
    ztxt[1, :8], want / np.linalg.norm(want), atol=1e-5
  )
  assert out["txt/transformed"].shape == (3, 6, 8)


def test_names_of_the_published_variables():
  got = bert_test_util.variable_shapes(bert.CONFIGS["base"])
  # Names and count as in the published uncased_L-12_H-768_A-12.
  assert len(got) == 5 + 12 * 16 + 2 + 5 + 2
  assert sum(np.prod(s) for s in got.values()) == 110_106_428
  for name, shape in {
    "bert/embeddings/token_type_embeddings": (2, 768),
    "bert/encoder/layer_11/attention/self/query/kernel": (768, 768),
    "bert/encoder/layer_0/intermediate/dense/kernel": (768, 3072),
    "bert/pooler/dense/bias": (768,),
    "cls/predictions/transform/LayerNorm/beta": (768,),
    "cls/seq_relationship/output_weights": (2, 768),
  }.items():
    assert got[name] == shape
  converted = {bert.convert_name(n): s for n, s in got.items()}
  del converted[None]
  want = named(shapes(bert.Model("base"))[ENCODER])
  assert converted == {k: x.shape for k, x in want.items()}


@pytest.mark.slow
@pytest.mark.tf
def test_base_checkpoint():
  folder = bert_test_util.create_base_checkpoint()
  try:
    params = bert.load(shapes(bert.Model("base")), folder)
  finally:
    shutil.rmtree(folder)
  assert all(not np.any(x) for x in jax.tree.leaves(params))
