"""Stage I of UViM inside of stage II: its settings are `config.oracle`.

Keys: `task` and its settings, `model_name`, `model`, and `model_init`, where its
parameters are: the workdir of a run of `vqvae.py`, a checkpoint of it, or an npz file
with `params/...` and `state/...`; "" is a random stage I.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from big_vision import lookup, models
from big_vision.models import common, load_errors
from big_vision.models.proj.uvim import guiding_codes
from big_vision.models.proj.uvim.guiding_codes import Task, get_task
from big_vision.pretrained import uvim_files
from big_vision.training.setup import Setup
from big_vision.types import Array, Batch, ConfigLike, Params

# Fields of the model that matter for training alone.
_OF_TRAINING = (
  "code_dropout",
  "dict_momentum",
  "dropout",
  "head_zeroinit",
  "min_count",
  "name",
  "parent",
  "reinit",
  "rep_size",
  "statistics_axis_name",
)
# What a task reads of its config.
_OF_TASK = ("task", "min_depth", "max_depth")


@dataclasses.dataclass(frozen=True)
class Oracle:
  """Encodes labels as codes from 1 on (0 is padding), and decodes codes.

  Attributes:
    model: linen module of stage I.
    task: its functions.
    variables: dict of `params` and `state`.
  """

  model: Any
  task: Task
  variables: Params

  def encode(self, variables: Params, batch: Batch) -> Array:
    """Encodes the labels of a batch.

    Args:
      variables: see the attribute; an argument, so that it is one of programs.
      batch: `labels` and what stage I sees of images.

    Returns:
      int32 [B, n] in [1, K].
    """
    return guiding_codes.of_labels(self.model, self.task, variables, batch) + 1

  def decode(self, variables: Params, codes: Array, batch: Batch) -> Any:
    """Decodes codes.

    Args:
      variables: see the attribute.
      codes: int [B, n] in [1, K].
      batch: what stage I sees of images.

    Returns:
      Logits, for the task's `predict_outputs`.
    """
    return guiding_codes.to_logits(
      self.model, self.task, variables, codes - 1, batch
    )


def load(setup: Setup) -> Oracle:
  """Builds stage I and reads its parameters.

  Args:
    setup: reads `oracle` of its config.

  Returns:
    The Oracle.

  Raises:
    ConfigError: it is not said where stage I is, there is none, or it has other
      settings than `config.oracle`.
  """
  config = setup.config.get("oracle")
  if not config:
    raise lookup.ConfigError(
      "config.oracle is required: stage I, a dict with task, model_name, model "
      "and model_init."
    )
  if config.get("model_init") is None:
    raise lookup.ConfigError(
      "config.oracle.model_init is required: stage I has to be trained first, "
      "with big_vision.trainers.proj.uvim.vqvae. Write its --workdir there, or '' "
      "for a random one."
    )
  model, _ = models.build(
    {f"oracle.{k}": config.get(k) for k in ("model", "model_name")},
    "oracle.model",
  )
  task = get_task(config, "oracle.task")

  def init():
    zeros = lambda s: jnp.zeros(s.shape, s.dtype)
    batch = jax.tree.map(zeros, setup.batch_shapes)
    rng = jax.random.PRNGKey(setup.config.get("seed", 0))
    rngs = dict(zip(("params", "state"), jax.random.split(rng), strict=True))
    variables = model.init(rngs, **task.input_pp(batch))
    return {"state": {}, **variables}

  if setup.abstract:  # To plan a run, before stage I is there.
    return Oracle(model, task, jax.eval_shape(init))
  source = config.model_init
  if not source:
    logging.warning(
      "config.oracle.model_init is empty: stage I is random, and so are its "
      "codes. Nothing can be learned from them."
    )
    return Oracle(model, task, jax.jit(init)())
  try:
    found = uvim_files.read_oracle(source)
  except lookup.ConfigError as e:
    raise lookup.ConfigError(f"config.oracle.model_init: {e}") from e
  if found.config is not None:
    _check_settings(model, config, found.config)
  loaded = {"params": found.params, "state": found.state}
  return Oracle(model, task, _fit(loaded, jax.eval_shape(init), source))


def _fit(loaded: Params, shapes: Params, source: str) -> Params:
  """Checks that what was loaded is all of the model."""
  wrong = (
    f"config.oracle.model_init={source!r} does not fit config.oracle.model"
  )
  try:
    merged = common.merge_params(loaded, shapes)
  except ValueError as e:
    misfit = load_errors.misfit_of(e)
    raise lookup.ConfigError(
      f"{wrong}: {misfit.summary if misfit else e}."
    ) from e
  # Nothing is stored of what is empty.
  merged = {"state": {}, **merged}
  if misfit := load_errors.of_shapes(merged, shapes):
    raise lookup.ConfigError(f"{wrong}: {misfit}.")
  return merged


def _check_settings(model: Any, own: ConfigLike, stored: ConfigLike) -> None:
  """Refuses settings with which stage I was not trained."""
  differ = []
  for name in _OF_TASK:
    # A task of one's own may not have them, and has others.
    if name in own and name in stored and own[name] != stored[name]:
      differ.append(f"{name} is {own[name]!r}, not {stored[name]!r}")
  try:
    trained = type(model)(**stored.model)
  except (TypeError, AttributeError):
    trained = model  # Of other code: names and shapes have to do.
  for field in dataclasses.fields(model):
    here, there = (
      _plain(getattr(x, field.name, None)) for x in (model, trained)
    )
    if field.name not in _OF_TRAINING and here != there:
      differ.append(f"model.{field.name} is {here}, not {there}")
  if differ:
    raise lookup.ConfigError(
      f"config.oracle has other settings than the run of stage I, "
      f"config.oracle.model_init={own.model_init!r}: {'; '.join(differ)}. Copy "
      "those of that run."
    )


def _plain(value: Any) -> str:
  """Writes a setting such that equal ones are equal text."""
  if hasattr(value, "to_dict"):
    value = value.to_dict()
  if isinstance(value, Mapping):
    value = dict(value)
  return json.dumps(value, sort_keys=True, default=str)
