"""Computes what evaluators ask of PaliGemma.

`decode` and its like compile themselves: call them outside of `jax.jit`. Their
batches are those of `models/proj/paligemma/decode.py`.

Shapes: `B` batch, `T` tokens, `V` vocabulary, `L` length of an answer.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.models.proj.paligemma import decode as decode_lib
from big_vision.types import Array, Batch, Devices, PredictFns, TrainState

Packs = tuple[Array, Array, Array]


def get_all(model: Any) -> PredictFns:
  """Makes the functions of a model.

  Args:
    model: linen module, see `models/proj/paligemma/paligemma.py`.

  Returns:
    Dict of `logits`, `image_avg_repr`, `decode`, `decode_with_logp` and
    `beam_decode`, each `(train_state, batch, ...)`.
  """
  compiled = functools.lru_cache(None)(functools.partial(_compile, model))
  return {
    "logits": functools.partial(logits, model=model),
    "image_avg_repr": functools.partial(image_avg_repr, model=model),
    "decode": functools.partial(decode, compiled=compiled),
    "decode_with_logp": functools.partial(decode_with_logp, compiled=compiled),
    "beam_decode": functools.partial(beam_decode, compiled=compiled),
  }


def inputs(batch: Batch) -> tuple[Array, Array, Array]:
  """Returns what the model reads to predict the next token of each.

  Args:
    batch: `image`; `text` and `mask_ar` int [B, T + 1].

  Returns:
    (image, text [B, T], mask_ar [B, T]).
  """
  return batch["image"], batch["text"][:, :-1], batch["mask_ar"][:, :-1]


def segments(batch: Batch) -> Packs | None:
  """Returns what keeps examples apart that share sequences.

  Args:
    batch: `image_segment_ids` [B, F], `text_segment_ids` and `text_positions`
      int [B, T + 1], if examples do.

  Returns:
    `segments` of the model, of T tokens; None if they do not.
  """
  if "image_segment_ids" not in batch:
    return None
  ids, positions = batch["text_segment_ids"], batch["text_positions"]
  return batch["image_segment_ids"], ids[:, :-1], positions[:, :-1]


def logits(
  train_state: TrainState, batch: Batch, *, model: Any
) -> tuple[Array, dict[str, Any]]:
  """Computes the logits of the tokens of texts but the first.

  Args:
    train_state: has `params`.
    batch: `image`; `text` and `mask_ar` int [B, T + 1].
    model: linen module.

  Returns:
    ([B, T, V], dict of named intermediates).
  """
  params = {"params": train_state["params"]}
  return model.apply(params, *inputs(batch), segments=segments(batch))


def image_avg_repr(
  train_state: TrainState,
  batch: Batch,
  *,
  model: Any,
  key: str = "img/pre_logits",
) -> tuple[Array, dict[str, Any]]:
  """Computes the mean of what the image model makes of an image.

  Args:
    train_state: has `params`.
    batch: `image`.
    model: linen module.
    key: which of the named intermediates.

  Returns:
    ([B, width], dict of named intermediates); of examples with F images, [B * F,
    width].
  """
  _, out = model.apply(
    {"params": train_state["params"]}, batch["image"], method=model.embed_image
  )
  x = out[key]
  return jnp.mean(x, axis=tuple(range(1, x.ndim - 1))), out


def decode_with_logp(
  train_state: TrainState,
  batch: Batch,
  *,
  compiled: Any,
  devices: Devices,
  max_decode_len: int,
  eos_token: int,
  best_of_n: int = 1,
  sampler: str = "greedy",
  eos_look_behind: int = 0,
  seed: int = 0,
) -> decode_lib.Decoded:
  """Draws answers.

  Args:
    train_state: has `params`.
    batch: see `decode_lib`.
    compiled: from `get_all`.
    devices: flat array of devices in the order of the mesh.
    max_decode_len: L.
    eos_token: ends an answer.
    best_of_n: of so many answers the most probable one is returned.
    sampler: "greedy", "temperature(t)" or "nucleus(p, t)".
    eos_look_behind: not used: devices themselves see that all have ended.
    seed: of what is drawn, for each batch the same.

  Returns:
    (tokens int32 [B, L], log-probabilities [B, L]), 0 after the end.
  """
  del eos_look_behind
  run = compiled(
    decode_lib.sample,
    _batched(devices, batch),
    max_decode_len=max_decode_len,
    eos_token=eos_token,
    sampler=sampler,
    best_of_n=best_of_n,
  )
  with jax.transfer_guard("allow"):
    rng = jax.random.PRNGKey(seed)
    return run(train_state["params"], _of_decoding(batch), rng)


def decode(*args: Any, **kw: Any) -> Array:
  """Draws answers.

  Args:
    *args: of `decode_with_logp`.
    **kw: of `decode_with_logp`.

  Returns:
    Tokens int32 [B, L], 0 after the end.
  """
  return decode_with_logp(*args, **kw).tokens


def beam_decode(
  train_state: TrainState,
  batch: Batch,
  *,
  compiled: Any,
  devices: Devices,
  max_decode_len: int,
  eos_token: int,
  beam_size: int,
) -> Array:
  """Looks for the most probable answers, see `decode_lib.beam_search`.

  Args:
    train_state: has `params`.
    batch: see `decode_lib`.
    compiled: from `get_all`.
    devices: flat array of devices in the order of the mesh.
    max_decode_len: L.
    eos_token: ends an answer.
    beam_size: how many answers go on at a time.

  Returns:
    Tokens int32 [B, L], 0 after the end.
  """
  run = compiled(
    decode_lib.beam_search,
    _batched(devices, batch),
    max_decode_len=max_decode_len,
    eos_token=eos_token,
    beam_size=beam_size,
  )
  return run(train_state["params"], _of_decoding(batch))


def _compile(model: Any, fn: Any, sharding: NamedSharding, **kw: Any) -> Any:
  """Compiles `fn` with these options, once for each shape of a batch."""
  run = functools.partial(fn, model=model, **kw)
  return jax.jit(run, out_shardings=sharding)


def _batched(devices: Devices, batch: Batch) -> NamedSharding:
  """Splits answers as batches are; whole where devices do not divide them."""
  sharding = bv_devices.batch_sharding(devices)
  if len(batch["text"]) % len(devices):
    return NamedSharding(sharding.mesh, PartitionSpec())
  return sharding


def _of_decoding(batch: Batch) -> Batch:
  """Keeps what decoding reads: another key would compile anew."""
  names = ("image", "text", "mask_ar", "mask_input", "_mask", "mask_logits")
  return {k: batch[k] for k in names if k in batch}
