"""Tasks of UViM against loops over pixels."""

import ml_collections as mlc
import numpy as np
import pytest
import scipy.special

from big_vision import lookup
from big_vision.trainers.proj.uvim import (
  colorization_task,
  common,
  depth_task,
  panoptic_task,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
H, W, P, Q = 8, 12, 2, 3  # Pixels of images and patches.
N = (H // P) * (W // Q)


def config(**channels):
  of = {k: (n, P * Q) for k, n in channels.items()}
  return mlc.ConfigDict(
    dict(
      model=dict(input_size=(H, W), patch_size=(P, Q), inputs=of, outputs=of),
      min_depth=1.0,
      max_depth=5.0,
    )
  )


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels():
  """Yields (row, column, patch, position in the patch)."""
  for y in range(H):
    for x in range(W):
      yield (
        y, x, (y // P) * (W // Q) + x // Q, (y % P) * Q + x % Q,
      )  # fmt: skip


def test_patches():
  cfg = config()
  x = random(2, H, W, 5)
  patches = np.asarray(common.patchify(x, cfg))
  assert patches.shape == (2, N, 5, P * Q)
  for y, c, n, p in pixels():
    np.testing.assert_array_equal(patches[:, n, :, p], x[:, y, c])
  np.testing.assert_array_equal(common.unpatchify(patches, cfg), x)
  one = common.patchify(x[..., 0], cfg)
  np.testing.assert_array_equal(one, patches[:, :, 0])
  with pytest.raises(lookup.ConfigError, match="patch_size"):
    common.patchify(x[:, :7], cfg)


def test_context():
  image, other = random(1, H, W, 3), random(1, H, W, 3, seed=1)
  task = lambda **batch: colorization_task.input_pp(batch, config(color=3))
  assert task(image=image)["ctx"] is image
  assert task(image=image, image_ctx=other)["ctx"] is other
  assert task(labels=image)["ctx"] is None
  assert task(image=image)["x"] is None
  np.testing.assert_array_equal(
    task(labels=image)["x"]["color"], common.patchify(image, config())
  )


def test_colorization():
  cfg, labels = config(color=3), random(2, H, W, 3)
  logits = {"color": random(2, N, 3, P * Q, seed=1) * 2}
  loss, logs = colorization_task.loss_fn(logits, {"labels": labels}, cfg)
  predicted = np.asarray(
    colorization_task.predict_outputs(logits, cfg)["color"]
  )
  for y, x, n, p in pixels():
    mine = logits["color"][:, n, :, p]
    np.testing.assert_allclose(
      loss[:, n, :, p], (mine - labels[:, y, x]) ** 2, rtol=1e-5
    )
    np.testing.assert_array_equal(predicted[:, y, x], np.clip(mine, -1, 1))
  assert logs == {"loss_color": loss}


def test_depth():
  cfg = config(depth=8)  # Intervals of half a meter from 1 m to 5 m.
  labels = np.random.default_rng(0).uniform(0, 6, (2, H, W, 1))
  labels = labels.astype(np.float32)
  labels[0, 0, :4, 0] = [0, 1.2, 1.6, 9]
  bins = np.clip(np.floor((labels[..., 0] - 1) / 0.5), 0, 7).astype(int)
  assert list(bins[0, 0, :4]) == [0, 0, 1, 7]
  batch = {"labels": labels, "image": random(2, H, W, 3)}
  logits = {"depth": random(2, N, 8, P * Q, seed=1)}
  x = np.asarray(depth_task.input_pp(batch, cfg)["x"]["depth"])
  assert x.shape == (2, N, 8, P * Q)
  loss, logs = depth_task.loss_fn(logits, batch, cfg)
  predicted = np.asarray(depth_task.predict_outputs(logits, cfg)["depth"])
  log_p = scipy.special.log_softmax(logits["depth"], axis=2)
  for y, c, n, p in pixels():
    for i in range(2):
      b = bins[i, y, c]
      np.testing.assert_array_equal(x[i, n, :, p], np.eye(8)[b])
      want = 0 if b == 0 else -log_p[i, n, b, p]
      assert loss[i, n, p] == pytest.approx(want, abs=1e-5)
      best = logits["depth"][i, n, :, p].argmax()
      assert predicted[i, y, c] == pytest.approx(1 + 0.5 * (best + 0.5))
  assert logs == {"loss_depth": loss}


def test_panoptic():
  cfg = config(semantics=5, instances=4)
  r = np.random.default_rng(0)
  labels = np.stack(
    [r.integers(0, 5, (2, H, W)), r.integers(0, 4, (2, H, W))], axis=-1
  ).astype(np.int32)
  logits = {
    "semantics": random(2, N, 5, P * Q, seed=1),
    "instances": random(2, N, 4, P * Q, seed=2),
  }
  x = panoptic_task.input_pp({"labels": labels}, cfg)["x"]
  loss, logs = panoptic_task.loss_fn(logits, {"labels": labels}, cfg)
  log_p = {k: scipy.special.log_softmax(v, axis=2) for k, v in logits.items()}
  for y, c, n, p in pixels():
    for channel, (key, num) in enumerate((("semantics", 5), ("instances", 4))):
      for i in range(2):
        label = labels[i, y, c, channel]
        np.testing.assert_array_equal(x[key][i, n, :, p], np.eye(num)[label])
        assert logs[f"loss_{key}"][i, n, p] == pytest.approx(
          -log_p[key][i, n, label, p], abs=1e-5
        )
  np.testing.assert_allclose(
    loss, logs["loss_semantics"] + logs["loss_instances"], rtol=1e-6
  )


@pytest.mark.parametrize("min_fraction", [0.0, 0.26])
def test_panoptic_predictions(min_fraction):
  """An instance gets the class that its pixels vote for together."""
  cfg = config(semantics=5, instances=4)
  logits = {
    "semantics": random(2, N, 5, P * Q, seed=1),
    "instances": random(2, N, 4, P * Q, seed=2),
  }
  out = np.asarray(
    panoptic_task.predict_outputs(logits, cfg, min_fraction=min_fraction)
  )
  assert out.shape == (2, H, W, 2) and out.dtype == np.int32
  zeroed = 0
  for i in range(2):
    instance = np.zeros([H, W], int)
    votes, area = np.zeros([4, 5]), np.zeros(4)
    for y, c, n, p in pixels():
      instance[y, c] = k = logits["instances"][i, n, :, p].argmax()
      votes[k] += logits["semantics"][i, n, :, p]
      area[k] += 1 / (H * W)
    for y in range(H):
      for c in range(W):
        k = instance[y, c]
        kept = area[k] > min_fraction
        zeroed += not kept
        want = [votes[k].argmax(), k] if kept else [0, 0]
        np.testing.assert_array_equal(out[i, y, c], want)
  assert bool(zeroed) == bool(min_fraction)


def test_tasks_by_name():
  cfg = config(color=3)
  cfg.task = "proj.uvim.colorization_task"
  task = common.get_task(cfg)
  labels = random(1, H, W, 3)
  want = colorization_task.input_pp({"labels": labels}, cfg)["x"]["color"]
  np.testing.assert_array_equal(
    task.input_pp({"labels": labels})["x"]["color"], want
  )
  cfg.task = "proj.uvim.colourization_task"
  with pytest.raises(ValueError, match="Did you mean.*colorization_task"):
    common.get_task(cfg)
  del cfg.task
  with pytest.raises(lookup.ConfigError, match="config.task is required"):
    common.get_task(cfg)


def test_settings_that_contradict_each_other():
  cfg = config(depth=9)
  cfg.task = "proj.uvim.depth_task"
  common.get_task(cfg)
  cfg.model.inputs = dict(depth=(9, 8))
  error = (
    r"config.oracle.model.inputs.depth = \(9, 8\) has 8 .* has 6. Write \(9, 6"
  )
  with pytest.raises(lookup.ConfigError, match=error):
    common.get_task(cfg, "oracle.task")
  cfg = config(depth=9)
  cfg.task, cfg.max_depth = "proj.uvim.depth_task", 0.5
  with pytest.raises(
    lookup.ConfigError, match="config.max_depth = 0.5 must be"
  ):
    common.get_task(cfg)
