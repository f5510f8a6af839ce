"""From labels to codes, from pictures to codes, and from codes to labels.

UViM (https://arxiv.org/abs/2205.10337) does the same when it trains stage II and
when a trained model is used. A task, a module below `big_vision.trainers`, knows what
labels are. It has three functions, which get the config that names it as the keyword
`config`:

  input_pp(batch) -> {"ctx", "x"}: arguments of stage I for a batch. `x` has the
    labels of each patch, or is None if the batch has no `labels`.
  loss_fn(logits, batch) -> (loss, logs): losses of each element, and by name.
  predict_outputs(logits, **kw): from the logits of patches to labels of pixels.

It also says what `labels` are, `LABELS = (channels, dtype)`.

Shapes: `B` batch, `n` codes of an example, `K` size of the dictionary.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from big_vision import lookup
from big_vision.models.proj.uvim import decode
from big_vision.types import Array, Batch, ConfigLike, Key, Params

# Of sampling: the most probable code each, up to rounding.
TEMPERATURE = 1e-7


class Task(NamedTuple):
  """Holds the functions of a task, see above."""

  input_pp: Callable[..., dict[str, Any]]
  loss_fn: Callable[..., tuple[Array, dict[str, Array]]]
  predict_outputs: Callable[..., Any]


def get_task(config: ConfigLike, key: str = "task") -> Task:
  """Finds the task of a config.

  Args:
    config: ConfigDict of stage I, or `config.oracle` of stage II; reads `task`.
    key: name of the config key, for error messages.

  Returns:
    The Task, whose functions know the config.

  Raises:
    ValueError: the config names none, there is no such task, or its settings
      contradict each other.
  """
  name = config.get("task")
  if not name:
    raise lookup.ConfigError(
      f"config.{key} is required, such as 'proj.uvim.panoptic_task'."
    )
  # By name: trainers are above models.
  module = lookup.module(
    "trainers", name, kind="task", key=key, needs="predict_outputs"
  )
  _check(config, f"config.{key.removesuffix('task')}")
  bound = {
    name: functools.partial(getattr(module, name), config=config)
    for name in Task._fields
  }
  return Task(**bound)


def _check(config, where):
  """Refuses labels of other patches than the model's, and no range of depth."""
  p, q = config.model.patch_size
  for part in ("inputs", "outputs"):
    for name, shape in (config.model.get(part) or {}).items():
      if len(shape) == 2 and shape[1] != p * q:
        raise lookup.ConfigError(
          f"{where}model.{part}.{name} = {tuple(shape)} has {shape[1]} pixels for "
          f"each patch, but patch_size={(p, q)} has {p * q}. Write "
          f"{(shape[0], p * q)}."
        )
  low, high = config.get("min_depth", 0), config.get("max_depth", math.inf)
  if not low < high:
    raise lookup.ConfigError(
      f"{where}max_depth = {high} must be more than min_depth = {low}."
    )


def of_labels(model: Any, task: Task, variables: Params, batch: Batch) -> Array:
  """Encodes the labels of a batch by stage I.

  Args:
    model: linen module of stage I.
    task: what labels are.
    variables: dict of `params` and `state` of the model.
    batch: `labels`, and what stage I sees of pictures.

  Returns:
    int32 [B, n] in [0, K).
  """
  inputs = task.input_pp(batch)
  return model.apply(variables, **inputs, method="encode")[1]["code"]


def of_images(
  model: Any,
  params: Params,
  image: Array,
  keys: Key,
  stage_one: Any,
  temperature: float | Array = TEMPERATURE,
) -> Array:
  """Draws codes of pictures by stage II.

  Args:
    model: linen module of stage II, such as `vtt.Model`.
    params: its parameters.
    image: [B, H, W, 3].
    keys: random keys [B].
    stage_one: linen module of stage I, whose codes they are.
    temperature: of sampling.

  Returns:
    int32 [B, n] in [0, K).
  """
  size = stage_one.dict_size
  tokens, _, _ = decode.temperature_sampling(
    {"params": params},
    image,
    jnp.zeros([len(image), stage_one.code_len], jnp.int32),
    keys,
    model=model,
    temperature=temperature,
    # Padding is not a code; nor is what a larger vocabulary has.
    mask_token_ids=(0, *range(size + 1, model.vocab_size)),
    eos_token=-1,
  )
  return tokens[:, 0] - 1


def to_logits(
  model: Any, task: Task, variables: Params, codes: Array, batch: Batch
) -> Any:
  """Decodes codes by stage I.

  Args:
    model: linen module of stage I.
    task: what labels are.
    variables: dict of `params` and `state` of the model.
    codes: int [B, n] in [0, K).
    batch: what stage I sees of pictures; labels are not looked at.

  Returns:
    Logits, for the task's `predict_outputs`.
  """
  seen = {k: v for k, v in batch.items() if k != "labels"}
  logits, _ = model.apply(
    variables,
    codes,
    ctx=task.input_pp(seen)["ctx"],
    discrete_input=True,
    method="decode",
  )
  return logits
