"""Mixtures: which dataset each example is drawn from.

B is the global batch size, K the number of datasets.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.pipeline import failures, order, stream
from big_vision.pipeline.examples import Examples
from big_vision.tf import tf
from big_vision.types import ConfigLike

_BLOCK = 1 << 14  # Positions whose datasets are drawn together.
# What else than the datasets may stand in the config of a mixture.
KEYS = ("data", "keep_only", "thread_pool_size", "batch_size", "prefetch")


class Draws:
  """Draws a dataset for each position, independently of each other.

  Draws are computed in blocks from (seed, number of the block), so any position
  can be asked for directly.

  Args:
    weights: [K] positive, not necessarily normalized.
    seed: int.
    layout: which positions this host needs.
  """

  def __init__(
    self,
    weights: Sequence[float],
    seed: int,
    layout: order.Layout = order.Layout(1),  # noqa: B008 - immutable
  ):
    bounds = np.cumsum(weights, dtype=np.float64)
    self._bounds = (bounds / bounds[-1])[:-1]
    self._num = len(weights)
    self._seed = order.hash_seed(seed, "mixture")
    self._layout = layout

  def _block(self, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns positions and datasets (both [_BLOCK] int64) of a block."""
    u = tf.random.stateless_uniform(
      [_BLOCK], [self._seed, number], dtype=tf.float64, alg="philox"
    )
    dataset = tf.searchsorted(self._bounds, u, side="right")
    first = tf.cast(number, tf.int64) * _BLOCK
    positions = first + tf.range(_BLOCK, dtype=tf.int64)
    return positions, tf.cast(dataset, tf.int64)

  def _is_mine(self, positions: tf.Tensor) -> tf.Tensor:
    if self._layout.num_hosts == 1:
      return tf.ones_like(positions, tf.bool)
    return self._layout.is_mine(positions)

  def counts(self, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts the draws before a position.

    Args:
      stop: the position.

    Returns:
      (all hosts, this host): [K] int64, number of draws from each dataset.
    """

    def count(number):
      positions, dataset = self._block(number)
      before = positions < stop
      per_host = []
      for kept in (before, before & self._is_mine(positions)):
        drawn = tf.cast(tf.boolean_mask(dataset, kept), tf.int32)
        n = tf.math.bincount(drawn, minlength=self._num, dtype=tf.int64)
        per_host.append(n)
      return tf.stack(per_host)

    blocks = tf.data.Dataset.range(-(-stop // _BLOCK))
    total = blocks.map(count, num_parallel_calls=tf.data.AUTOTUNE).reduce(
      tf.zeros([2, self._num], tf.int64), lambda a, b: a + b
    )
    return tuple(total.numpy())

  def choices(self, start: int) -> tf.data.Dataset:
    """Lists the datasets of this host's positions.

    Args:
      start: first position.

    Returns:
      Endless dataset of int64 in [0, K).
    """

    def block(number):
      positions, dataset = self._block(number)
      kept = (positions >= start) & self._is_mine(positions)
      return tf.data.Dataset.from_tensor_slices(dataset[kept])

    return tf.data.Dataset.range(start // _BLOCK, stream.FOREVER).flat_map(
      block
    )

  def draws_of_host(
    self, elements: stream.Stream, k: int, start: int
  ) -> stream.Stream:
    """Selects what this host needs of a dataset.

    Args:
      elements: the dataset's stream, beginning at its draw number
        `counts(start)[0][k]`.
      k: number of the dataset.
      start: position of the mixture.

    Returns:
      The elements that `choices(start)` of this host draws.
    """
    if self._layout.num_hosts == 1:
      return elements

    def block(number):
      positions, dataset = self._block(number)
      drawn = (positions >= start) & (dataset == k)
      mine = self._is_mine(positions[drawn])
      return tf.data.Dataset.from_tensor_slices(mine)

    first = start // _BLOCK
    mine = tf.data.Dataset.range(first, stream.FOREVER).flat_map(block)
    drawn = tf.data.Dataset.zip(mine, elements)
    return drawn.filter(lambda m, _: m).map(lambda _, x: x)


def mix(
  datasets: Sequence[Examples],
  draws: Draws,
  layout: order.Layout,
  step: int,
  record: failures.Record | None = None,
) -> tf.data.Dataset:
  """Opens this host's examples of a mixture.

  Args:
    datasets: [K].
    draws: from which of them to draw.
    layout: of the batches.
    step: number of batches to leave out.
    record: see `Examples.open`.

  Returns:
    Endless dataset of preprocessed examples.

  Raises:
    ValueError: the datasets differ in their entries.
  """
  start = step * layout.batch_size
  drawn, drawn_here = draws.counts(start)
  parts = []
  for k, dataset in enumerate(datasets):
    select = functools.partial(draws.draws_of_host, k=k, start=start)
    parts.append(
      dataset.open(int(drawn[k]), select, int(drawn_here[k]), record)
    )
  keys = {
    d.name: sorted(p.element_spec) for d, p in zip(datasets, parts, strict=True)
  }
  if len(set(map(tuple, keys.values()))) > 1:
    raise ValueError(
      f"config.input: the datasets of a mixture differ in their entries: {keys}."
      " Set config.input.keep_only to what they share, or end each pp in `keep`."
    )
  return tf.data.Dataset.choose_from_datasets(parts, draws.choices(start))


def weights_of(config: ConfigLike, key: str = "input") -> dict[str, float]:
  """Reads the weights of a mixture.

  Args:
    config: `config.input` of a mixture.
    key: where it stands in the config.

  Returns:
    Dataset key -> positive number, sorted, without those of weight 0.

  Raises:
    ValueError: a weight is not a number or negative, all are zero, or the
      config of a dataset is missing.
  """
  weights = {}
  for name in sorted(config.data):
    weight = config.data[name]
    if isinstance(weight, bool) or not isinstance(
      weight, int | float | type(None)
    ):
      raise ValueError(
        f"config.{key}.data.{name}={weight!r} must be a weight. (For a single "
        f"dataset, config.{key}.data needs a `name`.)"
      )
    if not 0 <= (weight or 0) < float("inf"):
      raise ValueError(
        f"config.{key}.data.{name}={weight} must be a weight: a number that is "
        "not negative."
      )
    if not weight:
      continue
    if name not in config:
      others = [k for k in config if k not in KEYS]
      raise ValueError(
        f"config.{key}.{name} is missing, but config.{key}.data has a weight for "
        f"{name!r}{lookup.did_you_mean(name, others)}"
      )
    weights[name] = weight
  if not weights:
    raise ValueError(f"config.{key}.data has no dataset with positive weight.")
  return weights


def log_shares(weights: dict[str, float], datasets: Sequence[Examples]) -> None:
  """Logs how much each dataset contributes to a mixture.

  Args:
    weights: dataset key -> weight.
    datasets: those datasets, in the same order.
  """
  total = sum(weights.values())
  for dataset in datasets:
    logging.info(
      "Mixture: %s contributes %.2f%% and has %d examples",
      dataset.name,
      100 * weights[dataset.name] / total,
      dataset.size,
    )
