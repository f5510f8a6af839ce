"""Prepares COCO's panoptic segmentation: annotations and the TFDS dataset.

  python -m big_vision.tools.prepare_coco_panoptic

takes three archives of COCO 2017 from images.cocodataset.org: train2017.zip,
val2017.zip and panoptic_annotations_trainval2017.zip, 21 GB in all. Those that are
in the folder `--archives` already, downloaded by hand or by an earlier call, are
taken from there. Then it

  - lays out the annotations in the folder `--coco_data_dir`, where the evaluator
    proj.uvim.coco_panoptic finds them by the environment variable COCO_DATA_DIR;
  - checks that each image has its annotation and its PNG, with known classes;
  - prepares the TFDS dataset coco/2017_panoptic in `--data_dir`.

What is done already is left alone. That takes 65 GB of disk, archives included.
"""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

from absl import logging

from big_vision import command_line, transfer
from big_vision.lookup import ConfigError

URL = "http://images.cocodataset.org"
ANNOTATIONS = "panoptic_annotations_trainval2017.zip"
# Archive -> (folder at the URL, sha256 as registered in TFDS).
ARCHIVES = {
  ANNOTATIONS: (
    "annotations",
    "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
  ),
  "val2017.zip": (
    "zips",
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
  ),
  "train2017.zip": (
    "zips",
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
  ),
}
PARTS = {"validation": "val2017", "train": "train2017"}


def prepare(
  archives: str | None = None,
  coco_data_dir: str | None = None,
  data_dir: str | None = None,
  annotations_only: bool = False,
) -> str:
  """Prepares what is missing.

  Args:
    archives: folder with the archives, or for them; None means
      `downloads/manual` in the TFDS folder, where TFDS looks for them as well.
    coco_data_dir: folder for annotations; None means $COCO_DATA_DIR, else
      `coco_panoptic_annotations` in the TFDS folder.
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, else
      ~/tensorflow_datasets.
    annotations_only: whether to leave out the TFDS dataset.

  Returns:
    The folder with the annotations.

  Raises:
    ConfigError: an archive cannot be had or is damaged, or annotations do not fit.
  """
  data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
  data_dir = os.path.expanduser(data_dir or "~/tensorflow_datasets")
  archives = archives or os.path.join(data_dir, "downloads", "manual")
  folder = coco_data_dir or os.environ.get("COCO_DATA_DIR")
  folder = folder or os.path.join(data_dir, "coco_panoptic_annotations")
  _lay_out(archives, folder)
  counts = {part: _check(folder, part) for part in PARTS.values()}
  if not annotations_only:
    _prepare_tfds(archives, data_dir, counts)
  return folder


def _archive(folder: str, name: str) -> str:
  """Finds an archive, or downloads it."""
  path = os.path.join(folder, name)
  if os.path.exists(path):
    logging.info("Using %s", path)
    return path
  where, expected = ARCHIVES[name]
  url = f"{URL}/{where}/{name}"

  def accept(digest):
    if digest != expected:
      raise ConfigError(
        f"{url} has the sha256 {digest}, expected {expected}: try again."
      )

  logging.info("Downloading %s to %s", url, path)
  try:
    transfer.transfer(url, path, lambda: os.path.exists(path), accept)
  except OSError as e:
    raise ConfigError(
      f"Cannot download {url}: {e}. Call again to go on, or put a copy of the "
      f"archive into --archives={folder}"
    ) from e
  return path


def _lay_out(archives: str, folder: str) -> None:
  """Puts the annotations into a folder, unless they are there."""
  names = [f"panoptic_{p}.{e}" for p in PARTS.values() for e in ("json", "zip")]
  missing = [n for n in names if not os.path.exists(os.path.join(folder, n))]
  if not missing:
    return
  path = _archive(archives, ANNOTATIONS)
  os.makedirs(folder, exist_ok=True)
  try:
    with zipfile.ZipFile(path) as archive:
      for name in missing:
        target = os.path.join(folder, name)
        with (
          archive.open(f"annotations/{name}") as source,
          open(f"{target}.part", "wb") as f,
        ):
          shutil.copyfileobj(source, f, 1 << 20)
        os.replace(f"{target}.part", target)
  except (KeyError, zipfile.BadZipFile) as e:
    raise ConfigError(
      f"{path} is not COCO's {ANNOTATIONS}: {e}. Delete it to download it."
    ) from e


def _check(folder: str, part: str) -> int:
  """Checks the annotations of a part, and counts its images."""
  from big_vision.datasets import panoptic_categories  # Slow to import.
  from big_vision.evaluators.proj.uvim import coco_files

  path = os.path.join(folder, f"panoptic_{part}.json")
  categories = panoptic_categories.of_file(path)
  if categories != panoptic_categories.coco():
    raise ConfigError(
      f"{path}: the categories are not the 133 of COCO's panoptic segmentation."
    )
  # COCO publishes this list apart from the annotations, which have it, too.
  listed = os.path.join(folder, coco_files.CATEGORIES)
  if not os.path.exists(listed):
    with open(listed, "w", encoding="utf-8") as f:
      json.dump(panoptic_categories.to_json(categories), f, indent=1)
  annotations = coco_files.Annotations(folder, part, categories)
  annotations.check()
  print(f"{path}: {len(annotations.ids)} annotated images.")
  return len(annotations.ids)


def _prepare_tfds(archives: str, data_dir: str, counts: dict[str, int]) -> Any:
  """Prepares the TFDS dataset of the archives, and counts its examples."""
  from big_vision.tf import tfds  # Slow to import.

  builder = tfds.builder("coco/2017_panoptic", data_dir=data_dir)
  if not builder.info.splits:
    for name in ARCHIVES:
      _archive(archives, name)
    config = tfds.download.DownloadConfig(manual_dir=archives)
    builder.download_and_prepare(download_config=config)
  for split, part in PARTS.items():
    num = builder.info.splits[split].num_examples
    if num != counts[part]:
      raise ConfigError(
        f"{builder.data_dir}: the split {split!r} has {num} examples, but "
        f"panoptic_{part}.json annotates {counts[part]} images. Delete what is not "
        "from COCO 2017."
      )
  print(f"coco/2017_panoptic: {builder.data_dir}")


def main(argv: Sequence[str] | None = None) -> int:
  """Prepares the data that the command line describes.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser(
    "big_vision.tools.prepare_coco_panoptic", __doc__
  )
  parser.add_argument(
    "--archives",
    help="Folder with archives of COCO; what it lacks is downloaded into it "
    "(default: downloads/manual in the TFDS folder).",
  )
  parser.add_argument(
    "--coco_data_dir",
    help="Folder for annotations (default: $COCO_DATA_DIR, else "
    "coco_panoptic_annotations in the TFDS folder).",
  )
  parser.add_argument(
    "--data_dir",
    help="TFDS folder (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets).",
  )
  parser.add_argument(
    "--annotations_only",
    action="store_true",
    help="Leave out the TFDS dataset, which needs the archives of images.",
  )
  args = parser.parse_args(argv)
  from big_vision.training import user_errors  # Slow to import.

  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  with user_errors.one_line():
    folder = prepare(
      args.archives, args.coco_data_dir, args.data_dir, args.annotations_only
    )
  print(f"export COCO_DATA_DIR={folder}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
