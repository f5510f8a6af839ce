"""Numbers that identify examples.

Files of evaluators and the seeds of random ops hold these numbers, so they are
the same for ever.
"""

from __future__ import annotations

from typing import Any

from big_vision.tf import plain, tf

_HASH_KEY = [3714561454027272724, 8800639020734831960]


def hash_id(tfds_id: tf.Tensor) -> tf.Tensor:
  """Hashes ids of examples, such as those of TFDS.

  Args:
    tfds_id: string tensor of any shape.

  Returns:
    int32 tensor of the same shape; collisions are possible.
  """
  bucket = tf.strings.to_hash_bucket_strong(tfds_id, 2**32 - 1, key=_HASH_KEY)
  return tf.bitcast(tf.cast(bucket, tf.uint32), tf.int32)


@plain
def example_number(index: tf.Tensor, example: Any) -> tf.Tensor:
  """Finds a number that identifies an example within its dataset.

  Args:
    index: int64 scalar, the position in the order of reading.
    example: dict; `tfds_id` is preferred if there is one, since it does not
      depend on the split or the order of files.

  Returns:
    int64 scalar.
  """
  if isinstance(example, dict) and "tfds_id" in example:
    return tf.strings.to_hash_bucket_fast(example["tfds_id"], 2**63 - 1)
  return index
