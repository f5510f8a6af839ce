"""Classifies zero-shot by a captioner: the most probable name is the class.

Tschannen et al. 2023, section 4.2, https://arxiv.org/abs/2306.07915. Each name is
scored for each image, which takes as many passes of the decoder as there are
classes.

Shapes: `B` batch, `C` classes, `L` tokens of a name.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from big_vision.evaluators import mean
from big_vision.evaluators.proj.image_text import (
  embedding,
  prompt_engineering,
)
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"

# Where the names of the classes of these datasets are from.
_NAMES = {"imagenet2012": "clip"}


@functools.lru_cache(16)
def label_tokens(names: tuple[str, ...], pp_txt: str) -> np.ndarray:
  """Preprocesses the names of classes.

  Args:
    names: C texts.
    pp_txt: preprocessing of `label`, a string scalar, to `labels` [L].

  Returns:
    int [C, L].

  Raises:
    ValueError: `pp_txt` gives no `labels`.
  """
  from big_vision.tf import tf

  ds = tf.data.Dataset.from_tensor_slices({"label": list(names)})
  ds = embedding.preprocess(ds, pp_txt, ("labels",))
  return np.stack([x["labels"] for x in ds.as_numpy_iterator()])


def names_of(cfg: Mapping[str, Any]) -> tuple[str, ...]:
  """Finds the names of the classes of an evaluator.

  Args:
    cfg: its arguments: `data`, `class_names`.

  Returns:
    C texts, in the order of the labels.

  Raises:
    KeyError: there are no such names.
    ValueError: see `prompt_engineering.get_class_names`.
  """
  data = cfg["data"]
  source = cfg.get("class_names")
  if source is None:
    source = _NAMES.get(data["name"], "dataset_info:label")
  return tuple(
    prompt_engineering.get_class_names(
      dataset_name=data["name"],
      source=source,
      canonicalize=False,
      data_dir=data.get("data_dir"),
    )
  )


@functools.cache  # One compilation for all evaluators of a predict function.
def _classify(predict_fn, names, pp_txt):
  """Makes a function for `mean`: `(train_state, batch) -> {"prec@1": [B]}`."""
  tokens = label_tokens(names, pp_txt)

  def fn(train_state, batch):
    scores = predict_fn(train_state, {"_label_tokens": tokens, **batch})
    return {"prec@1": jnp.argmax(scores, axis=1) == batch["label"]}

  return fn


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = _classify(predict_fn, names_of(cfg), cfg["pp_txt"])
  return mean.trial(fn, train_state, batch, cfg)


class Evaluator(mean.Evaluator):
  """Yields `prec@1`, the part of the images whose name is the most probable."""

  classes_of_training = False

  def __init__(
    self,
    predict_fn: Callable[[TrainState, Batch], Array],
    data: Mapping[str, Any],
    pp_fn: str,
    pp_txt: str,
    class_names: str | Sequence[str] | None = None,
    **kw: Any,
  ) -> None:
    """Opens the data, and tokenizes the names of the classes.

    Args:
      predict_fn: `(train_state, batch) -> [B, C]`, higher for more probable names;
        the batch has `_label_tokens` int [C, L] besides what `pp_fn` leaves.
      data: arguments of `datasets.core.get`.
      pp_fn: preprocessing string, to `image` and `label`, the class.
      pp_txt: preprocessing of `label`, the name of a class, to `labels`.
      class_names: the names, or where they are from, see
        `prompt_engineering.get_class_names`; None are those of CLIP for
        imagenet2012, and those that the dataset has for `label` for others.
      **kw: further arguments of `evaluation.eval_input_pipeline`.
    """
    names = names_of(dict(data=data, class_names=class_names))
    fn = _classify(predict_fn, names, pp_txt)
    super().__init__(fn, data=data, pp_fn=pp_fn, **kw)
