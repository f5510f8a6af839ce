"""Captions of images, compared with those of people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from big_vision import lookup
from big_vision.evaluators.proj.paligemma.transfers import (
  caption_scores,
  common,
)
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial


class Evaluator(common.TextEvaluator):
  """Yields the scores that `metrics` names, and writes captions and references.

  Features: `image/id`, and `captions`, one text or more.

  The scores are those of papers, which write CIDEr as percentage, see
  `caption_scores.py`. METEOR and SPICE need Java programs, and are not there.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str | None = None,
    metrics: Sequence[str] = ("cider",),
    preds_outfile: str | None = "{workdir}/{name}_{split}_preds.json",
    annot_outfile: str | None = "{workdir}/{name}_{split}_annotations.json",
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: see `common.TextEvaluator`.
      metrics: any of "bleu-4", "cider" and "rouge".
      preds_outfile: `outfile` of `common.TextEvaluator`, for a list of
        `{"image_id": …, "caption": …}`.
      annot_outfile: the same for the references, of which images have several.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.

    Raises:
      ConfigError: there is no such score.
    """
    self._metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    known = sorted(caption_scores.SCORES)
    for name in self._metrics:
      if name not in known:
        raise lookup.ConfigError(
          f"metrics={self._metrics}: there is no {name!r}, only "
          f"{', '.join(known)}. METEOR and SPICE need Java programs: compute "
          "them from the files that this evaluator writes."
        )
    super().__init__(
      predict_fn,
      tokenizer,
      preds_outfile,
      needs=("image/id", "captions"),
      data=data,
      devices=devices,
      **kw,
    )
    self._annot_outfile = annot_outfile

  def score(self, example: common.Example) -> common.Result:
    """Collects a caption and its references, see `common.TextEvaluator`."""
    record = {
      "image_id": common.plain(example.features["image/id"]),
      "caption": example.text,
      "references": common.texts(example.features["captions"]),
    }
    return common.Result({}, record)

  def run(self, train_state: Any) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset, after it has written the files.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, value), the same on all processes.

    Raises:
      ConfigError: an image has no reference, or is there twice.
    """
    results = self.results(train_state)
    captions, references = [], []
    for _, record in results:
      image = {"image_id": record["image_id"]}
      captions.append({**image, "caption": record["caption"]})
      references += [{**image, "caption": t} for t in record["references"]]
    self.write(self._outfile, captions)
    self.write(self._annot_outfile, references)
    yield from self.metrics(results)

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Scores all captions, see `common.TextEvaluator`."""
    if not self._metrics:
      return
    seen, captions, references = set(), [], []
    for _, record in results:
      image_id, of_people = record["image_id"], record["references"]
      if image_id in seen or not of_people:
        what = "of two examples" if of_people else "without `captions`"
        raise lookup.ConfigError(
          f"The image {image_id!r} is {what}. All captions of an image have to "
          "be in one example; metrics=() only writes the files."
        )
      seen.add(image_id)
      captions.append(caption_scores.tokenize(record["caption"]))
      references.append([caption_scores.tokenize(t) for t in of_people])
    for name in self._metrics:
      yield name, caption_scores.SCORES[name](captions, references)
