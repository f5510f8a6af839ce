"""Gemma of transformers: the same logits, both ways, and what does not fit.

The files and numbers are from transformers, see tests/golden/make_gemma.py.
"""

import json
import pathlib
import tracemalloc

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from big_vision import lookup, models, trees
from big_vision.models.ppp import gemma
from big_vision.models.weights import families, hf_gemma, sources, tensor_files
from big_vision.models.weights.family import GEMMA, Found
from big_vision.publishing import formats
from big_vision.tools import convert

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "gemma"
CASES = ("gemma", "gemma_mha", "gemma2")


def case(name):
  """(tensors, settings) of a case."""
  config = json.loads((GOLDEN / name / "config.json").read_text())
  return load_file(GOLDEN / name / "model.safetensors"), config


def read(tensors, config):
  """(found, parameters)."""
  family = families.find(config, tensors)
  found = family.read(config, {k: x.shape for k, x in tensors.items()})
  return found, family.to_params(tensors, found)


def write(folder, tensors, config):
  """Writes a checkpoint: its folder."""
  folder.mkdir(parents=True)
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))
  return str(folder)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_library_and_back(name):
  tensors, config = case(name)
  expected = np.load(GOLDEN / name / "expected.npz")
  found, params = read(tensors, config)
  model, ids = gemma.Model(**found.model), expected["input_ids"]
  shapes = jax.eval_shape(model.init, jax.random.key(0), ids)["params"]
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
  apply = jax.jit(lambda params, ids: model.apply({"params": params}, ids)[0])
  np.testing.assert_allclose(apply(params, ids), expected["logits"], atol=1e-5)

  written, settings = families.write("transformers", params, found)
  assert set(written) == set(tensors)
  for key, x in written.items():
    assert x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, np.float32(tensors[key]), err_msg=key)
  assert settings["architectures"] == config["architectures"]
  for key in settings.keys() & config.keys():
    assert settings[key] == config[key], key
  again, params_again = read(dict(written), json.loads(json.dumps(settings)))
  assert again == found
  equal(params_again, params)


def test_layers_are_stacked_or_not(tmp_path):
  """By the config of a run, and written alike."""
  tensors, config = case("gemma2")
  found, params = read(tensors, config)
  folder = write(tmp_path / "hf", tensors, config)
  for scan in (True, False):
    own = {**found.model, "scan": scan, "vocab_size": 27}
    model, load = models.build(
      dict(model_name=GEMMA, model=own, model_init=folder)
    )
    ids = np.zeros((1, 3), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)["params"]
    loaded = load(shapes)
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, shapes)
    table = loaded["embedder"]["input_embedding"]
    np.testing.assert_array_equal(
      table[:24], params["embedder"]["input_embedding"]
    )
    loaded["embedder"] = {"input_embedding": table[:24]}
    written, _ = families.write(
      "transformers", loaded, Found(GEMMA, {**found.model, "scan": scan})
    )
    equal(dict(written), tensors)


def test_other_names(tmp_path):
  tensors, config = case("gemma")
  found, params = read(tensors, config)
  bare = {k.removeprefix("model."): x for k, x in tensors.items()}
  bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
  again, got = read(bare, config)
  assert again == found
  equal(got, params)
  embedding = tensors["model.embed_tokens.weight"]
  _, got = read(tensors | {"lm_head.weight": embedding.copy()}, config)
  equal(got, params)
  with pytest.raises(ValueError, match=r"lm_head.weight .*one table for both"):
    read(tensors | {"lm_head.weight": embedding + 1}, config)
  with pytest.raises(ValueError, match=r"both .*norm.weight and norm.weight"):
    read(tensors | {"norm.weight": bare["norm.weight"]}, config)
  with pytest.raises(ValueError, match="unknown score.weight"):
    read(tensors | {"score.weight": embedding}, config)
  del bare["layers.1.mlp.up_proj.weight"]
  folder = write(tmp_path / "hf", bare, config)
  with pytest.raises(lookup.ConfigError, match="missing layers.1.mlp.up_proj"):
    sources.Checkpoint(folder).params()
  with pytest.raises(lookup.ConfigError, match=r"'ppp.gemma': it has no part"):
    sources.Checkpoint(folder).params("img")


@pytest.mark.parametrize(
  "name, key, value",
  [
    ("gemma", "hidden_activation", "silu"),
    ("gemma", "attention_bias", True),
    ("gemma", "use_bidirectional_attention", True),
    ("gemma", "rope_theta", 1e6),
    ("gemma", "rope_parameters", dict(rope_type="default", rope_theta=1e6)),
    ("gemma", "rope_scaling", dict(type="linear", factor=2)),
    ("gemma", "num_key_value_heads", 3),
    ("gemma", "hidden_size", "x"),
    ("gemma2", "query_pre_attn_scalar", 5),
    ("gemma2", "layer_types", ["full_attention", "sliding_attention"]),
    ("gemma2", "sliding_window", -1),
    ("gemma2", "final_logit_softcapping", "x"),
  ],
)
def test_settings_without_a_counterpart_are_named(name, key, value):
  tensors, config = case(name)
  config = {k: x for k, x in config.items() if k != "rope_parameters"}
  inner = "rope_theta" if "parameters" in key else key
  with pytest.raises(ValueError, match=f"config.json: {inner}") as e:
    read(tensors, config | {key: value})
  assert "\n" not in str(e.value)


def test_none_turns_off_what_has_a_default():
  tensors, config = case("gemma2")
  for key in ("sliding_window", "attn_logit_softcapping"):
    config.pop(key)
  found, _ = read(tensors, config)
  assert found.model["sliding_window"] == 4096
  assert found.model["attn_logits_softcap"] == 50.0
  for change in (
    dict(sliding_window=None),
    dict(layer_types=["full_attention"] * 3),
  ):
    off = config | dict(attn_logit_softcapping=None) | change
    found, params = read(tensors, off)
    assert found.model["sliding_window"] == 0
    assert found.model["attn_logits_softcap"] == 0.0
    written, settings = families.write("transformers", params, found)
    assert settings["layer_types"] == ["full_attention"] * 3
    assert settings["attn_logit_softcapping"] is None
    assert read(dict(written), settings)[0] == found


@pytest.mark.parametrize("variant", gemma.VARIANTS)
def test_published_sizes(variant):
  """Of the config.json on the hub; the first ones leave out most."""
  config = gemma.get_config(variant)
  theirs = {
    "model_type": "gemma2" if config.get("post_norms") else "gemma",
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_dim,
    "num_attention_heads": config.num_heads,
    "num_hidden_layers": config.depth,
    "num_key_value_heads": config.num_kv_heads,
  }
  if variant == "gemma2_27b":
    theirs |= dict(head_dim=128, query_pre_attn_scalar=144)
  got = gemma.Model(**hf_gemma.read_model(theirs, None))
  want = gemma.Model(**config)
  for key in set(config) - {"variant", "remat_policy"}:
    assert getattr(got, key) == getattr(want, key), key
  assert got.window == want.window
  num = sum(np.prod(e.tensor) for e in hf_gemma.table(got))
  assert (
    num
    == {
      "gemma_2b": 2_506_172_416,
      "gemma_7b": 8_537_680_896,
      "gemma2_2b": 2_614_341_888,
      "gemma2_9b": 9_241_705_984,
      "gemma2_27b": 27_227_128_320,
    }[variant]
  )


@pytest.mark.parametrize(
  "name, key, value",
  [
    ("gemma", "attn_logits_softcap", 50.0),
    ("gemma", "final_logits_softcap", 30.0),
    ("gemma", "sliding_window", 5),
    ("gemma", "query_pre_attn_norm", "rsqrt_emb_per_head"),
  ],
)
def test_options_without_a_counterpart_are_named(name, key, value):
  found, params = read(*case(name))
  other = Found(GEMMA, {**found.model, key: value})
  with pytest.raises(
    ValueError, match=f"config.model.{key}={value!r}: .*Gemma"
  ):
    families.write("transformers", params, other)


def test_convert_and_files_of_limited_size(tmp_path, monkeypatch, capsys):
  folder = tmp_path / "from"
  tensors, config = case("gemma_mha")
  write(folder, tensors, config)
  (folder / "tokenizer.json").write_text("{}")
  monkeypatch.setattr(formats, "_MAX_FILE", 4000)
  target = tmp_path / "to"
  args = ["--from", str(folder), "--to", str(target), "--format", "hf"]
  assert convert.main(args) == 0
  assert "'ppp.gemma'" in capsys.readouterr().out
  names = sorted(p.name for p in target.glob("*.safetensors"))
  assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
  assert len(names) > 3
  for path in target.glob("*.safetensors"):
    assert path.stat().st_size < 4000 + 2000  # With the header.
    load_file(path)
  index = json.loads((target / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == 4 * sum(
    x.size for x in tensors.values()
  )
  assert (target / "tokenizer.json").read_text() == "{}"
  card = (target / "README.md").read_text()
  assert "pipeline_tag: text-generation" in card and "Images" not in card
  found, params = read(tensors, config)
  for path in (target, folder):
    again = sources.Checkpoint(str(path))
    assert again.found == found
    equal(again.params(), params)


def test_a_model_is_in_memory_once(tmp_path, monkeypatch):
  """While it is read, and while it is written."""
  monkeypatch.setattr(formats, "_MAX_FILE", 1 << 20)
  model = dict(
    gemma.get_config("gemma2_2b"), width=64, depth=12, mlp_dim=512, num_heads=4,
    num_kv_heads=2, head_dim=16, vocab_size=64,
  )  # fmt: skip
  found = Found(GEMMA, model)
  shapes = jax.eval_shape(
    gemma.Model(**model).init, jax.random.key(0), np.zeros((1, 2), np.int32)
  )["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.standard_normal(x.shape, np.float32), shapes
  )
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  assert size > 5e6

  def peak(fn):
    tracemalloc.start()
    out = fn()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used / size, out

  tensors, settings = families.write("transformers", params, found)
  (tmp_path / "config.json").write_text(json.dumps(settings))
  save = formats._safetensors
  used, _ = peak(lambda: save(str(tmp_path), "model", tensors, split=True))
  assert used < 0.1
  checkpoint = sources.Checkpoint(str(tmp_path))
  used, again = peak(checkpoint.params)
  assert used < 1.1
  equal(again, params)


def test_tensors_of_files_of_torch_are_read_together(tmp_path, monkeypatch):
  golden = GOLDEN.parent / "torch_files" / "zip.pth"
  files = dict.fromkeys(tensor_files.shapes(str(golden)), str(golden))
  calls = []
  read_file = tensor_files.read
  monkeypatch.setattr(
    tensor_files, "read", lambda *a: calls.append(a) or read_file(*a)
  )
  tensors = tensor_files.Tensors(files)
  equal(dict(tensors), read_file(str(golden)))
  assert len(calls) == 1 and len(tensors) == len(files)


def test_parameters_that_do_not_fit_are_named():
  found, params = read(*case("gemma"))
  flat = dict(trees.tree_flatten_with_names(params)[0])
  name = "layers/attn/kv_einsum/w"
  for wrong, words in (
    (flat | {name: flat[name][:1]}, rf"{name} is \(1, 2, .*\(2, 2,"),
    (flat | {"more": flat[name]}, "unknown more"),
    ({k: x for k, x in flat.items() if k != name}, f"missing {name}"),
  ):
    tree = trees.tree_unflatten(wrong.items())
    with pytest.raises(ValueError, match=words):
      families.write("transformers", tree, found)
