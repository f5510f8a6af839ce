"""Reads all that there is of a model which is to be handed on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from big_vision import checkpoints, fs, lookup, models, trees
from big_vision import metrics as metrics_lib
from big_vision.models.proj.paligemma import gemma_bv
from big_vision.models.weights import native, sources
from big_vision.models.weights.family import (
  PALIGEMMA,
  TEXT_MODEL,
  TWO_TOWERS,
  Found,
  instance,
)
from big_vision.pretrained import (
  preprocessing,
  published,
  run_files,
  vision_language,
)
from big_vision.pretrained.backbone import model_key
from big_vision.pretrained.pixels import Preprocess
from big_vision.types import Params


@dataclasses.dataclass(frozen=True)
class Source:
  """Holds a model, its preprocessing and what is known about it.

  Attributes:
    name: what the user calls it.
    found: describes the model, with all arguments written out.
    params: parameters on the host.
    pp: preprocessing of pictures, None without.
    pp_txt: preprocessing of texts, None without.
    class_names: of the head, None if they are unknown.
    loss: "softmax_xent" or "sigmoid_xent": what the head was trained with.
    config: ConfigDict of the run, None of a published checkpoint.
    metrics: last value of each metric of the run.
    folder: where a published checkpoint has its tokenizer, None otherwise.
  """

  name: str
  found: Found
  params: Params
  pp: str | None
  pp_txt: str | None
  class_names: Sequence[str] | None
  loss: str
  config: ConfigDict | None = None
  metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
  folder: str | None = None


def read(
  name: str, *, init: str | None = None, params: str = "params"
) -> Source:
  """Reads a model.

  Args:
    name: workdir of a run, or any checkpoint that `pretrained.load` takes.
    init: another checkpoint than the last one of the workdir.
    params: "ema" for the average of the parameters of a run.

  Returns:
    The model.

  Raises:
    ValueError: there is no such model.
  """
  if run := published.run_of(name):
    return _of_run(run, init or name, params)
  if published.is_checkpoint(name):
    if init or params != "params":
      raise lookup.ConfigError(
        f"{name} is a checkpoint itself: leave out the choice of one of a run."
      )
    return _of_checkpoint(name)
  return _of_run(name, init, params)


def _of_checkpoint(name):
  about, folder, image_token = published.describe(name), None, None
  config = about.config
  if sources.is_source(name):
    path, part = sources.split(name)
    checkpoint = sources.Checkpoint(path)
    params, folder = checkpoint.params(part), checkpoint.folder
    image_token = checkpoint.found.image_token
  else:
    params = native.read(name)
  found = Found(
    config.model_name,
    _written_out(config.model_name, config.model.to_dict()),
    config.get("num_classes"),
    about.image_size,
    text_length=about.text_length,
    image_token=image_token,
  )
  return Source(
    name,
    found,
    params,
    about.pp,
    about.pp_txt,
    about.class_names,
    config.get("loss", "sigmoid_xent"),
    folder=folder,
  )


def _of_run(workdir, init, params):
  config = run_files.read_config(workdir)
  init = init or run_files.checkpoint_of(workdir)
  if params == "ema":
    init = checkpoints.averaged(init)
  data, key = run_files.read_data(workdir), model_key(config)
  name = config[f"{key}_name"]
  model = config.get(key)
  with lookup.stored_config():
    tree = models.load_params(init)
    pp, pp_txt = data.get("pp"), None
    if name == TWO_TOWERS:
      pp, pp_txt = preprocessing.preprocessing_of(config)
    if name == PALIGEMMA:
      pp = vision_language.image_pp(config)
      texts = vision_language.texts_of(preprocessing.all_pps(config))
      pp_txt = published.pp_of_prompts(*texts)
    pp = pp or preprocessing.evaluation_pp(config)
    example = Preprocess(pp, {}, config).example()
  size = (
    np.shape(example)[:2] if isinstance(example, np.ndarray) else (224, 224)
  )
  length = None
  flat = dict(trees.tree_flatten_with_names(tree)[0])
  if (pos := flat.get("txt/pos_embedding")) is not None:
    length = np.shape(pos)[1]
  found = Found(
    name,
    _written_out(name, model.to_dict() if model else {}),
    config.get("num_classes") if name != TWO_TOWERS else None,
    (int(size[0]), int(size[1])),
    text_length=length,
  )
  loss = config.get("loss") or "sigmoid_xent"
  return Source(
    workdir,
    found,
    tree,
    pp,
    pp_txt,
    data.get("class_names"),
    str(loss),
    config,
    _metrics(workdir),
  )


def _written_out(name: str, model: dict[str, Any]) -> dict[str, Any]:
  """Replaces `variant` by what it stands for, and adds defaults."""
  if name == PALIGEMMA:
    text = dict(gemma_bv.Model(**(model.get("llm") or {})).arguments)
    del text["norm_eps"]
    image = dict(model.get("img") or {})
    image.pop("num_classes", None)  # The width of the other.
    return {**model, "img": _written_out("vit", image), "llm": text}
  if name == TWO_TOWERS:
    image = model.get("image_model") or "vit"
    text = model.get("text_model") or TEXT_MODEL
    return {
      **{"out_dim": 128, "temperature_init": 1.0},
      **model,
      "image_model": image,
      "text_model": text,
      "image": _written_out(image, model.get("image") or {}),
      "text": _written_out(text, model.get("text") or {}),
    }
  made = instance(name, None, model)
  skipped = ("parent", "name", "num_classes")
  if name == native.NAFLEX:
    skipped += ("posemb",)  # All that start with "learn_2d" are the same.
  return {
    f.name: getattr(made, f.name)
    for f in dataclasses.fields(made)
    if f.name not in skipped
  }


def _metrics(workdir):
  """Returns the last value of each metric of a run."""
  path, out = fs.join(workdir, "big_vision_metrics.txt"), {}
  if not fs.exists(path):
    return out
  for row in metrics_lib.read_rows(path):
    out |= {k: v for k, v in row.items() if isinstance(v, int | float)}
  return out
