"""Predicts label maps, depth or colors of pictures and writes them into a folder.

For a picture `cat.jpg` there are, by task,

  panoptic: `cat.panoptic.png` (colored), `cat.classes.png` and `cat.instances.png`
    (16 bits, a number for each pixel);
  depth: `cat.depth.png` (colored, the nearer, the lighter), `cat.millimeters.png`
    (16 bits);
  color: `cat.color.png`.
"""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from big_vision import fs
from big_vision.predictions import files, rows

if TYPE_CHECKING:
  import numpy as np

# Task -> endings of files, and columns of rows besides the file's name.
_ENDINGS = {
  "panoptic": ("panoptic", "classes", "instances"),
  "depth": ("depth", "millimeters"),
  "color": ("color",),
}
_COLUMNS = {
  "panoptic": ("classes", "instances", "found"),
  "depth": ("min_depth", "mean_depth", "max_depth"),
  "color": (),
}


def columns(task: str) -> tuple[str, ...]:
  """Names the values of rows.

  Args:
    task: "panoptic", "depth" or "color".

  Returns:
    Names; the first is `file`, that of the picture of the labels.
  """
  return ("file", *_COLUMNS[task])


def check_folder(folder: str, sources: Iterable[str]) -> None:
  """Refuses a folder for results that is one of the pictures.

  Args:
    folder: for results.
    sources: what the user names as pictures.

  Raises:
    ValueError: it is.
  """
  real = os.path.realpath
  if fs.is_local(folder) and os.path.isfile(folder):
    raise ValueError(f"--out={folder} is a file; it should be a folder.")
  for source in sources:
    if source != "-" and real(source) == real(folder):
      raise ValueError(
        f"--out={folder} is a folder of pictures to read: choose another one."
      )


def outside(
  pictures: Iterable[files.Picture], folder: str
) -> list[files.Picture]:
  """Leaves out what an earlier call has written.

  Args:
    pictures: what is found.
    folder: for results.

  Returns:
    The pictures that are not in it.
  """
  if not fs.is_local(folder):
    return list(pictures)
  root = os.path.realpath(folder) + os.sep
  inside = lambda p: (
    fs.is_local(p.path) and os.path.realpath(p.path).startswith(root)
  )
  return [p for p in pictures if not inside(p)]


class Writer:
  """Writes the labels of pictures, each into files of its own."""

  def __init__(self, folder: str, task: str):
    """Makes the folder.

    Args:
      folder: for results.
      task: "panoptic", "depth" or "color".
    """
    self._folder, self._task = folder, task
    self._taken: set[str] = set()
    fs.makedirs(folder)

  def write(self, name: str, labels: "np.ndarray", drawn: "np.ndarray") -> str:
    """Writes the files of a picture.

    Args:
      name: of the picture; a second one of a name gets `-2`.
      labels: int [H, W, 2], [H, W] in meters, or uint8 [H, W, 3].
      drawn: uint8 [H, W, 3].

    Returns:
      Name of the picture of the labels in the folder.
    """
    from big_vision import pictures  # Here, so that --help is quick.

    stem = base = os.path.splitext(name.rpartition("/")[2])[0] or "picture"
    number = 1
    while stem.lower() in self._taken:  # Some file systems know no capitals.
      number += 1
      stem = f"{base}-{number}"
    self._taken.add(stem.lower())
    names = [f"{stem}.{ending}.png" for ending in _ENDINGS[self._task]]
    layers = [drawn, *_layers(self._task, labels)]
    for file, layer in zip(names, layers, strict=True):
      pictures.save(layer, fs.join(self._folder, file))
    return names[0]


def _layers(task, labels):
  """Returns what is written besides the drawing, uint16 [H, W] each."""
  import numpy as np

  to_uint16 = lambda x: np.clip(x, 0, 65535).astype(np.uint16)
  if task == "panoptic":
    return [to_uint16(labels[..., i]) for i in range(2)]
  if task == "depth":
    return [to_uint16(np.round(np.nan_to_num(labels) * 1000))]
  return []


def predict(
  model: Any,
  pictures: Iterable[files.Picture],
  folder: str,
  *,
  batch_size: int,
  threads: int,
  **kw: Any,
) -> Iterator[rows.Row]:
  """Predicts pictures, in their order.

  Args:
    model: a `pretrained.UViM`.
    pictures: names and contents.
    folder: for results.
    batch_size: pictures at once on the device.
    threads: how many read and preprocess.
    **kw: of `UViM.outputs`, such as `temperature` and `seed`.

  Yields:
    A row for each picture, with the values of `columns`.
  """
  writer = Writer(folder, model.task)
  prepared = files.in_threads(model.prepare, pictures, threads)
  for batch in rows.batches(prepared, batch_size):
    good = [x for _, x, error in batch if not error]
    labels = iter(model.outputs(good, batch_size, **kw)[1] if good else ())
    for name, _, error in batch:
      if error:
        yield rows.Row(name, error=error)
        continue
      found = next(labels)
      file = writer.write(name, found, model.draw(found))
      yield rows.Row(name, {"file": file, **model.describe(found)})
