"""Gives prepared TFDS datasets random access, or makes their images small.

  python -m big_vision.tools.convert_dataset NAME... [--format=array_record]
  python -m big_vision.tools.convert_dataset NAME... --resize=256 --out=DIR
    [--store=jpeg]

Training then shuffles all examples, needs no shuffle buffer and no cache, and
resumes at once. A name may carry a config and a version, as in
`coco/2017_panoptic:1.1.0`; the datasets lie in --data_dir, $TFDS_DATA_DIR or
~/tensorflow_datasets.

--format=index (the default) writes a file with the position of each example in
the TFRecord files, 8 bytes per example. It suits local disks and gs://.
--format=array_record copies the examples into files of the format array_record,
beside the others. With --replace the TFRecord files are deleted afterwards.

--resize=256 writes a copy of each dataset to the TFDS folder --out, in which the
shorter side of images has at most 256 pixels (by the mean of what becomes a pixel).
The same config reads it with `data_dir` there, in the same order and with the same
random numbers; it crops the smaller images. They are stored as plain pixels, which
needs no decoding, or with --store=jpeg as JPEG of --quality, without subsampling of
colors. docs/datasets.md has size and speed of both.

It may be interrupted, and continues with the next shard when it starts again.
"""

import os
from collections.abc import Sequence

from big_vision import command_line
from big_vision.training import user_errors


def main(argv: Sequence[str] | None = None) -> None:
  """Converts the datasets that the command line names.

  Args:
    argv: arguments; None takes those of the process.
  """
  parser = command_line.make_parser("big_vision.tools.convert_dataset", __doc__)
  add = parser.add_argument
  add("names", nargs="+", metavar="NAME", help="TFDS dataset.")
  add(
    "--format",
    choices=("index", "array_record"),
    default="index",
    help="What to make.",
  )
  add("--replace", action="store_true", help="Delete the TFRecord files.")
  add("--data_dir", help="TFDS folder instead of $TFDS_DATA_DIR.")
  add(
    "--num_workers", type=int, default=os.cpu_count(), help="Shards at a time."
  )
  add("--resize", type=int, help="Pixels of the shorter side, at most.")
  add("--out", help="TFDS folder for what --resize makes.")
  add(
    "--store",
    choices=("raw", "jpeg"),
    default="raw",
    help="How --resize keeps images.",
  )
  add("--quality", type=int, default=95, help="Of JPEG, 1 to 100.")
  add("--feature", default="image", help="Entry with the image to resize.")
  args = parser.parse_args(argv)
  if bool(args.resize) != bool(args.out):
    parser.error("--resize and --out belong together.")
  if (
    args.resize is not None and args.resize < 1 or not 1 <= args.quality <= 100
  ):
    parser.error("--resize must be at least 1, --quality in 1 to 100.")
  if args.resize and args.replace:
    parser.error("--replace does not go with --resize, which makes a copy.")
  with user_errors.one_line():
    from big_vision.datasets import conversion

    for name in args.names:
      if args.resize:
        print(f"{name}: images of {args.resize} in {_resize(name, args)}")
        continue
      folder = conversion.convert(
        name,
        args.format,
        data_dir=args.data_dir,
        replace=args.replace,
        num_workers=args.num_workers,
      )
      print(f"{name}: random access ({args.format}) in {folder}")


def _resize(name, args):
  """Writes the copy with small images; returns its folder."""
  from big_vision.datasets import resized

  resizing = resized.Resizing(
    args.resize, args.store, args.quality, args.feature
  )
  return resized.write(
    name,
    resizing,
    args.out,
    to=args.format,
    data_dir=args.data_dir,
    num_workers=args.num_workers,
  )


if __name__ == "__main__":
  main()
