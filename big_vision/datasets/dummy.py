"""Constant examples of a given shape: for evaluation-only runs, timing, tests.

As in `data=dict(name="bv:dummy", spec=dict(image=dict(shape=(224, 224, 3),
dtype="float32")))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from big_vision.datasets import source
from big_vision.tf import tf


class DataSource(source.DataSource):
  """Repeats an example of zeros (empty strings) `num_examples` times.

  Args:
    spec: nested dict with `dict(shape=..., dtype=...)` at the leaves; shape is
      a tuple of ints (default: scalar), dtype a name like "float32" or "string".
    num_examples: how many over all processes.

  Raises:
    ValueError: malformed spec, or `num_examples` is not positive.
  """

  def __init__(self, spec: Mapping[str, Any], num_examples: int = 1024):
    if num_examples < 1:
      raise ValueError(
        f"data.num_examples={num_examples} of bv:dummy must be at least 1."
      )
    self._example = _zeros(spec, "data.spec")
    self._num_examples = int(num_examples)

  def get_tfdata(
    self,
    ordered: bool = False,
    *,
    process_split: bool = True,
    allow_cache: bool = True,
  ) -> tf.data.Dataset:
    """See the base class."""
    del ordered, allow_cache
    count = self._num_examples
    if process_split:
      count = self.num_examples_per_process()[jax.process_index()]
    return tf.data.Dataset.from_tensors(self._example).repeat(count)

  @property
  def total_examples(self) -> int:
    return self._num_examples

  def num_examples_per_process(self) -> list[int]:
    return source.split_evenly(self._num_examples)


def _zeros(spec, key):
  """Tensors for a spec; `key` is where it stands in the config."""
  if not isinstance(spec, Mapping) or not spec:
    raise ValueError(
      f"{key}={spec!r} of bv:dummy must be a dict of dict(shape=..., dtype=...)"
    )
  if "dtype" not in spec:
    return {k: _zeros(v, f"{key}.{k}") for k, v in spec.items()}
  try:
    dtype = tf.as_dtype(spec["dtype"])
  except TypeError as e:
    raise ValueError(f"{key}.dtype: no such type: {spec['dtype']!r}") from e
  return tf.zeros(tuple(spec.get("shape", ())), dtype)
