"""Downloads and prepares TFDS datasets.

  python -m big_vision.tools.download_tfds_datasets [NAME...]

A name may carry a config and a version: `imagenet_v2`, `coco/2017_panoptic`,
`cifar10:3.0.2`, `shapes/tiny`. Without names, a few small datasets that the
transfer and few-shot configs use are prepared. They go to $TFDS_DATA_DIR, or
else to ~/tensorflow_datasets. What is prepared already is left alone.

Some datasets, ImageNet for one, ask for files that one has to download by
hand; docs/datasets.md says where to put them. `imagenet21k`, which TFDS does
not have, is one of them.
"""

import importlib
import re
import sys
from collections.abc import Sequence

from absl import logging

from big_vision import command_line, lookup
from big_vision.tf import tfds
from big_vision.training import user_errors

DEFAULT_NAMES = (
  "cifar10",
  "cifar100",
  "oxford_iiit_pet",
  "oxford_flowers102",
  "imagenet_v2",
)


def prepare(names: Sequence[str]) -> None:
  """Prepares datasets, one after the other.

  Args:
    names: see the top of this file.

  Raises:
    ValueError: a name that TFDS and this package do not know, before anything
      is downloaded.
    RuntimeError: some datasets failed; the others are prepared.
  """
  jobs = {name: _find(name) for name in names}  # All are checked first.
  failed = {}
  for name, job in jobs.items():
    logging.info("Preparing dataset %s", name)
    try:
      builder = job()
    # Whatever stops one download should not cost the night for the others.
    except Exception as e:
      logging.exception("Dataset %s failed", name)
      failed[name] = e
    else:
      print(f"{name}: {builder.data_dir}")
  if failed:
    lines = [f"{name}: {e}" for name, e in failed.items()]
    raise RuntimeError("Could not prepare " + "\n".join(lines)) from next(
      iter(failed.values())
    )


def _find(name):
  """A function that prepares the dataset and returns its builder."""
  from big_vision.datasets import embedded

  dataset, config, version = _parse(name)
  if dataset in embedded.MODULES:  # TFDS does not have these.
    return _own(name, embedded.MODULES[dataset], dataset, config, version)
  data_dir = embedded.default_data_dir()
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as e:
    known = [*tfds.list_builders(), *embedded.MODULES]
    raise lookup.unknown("TFDS dataset", name, known) from e
  except (AssertionError, ValueError) as e:  # Of the config or the version.
    raise ValueError(f"TFDS dataset {name!r}: {e}") from e

  def job():
    builder.download_and_prepare()
    return builder

  return job


def _parse(name):
  """`dataset[/config][:version]` -> (dataset, config, version) or None each."""
  match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\w.*]+))?", name)
  if not match:
    raise ValueError(
      f"{name!r} is not a name of a TFDS dataset, which looks like "
      "dataset, dataset/config, dataset:version or dataset/config:version."
    )
  return match.groups()


def _own(name, path, dataset, config, version):
  """`_find` for the datasets whose `Builder` and `prepare` are in this package."""
  module = importlib.import_module(path)
  configs = [c.name for c in module.Builder.BUILDER_CONFIGS]
  if config and config not in configs:
    raise lookup.unknown(f"config of the dataset {dataset!r}", config, configs)
  has = module.Builder.VERSION
  if version and not has.match(version):
    raise ValueError(
      f"{name!r}: this package makes version {has} of {dataset!r} only."
    )
  return lambda: module.prepare(**({"config": config} if config else {}))


def main(argv: Sequence[str] | None = None) -> int:
  """Prepares each dataset that the command line names.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser(
    "big_vision.tools.download_tfds_datasets", __doc__
  )
  parser.add_argument(
    "names",
    nargs="*",
    metavar="NAME",
    help=f"TFDS datasets (default: {', '.join(DEFAULT_NAMES)}).",
  )
  args = parser.parse_args(argv)
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  with user_errors.one_line():
    prepare(args.names or DEFAULT_NAMES)
  return 0


if __name__ == "__main__":
  sys.exit(main())
