"""Gives prepared TFDS datasets random access.

  python -m big_vision.tools.convert_dataset NAME... [--format=array_record]

Training then shuffles all examples, needs no shuffle buffer and no cache, and
resumes at once. A name may carry a config and a version, as in
`coco/2017_panoptic:1.1.0`; the datasets lie in --data_dir, $TFDS_DATA_DIR or
~/tensorflow_datasets.

--format=index (the default) writes a file with the position of each example in
the TFRecord files, 8 bytes per example. It suits local disks and gs://.
--format=array_record copies the examples into files of the format array_record,
beside the others. With --replace the TFRecord files are deleted afterwards.

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
  args = parser.parse_args(argv)
  with user_errors.one_line():
    from big_vision.datasets import conversion

    for name in args.names:
      folder = conversion.convert(
        name,
        args.format,
        data_dir=args.data_dir,
        replace=args.replace,
        num_workers=args.num_workers,
      )
      print(f"{name}: random access ({args.format}) in {folder}")


if __name__ == "__main__":
  main()
