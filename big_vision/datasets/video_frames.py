"""Frames of videos: folders of images, folders in tar files, video files.

Times are seconds since the first frame. Video files need the package `av`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from big_vision import extras, fs
from big_vision.datasets import shards

QUALITY = 95  # Of the JPEGs that are made here.
# Other names that are no folder are taken for videos, too.
VIDEOS = tuple(
  ".3gp .avi .flv .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv"
  .split()
)  # fmt: skip
_FRAMES = (".jpg", ".jpeg", ".png")
_TAR = ".tar"

# Times of all frames, float64 [N], NaN if unknown -> numbers of those to read,
# in order.
Choose: TypeAlias = Callable[[np.ndarray], Sequence[int]]


class Videos:
  """Reads frames; thread-safe. What tar files have is looked up once."""

  def __init__(self) -> None:
    """Starts without open tar files."""
    self._tars: dict[str, _Tar] = {}
    self._lock = threading.Lock()

  def read(
    self, path: str, choose: Choose, fps: float | None = None
  ) -> list[bytes]:
    """Reads frames of a video.

    Args:
      path: a folder of images in the natural order of their names (`2.jpg`
        before `10.jpg`); a folder in a tar file (`a.tar#clip1/`), or all images
        in it (`a.tar`); a video file, or one in a tar file (`a.tar#1.mp4`).
      choose: chooses which frames; may be called twice.
      fps: frames per second of images; video files know their times.

    Returns:
      JPEGs. Those that are in color are returned as they are stored.

    Raises:
      ValueError: there are no frames, or they cannot be decoded.
      OSError, tf.errors.OpError: a file is missing or cannot be read.
    """
    tar, member = split_tar(path)
    if tar:
      return self._tar(tar).read(member, choose, fps)
    if fs.isdir(path):
      names = _frames_in(fs.listdir(path), f"The folder {path}")
      get = lambda name: _content(fs.join(path, name))
      return _read_images(names, get, path, choose, fps)
    return _read_video(lambda: fs.open(path, "rb"), path, choose)

  def _tar(self, path):
    with self._lock:
      if path not in self._tars:
        self._tars[path] = _Tar(path)
      return self._tars[path]


def split_tar(path: str) -> tuple[str, str]:
  """Splits the path of something in a tar file.

  Args:
    path: for example "/data/a.tar#clip1/".

  Returns:
    ("/data/a.tar", "clip1"); ("", "") for other paths.
  """
  tar, mark, member = path.partition(f"{_TAR}#")
  if mark:
    return tar + _TAR, member.removeprefix("./").strip("/")
  return (path, "") if path.lower().endswith(_TAR) else ("", "")


def needs_av(path: str) -> bool:
  """Tells from its name whether a path is that of a video file."""
  return path.lower().endswith(VIDEOS)


def natural_order(name: str) -> tuple[Any, ...]:
  """Makes the key to sort names by: numbers count, not their digits.

  Args:
    name: of a file.

  Returns:
    A key for `sorted`: "2.jpg" is before "10.jpg".
  """
  parts = re.split(r"([0-9]+)", name)
  return (*(int(x) if i % 2 else x for i, x in enumerate(parts)), name)


class _Tar:
  """Reads what one tar file has."""

  def __init__(self, path):
    [opened] = shards.open_all([path])
    if isinstance(opened, str):
      raise ValueError(opened)
    self._path = path
    self._local, index = opened
    self._folders: dict[str, dict[str, tuple[int, int]]] = {}
    for row, field in np.argwhere(index.sizes >= 0):
      name = f"{index.keys[row]}.{index.fields[field]}"
      folder, name = posixpath.split(name)
      where = int(index.positions[row, field]), int(index.sizes[row, field])
      self._folders.setdefault(folder, {})[name] = where

  def read(self, member, choose, fps):
    """See `Videos.read`; `member` is "" for the whole tar file."""
    where = f"{self._path}#{member}" if member else self._path
    folder, name = posixpath.split(member)
    video = self._folders.get(folder, {}).get(name)
    if video:
      content = fs.read_range(self._local, *video)
      return _read_video(lambda: io.BytesIO(content), where, choose)
    if member and member not in self._folders:
      raise ValueError(
        f"The tar file {self._path} has no {member!r}. Write the folder or the "
        "file in it as tar lists it."
      )
    files = {
      posixpath.join(folder, name): span
      for folder in ([member] if member else self._folders)
      for name, span in self._folders[folder].items()
    }
    names = _frames_in(files, where)
    get = lambda name: fs.read_range(self._local, *files[name])
    return _read_images(names, get, self._path, choose, fps)


def _frames_in(names: Iterable[str], where: str) -> list[str]:
  """Finds the frames among the files of a folder, in order."""
  is_frame = lambda name: (
    name.lower().endswith(_FRAMES)
    and not posixpath.basename(name).startswith(".")
  )
  frames = sorted(filter(is_frame, names), key=natural_order)
  if not frames:
    raise ValueError(
      f"{where} has no frames, that is, files ending in {', '.join(_FRAMES)}."
    )
  return frames


def _read_images(names, get, where, choose, fps):
  """Reads the chosen images, JPEG each."""
  times = np.arange(len(names)) / fps if fps else np.full(len(names), np.nan)
  return [_as_jpeg(get(names[i]), f"{where}/{names[i]}") for i in choose(times)]


def _content(path):
  with fs.open(path, "rb") as f:
    return f.read()


def _as_jpeg(data, where):
  """Makes a JPEG in color of an image, unless it is one."""
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as image:
      if image.format == "JPEG" and image.mode == "RGB":
        return data
      return _encode(image.convert("RGB"))
  except Exception as e:  # Decoders fail in many ways.
    raise ValueError(
      f"The frame {where} is not an image that can be read: {e}"
    ) from e


def _encode(image):
  out = io.BytesIO()
  image.save(out, "JPEG", quality=QUALITY)
  return out.getvalue()


def _read_video(open_file, where, choose):
  """Reads the chosen frames of a video file, JPEG each."""
  av = extras.load("av")
  opened = functools.partial(_opened, av, open_file)
  try:
    return _by_seeking(av, opened, choose) or _by_decoding(opened, choose)
  except av.FFmpegError as e:
    raise ValueError(
      f"The video {where} cannot be decoded ({e.strerror}). Copy or download "
      "it again, or leave it out."
    ) from e
  except _NoFrames as e:
    raise ValueError(f"The video {where} {e}.") from e


class _NoFrames(ValueError):
  pass


@contextlib.contextmanager
def _opened(av, open_file):
  """Yields (container, stream of the video)."""
  # Given a name, FFmpeg might take it for an address; and a video may be a list
  # of other files to open, whatever its name.
  options = {"protocol_whitelist": "none"}
  with open_file() as f, av.open(f, options=options) as container:
    if not container.streams.video:
      raise _NoFrames("has no pictures, only sound or text")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # Others decode at the same time.
    yield container, stream


def _by_seeking(av, opened, choose):
  """Decodes from the last key frame before the first chosen frame.

  Returns:
    JPEGs; None if the timestamps of the file are not those of its frames.
  """
  with opened() as (container, stream):
    packets = [
      (p.pts, p.is_keyframe)
      for p in container.demux(stream)
      if p.size and not p.is_discard
    ]
  stamps = sorted({pts for pts, _ in packets if pts is not None})
  if not stamps or len(stamps) != len(packets):
    return None
  numbers = choose((np.array(stamps) - stamps[0]) * float(stream.time_base))
  begin = stamps[numbers[0]]
  keys = [pts for pts, is_key in packets if is_key and pts <= begin]
  expected = iter(range(numbers[0], numbers[-1] + 1))
  chosen, frames = set(numbers), []
  try:
    with opened() as (container, stream):
      container.seek(max(keys, default=stamps[0]), stream=stream)
      for frame in container.decode(stream):
        if frame.pts is not None and frame.pts < begin:
          continue
        number = next(expected)
        if frame.pts != stamps[number]:
          return None
        if number in chosen:
          frames.append(_encode(_picture(frame)))
        if number == numbers[-1]:
          return frames
  except av.FFmpegError:
    pass
  return None


def _by_decoding(opened, choose):
  """Decodes everything, first to count the frames."""
  with opened() as (container, stream):
    stamps = [frame.time for frame in container.decode(stream)]
    rate = stream.average_rate
  if not stamps:
    raise _NoFrames("has no frames")
  times = np.arange(len(stamps)) / float(rate) if rate else None
  if None not in stamps:
    times = np.array(stamps) - stamps[0]
  chosen = choose(np.full(len(stamps), np.nan) if times is None else times)
  frames = []
  with opened() as (container, stream):
    for number, frame in enumerate(container.decode(stream)):
      if number in chosen:
        frames.append(_encode(_picture(frame)))
      if number == chosen[-1]:
        break
  return frames


def _picture(frame):
  """Makes an image of a frame, upright if the file says how."""
  image = frame.to_image()
  return image.rotate(frame.rotation, expand=True) if frame.rotation else image
