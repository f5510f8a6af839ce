"""Tiny SigLIPs of Hugging Face's transformers, and what they compute.

  python -m venv hf_venv
  hf_venv/bin/pip install torch==2.13.0 transformers numpy
  hf_venv/bin/python tests/golden/make_huggingface.py

writes `huggingface/<name>/{config.json,model.safetensors,expected.npz}`, which
tests read without any of these packages. Made with torch 2.13.0 and
transformers 5.24.0. To see that an exported model is the same to transformers
as the original:

  hf_venv/bin/python tests/golden/make_huggingface.py \\
      --check FOLDER --like siglip

expected.npz: inputs as transformers takes them, and its outputs; NaFlex patches
of padding contain noise, and images have more or fewer rows and columns than
the grid of positions has.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent / "huggingface"

_VISION = dict(
  hidden_size=16,
  num_hidden_layers=2,
  intermediate_size=20,
  num_attention_heads=2,
  image_size=14,  # No multiple of the patches, as 384 of 14.
  patch_size=4,
)
_TEXT = dict(
  vocab_size=40,
  hidden_size=12,  # Other than that of images, as in g-opt.
  num_hidden_layers=1,
  intermediate_size=24,
  num_attention_heads=3,
  max_position_embeddings=7,
  projection_size=16,
)
_NAFLEX = dict(
  hidden_size=12,
  num_hidden_layers=1,
  intermediate_size=20,
  num_attention_heads=3,
  patch_size=2,
  num_patches=16,
)
_GRIDS = [(2, 7), (9, 1), (4, 4), (3, 5)]

# Name -> (class, settings of the image tower, of the text tower, grids).
CASES = {
  "siglip": ("SiglipModel", _VISION, _TEXT, None),
  "siglip2": (
    "Siglip2Model",
    _NAFLEX,
    dict(_TEXT, hidden_size=9, projection_size=12),
    _GRIDS,
  ),
  "siglip_vision": ("SiglipVisionModel", _VISION, None, None),
  "siglip2_text": ("Siglip2TextModel", None, _TEXT, None),
}


def make_model(cls, vision, text):
  """A model, none of whose parameters has a neutral value such as 0 or 1."""
  config_class = getattr(transformers, cls).config_class
  if vision and text:
    config = config_class(vision_config=vision, text_config=text)
  else:
    config = config_class(**(vision or text))
  model = getattr(transformers, cls)(config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.2 * torch.randn_like(p))
  return model


def make_inputs(vision, text, grids, num=3):
  """Inputs with the names that transformers has for them."""
  rng = np.random.default_rng(0)
  inputs = {}
  if vision and grids:
    patch = 3 * vision["patch_size"] ** 2
    length = max(h * w for h, w in grids) + 2
    shape = (len(grids), length, patch)
    inputs["pixel_values"] = rng.uniform(-1, 1, shape).astype(np.float32)
    inputs["spatial_shapes"] = np.array(grids)
    num_patches = np.prod(grids, axis=1)[:, None]
    inputs["pixel_attention_mask"] = np.int64(np.arange(length) < num_patches)
  elif vision:
    shape = (num, 3, vision["image_size"], vision["image_size"])
    inputs["pixel_values"] = rng.uniform(-1, 1, shape).astype(np.float32)
  if text:
    shape = (num, text["max_position_embeddings"])
    inputs["input_ids"] = rng.integers(0, text["vocab_size"], shape)
  return inputs


def outputs_of(model, inputs):
  """What a model computes; only "pooler_output" if it is one tower."""
  with torch.no_grad():
    out = model(**{k: torch.from_numpy(x) for k, x in inputs.items()})
  names = ("image_embeds", "text_embeds", "logits_per_image")
  if "pooler_output" in out:
    names = ("pooler_output",)
  return {name: out[name].numpy() for name in names}


def write(folder, cls, vision, text, grids=None):
  """Writes a case."""
  torch.manual_seed(0)
  model = make_model(cls, vision, text)
  inputs = make_inputs(vision, text, grids)
  model.save_pretrained(folder)
  np.savez(
    pathlib.Path(folder) / "expected.npz",
    **inputs,
    **outputs_of(model, inputs),
  )


def check(folder, like):
  """Largest difference of the outputs of an exported model; with its name."""
  folder, like = pathlib.Path(folder), pathlib.Path(like)
  cls = json.loads((folder / "config.json").read_text())["architectures"][0]
  model, info = getattr(transformers, cls).from_pretrained(
    folder, output_loading_info=True
  )
  assert not any(info.values()), info
  with np.load(like / "expected.npz") as f:
    expected = dict(f)
  names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
  inputs = {k: expected[k] for k in (*names, "input_ids") if k in expected}
  outputs = outputs_of(model.eval(), inputs)
  return cls, max(np.abs(x - expected[k]).max() for k, x in outputs.items())


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--check", help="folder of an exported model")
  parser.add_argument("--like", choices=CASES, default="siglip")
  args = parser.parse_args()
  if args.check:
    print(
      "{}: largest difference {}".format(*check(args.check, HERE / args.like))
    )
    return
  for name, case in CASES.items():
    write(HERE / name, *case)


if __name__ == "__main__":
  main()
