"""CRC-32C in NumPy, against published values and a bytewise division."""

import numpy as np
import pytest
from tensorboardX import crc32c as bytewise

from big_vision.datasets import crc32c

# RFC 3720, appendix B.4, and the check value of the Rocksoft model.
PUBLISHED = {
  b"": 0,
  b"123456789": 0xE3069283,
  bytes(32): 0x8A9136AA,
  b"\xff" * 32: 0x62A8AB43,
  bytes(range(32)): 0x46DD794E,
  bytes(range(31, -1, -1)): 0x113FDB5C,
}


@pytest.mark.parametrize("data", PUBLISHED)
def test_published(data):
  assert crc32c.crc32c(data) == PUBLISHED[data]


def test_lengths():
  """Also where a message begins to be shortened, once and several times."""
  rng = np.random.default_rng(0)
  degree = crc32c._DEGREE
  ends = [degree, 2 * degree, 4 * degree, 9 * degree + 100]
  for n in [*range(1, 10), 300, *(e + d for e in ends for d in (-1, 0, 1))]:
    data = rng.bytes(n)
    assert crc32c.crc32c(data) == bytewise._crc32c(data), n


def test_every_flipped_bit_changes_it():
  data = bytearray(np.random.default_rng(1).bytes(12_000))
  good = crc32c.crc32c(bytes(data))
  for at in range(0, len(data), 97):
    data[at] ^= 1 << at % 8
    assert crc32c.crc32c(bytes(data)) != good
    data[at] ^= 1 << at % 8


@pytest.mark.tf
def test_masked_is_that_of_tfrecord(tmp_path):
  from big_vision.tf import tf

  path = str(tmp_path / "x")
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(b"some data")
  content = (tmp_path / "x").read_bytes()
  for data, at in ((content[:8], 8), (b"some data", -4)):
    want = int.from_bytes(content[at:][:4], "little")
    assert crc32c.masked_crc32c(data) == want
