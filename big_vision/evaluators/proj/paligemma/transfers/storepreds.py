"""Writes what a model says about each example."""

from collections.abc import Iterator, Mapping
from typing import Any

from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial


class Evaluator(common.TextEvaluator):
  """Yields `num_examples`; writes a JSON list of `{"id": …, "caption": …}`."""

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str | None = None,
    preds_outfile: str | None = "{workdir}/{name}_{split}_preds.json",
    annot_outfile: str | None = "{workdir}/{name}_{split}_annotations.json",
    id_key: str = "id",
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: see `common.TextEvaluator`.
      preds_outfile: `outfile` of `common.TextEvaluator`.
      annot_outfile: of earlier configs; nothing is written there.
      id_key: feature that tells examples apart, text in the file.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.
    """
    del annot_outfile
    super().__init__(
      predict_fn,
      tokenizer,
      preds_outfile,
      needs=(id_key,),
      data=data,
      devices=devices,
      **kw,
    )
    self._id_key = id_key

  def score(self, example: common.Example) -> common.Result:
    """Says what is written of an example, see `common.TextEvaluator`."""
    name = str(common.plain(example.features[self._id_key]))
    return common.Result({}, {self._id_key: name, "caption": example.text})

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Counts the examples, see `common.TextEvaluator`."""
    yield "num_examples", len(results)
