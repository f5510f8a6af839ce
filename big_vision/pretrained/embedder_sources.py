"""Loads an `Embedder` from a run or from Hugging Face."""

import os
from collections.abc import Iterable
from typing import Any

from big_vision import fs, lookup
from big_vision.models.weights import sources
from big_vision.pretrained import published, run_files
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
  if not sources.is_source(str(path)):
    return from_workdir(path, init=init, pp_modules=pp_modules, **kw)
  if init:
    raise ValueError(f"{path} is a checkpoint itself: leave out init={init!r}.")
  return from_huggingface(str(path), **kw)


def from_workdir(
  workdir: str | os.PathLike[str],
  *,
  init: str | None = None,
  pp_modules: Iterable[str] = (),
  **kw: Any,
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
  """Loads a published model of images and texts, with its tokenizer.

  Args:
    path: see `models/weights/sources.py`.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    The Embedder.

  Raises:
    ValueError: there is no such checkpoint, or it lacks one of the towers.
  """
  return from_published(published.describe(path), **kw)


def from_published(found: published.Published, **kw: Any) -> Embedder:
  """Loads a published model of images and texts.

  Args:
    found: describes it.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    The Embedder.

  Raises:
    ValueError: it has one tower.
  """
  config, init = found.config, str(found.config.model_init)
  if config.model_name != MODELS[0]:
    raise ValueError(f"{init} has one tower: it cannot compare.")
  config = config.copy_and_resolve_references()
  config.embed = dict(pp_img=found.pp, pp_txt=found.pp_txt)
  return Embedder(config, init, text_length=found.text_length, **kw)
