"""Datasets that need no download: preparing them once, safely.

The modules `digits` and `shapes` of this package each offer a TFDS `Builder`
and `prepare(data_dir=None, **kw)`, which both go through this file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import tqdm_utils

# Prepared when they are opened: that takes seconds and downloads nothing.
NAMES = ("digits", "shapes")
# All datasets that TFDS lacks: modules with `Builder` and `prepare`.
MODULES = {
  "digits": "big_vision.datasets.digits",
  "shapes": "big_vision.datasets.shapes",
  "imagenet21k": "big_vision.datasets.imagenet.imagenet21k",
}


# Not registered: TFDS refuses two classes of one name in a process. A prepared
# dataset can be opened by its name without the class.
class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Builds datasets from code alone; the base of such builders."""

  # TFDS would look for download checksums beside the file named here, with a
  # package (importlib_resources) that it uses but does not ask for.
  code_path = None


def default_data_dir(data_dir: str | None = None) -> str | None:
  """Finds the folder that holds prepared datasets.

  Args:
    data_dir: None means the environment variable TFDS_DATA_DIR as
      it is now; TFDS itself reads it only once, when it is imported.

  Returns:
    The folder, or None for TFDS' own default, ~/tensorflow_datasets.
  """
  return data_dir or os.environ.get("TFDS_DATA_DIR") or None


def prepare(
  make_builder: Callable[[], Any], num_shards: int | None = None
) -> Any:
  """Writes a dataset unless it is there already.

  Any number of processes may do so at once: each writes into its own temporary
  folder, the first to finish renames it into place, the others use that one.

  Args:
    make_builder: function without arguments that returns a new TFDS builder.
    num_shards: files per split; None lets TFDS choose from the size.

  Returns:
    A builder whose dataset is prepared.
  """
  builder = make_builder()
  if is_prepared(builder):
    return builder
  logging.info("Preparing %s in %s", builder.info.full_name, builder.data_dir)
  config = tfds.download.DownloadConfig(
    num_shards=num_shards, try_download_gcs=False
  )
  try:
    with _no_progress_bar():
      builder.download_and_prepare(download_config=config)
  except OSError:
    # Renaming onto a folder with files fails: another process was faster.
    builder = make_builder()
    if not is_prepared(builder):
      raise
  return builder


def is_prepared(builder: Any) -> bool:
  """Tells whether the complete dataset of a TFDS builder is on disk.

  Args:
    builder: TFDS builder.

  Returns:
    bool.
  """
  return (builder.data_path / "dataset_info.json").exists()


@contextlib.contextmanager
def _no_progress_bar():
  """Bars of a dataset that takes seconds would only break up the log."""
  active = tqdm_utils._active  # There is a setter, but no getter.
  tqdm_utils.display_progress_bar(False)
  try:
    yield
  finally:
    tqdm_utils.display_progress_bar(active)
