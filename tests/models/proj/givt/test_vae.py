"""What VAEs share: sampling, dropout of codes, what must be defined."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.models.proj.givt import vae


class Tiny(vae.Model):
  """Codes are rows of the image, with a variance of 4."""

  def encode(self, x, *, train=False):
    return x[..., 0], np.full(x.shape[:3], np.log(4.0), np.float32)

  def decode(self, z, train=False):
    return z[..., None]


X = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3, 1)
KEY = {"dropout": jax.random.key(0)}


def test_without_training_codes_are_the_means():
  x, out = Tiny(code_len=5).apply({}, X)
  np.testing.assert_array_equal(x, X)
  np.testing.assert_array_equal(out["z"], out["mu"])


def test_samples():
  model = Tiny()
  mu = np.full([20_000], 3, np.float32)
  logvar = np.full([20_000], np.log(4), np.float32)
  z = model.reparametrize(mu, logvar, jax.random.key(1))
  assert np.mean(z) == pytest.approx(3, abs=0.06)
  assert np.std(z) == pytest.approx(2, rel=0.03)
  other = model.apply({}, mu, logvar, rngs=KEY, method=model.reparametrize)
  assert not np.allclose(z, other)


@pytest.mark.parametrize("kind", ["none", "seq", "random"])
def test_training(kind):
  model = Tiny(code_len=5, code_dropout=kind)
  x, out = model.apply({}, X, train=True, rngs=KEY)
  _, plain = Tiny().apply({}, X, train=True, rngs=KEY)
  kept = np.any(np.asarray(out["z"]) != 0, axis=-1)
  # The noise is the same, whatever is left out after it.
  want = np.where(kept[..., None], plain["z"], 0)
  np.testing.assert_array_equal(out["z"], want)
  np.testing.assert_array_equal(x[..., 0], out["z"])
  assert kept.all() == (kind == "none")
  np.testing.assert_array_equal(model.code_dropout_fn(X), X)


def test_bad_settings():
  with pytest.raises(lookup.ConfigError, match="model.code_dropout"):
    Tiny(code_dropout="some").apply({}, X)
  model = Tiny(code_dropout="seq")
  with pytest.raises(lookup.ConfigError, match="code_len=256, but.* 5 codes"):
    model.apply({}, X, train=True, rngs=KEY)


def test_encoder_and_decoder_have_to_be_defined():
  class Half(vae.Model):
    def encode(self, x, *, train=False):
      return x, x

  assert issubclass(vae.Model, nn.Module)
  with pytest.raises(TypeError, match="decode"):
    Half()
