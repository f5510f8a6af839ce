"""Fits linear classifiers to the features of a frozen model.

Features of all splits are computed once. Settings and layers are chosen on
held-out examples of the training split, then the classifier is fitted once more
to all of it. The methods are

  ridge   least squares with a penalty, in closed form
  lbfgs   logistic regression
  sgd     SGD with a grid of learning rates

References: Oquab et al. 2023, section B.3 (layers, learning rates),
  https://arxiv.org/abs/2304.07193; Radford et al. 2021, appendix A.3 (L-BFGS),
  https://arxiv.org/abs/2103.00020.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from big_vision import devices as bv_devices
from big_vision import fs, guards, lookup
from big_vision.evaluators import features, files, iteration, layers
from big_vision.evaluators.features import data_sources, inputs
from big_vision.probes import linear, table
from big_vision.types import Batch, Devices, PredictFn, TrainState

API = "jit"

__all__ = ["API", "Evaluator", "data_sources", "inputs", "trial"]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  names = cfg.get("layers")
  if names is None:
    names = layers.default_layers(train_state, cfg.get("tower", ""))
  extractor = features.Extractor(
    predict_fn,
    cfg["batch_size"],
    cfg["devices"],
    **{k: cfg[k] for k in features.SETTINGS if k in cfg},
  )
  return extractor.fn(names)(train_state, batch)


class Evaluator:
  """Yields accuracies in [0, 1] on the test split, see `linear.metrics`.

  `prec@1` is that of the method and layer that are best on held-out examples,
  whose accuracy is `val_prec@1`; `<method>/prec@1` and so on are those of each
  method, `<method>/<layer>/prec@1` of each layer.
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
    val: Mapping[str, Any] | None = None,
    holdout: float = 0.1,
    methods: Sequence[str] = tuple(linear.METHODS),
    layers: Sequence[str] | None = None,
    l2_regs: Sequence[float] = linear.METHODS["ridge"].values,
    costs: Sequence[float] = linear.METHODS["lbfgs"].values,
    learning_rates: Sequence[float] = linear.METHODS["sgd"].values,
    max_iter: int = 1000,
    sgd_steps: int | None = None,
    sgd_batch_size: int = 1024,
    normalize: bool = False,
    refit: bool = True,
    seed: int = 0,
    tower: str = "",
    norm_eps: float = 1e-6,
    label_key: str = "label",
    mask_key: str = "_mask",
    cache_features: bool = False,
    outfile: str = "{workdir}/linear_probe.csv",
    workdir: str | None = None,
    get_step: Callable[[], int | None] = lambda: None,
  ) -> None:
    """Remembers what to do; data is opened at the first run.

    Args:
      predict_fn: `(train_state, batch) -> (zimg [B, D], ..., out)`; the batch
        is without labels and mask.
      train: data to fit, as `config.input.data`.
      data: data of the test, as `config.input.data`.
      pp_fn: preprocessing of all of it, which keeps the int labels.
      batch_size: global batch size.
      devices: flat array of devices in the order of the mesh.
      val: data to choose settings on; None holds out a part of `train`.
      holdout: that part, in (0, 1).
      methods: "ridge", "lbfgs", "sgd", or some of them.
      layers: features to choose from, see `layers.py`; None is the choice of
        DINOv2 for models with class tokens.
      l2_regs: penalties of "ridge".
      costs: factors of the cross entropy in "lbfgs", scikit-learn's C.
      learning_rates: of "sgd", times batch size / 256.
      max_iter: most iterations of "lbfgs" for each of the costs.
      sgd_steps: number of batches of "sgd"; None: see `sgd.num_steps`.
      sgd_batch_size: their size.
      normalize: whether to divide each feature by its standard deviation, after
        its mean is subtracted.
      refit: whether to fit the chosen setting to held-out examples, too.
      seed: of what is held out, and of "sgd".
      tower: "img" for tokens of a model with two towers.
      norm_eps: `norm_eps` of the model, for tokens.
      label_key: feature with the integer labels.
      mask_key: feature that is False on padding.
      cache_features: whether to keep features in `<workdir>/features`.
      outfile: table of all results, with {workdir} and {step}; "" for none.
      workdir: folder of the run.
      get_step: returns the current step of the run.

    Raises:
      ConfigError: unknown method, or an empty or impossible setting.
    """
    bv_devices.check_batch_size(batch_size, devices)
    self._values = dict(
      zip(linear.METHODS, (l2_regs, costs, learning_rates), strict=True)
    )
    for name in methods:
      if name not in linear.METHODS:
        raise lookup.unknown(
          "method", name, linear.METHODS, "methods", lookup.ConfigError
        )
    _check(methods, layers, self._values, holdout)
    self._data = dict(train=dict(train), data=dict(data))
    if val:
      self._data["val"] = dict(val)
    self._pp_fn, self._layers = pp_fn, layers
    self._methods, self._holdout = tuple(methods), holdout
    self._normalize, self._refit, self._seed = normalize, refit, seed
    self._kw = dict(
      max_iter=max_iter, steps=sgd_steps, batch_size=sgd_batch_size, seed=seed
    )
    self._devices, self._tower = devices, tower
    self._outfile, self._workdir, self._step = outfile, workdir, get_step
    folder = cache_features and fs.join(workdir or "", "features")
    self._extractor = features.Extractor(
      predict_fn,
      batch_size,
      devices,
      label_key=label_key,
      mask_key=mask_key,
      tower=tower,
      norm_eps=norm_eps,
      folder=folder if workdir and folder else "",
    )

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Computes features, then fits and measures all classifiers.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float).
    """
    names = self._layers
    if names is None:
      names = layers.default_layers(train_state, self._tower)
    found = self._extractor.run_all(
      train_state, [*self._data.values()], self._pp_fn, names
    )
    data = dict(zip(self._data, found, strict=True))
    yield from linear.metrics(self._fit(data, names))

  @guards.transfers
  def _fit(
    self, data: dict[str, features.Features], names: Sequence[str]
  ) -> list[linear.Result]:
    """Fits all methods to all layers."""
    for key in data:
      labels, what = data[key].labels, "they are left out"
      what = "they count as wrong" if key == "data" else what
      num = int((labels < 0).sum())
      iteration.warn_once(self, num, self._data[key], what)
      if key != "data" and num:
        data[key] = data[key].take(labels >= 0)
    num_classes = 1 + int(max(d.labels.max(initial=0) for d in data.values()))
    train, test, val = data["train"], data["data"], data.get("val")
    if val is None:
      held = linear.hold_out(train.labels, self._holdout, self._seed)
      val, train = train.take(held), train.take(~held)
    if not len(train.labels) or not len(val.labels):
      raise lookup.ConfigError(
        "train: there are too few labeled examples to hold some of them out."
      )
    finite = all(d.is_finite() for d in data.values())
    results = []
    for layer in names:
      fitted, held_out, tested = self._scale(
        [(d.layer(layer), d.labels) for d in (train, val, test)]
      )
      for method in self._methods:
        values = self._values[method]
        if not finite:  # A diverged model is no reason to stop a run.
          nan, setting = float("nan"), linear.METHODS[method].setting
          results.append(
            linear.Result(method, layer, setting, values[0], nan, nan)
          )
          continue
        results.append(
          linear.sweep(
            method,
            layer,
            fitted,
            held_out,
            tested,
            num_classes,
            values,
            self._devices,
            refit=self._refit,
            **self._kw,
          )
        )
    self._show(results)
    return results

  def _scale(self, parts: list[linear.Data]) -> list[linear.Data]:
    """Scales features by mean and deviation of the first part, if asked to."""
    if not self._normalize:
      return parts
    x = parts[0][0]
    mean = x.mean(axis=0, dtype=np.float64)
    std = x.std(axis=0, dtype=np.float64) + 1e-5
    return [(((x - mean) / std).astype(np.float32), y) for x, y in parts]

  def _show(self, results: Sequence[linear.Result]) -> None:
    """Logs a table and writes it."""
    header = ("method", "layer", "setting", "val prec@1", "test prec@1")
    rows = [
      (r.method, r.layer, f"{r.setting} {r.value:g}", r.val, r.test)
      for r in results
    ]
    if jax.process_index():
      return
    best = linear.best(results)
    logging.info(
      "Linear probes:\n%s\nBest on held-out data: %s of %s, %s %g: test prec@1 "
      "%.4f", table.text(header, rows), best.method, best.layer, best.setting,
      best.value, best.test,
    )  # fmt: skip
    path = files.resolve_outfile(
      self._outfile, workdir=self._workdir, step=self._step()
    )
    if path:
      files.write_csv(path, header, rows)


def _check(
  methods: Sequence[str],
  names: Sequence[str] | None,
  values: Mapping[str, Sequence[float]],
  holdout: float,
) -> None:
  """Refuses settings that cannot be."""
  if not methods or (names is not None and not names):
    key = "layers" if methods else "methods"
    raise lookup.ConfigError(f"{key} is empty: name one or more.")
  if isinstance(methods, str) or isinstance(names, str):
    raise lookup.ConfigError(
      f"methods={methods!r}, layers={names!r} should be lists of names."
    )
  if not 0 < holdout < 1:
    raise lookup.ConfigError(
      f"holdout={holdout} should be a fraction of the training split, such as 0.1."
    )
  keys = dict(
    zip(linear.METHODS, ("l2_regs", "costs", "learning_rates"), strict=True)
  )
  for method, key in keys.items():
    least = 0 if method == "ridge" else 1e-300
    if not values[method] or any(not v >= least for v in values[method]):
      raise lookup.ConfigError(
        f"{key}={values[method]!r} should be positive numbers to try."
      )
