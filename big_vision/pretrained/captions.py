"""Describes pictures with the decoder that a run trained with `captioning`.

Shapes: I pictures, L tokens.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoints, lookup, precision
from big_vision.models.proj.image_text import captioner
from big_vision.pretrained.embedder import Embedder
from big_vision.types import ConfigLike

# Keys of `config.captioning` that are not those of the decoder.
_OF_TRAINING = ("weight", "parallel")


class Captions:
  """A decoder with its parameters and tokenizer.

  Attributes:
    model: linen module.
    params: tree of arrays on the first device.
    tokenizer: from tokens to text.
    given: the tokens that each text begins with, which ask for a caption.
    length: L.
  """

  def __init__(self, embedder: Embedder, init: str):
    """Reads how captions were trained, and the decoder's parameters.

    Args:
      embedder: the towers; its config has `captioning`.
      init: a checkpoint that has the decoder, too.

    Raises:
      ConfigError: the preprocessing of training has no op `locca` with captions.
      KeyError: the checkpoint has no decoder.
    """
    from big_vision.pp import tokenizer

    config = embedder.config
    own = precision.with_dtype(config, dict(config.captioning))
    self.model: Any = captioner.Model(
      **{k: v for k, v in own.items() if k not in _OF_TRAINING}
    )
    kw = _arguments_of_locca(config)
    self.length: int = kw["max_len"]
    self.tokenizer: Any = tokenizer.get_tokenizer(kw["tokenizer"])
    prefix = kw.get("prefixes", ("cap:",))[0]
    self.given: list[int] = self.tokenizer.to_int(prefix)[: self.length // 2]
    # What is not the model's is left out.
    params = checkpoints.load_params(f"{init}:captioner")
    self.params = jax.device_put(params, jax.local_devices()[0])
    self._towers = embedder
    self._complete = jax.jit(self._tokens)

  def _tokens(self, towers, params, image):
    """Continues the given tokens with the most probable ones, [I, L]."""
    encoded = self._towers.model.apply({"params": towers}, image, None)
    encoded = encoded[2]["img/encoded"]
    shape = len(encoded), self.length
    tokens = np.zeros(self.length, np.int32)
    tokens[: len(self.given)] = self.given
    mask = jnp.broadcast_to(np.arange(self.length) >= len(self.given), shape)
    return captioner.complete(
      lambda tokens: self.model.apply(
        {"params": params},
        encoded,
        tokens,
        mask,
        image_mask=captioner.image_mask(image),
      ),
      jnp.broadcast_to(tokens, shape),
      mask,
    )

  def tokens(self, images: Any) -> jax.Array:
    """Computes the tokens of captions.

    Args:
      images: a batch of what the model takes.

    Returns:
      int32 [I, L]; what follows an end-of-text token has no meaning.
    """
    return self._complete(self._towers.params, self.params, images)

  def texts(self, tokens: np.ndarray) -> list[str]:
    """Turns tokens into captions.

    Args:
      tokens: int [I, L], of `tokens`.

    Returns:
      List of I texts.
    """
    own = np.asarray(tokens)[:, len(self.given) :]
    return [text.strip() for text in self.tokenizer.to_str(own)]


def _arguments_of_locca(config: ConfigLike) -> dict[str, Any]:
  """Returns the arguments of the op that made the captions of training."""
  for name, args, kw in _ops(config):
    names = ("max_len", "tokenizer", "p", "prefixes")
    kw = dict(zip(names, args, strict=False)) | kw
    if name == "locca" and kw.get("p", (1, 1, 1))[0] > 0:
      return kw
  raise lookup.ConfigError(
    "config.input.pp has no op locca(...) that makes captions: it is not known "
    "how the decoder of config.captioning was trained."
  )


def _ops(config) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
  """Yields (name, args, kw) of the ops of training."""
  from big_vision.pp import builder, registry
  from big_vision.pretrained import preprocessing

  for pp in preprocessing.training_pps(config):
    for section in builder.split_pipeline(pp):
      name, args, kw = registry.parse_name(section)
      yield name.strip(), args, kw
