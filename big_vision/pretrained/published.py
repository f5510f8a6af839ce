"""Published checkpoints: what a config needs for them, and their preprocessing.

`models/weights/sources.py` says what a source is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from big_vision import fs, lookup, untrusted
from big_vision.models.proj.image_text import preprocessing as text_pp
from big_vision.models.weights import native, processors, sources
from big_vision.models.weights.family import (
  GEMMA,
  PALIGEMMA,
  TEXT_MODEL,
  TWO_TOWERS,
)
from big_vision.pp import builder, registry
from big_vision.pretrained import pixels, preprocessing, run_files

# Models whose processor is not stored: mean and standard deviation.
_IMAGENET = ("dino", "deit", "vit_mae", "DINO", "MAE", "MoCo")

_TEXTS = (TEXT_MODEL, GEMMA)
PROMPT_MODULES = ("ops_general", "ops_image", "ops_text", "proj.paligemma.ops")
HEAD = "head(_dist)?/.*"  # Parameters of heads.


@dataclasses.dataclass(frozen=True)
class Published:
  """Describes a published checkpoint.

  Attributes:
    config: ConfigDict of `model_name`, `model`, `model_init` and `num_classes`.
    pp: preprocessing of pictures; None for models of texts.
    pp_txt: preprocessing of texts, None without.
    class_names: of its head, None if they are unknown.
    image_size: (height, width) in pixels.
    text_length: number of tokens of texts, None without.
    classifies: whether the outputs of the head are classes.
    head: arguments of the model that change with a head of classes.
  """

  config: ConfigDict
  pp: str | None
  pp_txt: str | None
  class_names: Sequence[str] | None
  image_size: tuple[int, int]
  text_length: int | None = None
  classifies: bool = True
  head: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def with_head(self) -> tuple[dict[str, Any], list[str]]:
    """Describes the model with a new head of classes.

    Returns:
      (`config.model`, regexes of parameters that are not to be loaded).
    """
    stored: Any = self.config.get("model") or {}
    model = stored.to_dict() if stored else {}
    dont_load = [HEAD]
    if model.get("rep_size") and self.head.get("rep_size") is False:
      dont_load.append("pre_logits/.*")
    model |= self.head
    if "head_bias" in model:  # Of a projection without one.
      model["head_bias"] = True
    return model, dont_load


def is_checkpoint(path: str) -> bool:
  """Tells whether something is a checkpoint and not the workdir of a run.

  Args:
    path: what the user names.

  Returns:
    Whether `describe` reads it.
  """
  return sources.is_source(path) or native.is_checkpoint(path)


def run_of(path: str) -> str | None:
  """Finds the workdir of a checkpoint that a run has written.

  Args:
    path: what the user names.

  Returns:
    The workdir; None for anything else.
  """
  if sources.is_source(path) or not native.is_checkpoint(path):
    return None
  # What tools.convert has written has its own file.
  return None if _beside(path) else run_files.workdir_of(path)


def describe(source: str, pp: str | None = None) -> Published:
  """Reads the settings of a checkpoint.

  Args:
    source: see the top of this file, a checkpoint of this package, or the workdir
      of a run. `:img` and `:txt` stand for a tower.
    pp: preprocessing of pictures in place of what is stored.

  Returns:
    What there is about it.

  Raises:
    ConfigError: there is no such checkpoint, or it is of no known family.
  """
  if run := run_of(source):
    return _describe_run(run, source)
  if not is_checkpoint(source):
    return _describe_run(source)
  if not sources.is_source(source):
    return _describe_native(source)
  path, part = sources.split(source)
  checkpoint = sources.Checkpoint(path)
  found = checkpoint.found.tower(part) if part else checkpoint.found
  config = _config(found, source)
  kind = str(checkpoint.config.get("model_type"))
  text = found.tower("txt")
  pp_txt = None
  if text.model_name == TEXT_MODEL:
    length = text.text_length or 0
    pp_txt = text_pp.of_texts(checkpoint.folder, text.model, length)
  elif found.model_name == PALIGEMMA:
    tokenizer = f"{checkpoint.folder}/tokenizer.json"
    pp_txt = pp_of_prompts(
      f'gemma(tokensets=("loc", "seg"), model="{tokenizer}")'
    )
  return Published(
    config,
    None if found.model_name in _TEXTS else pp or _pp(checkpoint, found),
    pp_txt,
    _class_names(checkpoint, found.num_classes),
    found.image_size,
    found.text_length,
    # The heads of towers are projections.
    bool(found.num_classes) and part is None and "clip" not in kind,
    found.head,
  )


def pp_of_prompts(tokenizer: str, separator: str = "\n") -> str:
  """Writes the preprocessing of PaliGemma's prompts.

  Args:
    tokenizer: such as 'gemma(tokensets=("loc", "seg"))'.
    separator: text after them.

  Returns:
    Preprocessing of `prefix`, and of the constant `septok`.
  """
  return (
    f'tok(key="prefix", bos="yes", model={tokenizer!r})'
    f'|tok(key="septok", text={separator!r}, model={tokenizer!r})'
  )


def _config(found, source):
  config = ConfigDict(
    {
      "model_name": found.model_name,
      "model": found.model,
      "model_init": source,
    }
  )
  if found.num_classes:
    config.loss = "softmax_xent"
    config.num_classes = found.num_classes
  if found.model_name == TWO_TOWERS:
    config.pp_modules = list(text_pp.MODULES)
  if found.model_name == PALIGEMMA:
    config.pp_modules = list(PROMPT_MODULES)
  return config


def _beside(source):
  """Describes an npz file that tools/convert has written; None for others."""
  path = source.removesuffix(".npz") + ".json"
  if (
    not source.endswith(".npz") or not fs.is_local(path) or not fs.exists(path)
  ):
    return None
  with fs.open(path) as f:
    try:
      data = untrusted.json_value(f.read())
      config = ConfigDict({**data["config"], "model_init": source})
      found = native.describe(source)
      texts: Any = config.get("embed") or {}
      return Published(
        config,
        data["pp"],
        texts.get("pp_txt"),
        data["class_names"],
        found.image_size,
        found.text_length,
      )
    except (ValueError, KeyError, TypeError, AttributeError) as e:
      raise lookup.ConfigError(
        f"{path} is not what tools.convert has written ({e!r}): delete it, or "
        "convert again."
      ) from e


# Size of the vocabulary -> its name in the public SigLIPs.
_VOCABS = {
  32_000: ("c4_en", 1, ""),
  250_000: ("mc4", 1, ""),
  256_000: (
    "gs://big_vision/gemma_tokenizer.model", 0, 'lower("utf-8", key="texts")|',
  ),
}  # fmt: skip


def _describe_native(source):
  """Describes a checkpoint of this package."""
  if about := _beside(source):
    return about
  found = native.describe(source)
  text, pp_txt = found.tower("txt"), None
  if text.model_name == TEXT_MODEL:
    vocab, pad, lower = _VOCABS.get(text.model["vocab_size"], ("c4_en", 1, ""))
    pp_txt = (
      f'{lower}tokenize(max_len={text.text_length}, model="{vocab}", '
      f'eos="sticky", pad_value={pad}, inkey="texts")'
    )
  image = found.tower("img")
  pp = None
  if image.model_name == native.NAFLEX:
    side = image.model["nposemb"]
    pp = text_pp.naflex(image.image_size[0] // side, side**2)
  elif image.model_name not in _TEXTS:
    height, width = image.image_size
    size = height if height == width else (height, width)
    pp = f"resize({size})|value_range(-1, 1)"
  return Published(
    _config(found, source),
    pp,
    pp_txt,
    None,
    found.image_size,
    found.text_length,
  )


def _describe_run(workdir, init=None):
  """Describes what a run has trained."""
  config, data = run_files.read_config(workdir), run_files.read_data(workdir)
  with lookup.stored_config():
    pp = data.get("pp") or preprocessing.evaluation_pp(config)
    example = pixels.Preprocess(pp, {}, config).example()
  size = (
    np.shape(example)[:2] if isinstance(example, np.ndarray) else (224, 224)
  )
  keys = ("model_name", "model", "num_classes", "loss")
  own = ConfigDict({key: config[key] for key in keys if key in config})
  own.model_init = init or run_files.checkpoint_of(workdir)
  return Published(own, pp, None, data.get("class_names"), size)


def _pp(checkpoint, found):
  """Writes the preprocessing of pictures of a checkpoint."""
  model = found.model.get("image", found.model)
  if "naflex" in (found.model.get("image_model") or found.model_name):
    patch = found.image_size[0] // model["nposemb"]
    return text_pp.naflex(patch, model["nposemb"] ** 2)
  try:
    steps = _steps(checkpoint)
    if steps is None:
      return _default(checkpoint)
  except ValueError as e:
    raise lookup.ConfigError(
      f"{checkpoint.source}: {e} Say how to preprocess, as "
      'pp="resize(224)|value_range(-1, 1)".'
    ) from e
  return processors.write(steps)


def _steps(checkpoint):
  """Reads what is stored about the preprocessing; None if there is nothing."""
  config, size = checkpoint.config, checkpoint.found.image_size
  if "pretrained_cfg" in config:
    return processors.of_timm(config["pretrained_cfg"])
  if "model_cfg" in config:
    return processors.of_open_clip(config.get("preprocess_cfg") or {}, size)
  processor = checkpoint.json("preprocessor_config.json")
  if not processor:  # transformers 5 has all processors in one file.
    whole = checkpoint.json("processor_config.json")
    processor = whole.get("image_processor") or {}
  return processors.of_transformers(processor) if processor else None


def _default(checkpoint):
  """Writes the preprocessing of the paper of a model."""
  size = checkpoint.found.image_size
  kind = str(checkpoint.config.get("model_type") or checkpoint.family.name)
  if kind.lower().startswith("siglip"):  # As its own configs.
    side = size[0] if size[0] == size[1] else size
    return f"resize({side})|value_range(-1, 1)"
  values = processors.HALF
  if kind.startswith(_IMAGENET):
    values = processors.IMAGENET
  if kind.lower().startswith(("clip", "openai")):
    values = processors.CLIP
  return processors.write(processors.Steps(size, None, "bicubic", *values))


def _class_names(checkpoint, num):
  """Finds the names of the classes; None if they are unknown."""
  if not num:
    return None
  names: Any = checkpoint.config.get("id2label")
  if isinstance(names, Mapping) and len(names) == num:
    names = [str(names.get(str(i), i)) for i in range(num)]
    return None if names[0] == "LABEL_0" else names
  names = checkpoint.config.get("label_names")
  if isinstance(names, list) and len(names) == num:
    about = checkpoint.config.get("label_descriptions")
    about = about if isinstance(about, Mapping) else {}
    return [str(about.get(name, name)) for name in names]
  if "architecture" in checkpoint.config and num == 1000:
    from big_vision.datasets.imagenet import class_names

    return class_names.CLIP_IMAGENET_CLASS_NAMES
  return None


def with_size(pp: str, size: int | Sequence[int]) -> str:
  """Changes the size of the pictures that a preprocessing makes.

  Args:
    pp: preprocessing string.
    size: pixels, one number or (height, width).

  Returns:
    The string; a resize before a crop changes in proportion.

  Raises:
    ConfigError: no op in it sets the size.
  """
  height, width = (size, size) if isinstance(size, int) else size
  sections, scale = builder.split_pipeline(pp), None
  for i in reversed(range(len(sections))):
    name, args, kw = registry.parse_name(sections[i])
    name = name.strip()
    key = {"central_crop": "crop_size", "resize": "size"}.get(name)
    if name == "resize_small":
      key = "smaller_size"
    if key is None:
      continue
    old = args[0] if args else kw.get(key)
    if old is None:
      continue
    rows, columns = (old, old) if isinstance(old, int) else old
    if scale is None:
      scale = height / rows, width / columns
    new = round(rows * scale[0]), round(columns * scale[1])
    one = new[0] if new[0] == new[1] else new
    if name == "resize_small":
      one = max(new)
    args, kw = ((one, *args[1:]), kw) if args else ((), {**kw, key: one})
    written = [repr(a) for a in args] + [f"{k}={v!r}" for k, v in kw.items()]
    sections[i] = f"{name}({', '.join(written)})"
  if scale is None:
    raise lookup.ConfigError(
      f"image_size={size!r}: the preprocessing {pp!r} has no resize and no crop "
      "whose size could be changed. Give pp= instead."
    )
  return "|".join(sections)
