"""The tool against NumPy: metrics file, repeats, predict functions."""

import json
import sys
import types

import jax
import ml_collections as mlc
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

from big_vision import models
from big_vision.tools import eval_only

pytestmark = pytest.mark.tf


class Model(nn.Module):
  """Linear classifier of the pixels."""

  num_classes: int
  scale: float = 1.0

  @nn.compact
  def __call__(self, image, *, shift=0.0):
    x = image.reshape(len(image), -1) * self.scale + shift
    return nn.Dense(self.num_classes, name="head")(x), {}


def load(params, init_file, model_cfg, dont_load=()):
  """Weights of a fixed seed in place of a file."""
  assert model_cfg.scale == 2.0 and dont_load == ("x",)
  kernel = np.random.RandomState(int(init_file)).randn(64, 10)
  assert params["head"]["kernel"].shape == kernel.shape
  bias = params["head"]["bias"]
  return {"head": {"kernel": kernel.astype(np.float32), "bias": bias}}


@pytest.fixture
def config(monkeypatch, tfds_data_dir):
  module = types.ModuleType("users_own_model")
  module.__spec__ = types.SimpleNamespace(name=module.__name__)
  module.Model, module.load = Model, load
  monkeypatch.setitem(sys.modules, module.__name__, module)
  pp = (
    "decode(channels=1)|reshape((8, 8, 1))|value_range(0, 1)|"
    "onehot(10, key='label', key_result='labels')|keep('image', 'labels')"
  )
  data = {"name": "digits", "split": "test"}
  common = dict(data=data, pp_fn=pp, batch_size=64, log_steps=100)
  val = dict(common, type="classification", loss_name="softmax_xent", prefix="")
  return mlc.ConfigDict(
    dict(
      model_name=module.__name__,
      model=dict(scale=2.0),
      model_init="3",
      model_load=dict(dont_load=("x",)),
      num_classes=10,
      loss="softmax_xent",
      init_shapes=[(1, 8, 8, 1)],
      eval_repeats=2,
      evals=dict(
        val=val,
        mean=dict(common, pred="loss", pred_kw={"shift": 1.0}, skip_first=True),
      ),
    )
  )


def rows(workdir):
  text = (workdir / "big_vision_metrics.txt").read_text()
  return [json.loads(line) for line in text.splitlines()]


def expected(shift):
  """(prec@1, loss) of the weights of `load`."""
  from sklearn import datasets

  digits = datasets.load_digits()
  y = digits.target[1500:]
  x = np.round(digits.images[1500:] * 255 / 16).reshape(-1, 64) / 255
  w = np.random.RandomState(3).randn(64, 10)
  logits = (2.0 * x + shift) @ w
  loss = -special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
  return (logits.argmax(axis=1) == y).mean(), loss.mean()


def test_metrics(config, tmp_path):
  workdir = tmp_path / "new" / "folder"
  eval_only.evaluate(config, str(workdir))
  first, second = rows(workdir)
  assert (first["step"], second["step"]) == (0, 1)
  assert first["num_params"] == 650
  assert first["z/secs/init"] > 0 and first["z/secs/eval/val"] > 0
  assert "num_params" not in second and second["z/secs/eval/mean"] > 0
  accuracy, loss = expected(0.0)
  _, shifted = expected(1.0)
  for row in (first, second):
    assert row["prec@1"] == pytest.approx(accuracy, abs=1e-6)
    assert row["loss"] == pytest.approx(loss, rel=1e-4)
    assert row["mean/loss"] == pytest.approx(shifted, rel=1e-4)
  assert json.loads((workdir / "config.json").read_text())["num_classes"] == 10


def test_random_initialisation(config, tmp_path):
  """Without model_init: PRNGKey(42), on whatever mesh, fully sharded too."""
  del config.model_init, config.model_load
  config.eval_repeats = 1
  eval_only.evaluate(config, str(tmp_path / "a"))
  config.mesh = [("data", 4), ("model", 2)]
  config.sharding_strategy = [
    (".*", "fsdp(axis='model', min_size_to_shard_mb=0)")
  ]
  eval_only.evaluate(config, str(tmp_path / "b"))
  a, b = (rows(tmp_path / k)[0] for k in "ab")
  assert a["prec@1"] == b["prec@1"]
  assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)

  model = Model(num_classes=10, scale=2.0)
  params = model.init(jax.random.PRNGKey(42), np.zeros((1, 8, 8, 1)))["params"]
  load_fn = models.build(config, num_classes=10)[1]
  made = eval_only.make_params(config, model, load_fn)
  np.testing.assert_allclose(
    made["head"]["kernel"], params["head"]["kernel"], rtol=1e-6
  )


def test_predict_functions(config):
  model = Model(num_classes=10)
  fns = eval_only.make_predict_fns(config, model)
  assert fns["model"] is model and set(fns) == {"predict", "loss", "model"}


def test_bad_input(config):
  config.evals.val.pred = "predct"
  with pytest.raises(ValueError, match=r"evals\.val\.pred.*model, predict"):
    eval_only.evaluate(config)
  config.model.reinit = ["head"]
  with pytest.raises(AssertionError, match="reinit"):
    eval_only.evaluate(config)
  del config.model.reinit
  config.resume = "workdir"
  with pytest.raises(ValueError, match=r"resume='workdir'.*model_init"):
    eval_only.evaluate(config)
  del config.resume
  config.model_name = "vitt"
  with pytest.raises(ValueError, match=r"config\.model_name.*'vitt'"):
    eval_only.evaluate(config)
  config.init_types = ["float32", "int32"]
  with pytest.raises(ValueError, match="init_types"):
    eval_only.make_params(config, None, None)


def test_a_checkpoint_of_other_shapes(config):
  load = lambda params: {"head": {**params["head"], "bias": np.zeros(3)}}
  with pytest.raises(
    ValueError, match=r"config.model_init .*head/bias: \(3,\)"
  ):
    eval_only.make_params(config, Model(num_classes=10), load)


def test_inputs_of_another_size_than_the_parameters(config):
  config.init_shapes, config.model_init = [(1, 4, 8, 1)], ""
  del config.model_load
  with pytest.raises(
    ValueError, match=r"evals\.\w+ .*init_shapes=.*\(32, 10\)"
  ) as e:
    eval_only.evaluate(config)
  assert "\n" not in str(e.value)
