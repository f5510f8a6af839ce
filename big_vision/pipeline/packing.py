"""Packing: several short examples share one sequence of fixed length.

Shapes: L length after packing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from big_vision.tf import tf

AUTOTUNE = -1  # That of tf.data.
# Joins the keys of nested examples.
FLATTEN_SEPARATOR = "<|sep|>"


def pack_dataset(
  dataset: tf.data.Dataset,
  batch_size: int | None,
  key2length: int | Mapping[str, Any],
  keys: Iterable[str] | None = None,
) -> tf.data.Dataset:
  """Concatenates consecutive examples into ones of fixed length.

  An example joins the current pack if it fits under every key, otherwise it
  starts the next one: order is kept and no example is split.

  Args:
    dataset: (nested) dicts of sequences [length, ...].
    batch_size: how many packs make a batch later. It does not influence the
      result.
    key2length: L, for all keys or key -> int. Longer sequences are cut to L.
      Keys of nested examples are joined by `FLATTEN_SEPARATOR`.
    keys: which to pack, default all of `key2length`, or all of the example.
      Entries that are not packed are dropped, there is no longer one per row.

  Returns:
    Dataset of dicts. Beside each key [L, ...], padded with 0, there are
    `<key>_segment_ids` [L] int32: 1, 2, ... by example, 0 on padding; and
    `<key>_positions` [L] int32: 0, 1, ... within an example, 0 on padding.

  Raises:
    ValueError: unknown key, no length for a key, or not a sequence.
  """
  del batch_size
  spec = _flatten(dataset.element_spec)
  lengths = _lengths(spec, key2length, keys)
  # One empty example at the end flushes the last pack.
  end = {
    k: tf.zeros([1, 0, *spec[k].shape[1:]], spec[k].dtype) for k in lengths
  }

  def trim(example):
    example = _flatten(example)
    return {k: example[k][:n] for k, n in lengths.items()}, False

  packs = (
    dataset.map(trim, AUTOTUNE, deterministic=True)
    .concatenate(
      tf.data.Dataset.from_tensor_slices(end).map(lambda x: (x, True))
    )
    .scan(
      (_empty(spec, lengths), tf.zeros([], tf.int32)),
      lambda state, x: _step(lengths, state, *x),
    )
    .filter(lambda complete, _: complete)
  )
  return packs.map(
    lambda _, pack: _unflatten(_padded(lengths, pack)),
    AUTOTUNE,
    deterministic=True,
  )


def is_empty(example: Any, key2length: int | Mapping[str, Any]) -> tf.Tensor:
  """Tells whether an example adds nothing to a pack.

  Args:
    example: as in the dataset of `pack_dataset`.
    key2length: see there.

  Returns:
    bool scalar.
  """
  names = _flatten(key2length) if isinstance(key2length, Mapping) else None
  values = [v for k, v in _flatten(example).items() if k in (names or {k})]
  return tf.reduce_all([tf.size(v) == 0 for v in values])


def _lengths(spec, key2length, keys):
  """Dict of flat key -> L; checks what the user asked for."""
  if isinstance(key2length, Mapping):
    key2length = _flatten(key2length)
  names = keys or (key2length if isinstance(key2length, Mapping) else spec)
  lengths = {}
  for k in names:
    if k not in spec:
      raise ValueError(f"input.pack: no {k!r} among {sorted(spec)}")
    if not isinstance(spec[k], tf.TensorSpec) or not spec[k].shape.rank:
      raise ValueError(
        f"input.pack: {k!r} must be a sequence [length, ...], not {spec[k]}; "
        "name what to pack in input.pack or drop it with `keep`"
      )
    is_map = isinstance(key2length, Mapping)
    length = key2length.get(k) if is_map else key2length
    if not isinstance(length, int) or length < 1:
      raise ValueError(f"input.pack: the length of {k!r} is {length!r}")
    lengths[k] = length
  return lengths


def _empty(spec, lengths):
  """Empty pack: per key the values, segment ids and positions so far."""
  ints = tf.zeros([0], tf.int32)
  return {
    k: (tf.zeros([0, *spec[k].shape[1:]], spec[k].dtype), ints, ints)
    for k in lengths
  }


def _step(lengths, state, example, is_end):
  """Adds an example to the pack, or emits the pack and starts the next."""
  pack, count = state  # Number of examples in the pack.
  fits = tf.reduce_all(
    [_len(pack[k][0]) + _len(example[k]) <= n for k, n in lengths.items()]
  )
  emit = (is_end | ~fits) & (count > 0)
  segment = tf.where(emit, 1, count + 1)
  after = {}
  for k in lengths:
    n = _len(example[k])
    new = (example[k], tf.fill([n], segment), tf.range(n))
    # An emitted pack is cut to nothing.
    kept = tf.where(emit, 0, _len(pack[k][0]))
    after[k] = tuple(
      tf.concat([old[:kept], x], 0) for old, x in zip(pack[k], new, strict=True)
    )
  return (after, segment), (emit, pack)


def _len(x):
  """Length of the first axis, as a tensor."""
  return tf.shape(x)[0]


def _padded(lengths, pack):
  """Pads to L and names the three features of each key."""
  out = {}
  for k, n in lengths.items():
    for suffix, x in zip(
      ("", "_segment_ids", "_positions"), pack[k], strict=True
    ):
      padding = [[0, n - _len(x)]] + [[0, 0]] * (x.shape.rank - 1)
      out[k + suffix] = tf.ensure_shape(tf.pad(x, padding), [n, *x.shape[1:]])
  return out


def _flatten(tree, prefix=""):
  out = {}
  for k, v in tree.items():
    if isinstance(v, Mapping):
      out |= _flatten(v, f"{prefix}{k}{FLATTEN_SEPARATOR}")
    else:
      out[prefix + k] = v
  return out


def _unflatten(flat):
  tree = {}
  for name, v in flat.items():
    *parents, leaf = name.split(FLATTEN_SEPARATOR)
    node = tree
    for p in parents:
      node = node.setdefault(p, {})
    node[leaf] = v
  return tree
