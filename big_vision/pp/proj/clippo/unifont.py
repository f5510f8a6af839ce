"""Finds the glyphs of GNU Unifont, and reads them as arrays.

Glyphs are 16 pixels high, and 8 or 16 wide. They come from the first of these
that exists:

  1. what the op or the environment variable BV_UNIFONT names: paths or URLs of
     .hex or .hex.gz files, separated by commas, or "ascii" for 5.;
  2. the files that `download_unifont.sh` puts beside this module;
  3. the system's package of Unifont;
  4. the web; kept in $BV_CACHE_DIR/unifont with their checksums;
  5. `unifont-ascii.hex`, the printable ASCII characters, part of this package.

Versions differ in some glyphs; 2. and 4. have the version of CLIPPO's models.
"""

import dataclasses
import functools
import gzip
import io
import os
import pathlib
import zlib

import numpy as np
from absl import logging

from big_vision import download

_MAX_BYTES = 1 << 27  # Unpacked; Unifont has 1 << 23.
HEIGHT = 16  # Pixels; also the largest width.
ENV = "BV_UNIFONT"
ASCII = "ascii"

_HERE = pathlib.Path(__file__).parent
_ASCII_FILE = _HERE / "unifont-ascii.hex"
_NAMES = ("unifont-9.0.06.hex", "unifont_upper-9.0.06.hex")
_URL = "https://unifoundry.com/pub/unifont/unifont-9.0.06/font-builds"
_SYSTEM = pathlib.Path("/usr/share/unifont")
_SYSTEM_NAMES = ("unifont.hex", "unifont_upper.hex")
HOW_TO_GET = (
  "big_vision/pp/proj/clippo/download_unifont.sh fetches all glyphs, the "
  f"package `unifont` of Debian has most, and {ENV}=<path>.hex[.gz] names any "
  "other copy"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Glyphs:
  """Glyphs as arrays.

  Attributes:
    index: int32 [M], from code point to number of the glyph, 0 for missing
      ones; the last entry, for all code points from M - 1 on, is 0 too.
    ink: uint8 [N, 16 columns, 16 rows], 1 where a glyph has ink. Glyph 0 is
      blank. Narrow glyphs are at the left.
    only_ascii: bool, whether these are only the glyphs of this package.
  """

  index: np.ndarray
  ink: np.ndarray
  only_ascii: bool = False


def get(font: str | None = None) -> Glyphs:
  """Returns the glyphs of a font.

  Args:
    font: str, see 1. at the top of this file; None for the first that exists.

  Returns:
    Glyphs. They are read once per process.

  Raises:
    ValueError: the file does not exist, or has another format.
  """
  font = font or os.environ.get(ENV)
  return _load(_named_files(font) if font else _find())


def _named_files(font):
  if font == ASCII:
    return (str(_ASCII_FILE),)
  names = [name.strip() for name in font.split(",") if name.strip()]
  try:
    return tuple(_fetch(name) for name in names)
  except ValueError as e:
    raise ValueError(
      f"Cannot read the font {font!r}, which render_unifont(font=...) or {ENV} "
      f"asks for: {e} {HOW_TO_GET}; {ASCII!r} is what comes with the package."
    ) from e


def _find():
  """Finds files: paths of the first source that exists."""
  if paths := _beside(_HERE, _NAMES) or _beside(_SYSTEM, _SYSTEM_NAMES):
    return paths
  if paths := _download():
    return paths
  if not _ASCII_FILE.exists():
    raise ValueError(f"Found no glyphs of Unifont: {HOW_TO_GET}.")
  return (str(_ASCII_FILE),)


def _beside(folder, names):
  """Lists the files that exist, packed or not."""
  found = (
    next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None)
    for n in names
  )
  return tuple(str(path) for path in found if path)


@functools.cache  # One attempt per process: it takes long without a network.
def _download():
  """Downloads Unifont, and returns its paths; () if that fails."""
  try:
    return tuple(_fetch(f"{_URL}/{name}.gz") for name in _NAMES)
  except ValueError as e:
    logging.warning(
      "render_unifont has only ASCII glyphs, anything else will be blank (%s). "
      "%s; %s=%s hides this warning.",
      e,
      HOW_TO_GET,
      ENV,
      ASCII,
    )
    return ()


def _fetch(uri):
  return download.fetch(uri, download.cache_dir("unifont"))


@functools.cache
def _load(paths):
  """Reads the glyphs of .hex files; later files override earlier ones."""
  glyphs = {}
  for path in paths:
    glyphs.update(_read_hex(path))
  if not glyphs:
    raise ValueError(f"No glyphs in {', '.join(paths) or 'no file'}.")
  index = np.zeros(max(glyphs) + 2, np.int32)
  index[list(glyphs)] = np.arange(1, len(glyphs) + 1)
  packed = np.frombuffer(b"".join([bytes(32), *glyphs.values()]), np.uint8)
  ink = np.unpackbits(packed).reshape(-1, HEIGHT, HEIGHT)
  ink = np.ascontiguousarray(ink.transpose(0, 2, 1))
  return Glyphs(index, ink, paths == (str(_ASCII_FILE),))


def _read_hex(path):
  """Parses lines `<hex>:<hex bitmap>`: {code point: 32 bytes, two per row}."""
  data = pathlib.Path(path).read_bytes()
  if data.startswith(b"\x1f\x8b"):
    data = _decompressed(data, path)
  glyphs = {}
  for number, line in enumerate(data.decode("ascii", "replace").split("\n"), 1):
    if not (line := line.strip()):
      continue
    code_point, _, bitmap = line.partition(":")
    try:
      glyphs[_code_point(code_point)] = _two_bytes_a_row(bitmap)
    except ValueError as e:
      raise ValueError(
        f"{path}, line {number}: {line[:80]!r} is not `<code point>:<32 or 64 "
        f"digits>`, all hexadecimal, as in the files of Unifont ({e})."
      ) from e
  return glyphs


def _decompressed(data, path):
  """Unpacks a file of gzip, which may be made to fill memory."""
  try:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as f:
      unpacked = f.read(_MAX_BYTES + 1)
  except (OSError, EOFError, zlib.error) as e:
    raise ValueError(f"{path} is damaged: {e}. Download it again.") from e
  if len(unpacked) > _MAX_BYTES:
    raise ValueError(
      f"{path} has more than {_MAX_BYTES:,} bytes: it is not a font."
    )
  return unpacked


def _code_point(text):
  code_point = int(text, 16)
  if not 0 <= code_point < 0x110000:
    raise ValueError(f"{text} is not a code point")
  return code_point


def _two_bytes_a_row(bitmap):
  rows = bytes.fromhex(bitmap)
  if len(rows) == HEIGHT:
    wide = bytearray(2 * HEIGHT)
    wide[::2] = rows
    return bytes(wide)
  if len(rows) != 2 * HEIGHT:
    raise ValueError(f"{len(bitmap)} digits")
  return rows
