"""Prepares the datasets of PaliGemma's transfers from their authors' files.

  python -m big_vision.tools.prepare --list
  python -m big_vision.tools.prepare okvqa --source=DIR

The first lists all datasets. The second says which files the dataset needs,
where they are published and which of them the folder DIR lacks; if it has them
all, the TFDS dataset is written. Archives that lie in DIR are unpacked there.
`--download` fetches what can be had without a login.

A name may carry a config, `scicap/first_sentence_subfig_no`; without one all
configs are prepared. What is prepared already is left alone.
"""

import http.client
import os
import shutil
import sys
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from big_vision import command_line, fs, transfer
from big_vision.lookup import ConfigError


def prepare(
  name: str,
  source: str | None = None,
  data_dir: str | None = None,
  splits: Sequence[str] | None = None,
  download: bool = False,
) -> list[str]:
  """Prepares a dataset, and says what it takes.

  Args:
    name: of the dataset, or "name/config".
    source: folder with the files; None means `downloads/manual/<name>` in the
      TFDS folder.
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, else
      ~/tensorflow_datasets.
    splits: the only splits to prepare, which need fewer files.
    download: whether to download files that `source` lacks.

  Returns:
    The folders of the datasets, one per config.

  Raises:
    ValueError: no such dataset, config or split; or files are missing, cannot
      be downloaded or are damaged.
  """
  from big_vision.datasets import building, embedded  # Slow to import.

  name, _, config = name.partition("/")
  builders = building.builders(name, source, data_dir, config or None, splits)
  for builder in builders:
    if not embedded.is_prepared(builder):
      fetch(builder, download)
      print(describe(builder))
      builder.check()
      builder.write()
  return [str(builder.data_dir) for builder in builders]


def describe(builder: Any) -> str:
  """Says what a dataset needs, and whether it is there.

  Args:
    builder: a `datasets.building.Builder`.

  Returns:
    Lines of text.
  """
  missing = set(builder.missing())
  marks = {True: "[ ]", False: "[x]"}
  return "\n".join(
    [
      f"{builder.info.full_name}: {builder.DESCRIPTION}",
      f"  homepage  {builder.HOMEPAGE}",
      f"  license   {builder.LICENSE}",
      f"  folder    {builder.source}",
      *(f"    {marks[d in missing]} {d}" for d in builder.needed()),
    ]
  )


def table() -> str:
  """Lists the datasets.

  Returns:
    A line for each: name, license, homepage.
  """
  from big_vision.datasets import building  # Slow to import.

  classes = [building.builder_class(name) for name in sorted(building.MODULES)]
  rows = [("NAME", "LICENSE", "HOMEPAGE")]
  rows += [(c.name, c.LICENSE, c.HOMEPAGE) for c in classes]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(f"{x:{w}}" for x, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  )


def fetch(builder: Any, download: bool = False) -> None:
  """Unpacks archives that are in the source folder, and downloads others.

  Args:
    builder: a `datasets.building.Builder`.
    download: whether to download what is missing, as far as its server allows.

  Raises:
    ConfigError: a file cannot be downloaded, or an archive is damaged or lacks
      what it should have.
  """
  if not fs.is_local(builder.source):
    return
  for d in builder.missing():
    # It may have been in an archive of an earlier one.
    if d.manual or builder.exists(d.path):
      continue
    path = d.path
    if d.unpack:
      name = urllib.parse.unquote(d.url.rpartition("/")[2])
      # In `into`, an archive would be taken for its content.
      path = os.path.join("" if d.path == d.into else d.into, name)
    path = os.path.join(builder.source, path)
    if not os.path.exists(path):
      if not download:
        continue
      _download(d.url, path)
    if d.unpack:
      unpack(path, os.path.join(builder.source, d.into))
      if not builder.exists(d.path):
        raise ConfigError(
          f"{path} does not have {d.path!r}, but {os.listdir(builder.source)} "
          f"are in {builder.source} now. Put it there by hand."
        )


def _download(url, path):
  logging.info("Downloading %s to %s", url, path)
  try:
    transfer.transfer(url, path, lambda: os.path.exists(path))
  except (OSError, http.client.HTTPException) as e:
    raise ConfigError(
      f"Cannot download {url}: {e}. Call again to go on, or download it by "
      f"hand to {path}"
    ) from e


def unpack(archive: str, folder: str) -> None:
  """Unpacks an archive; what is there already is replaced.

  Args:
    archive: path of a zip or tar file.
    folder: where its content gets to when all of it is unpacked.

  Raises:
    ConfigError: it is neither, or damaged.
  """
  logging.info("Unpacking %s", archive)
  part = f"{archive}.unpacked"
  shutil.rmtree(part, ignore_errors=True)
  try:
    if zipfile.is_zipfile(archive):
      with zipfile.ZipFile(archive) as z:
        z.extractall(part)
    else:
      with tarfile.open(archive) as tar:
        tar.extractall(part, filter="data")
  except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as e:
    raise ConfigError(
      f"{archive} is no zip or tar file, or damaged: {e}. Delete it and "
      "download it again, or unpack it by hand."
    ) from e
  _merge(part, folder)
  shutil.rmtree(part)


def _merge(source, target):
  """Moves what is in one folder into another."""
  os.makedirs(target, exist_ok=True)
  for entry in os.scandir(source):
    path = os.path.join(target, entry.name)
    if entry.is_dir() and os.path.isdir(path):
      _merge(entry.path, path)
    else:
      os.replace(entry.path, path)


def main(argv: Sequence[str] | None = None) -> int:
  """Prepares the dataset that the command line names, or lists them.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser("big_vision.tools.prepare", __doc__)
  parser.add_argument(
    "names", nargs="*", metavar="NAME[/CONFIG]", help="Datasets."
  )
  parser.add_argument(
    "--list", action="store_true", help="List the names that there are."
  )
  parser.add_argument(
    "--source",
    help="Folder with the files (default: downloads/manual/NAME in the TFDS "
    "folder).",
  )
  parser.add_argument(
    "--data_dir",
    help="TFDS folder (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets).",
  )
  parser.add_argument(
    "--splits",
    help="Only these splits, with commas between; others cannot be added to "
    "them later.",
  )
  parser.add_argument(
    "--download", action="store_true", help="Download what is missing."
  )
  args = parser.parse_args(argv)
  if not args.list and not args.names:
    parser.error("name a dataset, or use --list")
  from big_vision.training import user_errors  # Slow to import.

  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  with user_errors.one_line():
    if args.list:
      print(table())
    splits = args.splits.split(",") if args.splits else None
    for name in args.names:
      folders = prepare(name, args.source, args.data_dir, splits, args.download)
      print("\n".join(f"{name}: {folder}" for folder in folders))
  return 0


if __name__ == "__main__":
  sys.exit(main())
