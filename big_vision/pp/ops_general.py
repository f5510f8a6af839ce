"""Preprocessing ops for tensors of any kind.

Importing this also registers the ops of `ops_choice`.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision import checkpoint_npz, fs, lookup, trees
from big_vision.pp import batched, utils
from big_vision.pp import labels as label_lib
from big_vision.pp.ops_choice import get_choice, get_choice_no_replacement
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn, TensorFn
from big_vision.tf import tf

__all__ = ["get_choice", "get_choice_no_replacement"]  # Re-exported.

InKeyOutKey = utils.InKeyOutKey


@Registry.register("preprocess_ops.value_range")
@InKeyOutKey()
def get_value_range(
  vmin: float = -1,
  vmax: float = 1,
  in_min: float | Sequence[float] = 0,
  in_max: float | Sequence[float] = 255.0,
  clip_values: bool = False,
) -> TensorFn:
  """Maps values linearly from `[in_min, in_max]` to `[vmin, vmax]`.

  Args:
    vmin: float, what `in_min` becomes.
    vmax: float, what `in_max` becomes.
    in_min: float, or a list with one per channel (last axis).
    in_max: the same.
    clip_values: bool, whether to clip the result to `[vmin, vmax]`.

  Returns:
    `tensor -> float32 tensor` of the same shape.
  """

  def value_range(x):
    low = tf.constant(in_min, tf.float32)
    high = tf.constant(in_max, tf.float32)
    x = (tf.cast(x, tf.float32) - low) / (high - low)
    x = vmin + x * (vmax - vmin)
    return tf.clip_by_value(x, vmin, vmax) if clip_values else x

  return batched.OfBytes(value_range)


@Registry.register("preprocess_ops.standardize")
@InKeyOutKey("targets", "targets")
def get_standardize(
  mean: float | Sequence[float], std: float | Sequence[float]
) -> TensorFn:
  """Subtracts the mean and divides by the standard deviation.

  Args:
    mean: float, or a list with one per value of the last axis.
    std: the same.

  Returns:
    `tensor -> float32 tensor` of the same shape.
  """

  def standardize(x):
    center, scale = tf.constant(mean, tf.float64), tf.constant(std, tf.float64)
    # Dates, say, are large compared with their deviation.
    return tf.cast((tf.cast(x, tf.float64) - center) / scale, tf.float32)

  return standardize


@Registry.register("preprocess_ops.lookup")
@InKeyOutKey()
def get_lookup(
  mapping: str, npzkey: str = "fnames", sep: str | None = None
) -> TensorFn:
  """Maps strings to integers by a table in a file; unknown strings to -1.

  Args:
    mapping: str, path. In an .npz file, the strings are in one array, and
      become their index. In a text file, each line becomes its number, from 0.
    npzkey: str, name of that array.
    sep: str, for text files of lines "<string><sep><integer>".

  Returns:
    `string tensor -> tensor` of the same shape, int32 if `sep` else int64.

  Raises:
    ValueError: a line is not as `sep` says.
  """
  keys, values = _read_table(mapping, npzkey, sep)
  tables = []  # Holds the table, which must not be garbage-collected.
  lock = threading.Lock()

  def look_up(x):
    with lock, tf.init_scope():
      if not tables:
        init = tf.lookup.KeyValueTensorInitializer(
          tf.constant(keys, tf.string), values
        )
        tables.append(tf.lookup.StaticHashTable(init, -1))
    return tables[0].lookup(tf.convert_to_tensor(x))

  return look_up


def _read_table(path, npzkey, sep):
  """Reads the (list of str, integer array) of a file for `get_lookup`."""
  if path.endswith(".npz"):
    npz: Any = checkpoint_npz.npload(path)
    if npzkey not in npz:
      raise ValueError(f"lookup: no array {npzkey!r} in {path}: {[*npz]}")
    keys = npz[npzkey].tolist()
    return keys, np.arange(len(keys), dtype=np.int64)
  with fs.open(path, "rb") as f:
    content = f.read().removeprefix(codecs.BOM_UTF8)
  # Of bytes: in text, U+2028 and the like would end a line, too.
  try:
    lines = [line.decode("utf-8") for line in content.splitlines()]
  except UnicodeDecodeError as e:
    raise ValueError(f"lookup: {path} is not UTF-8: {e}") from e
  if sep is None:
    return lines, np.arange(len(lines), dtype=np.int64)
  keys, values = [], []
  for number, line in enumerate(lines, 1):
    try:
      key, value = line.split(sep)
      values.append(int(value))
    except ValueError as e:
      raise ValueError(
        f"lookup: line {number} of {path} must be a string, {sep!r} and an "
        f"integer, got {line!r}"
      ) from e
    keys.append(key)
  return keys, np.array(values, np.int32)


@Registry.register("preprocess_ops.onehot")
def get_onehot(
  depth: int,
  key: str = "labels",
  key_result: str | None = None,
  multi: bool = True,
  on: float = 1.0,
  off: float = 0.0,
) -> ExampleFn:
  """Encodes a label as one-hot vector, or several labels as multi-hot vector.

  Args:
    depth: int, number of classes.
    key: str, entry with the labels, integers.
    key_result: str, entry for the result; `key` by default.
    multi: bool, whether a vector of labels (of one example) becomes one vector.
      If not, each label becomes a vector of its own, along a new last axis.
    on: value at the labels.
    off: value elsewhere.

  Returns:
    `dict -> dict`. Multi-hot vectors are float32 [depth], and labels outside
    [0, depth) are an error. Others have the type of `on`, float32 or int32, and
    labels outside become all `off`; within an input pipeline, a scalar label
    outside is an error of its example unless it is -1, see `pp.labels`.

  Raises:
    ConfigError: when called with text.
    ValueError: when called with `multi` and labels that are neither scalar nor
      vector.
  """

  def onehot(data):
    labels = label_lib.read(data[key], key, key_result or key, depth)
    rank = labels.shape.rank
    if multi and (rank is None or rank > 1):
      raise ValueError(
        f"onehot of {key!r} with multi=True needs a scalar or a vector, got the "
        f"shape {labels.shape}; multi=False makes one vector per label."
      )
    if multi and rank == 1:
      ones = tf.ones_like(labels, tf.float32)
      hits = tf.scatter_nd(labels[:, None], ones, [depth])
      x = tf.clip_by_value(hits, 0, 1) * (on - off) + off
    else:
      x = tf.one_hot(labels, depth, on_value=on, off_value=off)
    data[key_result or key] = x
    return data

  return batched.touches(onehot, key, key_result or key)


@Registry.register("preprocess_ops.keep")
def get_keep(*keys: str) -> ExampleFn:
  """Keeps only the given entries.

  Args:
    *keys: str, names of entries; those that do not exist are ignored.

  Returns:
    `dict -> dict`, a new one.
  """
  return batched.touches(
    lambda data: {k: v for k, v in data.items() if k in keys}
  )


@Registry.register("preprocess_ops.drop")
def get_drop(*keys: str) -> ExampleFn:
  """Removes the given entries.

  Args:
    *keys: str, names of entries; those that do not exist are ignored.

  Returns:
    `dict -> dict`, a new one.
  """
  return batched.touches(
    lambda data: {k: v for k, v in data.items() if k not in keys}
  )


@Registry.register("preprocess_ops.copy")
def get_copy(inkey: str, outkey: str) -> ExampleFn:
  """Copies an entry: dicts and lists in it are copied, tensors are shared.

  Args:
    inkey: str, entry to copy.
    outkey: str, entry for the copy.

  Returns:
    `dict -> dict`.
  """

  def copy(data):
    data[outkey] = tf.nest.map_structure(lambda x: x, data[inkey])
    return data

  return copy


@Registry.register("preprocess_ops.squeeze_last_dim")
@InKeyOutKey()
def get_squeeze_last_dim() -> TensorFn:
  """Removes the last axis, which must have size 1."""
  return lambda x: tf.squeeze(x, axis=-1)


@Registry.register("preprocess_ops.concat")
def get_concat(
  inkeys: Sequence[str], outkey: str | None = None, axis: int = -1
) -> ExampleFn:
  """Concatenates entries.

  Args:
    inkeys: list of str.
    outkey: str, entry for the result; the first of `inkeys` by default.
    axis: int.

  Returns:
    `dict -> dict`.
  """

  def concat(data):
    data[outkey or inkeys[0]] = tf.concat([data[k] for k in inkeys], axis)
    return data

  return concat


@Registry.register("preprocess_ops.rag_tensor")
@InKeyOutKey()
def get_rag_tensor() -> TensorFn:
  """Makes a ragged tensor [1, ...], so that examples can differ in size."""
  return lambda x: tf.RaggedTensor.from_tensor(tf.expand_dims(x, 0))


@Registry.register("preprocess_ops.pad_to_shape")
@InKeyOutKey()
def get_pad_to_shape(
  shape: Sequence[int | None], pad_value: float = 0, where: str = "after"
) -> TensorFn:
  """Pads with a constant up to a shape.

  Args:
    shape: list of int, shape of the result; None leaves the size of an axis.
    pad_value: number.
    where: "after", "before", or "both": half of it (rounded down) before.

  Returns:
    `tensor -> tensor` of the same dtype. Called with another rank it raises
    ConfigError; tensors larger than `shape` are an error too.
  """

  def pad_to_shape(x):
    x = tf.convert_to_tensor(x)
    rank = x.shape.rank
    if rank != len(shape):
      raise lookup.ConfigError(f"Cannot pad {x.shape} to the shape {shape}")

    def padding(axis):
      if shape[axis] is None:
        return [0, 0]
      diff = shape[axis] - tf.shape(x)[axis]
      return {
        "before": [diff, 0],
        "after": [0, diff],
        "both": [diff // 2, diff - diff // 2],
      }[where]

    paddings = [padding(axis) for axis in range(rank)]
    x = tf.pad(x, paddings, constant_values=tf.cast(pad_value, x.dtype))
    return tf.ensure_shape(x, shape)

  return pad_to_shape


@Registry.register("preprocess_ops.flatten")
def get_flatten(keys: Sequence[str] | None = None) -> ExampleFn:
  """Flattens nested entries: {"a": {"b": x}} becomes {"a/b": x}.

  Args:
    keys: list of str, which entries; all by default. The others come after the
      flattened ones. None in a tree is dropped; items of a list are named by
      their index.

  Returns:
    `dict -> dict`, a new one. Called without any of `keys` it raises
    ValueError.
  """

  def flatten(data):
    chosen = {k: v for k, v in data.items() if keys is None or k in keys}
    rest = {k: v for k, v in data.items() if k not in chosen}
    if not chosen:
      raise ValueError(f"flatten: none of {keys} in {sorted(data)}")
    return {**dict(trees.tree_flatten_with_names(chosen)[0]), **rest}

  return flatten


@Registry.register("preprocess_ops.reshape")
@InKeyOutKey()
def get_reshape(new_shape: Sequence[int]) -> TensorFn:
  """Reshapes a tensor.

  Args:
    new_shape: list of int; one size may be -1.

  Returns:
    `tensor -> tensor`.
  """
  return lambda x: tf.reshape(x, new_shape)


@Registry.register("preprocess_ops.setdefault")
def get_setdefault(key: str, value: Any) -> ExampleFn:
  """Gives an entry a value if it is missing or has no elements.

  Args:
    key: str.
    value: scalar, or for a missing entry also a list. It replaces an empty
      tensor in the tensor's dtype and with its static shape, where dimensions of
      size 0 or unknown size become 1.

  Returns:
    `dict -> dict`.
  """

  def setdefault(data):
    if key not in data:
      data[key] = tf.constant(value)
      return data
    x = tf.convert_to_tensor(data[key])
    default = tf.fill([d or 1 for d in x.shape], tf.constant(value, x.dtype))
    data[key] = tf.cond(tf.size(x) > 0, lambda: x, lambda: default)
    return data

  return setdefault
