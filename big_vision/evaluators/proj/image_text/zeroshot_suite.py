"""Classifies zero-shot on many datasets, as far as they are prepared.

The evaluator is `discriminative_classifier`, with a table at the end that also
lists the datasets that were left out, and why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging

from big_vision.evaluators import files
from big_vision.evaluators.proj.image_text import (
  discriminative_classifier,
  overrides,
)
from big_vision.probes import table
from big_vision.types import Devices, PredictFn, TrainState

API = "jit"

trial = discriminative_classifier.trial


def missing(
  names: Sequence[str], own: Any, data_dir: str | None = None
) -> dict[str, str]:
  """Finds datasets that cannot be evaluated.

  Args:
    names: `dataset_names`.
    own: `dataset_overrides`.
    data_dir: the TFDS folder.

  Returns:
    Name -> what to do about it.
  """
  from big_vision.datasets import embedded, tfds  # The TensorFlow wing.

  found = {}
  defaults = dict(split="test", data_dir=data_dir)
  for name, s in overrides.resolve(defaults, names, own).items():
    dataset, folder = s["dataset_name"], s["data_dir"]
    try:
      builder = tfds.get_builder(dataset, embedded.default_data_dir(folder))
    except ValueError:
      found[name] = (
        "not prepared: python -m big_vision.tools.download_tfds_datasets "
        f"{dataset}"
      )
      continue
    try:
      tfds.check_split(builder, s["split"])
    except ValueError as e:
      found[name] = str(e)
  return found


def _present(cfg: Mapping[str, Any]) -> dict[str, Any]:
  """Leaves out of a config what is missing."""
  names = cfg.get("dataset_names", discriminative_classifier.DATASET_NAMES)
  own = cfg.get("dataset_overrides", overrides.DEFAULT_OVERRIDES)
  names, own, _ = _choose(names, own, cfg.get("data_dir"))
  return {**cfg, "dataset_names": names, "dataset_overrides": own}


def _choose(
  names: Sequence[str], own: Any, data_dir: str | None
) -> tuple[list[str], Any, dict[str, str]]:
  """Returns names and overrides of what is there, and what is missing."""
  without = missing(names, own, data_dir)
  present = [name for name in names if name not in without]
  if own is not overrides.DEFAULT_OVERRIDES:
    own = {k: dict(v) for k, v in dict(own).items() if k in present}
  return present, own, without


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Lists the datasets of a config that are prepared.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Pairs of a config key and the arguments of `datasets.core.get`.
  """
  return discriminative_classifier.data_sources(_present(cfg))


def inputs(
  cfg: Mapping[str, Any],
) -> list[tuple[str, Any, str, tuple[str, ...]]]:
  """Lists what is preprocessed, of the first dataset that is prepared.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Tuples of a config key, data, preprocessing string, and the features that
    the predict function gets.
  """
  return discriminative_classifier.inputs(_present(cfg))


def check_labels(cfg: Mapping[str, Any]) -> None:
  """Checks that there are enough names of classes, before data is opened.

  Args:
    cfg: arguments of the evaluator.
  """
  discriminative_classifier.check_labels(_present(cfg))


class Evaluator(discriminative_classifier.Evaluator):
  """Gives `<name>_accuracy` of each dataset that is there, and their mean."""

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    batch_size: int,
    devices: Devices,
    dataset_names: Sequence[str] = discriminative_classifier.DATASET_NAMES,
    dataset_overrides: Any = overrides.DEFAULT_OVERRIDES,
    data_dir: str | None = None,
    outfile: str = "{workdir}/zeroshot.csv",
    workdir: str | None = None,
    get_step: Callable[[], int | None] = lambda: None,
    **kw: Any,
  ) -> None:
    """Opens the data that is there.

    Args:
      predict_fn: see `discriminative_classifier`, as of all that follows.
      batch_size: global batch size.
      devices: flat array of devices in the order of the mesh.
      dataset_names: what to evaluate.
      dataset_overrides: their settings.
      data_dir: the TFDS folder.
      outfile: the table, with {workdir} and {step}; "" for none.
      workdir: folder of the run.
      get_step: returns the current step of the run.
      **kw: further settings.
    """
    self._names = list(dataset_names)
    names, own, self._missing = _choose(
      dataset_names, dataset_overrides, data_dir
    )
    super().__init__(
      predict_fn,
      batch_size=batch_size,
      devices=devices,
      dataset_names=names,
      dataset_overrides=own,
      data_dir=data_dir,
      **kw,
    )
    self._outfile, self._workdir, self._step = outfile, workdir, get_step

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates the datasets.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float), at the end `mean_accuracy` over those that are there.
    """
    results = {}
    for name, result in self._evaluate_all(train_state):
      results[name] = result
      yield f"{name}_accuracy", result["accuracy"]
    if results:
      mean = sum(r["accuracy"] for r in results.values()) / len(results)
      yield "mean_accuracy", mean
    self._show(results)

  def _show(self, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Logs a table and writes it."""
    if jax.process_index():
      return
    header = ("dataset", "classes", "images", "accuracy", "status")
    rows = []
    for name in self._names:
      if name in self._missing:
        rows.append((name, None, None, None, self._missing[name]))
        continue
      num, r = len(self.datasets[name]["class_names"]), results[name]
      rows.append((name, num, r["count"], r["accuracy"], ""))
    found = [r["accuracy"] for r in results.values()]
    mean = sum(found) / len(found) if found else None
    rows.append(
      ("mean", None, None, mean, f"of {len(found)} of {len(self._names)}")
    )
    logging.info("Zero-shot classification:\n%s", table.text(header, rows))
    path = files.resolve_outfile(
      self._outfile, workdir=self._workdir, step=self._step()
    )
    if path:
      files.write_csv(path, header, rows)
