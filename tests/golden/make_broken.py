"""Makes `broken/`: small files that are damaged, or made to do harm.

  python tests/golden/make_broken.py

`tests/test_untrusted.py` has what is said about each. The files are the same each
time, with the same version of Pillow.
"""

import io
import json
import pathlib
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent


def image(kind, **kw):
  """A picture of noise."""
  pixels = np.random.default_rng(0).integers(0, 256, [24, 32, 3], np.uint8)
  f = io.BytesIO()
  Image.fromarray(pixels).save(f, kind, **kw)
  return f.getvalue()


def chunk(name, data):
  """A chunk of PNG."""
  crc = struct.pack(">I", zlib.crc32(name + data))
  return struct.pack(">I", len(data)) + name + data + crc


def images():
  jpeg, png, tiff = image("JPEG"), image("PNG"), image("TIFF")
  at = jpeg.index(b"\xff\xc0") + 5  # Height and width in the header.
  huge = jpeg[:at] + struct.pack(">HH", 65500, 65500) + jpeg[at + 4 :]
  head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
  start = b"\x89PNG\r\n\x1a\n"
  # An IFD that says that it is followed by itself, and has no width.
  loop = b"II*\0" + struct.pack("<IH", 8, 0) + struct.pack("<I", 8)
  wide = bytearray(image("TIFF", compression="tiff_lzw"))
  ifd = struct.unpack_from("<I", wide, 4)[0]
  for i in range(struct.unpack_from("<H", wide, ifd)[0]):
    tag = ifd + 2 + 12 * i
    if struct.unpack_from("<H", wide, tag)[0] in (256, 257):
      struct.pack_into(
        "<HHII", wide, tag, *struct.unpack_from("<H", wide, tag), 4, 1, 99_999
      )
  return {
    "cut.jpg": jpeg[: len(jpeg) // 2],
    "huge.jpg": huge,
    "cut.png": png[: len(png) // 2],
    "checksum.png": png[:-20] + bytes([png[-20] ^ 1]) + png[-19:],
    "huge.png": start + chunk(b"IHDR", head) + chunk(b"IEND", b""),
    "text.png": png[:33]
    + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 24), 9))
    + png[33:],
    "cut.tif": tiff[: len(tiff) // 2],
    "loop.tif": loop,
    "huge.tif": bytes(wide),
  }


def npy(shape, dtype="'<f4'"):
  """A file of one array whose header states what it does not have."""
  head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"
  head += " " * (118 - len(head) - 1) + "\n"
  return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode()


def zipped(name, data, **kw):
  f = io.BytesIO()
  info = zipfile.ZipInfo(name)  # Without the time.
  with zipfile.ZipFile(f, "w", **kw) as z:
    z.writestr(info, data, kw.get("compression"))
  return f.getvalue()


class Call:
  """What a pickle may run."""

  def __reduce__(self):
    return exec, ("raise SystemExit('code of a file was run')",)


def arrays():
  objects = io.BytesIO()
  np.save(objects, np.array([Call()], object), allow_pickle=True)
  good = zipped("a.npy", npy("(2,)") + bytes(8))
  bomb = bytearray(zipped("a.npy", bytes(1 << 20), compression=8))
  at = bomb.index(b"PK\1\2")  # The list of members says 3.5 GB.
  struct.pack_into("<I", bomb, at + 24, 3_500_000_000)
  code = pickle.dumps({"weight": Call()}, protocol=2)
  return {
    "cut.npz": good[:-30],
    "objects.npz": zipped("a.npy", objects.getvalue()),
    "huge.npz": zipped("a.npy", npy("(99999999999, 9)")),
    "bomb.npz": bytes(bomb),
    "code.pth": zipped("archive/data.pkl", code),
  }


def safetensors(header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + data


def tensors():
  one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
  return {
    "cut.safetensors": safetensors({"a": one}, bytes(4)),
    "deep.safetensors": safetensors(b"[" * 5000),
    "overlap.safetensors": safetensors({"a": one, "b": one}, bytes(8)),
    "huge.safetensors": struct.pack("<Q", 1 << 62) + b"{}",
    "shape.safetensors": safetensors(
      {"a": {**one, "shape": [1 << 40, 1 << 40]}}, bytes(8)
    ),
  }


def member(name, data=b"", **kw):
  """A member of a tar file, with a right checksum."""
  info = tarfile.TarInfo(name)
  info.size = kw.pop("size", len(data))
  info.type = kw.pop("type", b"0")
  head = info.tobuf(tarfile.GNU_FORMAT)
  return head + data + bytes(-len(data) % 512)


def tars():
  good, end = member("a.jpg", b"picture"), bytes(1024)
  pax = lambda data: member("pax", data, type=b"x") + good + end
  return {
    "cut.tar": good[:-100],
    "header.tar": good + b"x" * 512 + end,
    "pax_zero.tar": pax(b"0 path=b.jpg\n"),
    "pax_long.tar": pax(b"999999 path=b.jpg\n"),
    "pax_blank.tar": pax(b" path=b.jpg\n"),
    "pax_size.tar": pax(b"12 size=-1x\n"),
    "pax_sparse.tar": pax(b"22 GNU.sparse.major=1\n"),
    "negative.tar": member("a.jpg", b"x", size=-5) + end,
    "name.tar": member("././@LongLink", size=1 << 40, type=b"L") + end,
    "link.tar": member("a.jpg", type=b"2") + end,
  }


def main():
  folder = HERE / "broken"
  folder.mkdir(exist_ok=True)
  for name, data in (images() | arrays() | tensors() | tars()).items():
    (folder / name).write_bytes(data)
  return 0


if __name__ == "__main__":
  sys.exit(main())
