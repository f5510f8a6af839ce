"""Preprocessing ops for tensors of any kind."""

import collections
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision import fs, trees
from big_vision.pp import rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn, TensorFn
from big_vision.tf import tf

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

  return value_range


@Registry.register("preprocess_ops.lookup")
@InKeyOutKey()
def get_lookup(
  mapping: str, npzkey: str = "fnames", sep: str | None = None
) -> TensorFn:
  """Maps strings to integers by a table in a file; unknown strings to -1.

  Args:
    mapping: str, path. In an .npz file, the strings are in one array, and become
      their index. In a text file, each line becomes its number, from 0.
    npzkey: str, name of that array.
    sep: str, for text files of lines "<string><sep><integer>".

  Returns:
    `string tensor -> tensor` of the same shape, int32 if `sep` else int64.

  Raises:
    ValueError: a line is not as `sep` says.
  """
  keys, values = _read_table(mapping, npzkey, sep)
  tables = []  # Once made, it must not be collected as garbage.
  lock = threading.Lock()

  def lookup(x):
    with lock, tf.init_scope():
      if not tables:
        init = tf.lookup.KeyValueTensorInitializer(
          tf.constant(keys, tf.string), values
        )
        tables.append(tf.lookup.StaticHashTable(init, -1))
    return tables[0].lookup(tf.convert_to_tensor(x))

  return lookup


def _read_table(path, npzkey, sep):
  """(list of str, integer array) of a file that `get_lookup` reads."""
  if path.endswith(".npz"):
    with fs.open(path, "rb") as f, np.load(f, allow_pickle=False) as npz:
      if npzkey not in npz:
        raise ValueError(f"lookup: no array {npzkey!r} in {path}: {npz.files}")
      keys = npz[npzkey].tolist()
    return keys, np.arange(len(keys), dtype=np.int64)
  with fs.open(path, "rb") as f:
    lines = f.read().decode("utf-8").splitlines()
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
  """One-hot encoding of a label, or multi-hot encoding of several.

  Args:
    depth: int, number of classes.
    key: str, entry with the labels, integers.
    key_result: str, entry for the result; `key` by default.
    multi: bool, whether a vector of labels (of one example) becomes one vector.
      If not, each label becomes a vector of its own, along a new last axis.
    on: value at the labels.
    off: value elsewhere.

  Returns:
    `dict -> dict`. Multi-hot vectors are float32 [depth], and labels outside of
    [0, depth) are an error. Others have the type of `on`, float32 or int32, and
    labels outside become all `off`.

  Raises:
    ValueError: when called with `multi` and labels that are no scalar or vector.
  """

  def onehot(data):
    labels = tf.cast(data[key], tf.int64)
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

  return onehot


@Registry.register("preprocess_ops.keep")
def get_keep(*keys: str) -> ExampleFn:
  """Keeps only these entries; those that do not exist are ignored."""
  return lambda data: {k: v for k, v in data.items() if k in keys}


@Registry.register("preprocess_ops.drop")
def get_drop(*keys: str) -> ExampleFn:
  """Removes these entries; those that do not exist are ignored."""
  return lambda data: {k: v for k, v in data.items() if k not in keys}


@Registry.register("preprocess_ops.copy")
def get_copy(inkey: str, outkey: str) -> ExampleFn:
  """Copies an entry: dicts and lists in it are copied, tensors are shared."""

  def copy(data):
    data[outkey] = tf.nest.map_structure(lambda x: x, data[inkey])
    return data

  return copy


@Registry.register("preprocess_ops.squeeze_last_dim")
@InKeyOutKey()
def get_squeeze_last_dim() -> TensorFn:
  """Removes the last axis, which has size 1."""
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
    shape: list of int, the result's shape; None leaves an axis alone.
    pad_value: number.
    where: "after", "before", or "both": half of it (rounded down) before.

  Returns:
    `tensor -> tensor` of the same dtype. Called with another rank it raises
    AssertionError; what is larger than `shape` is an error too.
  """

  def pad_to_shape(x):
    x = tf.convert_to_tensor(x)
    rank = x.shape.rank
    assert rank == len(shape), f"Cannot pad {x.shape} to the shape {shape}"

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
      flattened ones. None in a tree vanishes; items of a list go by their index.

  Returns:
    `dict -> dict`, a new one. Called without any of `keys` it raises ValueError.
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
  """Reshapes; one size may be -1."""
  return lambda x: tf.reshape(x, new_shape)


@Registry.register("preprocess_ops.setdefault")
def get_setdefault(key: str, value: Any) -> ExampleFn:
  """Gives an entry a value if it is missing or has no elements.

  Args:
    key: str.
    value: scalar. It replaces an empty tensor in the tensor's dtype and with its
      static shape, where dimensions of size 0 or unknown size become 1.

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


def _key_pairs(op, key, inkey, outkey):
  """Inputs as a list, and (input, output) pairs as `choice` defines them."""
  inkeys = utils.maybe_repeat(inkey or key, 1)
  outkeys = utils.maybe_repeat(outkey or key, 1)
  if None in (*inkeys, *outkeys):
    raise AttributeError(f"{op}: set `key`, or both `inkey` and `outkey`.")
  pairs = zip(inkeys, outkeys, strict=False)
  return inkeys, [(i, o.format(key=i)) for i, o in pairs]


def _tensors_to_choose_from(op, data, inkeys, at_least):
  """(dict of tensors, number of items), after checks of the sizes."""
  xs = {k: tf.convert_to_tensor(data[k]) for k in inkeys}
  first = xs[inkeys[0]]
  assert first.shape.rank != 0, (
    f"{op}: {inkeys[0]!r} is a scalar, there is nothing to choose from"
  )
  num = tf.shape(first)[0]
  checks = [
    tf.debugging.assert_equal(
      tf.shape(x)[0],
      num,
      message=f"{op}: {k!r} and {inkeys[0]!r} differ in their leading dimension",
    )
    for k, x in xs.items()
  ]
  if at_least is not None:
    message = f"{op}: too few items in {inkeys[0]!r}"
    checks.append(
      tf.debugging.assert_greater_equal(num, at_least, message=message)
    )
  # They are None in eager mode, where they have been checked by now.
  with tf.control_dependencies([c for c in checks if c is not None]):
    return xs, tf.identity(num)


@Registry.register("preprocess_ops.choice")
def get_choice(
  n: int | Sequence[int] | str = "single",
  key: str | Sequence[str] | None = None,
  fewer_ok: bool = False,
  inkey: str | Sequence[str] | None = None,
  outkey: str | Sequence[str] | None = None,
) -> ExampleFn:
  """Chooses items at random, without replacement, along the leading axis.

  Args:
    n: how many. An int; or [min, max] for a random number, both included; or
      "single" for one item, whose leading axis is dropped.
    key: str or list of str, entries to choose from. Of all, the items with the
      same indices are taken, in their original order.
    fewer_ok: bool, whether there may be fewer items than `n` (or min) asks for:
      then all are taken. A "single" item of none is 0, or "" for strings.
    inkey: the same as `key`, where results have other names.
    outkey: str or list of str, names of the results; "{key}" in them stands for
      the name of the input.

  Returns:
    `dict -> dict`. Called with a scalar it raises AssertionError; too few items,
    or entries of different length are errors too.

  Raises:
    AttributeError: it is not said which entries.
    ValueError: `n` is none of these.
  """
  inkeys, pairs = _key_pairs("choice", key, inkey, outkey)
  single = n == "single"
  low, high = (1, 1) if single else _count_range(n)

  def choice(data):
    at_least = None if fewer_ok else low
    xs, num_items = _tensors_to_choose_from("choice", data, inkeys, at_least)
    if single:
      # Fits an empty input too, for which `_take_or_zero` ignores it.
      high_index = tf.maximum(num_items, 1)
      index = tf.random.stateless_uniform(
        [], rng.next_seed(), maxval=high_index, dtype=tf.int32
      )
      take = _take_or_zero if fewer_ok else tf.gather
      data.update({o: take(xs[i], index) for i, o in pairs})
      return data
    order = tf.random.experimental.stateless_shuffle(
      tf.range(num_items), rng.next_seed()
    )
    if low == high:
      count = low
    else:
      count = tf.random.stateless_uniform(
        [], rng.next_seed(), minval=low, maxval=high + 1, dtype=tf.int32
      )
    indices = tf.sort(order[:count])
    for i, o in pairs:
      chosen = tf.gather(xs[i], indices)
      size = _static_count(low, high, xs[i].shape[0], fewer_ok)
      data[o] = tf.ensure_shape(chosen, [size, *xs[i].shape[1:]])
    return data

  return choice


def _count_range(n):
  """(min, max) of the argument `n` of `choice`."""
  low, high = n if isinstance(n, (list, tuple)) and len(n) == 2 else (n, n)
  if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= high):
    raise ValueError(
      f"choice: n must be an integer, a pair [min, max] or 'single', got {n!r}"
    )
  return low, high


def _static_count(low, high, num_items, fewer_ok):
  """How many items `choice` will give, None if it depends on the data."""
  if low != high:
    return None
  if not fewer_ok:
    return low
  return None if num_items is None else min(low, num_items)


def _take_or_zero(x, index):
  """`x[index]`, zero (or an empty string) if there are no items."""
  zero = tf.zeros(tf.concat([[1], tf.shape(x)[1:]], 0), x.dtype)
  return tf.ensure_shape(tf.concat([x, zero], 0)[index], x.shape[1:])


@Registry.register("preprocess_ops.choice_no_replacement")
def get_choice_no_replacement(
  key: str | Sequence[str] | None = None,
  inkey: str | Sequence[str] | None = None,
  outkey: str | Sequence[str] | None = None,
) -> ExampleFn:
  """Chooses one item each time; all items of an example in turn.

  An example with N items gives each of them once, in a random order, before any
  comes again, in another order. In the input pipeline the epoch tells whose turn
  it is. Elsewhere this op counts how often it has seen the `_id` of an example.

  Args:
    key: str or list of str, entries to choose from along the leading axis, which
      is dropped; the same index for all.
    inkey: the same as `key`, where results have other names.
    outkey: str or list of str, names of the results; "{key}" in them stands for
      the name of the input.

  Returns:
    `dict -> dict`. The example needs an integer `_id`, else KeyError.

  Raises:
    AttributeError: it is not said which entries.
  """
  op = "choice_no_replacement"
  inkeys, pairs = _key_pairs(op, key, inkey, outkey)
  with tf.init_scope():
    limits = tf.int32.min, tf.int32.max
    own_seed = tf.random.uniform([2], *limits, dtype=tf.int32)
  counts = collections.Counter()
  lock = threading.Lock()

  def count_up(id_):
    with lock:
      counts[id_.item()] += 1
      return np.int64(counts[id_.item()] - 1)

  def choice_no_replacement(data):
    id_ = tf.cast(data["_id"], tf.int64)
    xs, num_items = _tensors_to_choose_from(op, data, inkeys, 1)
    count, seed = rng.epoch(), rng.op_seed()
    if count is None:
      seed = own_seed
      count = tf.numpy_function(count_up, [data["_id"]], tf.int64)
      count = tf.ensure_shape(count, [])
    num = tf.cast(num_items, tf.int64)
    seed = rng.fold_in(rng.fold_in(seed, id_), count // num)
    order = tf.random.experimental.stateless_shuffle(tf.range(num), seed)
    index = order[count % num]
    data.update({o: tf.gather(xs[i], index) for i, o in pairs})
    return data

  return choice_no_replacement
