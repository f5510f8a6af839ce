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
from collections.abc import Sequence

from absl import app, logging

from big_vision import lookup
from big_vision.datasets import embedded
from big_vision.tf import tfds

DEFAULT_NAMES = (
  "cifar10",
  "cifar100",
  "oxford_iiit_pet",
  "oxford_flowers102",
  "imagenet_v2",
)
# Datasets that TFDS does not have: modules with `Builder` and `prepare`.
OWN_NAMES = tuple(embedded.MODULES)


def main(argv: Sequence[str]) -> None:
  """Prepares each dataset that the command line names.

  Args:
    argv: the program, then names. `app.run` has taken the flags
      out of it.

  Raises:
    ValueError: a name that TFDS and this package do not know, before anything
      is downloaded.
    RuntimeError: some datasets failed; the others are prepared.
  """
  names = argv[1:] or DEFAULT_NAMES
  jobs = {name: _find(name) for name in names}  # All are checked first.
  failed = {}
  for name, prepare in jobs.items():
    logging.info("Preparing dataset %s", name)
    try:
      builder = prepare()
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
  dataset, config, version = _parse(name)
  if dataset in OWN_NAMES:
    return _own(name, dataset, config, version)
  data_dir = embedded.default_data_dir()
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as e:
    known = [*tfds.list_builders(), *OWN_NAMES]
    raise lookup.unknown("TFDS dataset", name, known) from e
  except (AssertionError, ValueError) as e:  # Of the config or the version.
    raise ValueError(f"TFDS dataset {name!r}: {e}") from e

  def prepare():
    builder.download_and_prepare()
    return builder

  return prepare


def _parse(name):
  """`dataset[/config][:version]` -> (dataset, config, version) or None each."""
  match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\w.*]+))?", name)
  if not match:
    raise ValueError(
      f"{name!r} is not a name of a TFDS dataset, which looks like "
      "dataset, dataset/config, dataset:version or dataset/config:version."
    )
  return match.groups()


def _own(name, dataset, config, version):
  """`_find` for the datasets whose builders are in this package."""
  module = importlib.import_module(embedded.MODULES[dataset])
  configs = [c.name for c in module.Builder.BUILDER_CONFIGS]
  if config and config not in configs:
    raise lookup.unknown(f"config of the dataset {dataset!r}", config, configs)
  has = module.Builder.VERSION
  if version and not has.match(version):
    raise ValueError(
      f"{name!r}: this package makes version {has} of {dataset!r} only."
    )
  return lambda: module.prepare(**({"config": config} if config else {}))


if __name__ == "__main__":
  app.run(main)
