"""Loads an `Embedder` from a run or from Hugging Face."""

import os
from collections.abc import Iterable

from ml_collections import ConfigDict

from big_vision import fs, lookup
from big_vision.models.proj.image_text import (
  huggingface_config,
  huggingface_files,
  preprocessing,
)
from big_vision.pretrained import run_files
from big_vision.pretrained.embedder import MODELS, Embedder


def load(
  path: str | os.PathLike[str],
  *,
  init: str | None = None,
  pp_modules: Iterable[str] = (),
  **kw: str | None,
) -> Embedder:
  """Loads the model of a run, or of Hugging Face.

  Args:
    path: a workdir, a folder for `transformers`, or `hf://org/repo`.
    init: another checkpoint than the last one of a workdir.
    pp_modules: modules of your own that a workdir's config may import, see
      `from_workdir`.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    The Embedder.

  Raises:
    ValueError: `init` is given although `path` is not a workdir; or as
      `from_workdir` and `from_huggingface`.
  """
  if not huggingface_files.is_checkpoint(str(path)):
    return from_workdir(path, init=init, pp_modules=pp_modules, **kw)
  if init:
    raise ValueError(f"{path} is a checkpoint itself: leave out init={init!r}.")
  return from_huggingface(str(path), **kw)


def from_workdir(
  workdir: str | os.PathLike[str],
  *,
  init: str | None = None,
  pp_modules: Iterable[str] = (),
  **kw: str | None,
) -> Embedder:
  """Loads the model of a run.

  The config of the run may be from somebody else. Of the modules that it names
  only those of big_vision are imported, and those that you name.

  Args:
    workdir: has `config.json` and, unless `init` is given, a checkpoint.
    init: another checkpoint than the last; see `Embedder`.
    pp_modules: modules of your own, of preprocessing ops or towers; they are
      imported, and the config may name them.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    The Embedder.

  Raises:
    ValueError: there is no such run, it is not of images and texts, or as
      `Embedder`.
    lookup.ConfigError: its config names another module.
  """
  config = run_files.read_config(workdir)
  name, last = str(workdir), fs.join(str(workdir), "checkpoint.bv")
  pp_modules = tuple(pp_modules)
  with lookup.stored_config(pp_modules):
    lookup.preprocessing({"pp_modules": pp_modules})
    return Embedder(config, init or last, name=init or name, **kw)


def from_huggingface(path: str, **kw: str | None) -> Embedder:
  """Loads a SigLIP or SigLIP 2 of Hugging Face, with its tokenizer.

  Args:
    path: `hf://org/repo[@revision]` or a folder.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    The Embedder.

  Raises:
    ValueError: there is no such checkpoint, or it lacks one of the towers.
  """
  huggingface_files.check_kind(path)
  hf_config = huggingface_files.read_config(path)
  if huggingface_config.parts_of(hf_config) != huggingface_config.PARTS:
    raise ValueError(f"{path} has one tower: it cannot compare.")
  pp_img, pp_txt = preprocessing.of_huggingface(path, hf_config)
  config = ConfigDict(
    dict(
      model_name=MODELS[0],
      model=huggingface_config.model_config(hf_config),
      pp_modules=preprocessing.MODULES,
      embed=dict(pp_img=pp_img, pp_txt=pp_txt),
    )
  )
  return Embedder(config, path, **kw)
