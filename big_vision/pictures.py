"""Writes pictures as PNG files, among them those of a run for each of its steps.

An evaluator yields `(name, Picture(pixels))` in place of a number. The run writes
`<workdir>/pictures/<name>_<step>.png`, `/` in a name makes folders.
"""

import dataclasses
import io
import os
import re
from typing import TYPE_CHECKING

from big_vision import fs

if TYPE_CHECKING:  # The page of curves does not need it.
  import numpy as np

FOLDER = "pictures"
_FILE = re.compile(r"(?P<name>.+)_(?P<step>\d{9,})\.png")


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """Marks a picture among the results of an evaluator.

  Attributes:
    pixels: uint8 [H, W, 3] on the host.
  """

  pixels: "np.ndarray"

  def __post_init__(self):
    shape, dtype = self.pixels.shape, str(self.pixels.dtype)
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
      raise ValueError(
        "A picture must be uint8 [height, width, 3], got "
        f"{dtype} {list(shape)}."
      )


def to_png(pixels: "np.ndarray") -> bytes:
  """Encodes a picture.

  Args:
    pixels: uint8 [H, W, 3], or uint8 or uint16 [H, W].

  Returns:
    Content of a PNG file with as many bits.
  """
  from PIL import Image

  out = io.BytesIO()
  Image.fromarray(pixels).save(out, format="PNG")
  return out.getvalue()


def save(pixels: "np.ndarray", path: str) -> None:
  """Writes a PNG file, which is complete or not there.

  Args:
    pixels: see `to_png`.
    path: of the file; its folder is made.
  """
  content = to_png(pixels)
  if fs.dirname(path):
    fs.makedirs(fs.dirname(path))
  part = f"{path}.part" if fs.is_local(path) else path
  with fs.open(part, "wb") as f:
    f.write(content)
  if part != path:
    fs.rename(part, path)


def path_of(workdir: str, name: str, step: int) -> str:
  """Names the file of a picture of a run.

  Args:
    workdir: its folder.
    name: as of a metric.
    step: number of finished steps.

  Returns:
    The path. Characters that file systems do not like are `_`.
  """
  parts = [re.sub(r"[^\w.@%=+,\- ()\[\]]", "_", p) for p in name.split("/")]
  parts = [p if p.strip(". ") else "_" for p in parts if p] or ["_"]
  return fs.join(workdir, FOLDER, *parts[:-1], f"{parts[-1]}_{step:09d}.png")


def find(workdir: str) -> dict[str, dict[int, str]]:
  """Finds the pictures of a run.

  Args:
    workdir: its folder.

  Returns:
    Name -> step, ascending, -> path.
  """
  found: dict[str, dict[int, str]] = {}

  def visit(folder, prefix):
    for base, is_folder in fs.scan(folder, lambda n: n.endswith(".png")):
      path = fs.join(folder, base)
      if is_folder:
        visit(path, f"{prefix}{base}/")
      elif match := _FILE.fullmatch(base):
        steps = found.setdefault(prefix + match["name"], {})
        steps[int(match["step"])] = path

  root = fs.join(workdir or os.curdir, FOLDER)
  if fs.isdir(root):
    visit(root, "")
  return {name: dict(sorted(found[name].items())) for name in sorted(found)}
