"""All kinds of models that classify are loaded from what their runs write."""

import importlib

import jax
import numpy as np
import pytest

from big_vision import checkpoints, models, pretrained
from big_vision.pretrained import backbone, pixels, preprocessing

pytestmark = [
  pytest.mark.tf,
  pytest.mark.slow,
  pytest.mark.usefixtures("quick_compilation"),
]


@pytest.mark.parametrize(
  "name, loss",
  [
    ("bit_i1k", "softmax"),
    ("bit_i21k", "sigmoid"),
    ("mlp_mixer_i1k", "sigmoid"),
    ("nfnet_i1k", "softmax"),
    ("transfer", "softmax"),
    ("proj.flexivit.i21k_sup", "sigmoid"),
    ("proj.distill.bit_i1k", "softmax"),
    ("proj.flexivit.i1k_deit3_distill", "softmax"),
  ],
)
def test_random_parameters(name, loss, tmp_path):
  module = importlib.import_module(f"big_vision.configs.{name}")
  config = module.get_config("demo")
  key = backbone.model_key(config)
  model, _ = models.build(
    {k: config[k] for k in (key, f"{key}_name")},
    key,
    num_classes=config.num_classes,
  )
  x = pixels.Preprocess(preprocessing.evaluation_pp(config)).example()[None]
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  params = jax.tree.map(draw, shapes)

  (tmp_path / "config.json").write_text(config.to_json_best_effort())
  manager = checkpoints.CheckpointManager()
  prefix = str(tmp_path / "checkpoint.bv")
  checkpoints.save_checkpoint_ts(
    manager, {"params": params}, prefix, 1, keep=False
  )
  manager.wait_until_finished()
  m = pretrained.load(tmp_path)
  assert m.loss == loss and not m.preprocess.needs_tensorflow
  image = rng.integers(0, 256, (50, 60, 3)).astype(np.uint8)
  kw = {}
  if "flexi" in config:
    kw["seqhw"] = max(config.flexi.seqhw.v)
  assert m.call == kw
  logits, out = jax.jit(lambda x: model.apply({"params": params}, x, **kw))(
    m.preprocess(image)[None]
  )
  fn = jax.nn.softmax if loss == "softmax" else jax.nn.sigmoid
  np.testing.assert_allclose(
    m.probabilities([image]), fn(logits), rtol=1e-4, atol=1e-5
  )
  scale = np.abs(out["pre_logits"]).max()
  np.testing.assert_allclose(
    m.features([image]), out["pre_logits"], atol=1e-4 * scale
  )
