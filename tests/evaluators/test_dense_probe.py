"""Dense probes of a model's patches: splits, channels, crops, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators import dense_probe
from big_vision.probes import dense, maps

STATE = {"params": {"Transformer": {}, "cls": np.zeros((1, 1, 4), np.float32)}}


def predict(state, batch):
  """Patches are pixels; the class token, which comes first, is their mean."""
  x = batch["image"]
  tokens = x.reshape(len(x), -1, x.shape[-1])
  tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
  block = {"+mlp": tokens}
  out = dict(stem=x, encoder=dict(block00={"+mlp": -tokens}, block01=block))
  return tokens[:, 0], out


def split(n, seed):
  rng = np.random.RandomState(seed)
  truth = rng.randint(0, 3, (n, 2, 2)).repeat(2, axis=1).repeat(3, axis=2)
  image = np.eye(4)[truth] + 0.1 * rng.randn(n, 4, 6, 4)
  depth = 1 + 2.0 * truth
  depth[rng.rand(n, 4, 6) < 0.1] = 0
  return dict(
    image=image.astype(np.float32),
    map=np.stack([truth, 0 * truth], -1).astype(np.uint8),
    depth=depth.astype(np.float16)[..., None],
  )


TRAIN, TEST = split(40, 0), split(13, 1)


def make(**kw):
  kw = dict(
    dict(task="segmentation", train=TRAIN, data=TEST, pp_fn="", batch_size=16,
         num_classes=3, label_channel=0, steps=60, learning_rate=0.1),
    **kw,
  )  # fmt: skip
  return dense_probe.Evaluator(predict, devices=jax.devices(), **kw)


def test_segmentation(arrays):
  result = dict(make().run(STATE))
  assert set(result) == {"mIoU", "pixel_acc"} and result["mIoU"] > 0.99
  # The same as the probe on the patches themselves.
  tokens, truth = TRAIN["image"].astype(np.float16), TRAIN["map"][..., 0]
  task = dense.Segmentation(3)
  head = dense.fit(
    tokens, truth, task, jax.devices(), steps=3, batch_size=16,
    learning_rate=0.1, weight_decay=1e-4,
  )  # fmt: skip
  counts = maps.Confusion(3)
  images = TEST["image"].astype(np.float16)
  got = dense.predict(head, images, task, (4, 6), jax.devices())
  counts.add(TEST["map"][..., 0], got)
  assert dict(make(steps=3).run(STATE)) == pytest.approx(dict(counts.metrics()))
  assert dict(make(num_blocks=2).run(STATE))["mIoU"] > 0.99
  bad = dict(TRAIN, image=np.full_like(TRAIN["image"], np.nan))
  assert all(np.isnan(v) for _, v in make(train=bad).run(STATE))


def test_depth(arrays):
  kw = dict(
    task="depth", label_key="depth", num_bins=16, label_channel=None, steps=150
  )
  result = dict(make(**kw).run(STATE))
  assert set(result) == {"rmse", "rmse_pixels", "abs_rel", "delta1"}
  assert result["rmse"] < 0.8 and result["delta1"] > 0.6
  # Of the upper left quarter only: what is wrong elsewhere does not matter.
  other = dict(TEST, depth=TEST["depth"].copy())
  other["depth"][:, 2:] = 9
  crop = dict(crop=(0, 0.5, 0, 1))
  a, b = (dict(make(data=d, **kw, **crop).run(STATE)) for d in (TEST, other))
  assert a == b != result


@pytest.mark.parametrize(
  "kw, text",
  [
    (dict(task="pose"), "task='pose'"),
    (dict(num_classes=None), "num_classes is required"),
    (dict(task="depth", min_depth=2.0, max_depth=1.0), "min_depth=2.0"),
    (dict(crop=(0.5, 0.5, 0, 1)), "crop="),
  ],
)
def test_errors(kw, text):
  with pytest.raises(lookup.ConfigError, match=text):
    make(**kw)


def test_errors_of_data(arrays):
  with pytest.raises(lookup.ConfigError, match="(?s)memory_gb=1e-09.*train"):
    dict(make(memory_gb=1e-9).run(STATE))
  with pytest.raises(lookup.ConfigError, match="label_channel chooses"):
    dict(make(label_channel=None).run(STATE))
  with pytest.raises(lookup.ConfigError, match="'patches3'.* has 2 blocks"):
    dict(make(num_blocks=3).run(STATE))
