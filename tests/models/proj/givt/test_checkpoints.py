"""States in which VAEs of ImageNet were published."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from big_vision import lookup
from big_vision.models.proj.givt import checkpoints, cnn


def state(step=0):
  weights = lambda x: {
    "encoder": {"Conv_0": {"kernel": np.full([3, 3], x + step, np.float32)}},
    "decoder": {"Conv_1": {"bias": np.full([2], -x - step, np.float32)}},
  }
  return {
    "step": np.int32(step),
    "g_params": weights(1),
    "ema_params": weights(2),
    "d_params": weights(3),
    "opt": {"0": {"mu": weights(4)}},
  }


def values(params):
  assert set(params) == {"cnn_encoder", "cnn_decoder"}
  kernel = params["cnn_encoder"]["Conv_0"]["kernel"]
  bias = params["cnn_decoder"]["Conv_1"]["bias"]
  assert kernel.shape == (3, 3) and bias.shape == (2,)
  return float(kernel[0, 0]), float(bias[0])


def write(path, step=0):
  path.write_bytes(serialization.msgpack_serialize(state(step)))
  return str(path)


def test_a_file(tmp_path):
  path = write(tmp_path / "vae_params")
  assert values(checkpoints.load_malib(path)) == (1, -1)
  assert values(checkpoints.load_malib(path, True)) == (2, -2)
  assert values(cnn.load(None, path, malib_ckpt=True)) == (1, -1)
  params = cnn.load(None, path, {}, malib_ckpt=True, use_ema_params=True)
  assert values(params) == (2, -2)


def test_the_last_of_a_folder(tmp_path):
  for step in (9, 10, 8):
    write(tmp_path / f"checkpoint_{step}", step)
  assert values(checkpoints.load_malib(str(tmp_path))) == (11, -11)


def test_a_folder_of_orbax(tmp_path):
  path = tmp_path / "state"
  with ocp.StandardCheckpointer() as writer:
    writer.save(path, {"params": state()})
  assert values(checkpoints.load_malib(str(path), True)) == (2, -2)


def test_into_a_model():
  kw = dict(codeword_dim=2, filters=4, num_res_blocks=0, norm_type="LN")
  model = cnn.Model(**kw, channel_multipliers=(1,), malib_ckpt=True)
  image = np.zeros([1, 4, 4, 3], np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
  tree = {"g_params": {k.removeprefix("cnn_"): v for k, v in params.items()}}
  loaded = cnn.load(shapes, tree, {}, malib_ckpt=True)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  del tree["g_params"]["encoder"]["Conv_0"]
  with pytest.raises(ValueError, match=" - cnn_encoder/Conv_0/kernel"):
    cnn.load(shapes, tree, {}, malib_ckpt=True)


def test_what_it_is_not(tmp_path):
  path = tmp_path / "vae_params"
  for content, match in (
    (b"", "is empty"),
    (b"<html>", "is a web page"),
    (b"\xc1\x00", "not a file of flax's msgpack"),
    (serialization.msgpack_serialize({"params": {}}), "g_params.*params"),
    (serialization.msgpack_serialize([1, 2]), "msgpack"),
  ):
    path.write_bytes(content)
    with pytest.raises(lookup.ConfigError, match=match):
      checkpoints.load_malib(str(path))
  with pytest.raises(FileNotFoundError):
    checkpoints.load_malib(str(tmp_path / "other"))
