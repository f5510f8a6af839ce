"""The checksum CRC-32C in NumPy: no library that is here anyway offers it.

A message is a polynomial over two elements, its checksum the remainder of the
division by P. The polynomial x^5685 + x^1362 + x^426 + 1 is a multiple of P, and so
are its powers with exponents 2^k. With exponents that are whole bytes, a long
message gets shorter by adding its begin to three places behind that, which NumPy
does at the speed of memory. A table has what is left of the division for each
byte of a short message.

References: RFC 3720, section 12.1 and appendix B.4. TensorFlow, "TFRecord and
tf.train.Example", for the masked checksums.
"""

from __future__ import annotations

import functools

import numpy as np

_P = 0x82F63B78  # Bits in reverse order, without the first.
_ONES = 0xFFFFFFFF
_DEGREE, *_LOWER = 5685, 1362, 426, 0  # Of the multiple of P.


def crc32c(data: bytes) -> int:
  """Computes the checksum of some bytes.

  Args:
    data: of any length.

  Returns:
    int in [0, 2**32).
  """
  if len(data) < 4:
    return int.from_bytes(_steps(_ONES, data), "little") ^ _ONES
  message = np.frombuffer(data, np.uint8).copy()
  message[:4] ^= 0xFF  # As if the remainder of the bytes before were `_ONES`.
  message = _shortened(message)
  table = _table()[_DEGREE - len(message) :]
  rows = np.arange(len(message)) * 256
  return int(np.bitwise_xor.reduce(table.ravel()[rows + message])) ^ _ONES


def masked_crc32c(data: bytes) -> int:
  """Computes the checksum as it stands in TFRecord files.

  Args:
    data: of any length.

  Returns:
    int in [0, 2**32).
  """
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES


def _shortened(message):
  """Returns at most `_DEGREE` bytes that leave the same remainder."""
  size = len(message)
  scale = 1 << max(size // _DEGREE, 1).bit_length() - 1
  begin = 0
  while scale:
    while (rest := size - begin) > _DEGREE * scale:
      # Bytes that are added to are not moved in the same step.
      num = min(rest - _DEGREE * scale, (_DEGREE - _LOWER[0]) * scale)
      moved = message[begin : begin + num]
      for exponent in _LOWER:
        to = begin + (_DEGREE - exponent) * scale
        message[to : to + num] ^= moved
      begin += num
    scale //= 2
  return message[begin:]


def _steps(crc, data):
  """Divides byte by byte; returns the remainder's bytes."""
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (_P if crc & 1 else 0)
  return crc.to_bytes(4, "little")


@functools.cache
def _table():
  """[_DEGREE, 256] uint32, remainders of each byte at each place."""
  last = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    last = last >> 1 ^ np.where(last & 1, np.uint32(_P), np.uint32(0))
  table = np.empty([_DEGREE, 256], np.uint32)
  table[-1] = last
  for place in range(_DEGREE - 2, -1, -1):
    after = table[place + 1]
    table[place] = after >> 8 ^ last[after & 0xFF]
  return table
