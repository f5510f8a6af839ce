"""Lets a model answer in text, and scores the answers one by one.

What all evaluators of this package share. Each derives from `TextEvaluator`,
names the features that scoring needs, and defines `score`: what one answer is
worth, and what is written of it. `metrics` averages that, unless it is defined
otherwise.

Letters: B global batch size, L tokens of an answer, N examples.
"""

import collections
import dataclasses
import functools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from big_vision import devices as bv_devices
from big_vision.evaluators import files, iteration
from big_vision.lookup import ConfigError
from big_vision.pipeline import evaluation
from big_vision.types import AnyArray, Batch, Devices, PredictFn, TrainState

# What functions that decode read of a batch.
_INPUTS = ("image", "text", "mask_ar", "mask_input", "mask_logits")


@dataclasses.dataclass(frozen=True)
class Example:
  """An answer and what is known about its example.

  Attributes:
    tokens: int [L], as the predict function returns them.
    text: the answer.
    features: those that stayed on the host, by name.
  """

  tokens: np.ndarray
  text: str
  features: Mapping[str, Any]


class Result(NamedTuple):
  """The score of one example, and its record, of what JSON can say.

  Attributes:
    scores: by name; those that do not apply to the example are not there.
    record: what is written into the file.
  """

  scores: dict[str, float]
  record: dict[str, Any]


def plain(value: Any) -> Any:
  """Converts a feature to what JSON can say.

  Args:
    value: NumPy scalar or array.

  Returns:
    A number, a text or a list.
  """
  return np.asarray(value).tolist()


def texts(value: Any, convert: Callable[[str], str] = str) -> list[str]:
  """Lists the texts of a feature.

  Args:
    value: a text, or an array of them.
    convert: applied to each.

  Returns:
    List of str.
  """
  return [convert(str(text)) for text in np.asarray(value).flat]


def means(results: Sequence[Result]) -> dict[str, float]:
  """Averages each score over the examples that have it.

  Args:
    results: of all examples.

  Returns:
    Name -> mean, in the order in which the names appear.
  """
  values: dict[str, list[float]] = {}
  for result in results:
    for name, value in result.scores.items():
      values.setdefault(name, []).append(value)
  return {name: sum(found) / len(found) for name, found in values.items()}


def means_by_group(
  results: Sequence[Result], groups: Iterable[str]
) -> Iterator[tuple[str, float]]:
  """Averages `acc`, and `acc/<group>` over the examples that have it.

  Args:
    results: of all examples.
    groups: names of groups, in the order that is wanted.

  Yields:
    (name, value): `acc` over all examples that have it, then, of each group
    that has examples, `acc/<group>` and their number, `num/<group>`.
  """
  found = means(results)
  num = collections.Counter(name for r in results for name in r.scores)
  if "acc" in found:
    yield "acc", found["acc"]
  for group in groups:
    if f"acc/{group}" in found:
      yield f"acc/{group}", found[f"acc/{group}"]
      yield f"num/{group}", num[f"acc/{group}"]


def open_tokenizer(name: str | None) -> Any:
  """Opens the tokenizer of a model.

  Args:
    name: see `pp.tokenizer.get_tokenizer`.

  Returns:
    The `pp.tokenizer.Tokenizer`.

  Raises:
    ConfigError: there is no name.
  """
  from big_vision.pp import tokenizer  # The TensorFlow wing.

  if not name:
    raise ConfigError(
      f"tokenizer={name!r}: answers are decoded by the tokenizer of the model, "
      'for example tokenizer=\'gemma(tokensets=("loc", "seg"))\'.'
    )
  return tokenizer.get_tokenizer(name)


def decode(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  devices: Devices,
  eos_token: int,
) -> AnyArray:
  """Has a model answer.

  Args:
    predict_fn: `(train_state, batch, *, devices, eos_token) -> int [B, L]`. It
      compiles itself what it wants to; the batch has texts, too.
    train_state: its first argument.
    batch: with `_mask` [B].
    devices: flat array of devices in the order of the mesh.
    eos_token: the token that ends an answer.

  Returns:
    int [B, L].

  Raises:
    ConfigError: the function returns something else.
  """
  tokens = predict_fn(train_state, batch, devices=devices, eos_token=eos_token)
  num = len(batch["_mask"])
  shape, dtype = getattr(tokens, "shape", ()), getattr(tokens, "dtype", None)
  is_int = dtype is not None and np.issubdtype(dtype, np.integer)
  if len(shape) != 2 or shape[0] != num or not is_int:
    got = jax.tree.map(lambda x: f"{x.dtype} {x.shape}", tokens)
    raise ConfigError(
      f"predict_fn must return tokens, integers [{num}, length], got {got}. "
      "Choose a function that decodes, such as pred='decode'."
    )
  return tokens


def inputs(cfg: Mapping[str, Any]) -> list[tuple[str, Any, Any, Sequence[str]]]:
  """Lists what is preprocessed, see `evaluators.trial`.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    One tuple of a config key, data, preprocessing string, and the features that
    the predict function may read: the others stay on the host.
  """
  return [("pp_fn", cfg.get("data"), cfg.get("pp_fn"), _INPUTS)]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  eos_token = open_tokenizer(cfg.get("tokenizer")).eos_token
  try:
    return decode(predict_fn, train_state, batch, cfg["devices"], eos_token)
  except jax.errors.JAXTypeError:
    return None  # It reads tokens on the way. So far, shapes fit.


class TextEvaluator:
  """Decodes an answer for each example and scores it; a base class."""

  forwards = staticmethod(evaluation.eval_input_pipeline)

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str | None,
    outfile: str | None = None,
    *,
    needs: Sequence[str] = (),
    optional: Sequence[str] = (),
    to_lower: bool = False,
    data: Mapping[str, Any],
    devices: Devices,
    keep_on_cpu: Sequence[str] = (),
    workdir: str | None = None,
    get_step: Callable[[], int | None] | None = None,
    **kw: Any,
  ) -> None:
    """Opens the data and the tokenizer.

    Args:
      predict_fn: see `decode`.
      tokenizer: that of the model, by its name, see `pp.tokenizer`.
      outfile: format string of a path, with any of {workdir}, {name} and
        {split} of the data, and {step}. A JSON list of all records is written
        there; None writes nothing.
      needs: features that `score` reads.
      optional: further ones, which the data need not have.
      to_lower: whether answers are converted to lower case, by `self.convert`,
        which is there for the truth as well.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      keep_on_cpu: further features that cannot be put on devices.
      workdir: output folder of the run; None means the flag.
      get_step: returns the step of the run; None means that of the clock.
      **kw: further arguments of `evaluation.eval_input_pipeline`.

    Raises:
      ConfigError: there is no tokenizer.
    """
    self.tokenizer = open_tokenizer(tokenizer)
    self.convert = str.lower if to_lower else str
    self._predict_fn = predict_fn
    self._needs, self._on_cpu = needs, {*needs, *optional, *keep_on_cpu}
    self._data, self._devices, self._outfile = data, devices, outfile
    self._workdir, self._get_step = workdir, get_step
    self.batches = iteration.open_batches(
      data=dict(data),
      devices=devices,
      keep_on_cpu=tuple(self._on_cpu),
      **kw,
    )
    self.steps = self.batches.steps

  def score(self, example: Example) -> Result:
    """Scores one answer; every evaluator defines it.

    Args:
      example: the answer, and features of its example.

    Returns:
      Scores and what is written.
    """
    raise NotImplementedError

  def metrics(self, results: list[Result]) -> Iterator[tuple[str, float]]:
    """Computes metrics of all examples of all processes.

    Args:
      results: of the N examples, in the order of the dataset; not empty.

    Yields:
      (name, value): the mean of each score, and `num`, which is N.
    """
    yield from means(results).items()
    yield "num", len(results)

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset, and writes the file.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, value), the same on all processes.
    """
    results = self.results(train_state)
    yield from self.metrics(results)
    self.write(self._outfile, [result.record for result in results])

  def results(self, train_state: TrainState) -> list[Result]:
    """Decodes and scores all examples of all processes.

    Args:
      train_state: first argument of the predict function.

    Returns:
      List of N, in the order of the dataset, the same on all processes.

    Raises:
      ValueError: there are no examples.
    """
    mine = [
      (step, *self.score(example))
      for step, example in self._examples(train_state)
    ]
    every = [row for part in _of_all_processes(mine) for row in part]
    # Each process has some rows of each batch, or else a part of the dataset.
    if self.batches.by_rows:
      every.sort(key=operator.itemgetter(0))
    if not every:
      raise ValueError("There are no examples to evaluate: is the split empty?")
    return [Result(*row) for _, *row in every]

  def write(self, outfile: str | None, records: list[Any]) -> None:
    """Writes a JSON file on process 0.

    Args:
      outfile: see `__init__`; without a workdir, nothing is written if it needs
        one.
      records: of all processes.
    """
    path = files.resolve_outfile(
      outfile,
      split=str(self._data.get("split", "")),
      name=self._data.get("name", ""),
      workdir=self._workdir,
      step=self._get_step() if self._get_step else None,
    )
    if outfile and path is None:
      logging.info("Nothing written: %r needs a workdir.", outfile)
    is_first = jax.process_index() == 0
    files.multiprocess_write_json(path, records if is_first else [])

  def _examples(self, train_state: TrainState) -> Iterator[tuple[int, Example]]:
    """Yields (number of the batch, example), the real ones of this process."""
    results = (self._decode(train_state, batch) for batch in self.batches)
    for step, (tokens, mask, features) in enumerate(
      iteration.fetch(results, get=_local)
    ):
      for i in np.flatnonzero(mask):
        row = {name: value[i] for name, value in features.items()}
        yield step, Example(tokens[i], self._text(tokens[i]), row)

  def _decode(self, train_state, batch):
    """Dispatches the answers of one batch."""
    for name in self._needs:
      iteration.take(dict(batch), name, "feature")
    tokens = decode(
      self._predict_fn,
      train_state,
      batch,
      self._devices,
      self.tokenizer.eos_token,
    )
    sharding = bv_devices.batch_sharding(self._devices)
    put = functools.partial(jax.device_put, device=sharding)
    features = {k: batch[k] for k in self._on_cpu if k in batch}
    return put(tokens), put(batch["_mask"]), features

  def _text(self, tokens: np.ndarray) -> str:
    """Decodes tokens, of which a model may know more than the tokenizer."""
    known = tokens[(tokens >= 0) & (tokens < self.tokenizer.vocab_size)]
    return self.convert(self.tokenizer.to_str(known, stop_at_eos=True))


def _local(result):
  """Copies this process' rows of tokens and mask to the host."""
  tokens, mask, features = result
  local = bv_devices.get_local_slice_from_fsarray
  return local(tokens), local(mask), features


def _of_all_processes(rows: list[Any]) -> list[list[Any]]:
  """Collects on every process a list of each, of what JSON can say."""
  if jax.process_count() == 1:
    return [rows]
  from jax.experimental import multihost_utils

  text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
  with jax.transfer_guard("allow"):  # The gather moves host data as it likes.
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    buffer = np.zeros(np.max(sizes), np.uint8)
    buffer[: len(text)] = text
    parts = np.asarray(multihost_utils.process_allgather(buffer))
  return [
    json.loads(part[:size].tobytes())
    for part, size in zip(parts, np.asarray(sizes), strict=True)
  ]
