"""Videos as a data source: JSON lines that name videos, and frames of these.

Layout, for `data=dict(name="bv:video", dataset_name="msrvtt", split="train")`:

  <data_dir>/msrvtt/train-00000.jsonl    {"video": "clips/7.mp4", "id": 0}
  <data_dir>/msrvtt/train-00001.jsonl
  <data_dir>/msrvtt/clips/7.mp4

Which frames: of n frames of a video or clip,
`k = min(num_frames, 1 + (n - 1) // stride)` are taken at the distance `stride`.
They begin at one of the first `n - (k - 1) * stride` frames: at the one in the
middle, or at random. Videos too short for `num_frames` thus give fewer.

The random choice is a function of the seed of the epoch, which the pipeline
derives from `config.seed` and the number of the epoch, and of the number of the
example. It is made here and not in an op of preprocessing, which would have to
be given all frames. Like the order of the examples it changes from epoch to
epoch if they are shuffled, and is the same for any number of hosts and
restarts. Evaluation makes the same choice each time.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import extras, fs, lookup, untrusted
from big_vision.datasets import (
  ids,
  python_reader,
  slices,
  source,
  video_frames,
)
from big_vision.tf import plain, tf

_SHARD = re.compile(r"(.+?)(?:[-_.][0-9]+(?:-of-[0-9]+)?)?\.jsonl")
_VIDEO, _FPS = "video", "fps"
_START, _END = "clip/start/timestamp", "clip/end/timestamp"
_FRAMES = "episodic_images"
_ADDED = (_FRAMES, "tfds_id", "_id")
_TYPES = {bool: "bool", int: "int64", float: "float32", str: "string"}
_CLOCK = re.compile(r"(?:(?:([0-9]+):)?([0-9]+):)?([0-9]+(?:\.[0-9]*)?)")
_TOLERANCE = 1e-6  # Seconds: times are quotients.
_ENV = "BV_VIDEO_DIR"
_NUMBER = "number"  # Of an example that is yet to be read.
_SHUFFLE = 1  # Tells this use of a seed from others.


class DataSource(python_reader.Reader, source.DataSource):
  """Reads frames of videos, and what JSON lines say about them.

  Rows have the same keys: `video`, the path of the video relative to the
  folder of the JSON lines, see `video_frames.Videos.read`; and any others,
  whose values are strings, numbers, booleans or lists of such.
  `clip/start/timestamp` and `clip/end/timestamp` limit which frames are used:
  `start <= time < end`, each in seconds or "HH:MM:SS.s". For these, videos that
  are folders of images need a key `fps`, frames per second.

  Args:
    dataset_name: folder in `data_dir`.
    split: of files `train.jsonl`, or `train-00000.jsonl` (`-00000-of-00002`,
      `_0`, `.0`) and so on, with slices as in TFDS, "train[:90%]+valid".
    num_frames: how many frames of each video.
    stride: take every so many-th frame.
    deterministic_fs: whether to take the same frames each time, those in the
      middle, otherwise from a random one on; see the head of this file.
    first_k_shards: use only so many files of each split, the first in order.
    data_dir: folder with the folders of the datasets, local or gs://; default:
      the environment variable BV_VIDEO_DIR.

  Raises:
    ValueError: no such dataset or split; rows whose keys or types differ, or
      without `video`; bad timestamps.
    ConfigError: an argument is not a positive int; no `data_dir`.
    ModuleNotFoundError: `av` is not installed and there are video files.
  """

  can_read_by_index = True

  def __init__(
    self,
    dataset_name: str,
    split: str,
    num_frames: int,
    stride: int = 1,
    deterministic_fs: bool = False,
    first_k_shards: int | None = None,
    data_dir: str | None = None,
  ):
    _check_positive("num_frames", num_frames)
    _check_positive("stride", stride)
    if first_k_shards is not None:
      _check_positive("first_k_shards", first_k_shards)
    self._num_frames, self._stride = num_frames, stride
    self._deterministic = deterministic_fs
    self._folder = _dataset_folder(dataset_name, data_dir)
    shards = _list_shards(self._folder)
    rows, sizes = [], {}
    for name in slices.names(split):
      if name not in shards:
        raise lookup.unknown(
          f"split (files {name}.jsonl or {name}-00000.jsonl, … in "
          f"{self._folder})",
          name,
          shards,
          "input.data.split",
        )
      before = len(rows)
      for file in shards[name][:first_k_shards]:
        rows += _read_rows(fs.join(self._folder, file), len(rows) - before)
      sizes[name] = len(rows) - before
    rows = [rows[i] for i in slices.positions(split, sizes)]
    self._where = [where for where, _ in rows]
    self._ids = [f"{dataset_name}/{_basename(where)}" for where in self._where]
    self._columns, self._specs = _columns(rows)
    self._paths = self._paths_of_videos()
    self._fps = self._numbers(_FPS, _frequency, None)
    self._starts = self._numbers(_START, _seconds, 0.0)
    self._ends = self._numbers(_END, _seconds, math.inf)
    for where, start, end in zip(
      self._where, self._starts, self._ends, strict=True
    ):
      if not start < end:
        raise ValueError(
          f"{where}: {_END!r} must be larger than {_START!r}, but the clip is "
          f"from {start} to {end} seconds."
        )
    self._videos = video_frames.Videos()
    logging.info(
      "%d rows of %s (split %s), features %s",
      self.total_examples,
      self._folder,
      split,
      sorted(self._columns),
    )

  @property
  def total_examples(self) -> int:
    return len(self._where)

  def num_examples_per_process(self) -> list[int]:
    return source.split_evenly(self.total_examples)

  def get_tfdata(
    self,
    ordered: bool = False,
    *,
    process_split: bool = True,
    allow_cache: bool = True,
  ) -> tf.data.Dataset:
    """See the base class. Unordered: shuffled once, always in the same way."""
    del allow_cache  # Opening is cheap.
    return source.by_index(self, ordered, process_split)

  def training_order(
    self, order_seed: tf.Tensor | None = None
  ) -> tuple[tf.data.Dataset, Callable[[source.Example], source.Example]]:
    """See the base class. With a seed: all rows shuffled, and other frames."""
    size = self.total_examples
    ds = tf.data.Dataset.range(size)
    if order_seed is not None:
      seed = tf.cast(order_seed, tf.int64)
      seeds = tf.stack([seed, tf.constant(_SHUFFLE, tf.int64)])
      last = tf.constant(size - 1, tf.int64)

      def shuffle(i):
        i = tf.random.experimental.index_shuffle(i, seeds, last)
        return seed * size + i  # One number is all that `fetch` passes on.

      ds = ds.map(plain(shuffle))
    return ds.map(lambda i: {_NUMBER: i}), lambda row: self.read(row[_NUMBER])

  @functools.cached_property
  def specs(self) -> list[tf.TensorSpec]:
    """See the base class."""
    columns = [tf.TensorSpec(*spec) for spec in self._specs.values()]
    frames = tf.TensorSpec([None], tf.string)
    return [frames, *columns, tf.TensorSpec([], tf.string)]

  def complete(
    self, index: tf.Tensor, fetched: Sequence[tf.Tensor]
  ) -> source.Example:
    """See the base class.

    Returns:
      dict: `episodic_images` string [T], JPEG, 1 <= T <= `num_frames`; the
      values of the row, int64, float32, bool or string, [] or (lists) [their
      number], with `id`, by default the number of the row as text; `tfds_id`,
      names of dataset and file, and line; `_id`, int32 hash of that.
    """
    del index
    frames, *values, tfds_id = python_reader.unpack(fetched)
    return {
      _FRAMES: frames,
      **dict(zip(self._columns, values, strict=True)),
      "tfds_id": tfds_id,
      "_id": ids.hash_id(tfds_id),
    }

  def read_python(self, index: int) -> list[Any]:
    """See the base class.

    Args:
      index: number of the example, to which `training_order` adds
        `total_examples` times the seed of the random choice, otherwise 0.

    Returns:
      List of the frames, the values of the row, and `tfds_id`.
    """
    seed, index = divmod(index, self.total_examples)
    path = self._paths[index]

    def choose(times):
      begin, end = self._clip(times, index)
      rng = (
        None if self._deterministic else np.random.default_rng((seed, index))
      )
      picked = window(end - begin, self._num_frames, self._stride, rng)
      return [begin + i for i in picked]

    try:
      frames = self._videos.read(path, choose, self._fps[index])
    except Exception as e:  # Whatever stores, tar files and images raise.
      text = str(e)
      if isinstance(e, FileNotFoundError | tf.errors.NotFoundError):
        text = (
          f"{path} is missing. Paths in {_VIDEO!r} are relative to "
          f"{self._folder}."
        )
      elif path not in text:
        text = f"the video {path} cannot be read: {text or repr(e)}"
      raise ValueError(f"{self._where[index]}: {text}") from e
    values = [column[index] for column in self._columns.values()]
    return [frames, *values, self._ids[index].encode()]

  def _clip(self, times, index):
    """Returns (first, stop) of the frames that the row is about."""
    start, end = self._starts[index], self._ends[index]
    if start <= 0 and end == math.inf:
      return 0, len(times)
    if np.isnan(times[0]):
      raise ValueError(
        f"the row limits the times of {self._paths[index]}, whose frames have "
        f"no times: add a key {_FPS!r}, frames per second, to the rows."
      )
    first, stop = np.searchsorted(times, np.array([start, end]) - _TOLERANCE)
    if first == len(times):
      raise ValueError(
        f"the clip begins at {start:g} seconds, but the last frame of "
        f"{self._paths[index]} is at {times[-1]:g}. Timestamps are seconds in "
        "that video."
      )
    return int(first), int(max(stop, first + 1))

  def _paths_of_videos(self):
    """Makes paths of `video`; fails early without what decodes video files."""
    if self._specs.get(_VIDEO) != ([], "string"):
      raise ValueError(
        f"{self._where[0]}: the rows need a key {_VIDEO!r} with the path of "
        f"the video, but have {sorted(self._columns)}"
      )
    paths = [
      fs.join(self._folder, path.decode()) for path in self._columns[_VIDEO]
    ]
    if any(map(video_frames.needs_av, paths)):
      extras.load("av")
    return paths

  def _numbers(self, key, parse, missing):
    """Parses the values of a key; `missing` for all if there is none."""
    if key not in self._columns:
      return [missing] * self.total_examples
    out = []
    for where, value in zip(self._where, self._columns[key], strict=True):
      try:
        out.append(parse(value))
      except ValueError as e:
        raise ValueError(
          f"{where}: {key!r} is {value!r}; it must be {e}"
        ) from e
    return out


def window(
  num: int,
  num_frames: int,
  stride: int,
  rng: np.random.Generator | None = None,
) -> list[int]:
  """Chooses frames, see the head of this file.

  Args:
    num: how many there are, at least 1.
    num_frames: how many to choose, if there are enough.
    stride: their distance.
    rng: None to choose those in the middle.

  Returns:
    Numbers of frames in order, from 0.
  """
  count = min(num_frames, 1 + (num - 1) // stride)
  room = num - 1 - (count - 1) * stride
  begin = room // 2 if rng is None else int(rng.integers(room + 1))
  return [begin + stride * i for i in range(count)]


def _check_positive(key, value):
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise lookup.ConfigError(
      f"config.input.data.{key}={value!r} must be a positive int."
    )


def _dataset_folder(dataset_name, data_dir):
  """Returns the folder of the JSON lines, and checks that it is there."""
  data_dir = data_dir or os.environ.get(_ENV)
  if not data_dir:
    raise lookup.ConfigError(
      f"config.input.data.data_dir: set it, or the environment variable {_ENV},"
      f" to the folder that has the folder {dataset_name!r}."
    )
  folder = fs.join(data_dir, dataset_name)
  if not fs.isdir(folder):
    known = [name for name, is_dir in _scan(data_dir) if is_dir]
    raise lookup.unknown(
      f"dataset (folder of {data_dir})",
      dataset_name,
      known,
      "input.data.dataset_name",
    )
  return folder


def _scan(folder):
  return fs.scan(folder) if fs.isdir(folder) else []


def _list_shards(folder):
  """Finds the files with rows: dict of split -> names, in order."""
  shards = {}
  for name in sorted(fs.listdir(folder), key=video_frames.natural_order):
    if match := _SHARD.fullmatch(name):
      shards.setdefault(match[1], []).append(name)
  return shards


def _basename(path):
  return path.replace(os.sep, "/").rpartition("/")[2]


def _read_rows(path, number):
  """Reads (place, row) each of a file; `id` is from `number` on by default."""
  rows = []
  with fs.open(path, "rb") as f:
    for line, text in enumerate(f, 1):
      where = f"{path}:{line}"
      if not text.strip():
        continue
      try:
        row = untrusted.json_value(text)
      except ValueError as e:
        raise ValueError(f"{where}: invalid JSON: {e}") from e
      if not isinstance(row, dict):
        raise ValueError(f"{where}: invalid JSON: not an object")
      rows.append((where, {"id": str(number + len(rows)), **row}))
  return rows


def _columns(rows):
  """Makes columns of rows.

  Returns:
    (columns, specs): dicts of key -> values, text as bytes; and of key ->
    (shape, dtype).
  """
  first_where, first = rows[0]
  for where, row in rows:
    if row.keys() != first.keys():
      raise ValueError(
        f"{where}: the keys differ from those of {first_where}: missing "
        f"{sorted(first.keys() - row.keys())}, additional "
        f"{sorted(row.keys() - first.keys())}"
      )
  if taken := sorted(first.keys() & set(_ADDED)):
    raise ValueError(
      f"{first_where}: rename the keys {taken}: the source adds such."
    )
  columns, specs = {}, {}
  for key in first:
    places = [(where, row[key]) for where, row in rows]
    specs[key] = _spec(key, places)
    columns[key] = [_encoded(value, key, where) for where, value in places]
  return columns, specs


def _spec(key, places):
  """Finds the shape and dtype of a column of (place, value)."""
  seen = {}  # (is it in a list, type) -> place
  for where, value in places:
    is_list = isinstance(value, list)
    seen.setdefault((is_list, None), where)
    for x in value if is_list else [value]:
      seen.setdefault((is_list, type(x)), where)
  kinds = {kind for _, kind in seen} - {None}
  if len({is_list for is_list, _ in seen}) == 1:
    shape = [None] if (True, None) in seen else []
    if kinds == {int, float}:  # JSON writers drop the ".0".
      return shape, "float32"
    if not kinds:  # Of empty lists.
      return shape, "string"
    if len(kinds) == 1 and kinds <= _TYPES.keys():
      return shape, _TYPES[kinds.pop()]
  found = [
    f"{'a list of ' if is_list else ''}{kind.__name__} in {where}"
    for (is_list, kind), where in seen.items()
    if kind
  ]
  raise ValueError(
    f"{key!r} is {', '.join(found)}. All values of a key must be strings, "
    "numbers, booleans, or lists of one of these: change or remove it."
  )


def _encoded(value, key, where):
  """Makes bytes of text, also in lists."""
  if isinstance(value, list):
    return [_encoded(x, key, where) for x in value]
  if isinstance(value, int) and not -(2**63) <= value < 2**63:
    raise ValueError(
      f"{where}: {key!r}={value} does not fit into int64; write it as a string."
    )
  try:
    return value.encode() if isinstance(value, str) else value
  except UnicodeEncodeError:
    raise ValueError(
      f"{where}: {key!r} has half of a surrogate pair: {value!r}"
    ) from None


def _frequency(value):
  if not _is_number(value) or not 0 < value < math.inf:
    raise ValueError("a positive number: frames per second.")
  return float(value)


def _seconds(value):
  """Parses a number of seconds or "HH:MM:SS.s"."""
  if isinstance(value, bytes):
    match = _CLOCK.fullmatch(value.decode())
    hours, minutes, seconds = match.groups() if match else (0, 0, "nan")
    value = 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)
  if not _is_number(value) or not 0 <= value < math.inf:
    raise ValueError("a number of seconds, or a string like '01:02:03.5'.")
  return float(value)


def _is_number(value):
  return isinstance(value, int | float) and not isinstance(value, bool)
