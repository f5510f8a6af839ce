"""The argument `demo` of image-text configs: captions of generated pictures.

Does for configs with captions what `big_vision/configs/demo.py`, whose parts it
uses, does for configs with classes: `shapes/closeup`, pictures of one object,
replaces all datasets; towers are tiny; training takes minutes on two CPU cores.

The training data lacks 8 of the 64 combinations of a color and a shape, although
it has each color and each shape. Zero-shot classification is evaluated for
`heldout`, pictures of these eight among their eight names, and `all`, any
picture among all 64 names. Retrieval is among one caption each of 64 pictures
with as many different objects.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from big_vision.configs import demo
from big_vision.datasets.shapes import scene

DATASET = "shapes/closeup"
SIZE = 32  # Pixels.
BATCH_SIZE = 128
TOTAL_STEPS = 900
TOKEN_LEN = 16  # Captions are short.
NUM_CAPTIONS = 64
PATCH = 8  # Pixels.
SEQLEN = "9-16"  # Patches, for NaFlex: 24 x 24 or 32 x 32 pixels.

_SHAPES, _COLORS = scene.SHAPES, scene.COLORS
# Numbered as the dataset's `shape_color`.
_KINDS = [(s, c) for s in range(len(_SHAPES)) for c in range(len(_COLORS))]
_name = lambda shape, color: f"{_COLORS[color]} {_SHAPES[shape]}"

# An image tower to start from, see `demo_tower.py`.
TOWER = str(pathlib.Path(__file__).parent / "tower.npz")

# Tiny towers: changes of `config.model.image` and `config.model.text`.
WIDTH = 64
_SIZE = dict(width=WIDTH, mlp_dim=128, num_heads=4)
IMAGE = dict(variant=f"mu/{PATCH}", depth=3, **_SIZE)
TEXT = dict(variant="mu", depth=1, vocab_size=512, **_SIZE)
PROMPTS = ("a {}", "a picture of a {}", "an image showing a {}")


def is_held_out(shape: Any, color: Any) -> Any:
  """Tells whether a combination is kept from training.

  Each shape and each color is in one such combination.

  Args:
    shape: int or int tensor, index of the shape.
    color: int or int tensor, index of the color.

  Returns:
    bool or bool tensor.
  """
  return (shape + color) % len(_COLORS) == 0


def for_training(example: Mapping[str, Any]) -> Any:
  """Tells whether a raw example belongs to the training data.

  Args:
    example: features of the dataset.

  Returns:
    bool tensor.
  """
  return ~is_held_out(example["label"], example["color"])


def held_out(example: Mapping[str, Any]) -> Any:
  """Tells whether a raw example shows a combination kept from training.

  Args:
    example: features of the dataset.

  Returns:
    bool tensor.
  """
  return is_held_out(example["label"], example["color"])


def apply(
  config: Any,
  *,
  size: int = SIZE,
  total_steps: int = TOTAL_STEPS,
  **changes: Any,
) -> None:
  """Makes a config of images and texts small, in place.

  Args:
    config: ConfigDict, complete. Its retrieval evaluator has the preprocessing
      of texts.
    size: pixels of the images.
    total_steps: length of the training.
    **changes: other values to set, such as `model` and `lr`.
  """
  with config.ignore_type():
    cfg = config.input
    cfg.data = dict(name=DATASET, split="train")
    cfg.pre_filter_fn = for_training
    cfg.batch_size = BATCH_SIZE
    cfg.shuffle_buffer_size = 4096
    demo.change_pp(cfg, size)
    if "embed" in config:
      demo.change_pp(config.embed, size)
    for cfg in config.evals.values():
      _change_eval(cfg, size)
    retrieval = config.evals.retrieval_coco
    config.evals.disclf = _zero_shot(retrieval.pp_img, retrieval.pp_txt)
    demo.shorten(config, total_steps)
    config.model_init, config.model_load = None, {}
    if "init_shapes" in config:  # `tools/eval_only` reads it.
      config.init_shapes = [(1, size, size, 3), *config.init_shapes[1:]]
    config.update(changes)


def shrink_two_towers(config: Any) -> None:
  """Replaces the towers of SigLIP by tiny ones, in place.

  Args:
    config: ConfigDict with `model` of two towers.
  """
  with config.ignore_type():
    # In so short a time, MAP heads learn less than means.
    config.model.image.update(IMAGE, pool_type="gap")
    if "nposemb" in config.model.image:  # NaFlex.
      config.model.image.update(variant="mu", nposemb=4)
    config.model.text.update(TEXT)
    config.model.out_dim = (None, WIDTH)


def _change_eval(cfg, size):
  """Changes data, preprocessing and interval of an evaluator."""
  if "data" in cfg:
    cfg.data = dict(name=DATASET, split="test")
    cfg.batch_size = BATCH_SIZE
  if "datasets" in cfg:
    cfg.datasets = {"shapes": (DATASET, "train[:1024]", "test")}
  if "dataset" in cfg:
    cfg.dataset, cfg.txt_name = DATASET, "captions"
    cfg.split, cfg.max_texts = f"test[:{NUM_CAPTIONS}]", 1
    cfg.batch_size = NUM_CAPTIONS
  demo.change_pp(cfg, size)
  demo.set_duration(cfg, "log", log_percent=0.5)


def _zero_shot(pp_img, pp_txt):
  """Makes the config of the zero-shot evaluation of kinds of objects."""
  names = [_name(*kind) for kind in _KINDS]
  # Each shape is once among these, in their order: `label` is the number.
  held_out_names = [_name(*kind) for kind in _KINDS if is_held_out(*kind)]
  return dict(
    type="proj.image_text.discriminative_classifier",
    prefix="z/0shot/",
    dataset_names=["heldout", "all"],
    split="test",
    pp_img=pp_img,
    pp_txt=pp_txt,
    prompt_templates=PROMPTS,
    batch_size=BATCH_SIZE,
    cache_final=True,
    log_percent=0.5,
    dataset_overrides=dict(
      heldout=dict(
        dataset_name=DATASET, class_names=held_out_names, pre_filter_fn=held_out
      ),
      all=dict(
        dataset_name=DATASET,
        class_names=names,
        pp_img=f'copy("shape_color", "label")|{pp_img}',
      ),
    ),
  )
