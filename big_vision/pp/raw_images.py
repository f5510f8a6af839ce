"""Images stored as plain pixels, which the ops that decode recognize.

A file is 64 bytes of header and then uint8 [H, W, C], row by row. The header has
`MAGIC`, then H, W and C as int32, high byte first, then zeros. It is that long so
that TensorFlow need not copy the pixels behind it. `tools/convert_dataset.py`
writes such images: they take more room than JPEGs, and no time to decode.
"""

from __future__ import annotations

import struct

import numpy as np

from big_vision.pp import image_files
from big_vision.tf import tf

MAGIC = b"\x89BVPIX\r\n"
HEADER = 64
_FORMAT = struct.Struct(">8s3i")
_FIRST, _SECOND = struct.unpack(">2i", MAGIC)


def encode(image: np.ndarray) -> bytes:
  """Makes a file of an image.

  Args:
    image: uint8 [H, W, C].

  Returns:
    bytes.
  """
  header = _FORMAT.pack(MAGIC, *image.shape).ljust(HEADER, b"\0")
  return header + np.ascontiguousarray(image, np.uint8).tobytes()


def encode_tensor(image: tf.Tensor) -> tf.Tensor:
  """Makes a file of an image, eagerly or in a graph.

  Args:
    image: uint8 [H, W, C].

  Returns:
    String scalar, the same as that of `encode`.
  """
  return tf.numpy_function(encode, [image], tf.string, stateful=False)


def is_raw(data: bytes) -> bool:
  """Tells whether a file, or its beginning, is such an image."""
  return data[: len(MAGIC)] == MAGIC


def read(data: bytes, max_pixels: int) -> np.ndarray:
  """Reads a file.

  Args:
    data: its content, which `is_raw`.
    max_pixels: images with more are errors.

  Returns:
    uint8 [H, W, C], not writable.

  Raises:
    ValueError: it is cut off or damaged, or has too many pixels.
  """
  if len(data) >= HEADER:
    height, width, channels = _FORMAT.unpack_from(data)[1:]
    if min(height, width) > 0 and channels in (1, 3, 4):
      image_files.check_size(width, height, max_pixels)
      if len(data) == HEADER + height * width * channels:
        pixels = np.frombuffer(data, np.uint8, offset=HEADER)
        return pixels.reshape(height, width, channels)
  raise ValueError(
    "This image cannot be read: its pixels are cut off, or do not fit its header."
  )


def is_good(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
  """Tells whether `pixels` can read a file.

  Args:
    data: string scalar.
    max_pixels: see `read`.

  Returns:
    bool scalar: that it is an image of three channels, and complete.
  """
  words = _words(data)
  sides = tf.cast(words[2:4], tf.int64)
  num_pixels = tf.reduce_prod(sides)
  size = tf.cast(tf.strings.length(data), tf.int64)
  return tf.reduce_all(
    [
      tf.reduce_all(words[:2] == [_FIRST, _SECOND]),
      words[4] == 3,
      tf.reduce_all(sides > 0),
      num_pixels <= max_pixels,
      size == HEADER + 3 * num_pixels,
    ]
  )


def pixels(data: tf.Tensor) -> tf.Tensor:
  """Reads a file that `is_good`.

  Args:
    data: string scalar.

  Returns:
    uint8 [H, W, 3].
  """
  words = _words(data)
  flat = tf.io.decode_raw(data, tf.uint8)
  return tf.reshape(flat[HEADER:], [words[2], words[3], 3])


def _words(data):
  """The magic number, H, W and C as int32 [5]; zeros behind the end."""
  return tf.io.decode_raw(data, tf.int32, little_endian=False, fixed_length=20)
