"""A trained text tower: from texts to features.

Shapes: I texts, L tokens, D size of the features.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision import lookup, models
from big_vision.models.proj.image_text import preprocessing
from big_vision.pretrained import backbone
from big_vision.pretrained.embedder import Prepared
from big_vision.types import ConfigLike


class TextEncoder:
  """A model of texts with its parameters and its tokenizer.

  Attributes:
    config: ConfigDict, what a config needs to use this model.
    model: linen module, of tokens [I, L] int32.
    params: tree of arrays on the first device.
    pp_txt: preprocessing string of texts, from `texts` to `labels`.
    name: where the parameters are from.
  """

  def __init__(
    self, config: ConfigLike, init: str, *, pp_txt: str, text_length: int
  ):
    """Builds the model and loads its parameters.

    Args:
      config: reads `model_name`, `model`, `num_classes`.
      init: a checkpoint of the model.
      pp_txt: preprocessing of texts; the tokenizer is loaded when the first text
        comes.
      text_length: L.

    Raises:
      ValueError: the checkpoint does not fit the model.
    """
    self.config, self.name, self.pp_txt = config, init, pp_txt
    kw = {"num_classes": config.get("num_classes")}
    own = {
      k: config[k] for k in ("model_name", "model", "precision") if k in config
    }
    self.model, load = models.build({**own, "model_init": init}, **kw)
    assert load is not None  # There is a checkpoint.
    tokens = np.zeros([1, text_length], np.int32)
    shapes = jax.eval_shape(self.model.init, jax.random.key(0), tokens)
    params = load(shapes["params"])
    self.params = jax.device_put(params, jax.local_devices()[0])
    apply = self.model.apply
    self._forward = jax.jit(lambda p, x: apply({"params": p}, x)[0])

  @functools.cached_property
  def _tokenize(self):
    from big_vision.pp import builder

    lookup.preprocessing({"pp_modules": preprocessing.MODULES})
    return builder.get_preprocess_fn(self.pp_txt)

  def features(self, texts: Sequence[str]) -> np.ndarray:
    """Computes the output of the model.

    Args:
      texts: list of str.

    Returns:
      float32 [I, D].

    Raises:
      ValueError: it is a single text, or there are none; or no tokenizer.
    """
    if isinstance(texts, str):  # Its characters would be texts.
      raise ValueError(
        f"Texts should be in a list, not a single str: [{texts!r}]."
      )
    tokens = [np.asarray(self._tokenize({"texts": t})["labels"]) for t in texts]
    out: Any = backbone.in_batches(
      lambda x: self._forward(self.params, x), map(Prepared, tokens)
    )
    return np.asarray(out, np.float32)
