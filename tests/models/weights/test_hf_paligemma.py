"""PaliGemma of transformers: the same logits, both ways, and its parts.

The files and numbers are from transformers, see tests/golden/make_gemma.py.
"""

import functools
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from big_vision import checkpoints, lookup, models, pretrained
from big_vision.configs.proj.paligemma.transfers import forkme
from big_vision.models.ppp import gemma
from big_vision.models.proj.paligemma import paligemma
from big_vision.models.weights import families, sources
from big_vision.models.weights.family import GEMMA, PALIGEMMA, Found
from big_vision.publishing import formats, source
from big_vision.tools import convert

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = pathlib.Path(__file__).parents[2] / "golden"
GOLDEN = ROOT / "gemma"
CASES = ("paligemma", "paligemma2")
NUM = 4  # Tokens of an image.


@functools.cache
def case(name):
  """(tensors in float32, settings) of a case."""
  config = json.loads((GOLDEN / name / "config.json").read_text())
  tensors = {}
  for path in (GOLDEN / name).glob("*.safetensors"):
    tensors |= load_file(path)
  return {k: np.float32(x) for k, x in tensors.items()}, config


def inputs(name):
  """((image, text, mask_ar), logits of the text)."""
  e = dict(np.load(GOLDEN / name / "expected.npz"))
  image = e["pixel_values"].transpose(0, 2, 3, 1)
  text, mask_ar = e["input_ids"][:, NUM:], e["token_type_ids"][:, NUM:]
  return (image, text, mask_ar), e["logits"][:, NUM:]


def write(folder, tensors, config):
  """Writes a checkpoint: its folder."""
  folder.mkdir(parents=True)
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))
  return str(folder)


def with_tokenizer(folder):
  """Copies a case, and adds a tokenizer of letters: the folder."""
  shutil.copytree(GOLDEN / "paligemma", folder)
  names = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", *"abcdefghijklmnop"]
  vocab = {name: i for i, name in enumerate(names)}
  tok = tokenizers.Tokenizer(
    tokenizers.models.BPE(vocab, [], unk_token="<unk>")
  )
  tok.add_special_tokens(names[:4])
  tok.save(str(folder / "tokenizer.json"))
  (folder / "special_tokens_map.json").write_text("{}")
  return str(folder)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def built(config, size=(7, 7)):
  """(shapes of the parameters, `load` of a config)."""
  model, load = models.build(
    {"model_name": PALIGEMMA, **config}, image_size=size
  )
  image, ids = np.zeros((1, *size, 3)), np.zeros((1, 2), np.int32)
  init = functools.partial(model.init, jax.random.key(0))
  return jax.eval_shape(init, image, ids, ids)["params"], load


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_library_and_back(name):
  checkpoint = sources.Checkpoint(str(GOLDEN / name))
  found, params = checkpoint.found, checkpoint.params()
  model = paligemma.Model(**found.model)
  args, expected = inputs(name)
  apply = jax.jit(lambda params, *x: model.apply({"params": params}, *x))
  logits, out = apply(params, *args)
  # As specified, those of training are not capped.
  cap = found.model["llm"]["final_logits_softcap"]
  assert (cap > 0) == (name == "paligemma2")
  np.testing.assert_allclose(gemma.softcap(logits, cap), expected, atol=1e-5)
  np.testing.assert_allclose(out["llm/logits"][:, NUM:], expected, atol=1e-5)

  tensors, config = case(name)
  written, settings = families.write("transformers", params, found)
  assert len(written) == len(tensors)
  for key, x in written.items():
    theirs = tensors[key.replace("vision_model.", "")]
    np.testing.assert_array_equal(x, theirs, err_msg=key)
  for part in ("vision_config", "text_config"):
    for key in settings[part].keys() & config[part].keys():
      assert settings[part][key] == config[part][key], key
  assert settings["image_token_index"] == config["image_token_index"] == 22
  family = families.find(settings, written)
  settings = json.loads(json.dumps(settings))
  assert family.read(settings, written.shapes) == found
  equal(family.to_params(written, found), params)


@pytest.mark.parametrize(
  "rename",
  [
    lambda k: k.replace("vision_tower.", "vision_tower.vision_model."),
    lambda k: f"model.{k.replace('language_model.model.', 'language_model.')}",
    lambda k: k.replace("language_model.model.", "language_model."),
  ],
)
def test_names_of_all_versions(rename, tmp_path):
  tensors, config = case("paligemma2")
  tensors = {rename(k): x for k, x in tensors.items()}
  start = re.match(r"(model\.)?vision_tower\.(vision_model\.)?", min(
    k for k in tensors if "vision_tower" in k
  ))[0]  # fmt: skip
  tensors[f"{start}head.probe"] = np.zeros((1, 1, 12), np.float32)
  tensors[f"{start}embeddings.position_ids"] = np.arange(4)
  embedding = next(x for k, x in tensors.items() if "embed_tokens" in k)
  tensors["lm_head.weight"] = embedding.copy()
  folder = write(tmp_path / "x", tensors, config)
  want = sources.Checkpoint(str(GOLDEN / "paligemma2"))
  got = sources.Checkpoint(folder)
  assert got.found == want.found
  equal(got.params(), want.params())
  for part in ("img", "llm"):
    equal(got.params(part), want.params()[part])
  with pytest.raises(lookup.ConfigError, match="It has no 'txt'"):
    got.params("txt")


def test_runs_start_from_it():
  whole = sources.Checkpoint(str(GOLDEN / "paligemma"))
  model, params = whole.found.model, whole.params()
  path = str(GOLDEN / "paligemma")
  for init in (path, {"img": path, "llm": f"{path}:llm"}):
    shapes, load = built(dict(model=model, model_init=init))
    equal(load(shapes), params)
  # Each part alone, into models of its own.
  for part, name in (("img", "vit"), ("llm", GEMMA)):
    found = whole.found.tower(part)
    assert found.model_name == name
    args = {**found.model}
    kw = dict(num_classes=found.num_classes) if part == "img" else {}
    for init in (path, f"{path}:{part}"):
      _, load = models.build(
        dict(model_name=name, model=args, model_init=init), **kw
      )
      equal(load(params[part]), params[part])


def test_parts_of_other_checkpoints():
  """As the first stage of PaliGemma: SigLIP and Gemma, with a new head."""
  siglip = str(ROOT / "huggingface" / "siglip")
  found = sources.Checkpoint(siglip).found.tower("img")
  model = dict(
    img=found.model | dict(pool_type="none"),
    llm=sources.Checkpoint(str(GOLDEN / "paligemma")).found.model["llm"],
  )
  config = dict(
    model=model,
    model_init={"img": siglip, "llm": str(GOLDEN / "gemma")},
    model_load=dict(img_load_kw=dict(dont_load=["head/.*", "MAPHead_0/.*"])),
  )
  shapes, load = built(config, (14, 14))
  params = load(shapes)
  assert isinstance(params["img"]["head"]["kernel"], jax.ShapeDtypeStruct)
  equal(params["llm"], sources.Checkpoint(str(GOLDEN / "gemma")).params())
  theirs = sources.Checkpoint(siglip).params("img")
  equal(params["img"]["Transformer"], theirs["Transformer"])
  _, load = built(config | dict(model_init=siglip), (14, 14))
  with pytest.raises(lookup.ConfigError, match="siglip.* has no 'llm'"):
    load(shapes)


def test_padding_of_the_vocabulary_may_be_cut():
  path = str(GOLDEN / "paligemma")
  checkpoint = sources.Checkpoint(path)
  table = checkpoint.params("llm")["embedder"]["input_embedding"]
  for size in (22, 23, 26):
    model = dict(checkpoint.found.model)
    model["llm"] = {**model["llm"], "vocab_size": size}
    shapes, load = built(dict(model=model, model_init=path))
    got = load(shapes)["llm"]["embedder"]["input_embedding"]
    assert got.shape == (size, 12)
    np.testing.assert_array_equal(got[:22], table[:22])
  model["llm"]["vocab_size"] = 21
  shapes, load = built(dict(model=model, model_init=path))
  with pytest.raises(lookup.ConfigError, match="vocab_size = 21 is less than"):
    load(shapes)


def test_positions_are_resampled():
  path = str(GOLDEN / "paligemma")
  found = sources.Checkpoint(path).found
  shapes, load = built(dict(model=found.model, model_init=path), (9, 12))
  params = load(shapes)
  assert params["img"]["pos_embedding"].shape == (1, 12, 12)


@pytest.mark.parametrize(
  "where, value, words",
  [
    ("text_config.model_type", "gemma3_text", "text_config: model_type"),
    ("text_config.rms_norm_eps", 1e-5, "text_config: rms_norm_eps"),
    ("text_config.num_hidden_layers", "2", "text_config: num_hidden_layers"),
    ("text_config", [1], "text_config"),
    ("vision_config.hidden_act", "relu", "vision_config.hidden_act"),
    ("vision_config.model_type", "clip_vision_model", "model_type"),
    ("vision_config.hidden_size", 16, r"num_attention_heads"),
    ("image_token_index", -1, "image_token_index"),
  ],
)
def test_settings_without_a_counterpart_are_named(where, value, words):
  tensors, config = case("paligemma")
  config = json.loads(json.dumps(config))
  *path, key = where.split(".")
  part = functools.reduce(dict.__getitem__, path, config)
  part[key] = value
  family = families.find(config, tensors)
  with pytest.raises(ValueError, match=words) as e:
    family.read(config, {k: x.shape for k, x in tensors.items()})
  assert "\n" not in str(e.value)


# Of the config.json on the hub, which leave out most.
_IMAGE = dict(
  hidden_size=1152, intermediate_size=4304, num_attention_heads=16,
  num_hidden_layers=27, patch_size=14, vision_use_head=False,
)  # fmt: skip
_TEXTS = {
  "gemma_2b": dict(
    model_type="gemma", hidden_size=2048, intermediate_size=16384,
    num_attention_heads=8, num_hidden_layers=18, num_key_value_heads=1,
    vocab_size=257216,
  ),
  "gemma2_27b": dict(
    model_type="gemma2", hidden_size=4608, intermediate_size=36864,
    num_attention_heads=32, num_hidden_layers=46, num_key_value_heads=16,
    head_dim=128, query_pre_attn_scalar=144, vocab_size=257216,
  ),
}  # fmt: skip


@pytest.mark.parametrize("variant", _TEXTS)
def test_published_sizes(variant):
  """Their parameters are those of the config of a transfer."""
  config = dict(
    model_type="paligemma",
    image_token_index=257152,
    vision_config=_IMAGE | dict(image_size=448),
    text_config=_TEXTS[variant],
  )
  found = families.find(config, []).read(config, {})
  assert found.image_size == (448, 448) and found.image_token == 257152
  image = dict(variant="So400m/14", pool_type="none", scan=True)
  own = paligemma.Model(img=image, llm=dict(variant=variant, vocab_size=257216))
  image = found.model["img"] | dict(scan=True)
  theirs = paligemma.Model(img=image, llm=found.model["llm"])
  image, ids = np.zeros((1, 448, 448, 3)), np.zeros((1, 2), np.int32)
  same = [
    jax.eval_shape(model.init, jax.random.key(0), image, ids, ids)["params"]
    for model in (own, theirs)
  ]
  assert jax.tree.map(np.shape, same[0]) == jax.tree.map(np.shape, same[1])
  # It is written again, but for what it says by default.
  tensors, settings = families.of_library("transformers")[-1].written(found)
  assert settings["image_token_index"] == 257152
  total = sum(int(np.prod(shape)) for shape in tensors.values())
  assert total == sum(int(np.prod(x.shape)) for x in jax.tree.leaves(same[0]))


@pytest.mark.parametrize(
  "part, change",
  [
    ("img", dict(pool_type="gap")),
    ("img", dict(posemb="sincos2d")),
    ("img", dict(act="gelu_erf")),
    ("llm", dict(attn_logits_softcap=50.0)),
  ],
)
def test_options_without_a_counterpart_are_named(part, change):
  checkpoint = sources.Checkpoint(str(GOLDEN / "paligemma"))
  model = dict(checkpoint.found.model)
  model[part] = model[part] | change
  found = Found(PALIGEMMA, model, None, checkpoint.found.image_size)
  key = next(iter(change))
  with pytest.raises(ValueError, match=f"config.model.{part}.{key}="):
    families.write("transformers", checkpoint.params(), found)
  model |= checkpoint.found.model | {"img_model": "bit"}
  found = Found(PALIGEMMA, model, None, checkpoint.found.image_size)
  with pytest.raises(ValueError, match=r"config.model.img_model='bit'"):
    families.write("transformers", checkpoint.params(), found)


@pytest.mark.parametrize("form", ["hf", "npz", "orbax"])
def test_convert(form, tmp_path):
  folder = with_tokenizer(tmp_path / "from")
  target = str(tmp_path / ("to.npz" if form == "npz" else "to"))
  args = ["--from", folder, "--to", target, "--format", form]
  assert convert.main(args) == 0
  old, new = source.read(folder), source.read(target)
  equal(new.params, old.params)
  assert new.found.image_size == (7, 7) or form == "npz"
  # The picture is cut into whole patches where nothing tells its size.
  assert new.pp.split("pil")[0] == old.pp.split("pil")[0] or form == "npz"
  if form == "hf":
    processor = json.loads(
      (tmp_path / "to" / "preprocessor_config.json").read_text()
    )
    assert processor["image_processor_type"] == "SiglipImageProcessor"
    assert processor["image_seq_length"] == NUM
    assert (tmp_path / "to" / "special_tokens_map.json").exists()
    card = (tmp_path / "to" / "README.md").read_text()
    assert "AutoModelForImageTextToText" in card
  if form == "orbax":  # As a run, whose config tells the tokenizer.
    assert new.pp_txt == old.pp_txt
  # What is written is the same, from where it is written.
  formats.write(new, str(tmp_path / "again"), "hf")
  again = load_file(tmp_path / "again" / "model.safetensors")
  for key, x in case("paligemma")[0].items():
    key = key.replace("vision_tower.", "vision_tower.vision_model.")
    np.testing.assert_array_equal(again[key], x)
  if form != "npz":
    for name in ("tokenizer.json", "special_tokens_map.json"):
      assert (tmp_path / "again" / name).exists()


def test_it_is_loaded_by_name(tmp_path):
  folder = with_tokenizer(tmp_path / "hf")
  m = pretrained.load(folder)
  assert type(m) is pretrained.VisionLanguage
  equal(m.params, sources.Checkpoint(folder).params())
  assert m.pp == 'decode()|resize(7, "bicubic", pil=True)|value_range(-1, 1)'
  assert m.prompt("cab") == [2, 7, 5, 6, 4]
  changed = pretrained.load(
    folder, image_size=9, scan=False, dtype_mm="bfloat16"
  )
  assert changed.params["img"]["pos_embedding"].shape == (1, 9, 12)
  assert set(changed.params["llm"]["layers"]) == {"0", "1"}
  target = str(tmp_path / "run")
  args = ["--from", folder, "--to", target, "--format", "orbax"]
  assert convert.main(args) == 0
  run = pretrained.load(target)
  equal(run.params, m.params)
  assert run.prompt("cab") == m.prompt("cab") and run.pp == m.pp
  tower = pretrained.load(f"{folder}:img")
  assert type(tower) is pretrained.Backbone
  with pytest.raises(ValueError, match="num_classes=3: .*:img"):
    pretrained.load(folder, num_classes=3)
  with pytest.raises(ValueError, match="model of texts alone"):
    pretrained.load(f"{folder}:llm")


def test_a_run_is_written(tmp_path):
  """Blocks are not stacked, and the config says the tokenizer."""
  hf, run = with_tokenizer(tmp_path / "hf"), tmp_path / "run"
  config = forkme.get_config("demo")
  config.model.img.num_classes = config.model.llm.width
  text = json.dumps(config.to_dict(), default=str)
  tokenizer = f'gemma(model=\\"{hf}/tokenizer.json\\"'
  run.mkdir()
  (run / "config.json").write_text(
    re.sub(r"gemma\(tokensets=[^m]*model=[^)]*", lambda m: tokenizer, text)
  )
  model, _ = models.build(config)
  image, ids = np.zeros((1, 32, 32, 3)), np.zeros((1, 2), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image, ids, ids)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.standard_normal(x.shape, np.float32), shapes["params"]
  )
  manager = checkpoints.CheckpointManager()
  path = str(run / "checkpoint.bv")
  checkpoints.save_checkpoint_ts(manager, {"params": params}, path, 0)
  manager.close()

  target = str(tmp_path / "to")
  args = ["--from", str(run), "--to", target, "--format", "hf"]
  assert convert.main(args) == 0
  assert (tmp_path / "to" / "tokenizer.json").exists()
  assert (tmp_path / "to" / "special_tokens_map.json").exists()
  settings = json.loads((tmp_path / "to" / "config.json").read_text())
  assert settings["image_token_index"] == settings["vocab_size"] == 1664
  assert settings["vision_config"]["image_size"] == 32
  again = sources.Checkpoint(target)
  shapes, load = built(
    dict(model=config.model.to_dict(), model_init=target), size=(32, 32)
  )
  equal(load(shapes), params)
  assert again.found.model["llm"]["scan"]
