"""Implements the config argument `demo`: any recipe, small and quick to train.

  python -m big_vision.train --config big_vision/configs/vit_s16_i1k.py:demo \
    --workdir /tmp/demo

`apply` turns the finished config of a real experiment into one that trains in a
minute or two on two CPU cores: the dataset `shapes` of this package in place of
all others, images of 32 pixels, a tiny model of the same family, few steps.
The recipe stays: preprocessing, augmentation, loss, optimizer, shape of the
schedule, and all evaluators, which run at the start, halfway and at the end.
Augmentation becomes mild, since the model would not learn in so few steps
otherwise. The argument is for trying things out, in particular changes to a
config. It says nothing about accuracies.

A config offers it with `demo=False` among the arguments that it parses, and with
these last lines:

  if arg.demo:
    demo.apply(config)
  return config
"""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections as mlc

from big_vision import lookup
from big_vision.configs import demo_pp

# The embedded dataset, see docs/datasets.md, and the class to learn: the color
# of the nearest object, which survives crops that its shape does not.
DATASET = "shapes/32"
LABEL, NUM_CLASSES = "color", 8
SIZE = 32  # Pixels.

BATCH_SIZE = 64
TOTAL_STEPS = 500
# More than this mixes too much for a model that sees an image a few times.
MAX_MIXUP_P = 0.1

# The tiny model of each family: what to change in `config.model`.
MODELS = {
  "bit": dict(depth=(1, 1), width=0.5),
  "bit_paper": dict(depth=(1, 1), width=0.5),
  "mlp_mixer": dict(
    variant="S/8",
    num_blocks=3,
    hidden_dim=64,
    tokens_mlp_dim=64,
    channels_mlp_dim=128,
  ),
  # CPUs are slow at bfloat16.
  "nfnet": dict(variant="mu", width=(64, 96), depth=(1, 1), dtype_mm=None),
  "proj.flexi.vit": dict(
    variant="mu/8",
    patch_size=(8, 8),
    width=64,
    depth=2,
    mlp_dim=128,
    num_heads=4,
  ),
  "vit": dict(variant="mu/8", width=64, depth=3, mlp_dim=128, num_heads=4),
}

# Positions in splits are divided by this, so that what is held out of a large
# training set remains held out: `full[51200:]` becomes `train[1024:]`.
_SPLIT_FACTOR = 50
_MAX_EVAL = 512  # Examples of a split without end that evaluators see.
_MAX_HELD_OUT = 128  # Of `validation` and `test`, which are small.


def split_arg(arg: Any) -> tuple[Any, bool]:
  """Takes `demo` out of the argument of a config that does not parse it.

  Args:
    arg: words separated by commas, or any other value.

  Returns:
    (`arg` without `demo`, whether `demo` was in it).
  """
  if not isinstance(arg, str):
    return arg, False
  words = arg.split(",")
  rest = [word for word in words if word != "demo"]
  return ",".join(rest), len(rest) < len(words)


def apply(
  config: mlc.ConfigDict,
  *,
  model: Mapping[str, Any] | None = None,
  size: int = SIZE,
  **changes: Any,
) -> None:
  """Makes a config small, in place.

  Args:
    config: ConfigDict, complete.
    model: changes of `config.model`; by default the entry of `MODELS` for
      `config.model_name`.
    size: pixels of the images that the model sees.
    **changes: other values to set in the config, such as `lr`, where a recipe
      does not train at this size with its own.

  Raises:
    ValueError: this family of models has no tiny model here.
  """
  with config.ignore_type():
    _change_model(config, model)
    _change_input(config.input, size)
    for cfg in config.get("evals", {}).values():
      _change_eval(cfg, size)
    shorten(config)
    if "batch_size" in config:
      config.batch_size = BATCH_SIZE
    if (config.get("mixup") or {}).get("p"):
      config.mixup.p = min(config.mixup.p, MAX_MIXUP_P)
    config.update(changes)


def _change_input(cfg: Any, size: int) -> None:
  """Changes the training data, one dataset or a mixture."""
  cfg.batch_size = BATCH_SIZE
  single = isinstance(cfg.data.get("name"), str)
  for part in [cfg] if single else [cfg[key] for key in cfg.data]:
    part.data = _data(part.data, train=True)
    if "shuffle_buffer_size" in part:
      part.shuffle_buffer_size = 4096
    change_pp(part, size)


def _change_eval(cfg: Any, size: int) -> None:
  """Changes the data, preprocessing and interval of an evaluator."""
  if "data" in cfg:
    cfg.data = _data(cfg.data)
  if "datasets" in cfg:  # Few-shot: name, split to learn from, split to test.
    for key, (_, *splits) in cfg.datasets.items():
      cfg.datasets[key] = (DATASET, *map(_split, splits))
  if "batch_size" in cfg:
    cfg.batch_size = BATCH_SIZE
  if "label_mapping" in cfg:  # All datasets have become the same one.
    cfg.label_mapping = tuple(range(NUM_CLASSES))
  change_pp(cfg, size)
  set_duration(cfg, "log", log_percent=0.5)


def _change_model(config: Any, model: Mapping[str, Any] | None) -> None:
  """Makes models tiny, with few classes and without published weights."""
  keys = ["model"]
  if "student_name" in config:
    keys = ["student", *config.teachers]
  for key in keys:
    name = config[f"{key}_name"]
    if model is None and name not in MODELS:
      raise lookup.unknown("family of tiny models", name, MODELS, f"{key}_name")
    config[key].update(MODELS[name] if model is None else model)
    if f"{key}_init" in config:
      config[f"{key}_init"] = ""
    if key not in ("model", "student"):
      # A random teacher must not give all classes the same probability.
      config[key].head_zeroinit = False
  if "num_classes" in config:
    config.num_classes = NUM_CLASSES
  if "init_head_bias" in config:
    config.init_head_bias = -math.log(NUM_CLASSES)


def shorten(config: mlc.ConfigDict, total_steps: int = TOTAL_STEPS) -> None:
  """Makes a run short, with all durations in proportion.

  Args:
    config: changed in place.
    total_steps: number of steps of the run.
  """
  if config.get("total_steps") == 0:  # Evaluation only.
    return
  set_duration(config, "total", total_steps=total_steps)
  set_duration(config, "log_training", log_training_steps=10)
  set_duration(config, "ckpt", ckpt_percent=0.5)
  set_duration(config, "keep_ckpt")
  rules = config.get("schedule") or {}
  rules = [(".*", rules)] if hasattr(rules, "items") else rules
  for schedule in (s for _, s in rules if s):
    set_duration(schedule, "warmup", warmup_percent=0.1)
    set_duration(schedule, "cooldown", cooldown_percent=0.2)
    if "timescale" in schedule:
      schedule["timescale"] = total_steps // 10


def set_duration(cfg: Any, name: str, **new: Any) -> None:
  """Replaces a duration in any unit, if the config has it.

  Args:
    cfg: changed in place.
    name: name of the duration, for example "warmup".
    **new: the new one, for example `warmup_percent=0.1`; none removes it.
  """
  units = ("steps", "examples", "epochs", "percent")
  old = [f"{name}_{unit}" for unit in units if f"{name}_{unit}" in cfg]
  for key in old:
    del cfg[key]
  if old:
    cfg.update(new)


def _data(data: Any, train: bool = False) -> dict[str, Any]:
  """Returns arguments of the embedded dataset in place of those of another."""
  if data["name"] != "bv:dummy":
    return dict(name=DATASET, split=_split(data.get("split", "train"), train))
  spec = {k: dict(v) for k, v in data["spec"].items()}
  for value in spec.values():
    shape = tuple(value.get("shape", ()))
    if len(shape) == 3:  # An image.
      value["shape"] = (SIZE, SIZE, shape[-1])
  return {**data, "spec": spec}


def _split(split: str, train: bool = False) -> str:
  """Returns the split of the embedded dataset that stands for another split.

  Args:
    split: a TFDS split such as `train[:99%]+validation`.
    train: whether it is trained on.

  Returns:
    The split. Percentages stay, other positions become smaller in proportion.
  """
  return "+".join(_split_part(part, train) for part in split.split("+"))


def _split_part(part: str, train: bool) -> str:
  name, _, position = part.strip(" ]").partition("[")
  known = (("val", "validation"), ("test", "test"))
  name = next((new for old, new in known if name.startswith(old)), "train")
  begin, _, end = position.partition(":")
  begin, end = _position(begin), _position(end)
  if name == "train" and not train and not end and (begin or "0").isdecimal():
    end = str(int(begin or 0) + _MAX_EVAL)
  if name != "train" and end.isdecimal():
    end = str(min(int(end), _MAX_HELD_OUT))
  return f"{name}[{begin}:{end}]" if begin or end else name


def _position(text: str) -> str:
  """Makes a number of examples smaller; percentages stay as they are."""
  text = text.replace("_", "")
  if not text.lstrip("-").isdecimal():
    return text
  # Up, so that a few examples never become none.
  return str(math.ceil(int(text) / _SPLIT_FACTOR))


def change_pp(cfg: Any, size: int) -> None:
  """Changes all preprocessing strings of a dict: `pp`, `pp_fn`, `pp_train`, ...

  Args:
    cfg: changed in place.
    size: pixels of the images that the model sees.
  """
  for key, value in cfg.items():
    if key.split("_")[0] == "pp" and isinstance(value, str):
      cfg[key] = demo_pp.shrink(
        value, size=size, num_classes=NUM_CLASSES, label=LABEL
      )
