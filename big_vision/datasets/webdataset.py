"""Tar shards as a data source, in the layout of the webdataset library.

Files in a tar file that follow each other and share a name up to the first dot
are one sample, the rest of the name says which field: `0001.jpg`, `0001.cls`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import fs, lookup, untrusted
from big_vision.datasets import (
  bad_examples,
  concatenation,
  ids,
  python_reader,
  shards,
  slices,
  source,
)
from big_vision.tf import tf

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif")
# Names of tensor types.
_JSON_TYPES = {bool: "bool", int: "int64", float: "float32", str: "string"}
_TYPES_OF = {  # JSON writers drop the ".0" of floats.
  "bool": (bool,), "int64": (int,), "float32": (float, int), "string": (bytes,)
}  # fmt: skip


class DataSource(python_reader.Reader, source.IndexedDataSource):
  """Reads the samples of tar shards, in their order.

  Any sample is read on its own, so shards must not be compressed. The positions
  of all members are found in one pass over each shard and kept on disk.

  Args:
    path: str or list of str: shards, local, gs:// or http(s)://, with braces
      (`/data/train-{000..123}.tar`) or `*`. Those on the web are downloaded to
      `cache_dir`. Or a dict of split name -> such.
    split: names in that dict and slices as in TFDS, "train[:90%]"; without
      a dict everything is called "all". Slices follow the order of the shards.
      None: everything, if there is one split only.
    split_seed: slices are taken after shuffling by this seed, see
      `slices.positions`.
    features: dict of feature -> where it comes from: extensions, the first that
      a sample has ("jpg;png"), or a value in JSON ("json:size.width"). `cls` is
      an int64, other files are strings of bytes. By default images are called
      `image`, `cls` is `label`, all others have the name of their extension.
    num_classes: values of `label` have to be smaller.
    cache_dir: see `shards.open_all`.

  Raises:
    ValueError: no shard can be read, no such split or field.
  """

  def __init__(
    self,
    path: str | Sequence[str] | Mapping[str, Any],
    split: str | None = None,
    *,
    split_seed: int | None = None,
    features: Mapping[str, str] | None = None,
    num_classes: int | None = None,
    cache_dir: str | None = None,
  ):
    patterns = dict(path) if isinstance(path, Mapping) else {slices.ALL: path}
    split = split or _only(patterns)
    for name in slices.names(split):
      if name not in patterns:
        raise lookup.unknown("split", name, patterns, "input.data.split")
    self.num_classes = num_classes
    opened: list[_Shard] = []
    sizes = {}
    for name in slices.names(split):
      parts = _open(shards.expand(patterns[name]), cache_dir)
      opened += parts
      sizes[name] = sum(map(len, parts))
    self._samples = concatenation.Concatenation(
      opened, slices.positions(split, sizes, seed=split_seed)
    )
    samples = next(s for s in opened if not s.problem)
    self._features = _parse_features(features or _default_features(samples))
    self._check_fields(opened)
    self._dtypes = {
      name: self._dtype(samples, f) for name, f in self._features.items()
    }
    self._bad = self._samples.find_bad(self._missing_fields(opened))
    logging.info(
      "%d samples in %d shards (%d unusable), features %s",
      self.total_examples,
      len(opened),
      sum(bool(s.problem) for s in opened),
      {k: f.text for k, f in self._features.items()},
    )

  @property
  def total_examples(self) -> int:
    return len(self._samples)

  def some_labels(self, num: int) -> list[Any] | None:
    """See the base class; of local shards."""
    feature = self._features.get("label")
    if feature is None or self._bad.messages:
      return None
    labels = []
    for index in source.pairs_of_neighbors(self.total_examples, num):
      shard, number = self._samples.locate(index)
      try:
        labels.append(shard.label(number, feature))
      except (ValueError, OSError):
        return None
    return None if None in labels else labels

  def bad_examples(self) -> list[str]:
    return self._bad.messages

  @functools.cached_property
  def specs(self) -> list[tf.TensorSpec]:
    """See the base class."""
    dtypes = [*self._dtypes.values(), "string"]
    return [tf.TensorSpec([], tf.as_dtype(name)) for name in dtypes]

  def complete(
    self, index: tf.Tensor, fetched: Sequence[tf.Tensor]
  ) -> source.Example:
    """See the base class.

    Returns:
      dict: the features; `tfds_id`, path of the shard and key of the sample;
      `_id`, int32 hash of the name of the shard and the key.
    """
    index = self._bad.check(index, {"index": index})["index"]
    *values, tfds_id = python_reader.unpack(fetched)
    example = dict(zip(self._features, values, strict=True))
    # Without the folder, in which the shards may lie elsewhere.
    shard, _ = self._samples.locate_tensor(index)
    begins = [
      len(s.path[: s.path.rfind("/") + 1].encode()) for s in self._samples.parts
    ]
    name = tf.strings.substr(tfds_id, tf.gather(begins, shard), tf.int32.max)
    return {**example, "tfds_id": tfds_id, "_id": ids.hash_id(name)}

  def read_python(self, index: int) -> list[Any]:
    """See the base class."""
    shard, number = self._samples.locate(index)
    values = shard.read(number, self._features)
    key = shard.index.keys[number]
    for name, value in values.items():
      is_label = name == "label" and not self._features[name].is_file
      if is_label and (self.num_classes is not None or isinstance(value, int)):
        where = f"{shard.path}/{key}"
        message = bad_examples.label_message(value, self.num_classes, where)
        if message:
          raise ValueError(message)
      if type(value) not in _TYPES_OF[self._dtypes[name]]:
        raise ValueError(
          f"{name!r} of the sample {key!r} in {shard.path} is {value!r:.100}, but in "
          f"the first sample it was of the type {self._dtypes[name]}."
        )
    return [*values.values(), f"{shard.path}/{key}".encode()]

  def _dtype(self, shard, feature):
    if feature.extensions == ("cls",):
      return "int64"
    if not feature.json_path:
      return "string"
    for number in range(len(shard)):
      if feature.size(shard, number) >= 0:
        (value,) = shard.read(number, {"": feature}).values()
        kind = str if isinstance(value, bytes) else type(value)
        return _JSON_TYPES[kind]
    return "string"

  def _check_fields(self, opened):
    """Checks that every feature is in some sample."""
    good = [s.index for s in opened if not s.problem]
    known = set().union(*(i.fields for i in good))
    for name, feature in self._features.items():
      if not known.intersection(feature.extensions):
        raise lookup.unknown(
          f"field for the feature {name!r}:",
          ";".join(feature.extensions),
          known,
          "input.data.features",
        )

  def _missing_fields(self, opened):
    """Yields (place of the shard, number of the sample, message)."""
    for place, shard in enumerate(opened):
      for feature in () if shard.problem else self._features.values():
        _, sizes = shard.index.column(feature.extensions)
        for i in np.nonzero(sizes < 0)[0]:
          yield place, int(i), shard.lacks(int(i), feature)


def _only(patterns):
  """Returns the split if there is one only."""
  if len(patterns) != 1:
    raise ValueError(
      "config.input.data.split: data.path has several splits, name one: "
      f"{', '.join(map(repr, patterns))}."
    )
  return next(iter(patterns))


def _open(paths, cache_dir):
  """Opens the shards of a split."""
  opened = [
    _Shard(path, result)
    for path, result in zip(
      paths, shards.open_all(paths, cache_dir), strict=True
    )
  ]
  bad = [s.problem for s in opened if s.problem]
  for text in bad:
    logging.error("%s", text)
  if len(bad) == len(opened):
    raise ValueError(
      f"config.input.data.path: none of {len(opened)} shards can be used. "
      f"{bad[0]}"
    )
  return opened


class _Feature:
  """Knows where a feature comes from.

  Args:
    name: of the feature.
    text: as in the config.
  """

  def __init__(self, name, text):
    if not isinstance(text, str) or not text.strip():
      raise ValueError(
        f"config.input.data.features.{name}={text!r} must be extensions "
        "('jpg;png') or a value in JSON ('json:key')."
      )
    self.text = text
    extensions, _, json_path = text.partition(":")
    self.extensions = tuple(e.strip().lower() for e in extensions.split(";"))
    self.json_path = json_path.split(".") if json_path else None

  @property
  def is_file(self):
    """Whether the feature is the content of a file as it is."""
    return self.extensions != ("cls",) and not self.json_path

  def size(self, shard, number):
    return shard.column(self)[1][number]

  def decode(self, content, where):
    """Decodes the content of a file: int, bytes or what was in the JSON."""
    if self.extensions == ("cls",):
      try:
        return int(content)
      except ValueError:
        raise ValueError(
          f"The label {content!r:.100} of {where} is not an int."
        ) from None
    if self.is_file:
      return content
    try:
      value = untrusted.json_value(content)
      for key in self.json_path:
        value = value[key]
    except (ValueError, LookupError, TypeError) as e:
      raise ValueError(f"No value {self.text!r} in {where}: {e!r}") from e
    if type(value) not in _JSON_TYPES:
      raise ValueError(
        f"The value {self.text!r} in {where} is {value!r:.100}, but only numbers, "
        "strings and booleans can be features."
      )
    return value.encode() if isinstance(value, str) else value


class _Shard:
  """Reads one shard; if it cannot be used, it has one example that says so.

  Args:
    path: as in the config.
    opened: element of `shards.open_all`.
  """

  def __init__(self, path, opened):
    self.path = path
    self.problem = opened if isinstance(opened, str) else None
    self._local, self.index = (None, None) if self.problem else opened
    self._columns = {}

  def __len__(self):
    return 1 if self.problem else len(self.index.keys)

  def column(self, feature):
    """Returns (positions, sizes) of a feature, each [N]."""
    key = feature.extensions
    if key not in self._columns:
      self._columns[key] = self.index.column(key)
    return self._columns[key]

  def label(self, number, feature):
    """Reads one feature; None if that would be slow."""
    if not fs.is_local(self._local):
      return None
    return self.read(number, {"label": feature})["label"]

  def lacks(self, number, feature):
    """Says that a sample does not have a feature."""
    what = ";".join(feature.extensions)
    key = self.index.keys[number]
    return f"The shard {self.path}: the sample {key!r} has no {what!r}."

  def read(self, number, features):
    """Reads the features of a sample, all from one stretch of the file."""
    spans = {}
    for name, feature in features.items():
      positions, sizes = self.column(feature)
      spans[name] = int(positions[number]), int(sizes[number])
      if spans[name][1] < 0:
        raise ValueError(self.lacks(number, feature))
    begin = min(p for p, _ in spans.values())
    end = max(p + s for p, s in spans.values())
    data = fs.read_range(self._local, begin, end - begin)
    where = f"{self.path}/{self.index.keys[number]}"
    if len(data) < end - begin:
      raise ValueError(f"The shard has become shorter: reading {where} failed.")
    return {
      name: features[name].decode(data[p - begin : p - begin + s], where)
      for name, (p, s) in spans.items()
    }


def _parse_features(features):
  return {name: _Feature(name, text) for name, text in features.items()}


def _default_features(shard):
  """Features of the first sample in a shard."""
  has = shard.index.sizes[0] >= 0
  features = {}
  for ext in itertools.compress(shard.index.fields, has):
    if ext in _IMAGES:
      features["image"] = ";".join(_IMAGES)
    else:
      features["label" if ext == "cls" else ext] = ext
  return features
