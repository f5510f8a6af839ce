"""Computes what evaluators ask of captioners.

Shapes: `B` batch, `L` tokens of a caption, `V` vocabulary, `C` labels, `N` patches.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import losses
from big_vision.types import Array, Batch, PredictFns, TrainState


def get_predict_fns(model: Any) -> PredictFns:
  """Makes the functions of a model.

  Args:
    model: linen module, see `models/proj/cappa/cappa.py`.

  Returns:
    Dict of `perplexity`, `enc_rep` and `score`, each `(train_state, batch)`.
  """
  fns = {"perplexity": perplexity, "enc_rep": enc_rep, "score": score}
  return {k: functools.partial(fn, model=model) for k, fn in fns.items()}


def perplexity(
  train_state: TrainState, batch: Batch, *, model: Any
) -> tuple[Array, dict[str, Array]]:
  """Computes logits of the tokens of captions.

  Args:
    train_state: has `params`.
    batch: `image` [B, H, W, 3] and `labels` [B, L].
    model: the captioner.

  Returns:
    ([B, L, V], dict with `logits`).
  """
  params = {"params": train_state["params"]}
  logits = model.apply(params, batch["image"], batch["labels"])
  return logits, {"logits": logits}


def enc_rep(
  train_state: TrainState, batch: Batch, *, model: Any
) -> tuple[Array, dict[str, Any]]:
  """Computes what the encoder makes of images.

  Args:
    train_state: has `params`.
    batch: `image` [B, H, W, 3].
    model: the captioner.

  Returns:
    ([B, N, D], dict of intermediate results of the ViT, such as `pre_logits`).
  """
  return model.apply(
    {"params": train_state["params"]},
    batch["image"],
    None,
    return_enc_features=True,
  )


def score(
  train_state: TrainState,
  batch: Batch,
  *,
  model: Any,
  prompt: str = "",
  prompt_tokenizer: str = "",
) -> Array:
  """Computes how probable each of some captions is for each image.

  Args:
    train_state: has `params`.
    batch: `image` [B, H, W, 3], and `_label_tokens` int [C, L], the captions.
    model: the captioner.
    prompt: text in front of each caption.
    prompt_tokenizer: its tokenizer; without, there is no prompt.

  Returns:
    [B, C], log-probabilities.
  """
  params = {"params": train_state["params"]}
  images = batch["image"]
  encoded = model.apply(params, images, method=model.encode)
  captions = jnp.asarray(batch["_label_tokens"])
  if prompt and prompt_tokenizer:
    first = make_prompt(prompt, prompt_tokenizer)
    first = jnp.broadcast_to(first, (len(captions), len(first)))
    captions = jnp.concatenate([first, captions], 1)[:, : model.seq_len]

  def log_probability(caption):
    labels = jnp.broadcast_to(caption, (len(images), len(caption)))
    logits = model.apply(params, encoded, labels, method=model.decode)
    return -losses.weighted_softmax_xent(
      logits=logits,
      labels=labels,
      weights=(labels > 0).astype(jnp.float32),
      reduction=False,
      normalize=False,
    )

  return jax.lax.map(log_probability, captions).T


@functools.cache
def make_prompt(
  prompt: str, tokenizer_path: str, seq_len: int | None = None
) -> np.ndarray:
  """Tokenizes a prompt.

  Args:
    prompt: the text.
    tokenizer_path: as `model` of the op `tokenize`.
    seq_len: number of tokens, the last of which are 0; None is as many as there
      are.

  Returns:
    int32 [seq_len], without a token for the end.
  """
  from big_vision.pp import tokenizer

  tok = tokenizer.get_tokenizer(f"sp({tokenizer_path!r})")
  tokens = np.asarray(tok.to_int(prompt), np.int32)
  if seq_len is None:
    return tokens
  return np.pad(tokens[:seq_len], (0, max(seq_len - len(tokens), 0)))
