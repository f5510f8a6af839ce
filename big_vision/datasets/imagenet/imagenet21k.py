"""ImageNet-21k from the original archive: a tar file of one tar file per synset.

TFDS dataset `imagenet21k`, one split `full`, prepared with

  python -m big_vision.tools.download_tfds_datasets imagenet21k

Images are copied as they are; the archive is read once, from front to back, and
nothing is unpacked to disk.

References:
  Deng et al. 2009, ImageNet: a large-scale hierarchical image database; the
  archives are at https://image-net.org/download-images.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import pathlib
import zlib
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging

from big_vision import fs, lookup
from big_vision.datasets import embedded, tar_index
from big_vision.pp import decoding

ARCHIVES = ("winter21_whole.tar.gz", "winter21_whole.tar", "fall11_whole.tar")
SYNSETS_FILE = "imagenet21k_synsets.txt"
_MAX_TAIL = 1024  # Bytes that may follow the end of a JPEG image.


class Imagenet21k(embedded.Builder, skip_registration=True):
  """TFDS builder of `imagenet21k`: image, label and file_name."""

  name = "imagenet21k"
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "All images that can be decoded, in one split."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put one of {', '.join(ARCHIVES)} (from https://image-net.org, needs an "
    "account) into the folder, as it is. Labels are positions in the list of "
    "21,843 synsets that published models use; for other classes put a file "
    f"{SYNSETS_FILE} beside it, with one synset per line."
  )

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="ImageNet-21k: 14 million images of WordNet synsets.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(),  # Names follow from the archive.
          "file_name": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://image-net.org",
    )

  def _split_generators(self, dl_manager):
    archive = find_archive(os.fspath(dl_manager.manual_dir))
    self.info.features["label"].names = list_synsets(archive)
    return {"full": self._generate_examples(archive)}

  def _generate_examples(self, archive):
    known = set(self.info.features["label"].names)
    dropped = 0
    for synset, file_name, image in read_archive(archive):
      if synset not in known:
        raise ValueError(_unknown_synset(synset, archive, known))
      if not is_image(image):
        dropped += 1
        logging.warning(
          "%s: left out %s.tar/%s, which is not an image or cut off (%d so far).",
          archive,
          synset,
          file_name,
          dropped,
        )
        continue
      # TFDS orders examples by a hash of the key.
      yield (
        f"{synset}/{file_name}",
        {"image": image, "label": synset, "file_name": file_name},
      )


Builder = Imagenet21k


def prepare(data_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Writes the dataset below `data_dir` unless it is there already.

  Args:
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, and without that
      ~/tensorflow_datasets.

  Returns:
    The TFDS builder.

  Raises:
    AssertionError: the archive is not there; says where it should be.
    ValueError: the archive is damaged or has other synsets.
  """
  builder = Imagenet21k(data_dir=embedded.default_data_dir(data_dir))
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  return builder


def find_archive(folder: str) -> str:
  """Finds the archive in TFDS' folder for manual downloads.

  Args:
    folder: TFDS' folder.

  Returns:
    Path of the archive.

  Raises:
    AssertionError: it is not there.
  """
  for name in ARCHIVES:
    if fs.exists(fs.join(folder, name)):
      return fs.join(folder, name)
  # TFDS itself reports missing manual downloads so.
  raise AssertionError(
    f"None of {', '.join(ARCHIVES)} is in {folder}, which has "
    f"{fs.listdir(folder)}. {Imagenet21k.MANUAL_DOWNLOAD_INSTRUCTIONS}"
  )


def published_synsets() -> list[str]:
  """Reads the 21,843 synsets, in the order of outputs of published models."""
  path = pathlib.Path(__file__).parent / SYNSETS_FILE
  return path.read_text(encoding="utf-8").split()


def list_synsets(archive: str) -> list[str]:
  """Lists the classes: those beside the archive, or those of published models.

  An archive that has nothing to do with that list, such as one of one's own,
  has its own synsets as classes, sorted.

  Args:
    archive: path.

  Returns:
    Synsets; the position is the label.

  Raises:
    ValueError: some synsets of the archive are not in the list.
  """
  beside = fs.join(fs.dirname(archive), SYNSETS_FILE)
  published = not fs.exists(beside)
  if published:
    names = published_synsets()
  else:
    with fs.open(beside) as f:
      names = f.read().split()
  with _open(archive) as (read, size):
    if size is None:  # Compressed: would take hours, and is done while reading.
      return names
    found = [
      os.path.basename(name).removesuffix(".tar")
      for name, _, _ in tar_index.members(read, size, archive)
      if name.endswith(".tar")
    ]
  unknown = sorted(set(found) - set(names))
  if published and found and len(unknown) == len(set(found)):
    logging.warning(
      "%s has none of the synsets of published models; its own are the classes.",
      archive,
    )
    return unknown
  if unknown:
    raise ValueError(_unknown_synset(unknown[0], archive, names))
  return names


def _unknown_synset(synset, archive, known):
  return (
    f"{archive}: the synset {synset!r} is none of the {len(known)} classes. Put "
    f"a file {SYNSETS_FILE} with all synsets, one per line, beside the archive"
    f"{lookup.did_you_mean(synset, known) if len(known) < 100 else '.'}"
  )


def read_archive(archive: str) -> Iterator[tuple[str, str, bytes]]:
  """Yields all files in the tar files of an archive, in its order.

  Args:
    archive: path; may be compressed with gzip.

  Yields:
    (synset, file name, content).

  Raises:
    ValueError: the archive or one of its tar files is cut off or damaged.
  """
  with _open(archive) as (read, size):
    for outer, start, length in tar_index.members(
      read, float("inf") if size is None else size, archive
    ):
      if not outer.endswith(".tar"):
        logging.warning(
          "%s: left out %s, which is not a tar file.", archive, outer
        )
        continue
      part = _part(read, start, length)
      synset = os.path.basename(outer).removesuffix(".tar")
      where = f"{archive}/{outer}"
      for inner, position, size_ in tar_index.members(part, length, where):
        content = part(position, size_)
        if len(content) < size_:
          raise ValueError(
            f"The archive {archive} ends within {outer}/{inner}."
          )
        yield synset, os.path.basename(inner), content


def _part(read, start, length):
  """`read` for a part of a file."""
  return lambda position, n: read(start + position, min(n, length - position))


@contextlib.contextmanager
def _open(archive):
  """(`(position, length) -> bytes` for growing positions, size or None)."""
  with fs.open(archive, "rb") as f:
    compressed = f.read(2) == b"\x1f\x8b"
    size = None
    if not compressed:
      f.seek(0, os.SEEK_END)
      size = f.tell()
    f.seek(0)
    stream = gzip.GzipFile(fileobj=f) if compressed else f

    def read(position, length):
      stream.seek(position)
      return stream.read(length)

    try:
      yield read, size
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
      raise ValueError(f"The archive {archive} is damaged: {e}") from e


def is_image(content: bytes) -> bool:
  """Tells whether bytes are an image that the preprocessing can decode.

  JPEG images that are complete by their first and last bytes are not decoded:
  that would take a day for 14 million.
  """
  if content[:3] == b"\xff\xd8\xff" and b"\xff\xd9" in content[-_MAX_TAIL:]:
    return True
  try:
    decoding.decode(content)
  except ValueError:
    return False
  return True
