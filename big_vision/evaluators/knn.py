"""Measures representations by their nearest neighbors, as DINO does.

A test image gets the class with the most votes of the K training images with
the largest cosine similarity; their weights are exp(similarity / temperature).

References: Caron et al. 2021, appendix F.1, https://arxiv.org/abs/2104.14294.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from big_vision import devices as bv_devices
from big_vision.evaluators import features, iteration
from big_vision.evaluators.features import data_sources, inputs
from big_vision.lookup import ConfigError
from big_vision.probes import neighbors
from big_vision.types import Batch, Devices, PredictFn, TrainState

API = "jit"

__all__ = ["API", "Evaluator", "data_sources", "inputs", "trial"]

TOPS = (1, 5)


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  layer = cfg.get("representation_layer", "zimg")
  extractor = features.Extractor(
    predict_fn,
    cfg["batch_size"],
    cfg["devices"],
    **{k: cfg[k] for k in features.SETTINGS if k in cfg},
  )
  return extractor.fn([layer])(train_state, batch)


class Evaluator:
  """Yields `k<K>/prec@1` and `k<K>/prec@5` for each number of neighbors.

  Both are fractions of all test images; one without a label, -1, counts as
  wrong. They are NaN if a feature is not finite.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    train: Mapping[str, Any],
    data: Mapping[str, Any],
    pp_fn: str,
    batch_size: int,
    devices: Devices,
    ks: Sequence[int] = (10, 20),
    temperature: float = 0.07,
    representation_layer: str = "zimg",
    tower: str = "",
    norm_eps: float = 1e-6,
    label_key: str = "label",
    mask_key: str = "_mask",
  ) -> None:
    """Remembers what to do; data is opened at the first run.

    Args:
      predict_fn: `(train_state, batch) -> (zimg [B, D], ..., out)`; the batch
        is without labels and mask.
      train: data of the neighbors, as `config.input.data`.
      data: data of the test, as `config.input.data`.
      pp_fn: preprocessing of both, which keeps the int labels.
      batch_size: global batch size.
      devices: flat array of devices in the order of the mesh.
      ks: numbers of neighbors.
      temperature: of the weights of the votes.
      representation_layer: path in `out`, or tokens such as `cls1` or
        `cls4+mean`, see `layers.py`; "zimg" is the first output.
      tower: "img" for tokens of a model with two towers.
      norm_eps: `norm_eps` of the model, for tokens.
      label_key: feature with the integer labels.
      mask_key: feature that is False on padding.

    Raises:
      ConfigError: `ks` or `temperature` is not positive.
    """
    bv_devices.check_batch_size(batch_size, devices)
    if not ks or any(not isinstance(k, int) or k < 1 for k in ks):
      raise ConfigError(
        f"ks={ks!r} should be numbers of neighbors, such as (10, 20)."
      )
    if not temperature > 0:
      raise ConfigError(f"temperature={temperature} should be positive.")
    self._train, self._data, self._pp_fn = dict(train), dict(data), pp_fn
    self._ks, self._temperature = tuple(ks), temperature
    self._layer = representation_layer
    self._devices = devices
    self._extractor = features.Extractor(
      predict_fn,
      batch_size,
      devices,
      label_key=label_key,
      mask_key=mask_key,
      tower=tower,
      norm_eps=norm_eps,
    )

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Computes features of both splits, then finds neighbors.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float).

    Raises:
      ConfigError: there are fewer training images than neighbors.
    """
    train, test = self._extractor.run_all(
      train_state, (self._train, self._data), self._pp_fn, [self._layer]
    )
    if max(self._ks) > len(train.labels):
      raise ConfigError(
        f"ks={self._ks}: the training split has {len(train.labels)} images."
      )
    for labels, data, what in (
      (train.labels, self._train, "they vote for no class"),
      (test.labels, self._data, "they count as wrong"),
    ):
      iteration.warn_once(self, int((labels < 0).sum()), data, what)
    if not (train.is_finite() and test.is_finite()):
      for k in self._ks:
        yield from ((f"k{k}/prec@{top}", float("nan")) for top in TOPS)
      return
    similarities, found = neighbors.find(
      train.layer(self._layer),
      test.layer(self._layer),
      max(self._ks),
      self._devices,
    )
    num_classes = int(max(train.labels.max(), test.labels.max(), 0)) + 1
    found = train.labels[found]
    for k in self._ks:
      accuracies = neighbors.accuracies(
        similarities[:, :k],
        found[:, :k],
        test.labels,
        num_classes,
        self._temperature,
        TOPS,
      )
      for top, accuracy in zip(TOPS, accuracies, strict=True):
        yield f"k{k}/prec@{top}", accuracy
