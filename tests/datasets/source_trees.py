"""Makes small files in the layouts of published datasets, and builds them."""

import io
import json

import numpy as np
from PIL import Image

from big_vision.datasets import building, core
from big_vision.datasets import tfds as tfds_source


def picture(color, size=16, format="JPEG"):
  """Encoded image of one color, (r, g, b) or a gray value; `size` or (w, h)."""
  size = size if isinstance(size, tuple) else (size, size)
  color = color if isinstance(color, tuple) else (color,) * 3
  out = io.BytesIO()
  Image.new("RGB", size, color).save(out, format)
  return out.getvalue()


def image(path, color=0, size=16):
  """Writes an image, in the format of its suffix, and returns its bytes."""
  suffix = path.suffix.lower().strip(".")
  format = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
  return write(path, picture(color, size, format))


def write(path, content):
  """Writes bytes or a text, and the folders above it; returns `content`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(content, str):
    content = content.encode()
  path.write_bytes(content)
  return content


def write_json(path, value):
  """Writes JSON, and the folders above it."""
  write(path, json.dumps(value))


def build(name, source, tmp_path, config=None):
  """Builds a dataset through TFDS into `tmp_path / "tfds"`.

  Returns the function `read(split, config=None)`: the examples of a split, as the
  data source of the package reads them, in its order: a list of dicts; bytes are
  made strings unless they are images.
  """
  data_dir = str(tmp_path / "tfds")
  building.prepare(name, str(source), data_dir, config)
  tfds_source.clear_cache()

  def read(split, config=config):
    full = f"{name}/{config}" if config else name
    found = core.get(name=full, split=split, data_dir=data_dir)
    ds = found.get_tfdata(ordered=True).as_numpy_iterator()
    return [plain(e) for e in ds]

  return read


def plain(x):
  """Makes what NumPy holds plain Python; images remain bytes or arrays."""
  if isinstance(x, dict):
    return {k: plain(v) for k, v in x.items()}
  if hasattr(x, "to_list"):  # Ragged.
    return plain(x.to_list())
  if isinstance(x, list | tuple):
    return [plain(v) for v in x]
  if isinstance(x, np.ndarray):
    is_image = x.dtype == np.uint8 and x.ndim >= 3
    return x if is_image else plain(x.tolist())
  if isinstance(x, np.generic):
    return plain(x.item())
  if isinstance(x, bytes):
    is_text = not x.startswith(
      (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*", b"MM\0")
    )
    return x.decode() if is_text else x
  return x
