"""Tiny Gemmas and PaliGemmas of transformers, and what they compute.

  python -m venv hf_venv
  hf_venv/bin/pip install torch transformers
  hf_venv/bin/python tests/golden/make_gemma.py

writes `gemma/<name>/` with config.json, weights and expected.npz, which tests read
without any of these packages. Made with torch 2.14.1 and transformers 5.24.0. To see
that they compute the same from files that this package wrote of the same cases:

  hf_venv/bin/python tests/golden/make_gemma.py --check FOLDER

expected.npz: the inputs `input_ids`, and of PaliGemma `pixel_values` and
`token_type_ids`, 0 for the prefix, and the output `logits`.
"""

import argparse
import json
import pathlib
import shutil
import zlib

import numpy as np
import torch
import transformers as hf

HERE = pathlib.Path(__file__).parent / "gemma"

_GEMMA = dict(
  vocab_size=24,
  hidden_size=12,
  intermediate_size=20,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=1,
  head_dim=6,
)
# Heads of 4, whose queries are scaled as if they were of 12 / 4.
_GEMMA2 = _GEMMA | dict(
  num_hidden_layers=3,
  num_key_value_heads=2,
  head_dim=4,
  query_pre_attn_scalar=3,
  attn_logit_softcapping=2.0,
  final_logit_softcapping=3.0,
  sliding_window=3,
)
_IMAGE = dict(
  model_type="siglip_vision_model",
  hidden_size=12,
  intermediate_size=16,
  num_hidden_layers=1,
  num_attention_heads=3,
  image_size=7,  # No multiple of the patches.
  patch_size=3,
  vision_use_head=False,
)


def _pali(text, **kw):
  """Settings of a PaliGemma: with a token for images, and one of padding."""
  size = text["hidden_size"]
  return dict(
    vision_config=_IMAGE,
    text_config=text,
    image_token_index=22,
    projection_dim=size,
    hidden_size=size,
    **kw,
  )


# Name -> (class, settings, arguments of `save_pretrained`).
CASES = {
  "gemma": ("GemmaForCausalLM", _GEMMA, {}),
  "gemma_mha": (
    "GemmaForCausalLM",
    _GEMMA | dict(num_attention_heads=2, num_key_value_heads=2),
    {},
  ),
  "gemma2": ("Gemma2ForCausalLM", _GEMMA2, {}),
  "paligemma": (
    "PaliGemmaForConditionalGeneration",
    _pali(_GEMMA | dict(model_type="gemma")),
    dict(max_shard_size=7_000),
  ),
  "paligemma2": (
    "PaliGemmaForConditionalGeneration",
    # Longer than the prefix, to all of which transformers attends.
    _pali(
      _GEMMA2 | dict(model_type="gemma2", sliding_window=7, num_hidden_layers=2)
    ),
    {},
  ),
}
_BFLOAT16 = ("gemma_mha", "paligemma")


def make_model(cls, config):
  """A model, none of whose parameters has a neutral value such as 0 or 1."""
  cls = getattr(hf, cls)
  model = cls(cls.config_class(**config))
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.2 * torch.randn_like(p))
  return model


def make_inputs(config):
  """Inputs with the names that transformers has for them: 3 of 9 tokens."""
  rng = np.random.default_rng(0)
  if "vision_config" not in config:
    return {"input_ids": rng.integers(0, config["vocab_size"], (3, 9))}
  image = config["vision_config"]
  num = (image["image_size"] // image["patch_size"]) ** 2
  text = rng.integers(0, config["image_token_index"], (3, 9))
  is_suffix = np.arange(9) >= np.array([[1], [2], [3]])
  fill = lambda value: np.full((3, num), value)
  shape = (3, 3, image["image_size"], image["image_size"])
  return {
    "pixel_values": rng.uniform(-1, 1, shape).astype(np.float32),
    "input_ids": np.concatenate([fill(config["image_token_index"]), text], 1),
    "token_type_ids": np.int64(np.concatenate([fill(0), is_suffix], 1)),
  }


def logits_of(model, inputs):
  """What a model computes, with attention as it is defined."""
  model = model.eval()
  model.set_attn_implementation("eager")
  with torch.no_grad():
    out = model(**{k: torch.from_numpy(x) for k, x in inputs.items()})
  return out.logits.numpy()


def write(name, cls, config, save):
  """Writes a case."""
  torch.manual_seed(zlib.crc32(name.encode()))
  model, folder = make_model(cls, config), HERE / name
  shutil.rmtree(folder, ignore_errors=True)
  if name in _BFLOAT16:
    model = model.bfloat16()
  model.save_pretrained(folder, **save)
  (folder / "generation_config.json").unlink(missing_ok=True)
  for path in folder.iterdir():
    path.chmod(0o644)
  # Not the model itself, whose factor of embeddings is rounded, too.
  model = type(model).from_pretrained(folder, dtype=torch.float32)
  inputs = make_inputs(config)
  logits = logits_of(model, inputs)
  np.savez_compressed(folder / "expected.npz", **inputs, logits=logits)


def check(folder):
  """Compares logits of models that this package wrote: FOLDER/<name>."""
  for path in sorted(pathlib.Path(folder).iterdir()):
    cls = json.loads((path / "config.json").read_text())["architectures"][0]
    model, info = getattr(hf, cls).from_pretrained(
      path, output_loading_info=True
    )
    assert not any(info.values()), info
    with np.load(HERE / path.name / "expected.npz") as f:
      inputs = dict(f)
    expected = inputs.pop("logits")
    difference = np.abs(logits_of(model, inputs) - expected).max()
    print(path.name, cls, difference)
    assert difference < 1e-5


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("--check")
  args = parser.parse_args()
  if args.check:
    check(args.check)
  else:
    for case, spec in CASES.items():
      write(case, *spec)
