"""Pictures of examples: input, ground truth, prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import drawing, lookup, pictures
from big_vision.evaluators.proj.uvim import pictures as evaluator

SIDE = 128 + 4  # Of a cell: a small picture is enlarged.


def make(data, fn, **kw):
  return evaluator.Evaluator(
    fn, data=data, pp_fn="", devices=jax.devices(), **kw
  )


def run(data, fn, state, **kw):
  ((name, picture),) = make(data, fn, **kw).run(state)
  assert name == "examples" and isinstance(picture, pictures.Picture)
  return picture.pixels


def cell(pixels, i, j):
  """Pixels of a cell, in the size of before: 32 pixels."""
  return pixels[i * SIDE : i * SIDE + 128 : 4, j * SIDE : j * SIDE + 128 : 4]


def images(n, seed=0):
  return np.random.RandomState(seed).uniform(-1, 1, [n, 32, 32, 3]).astype("f")


def test_panoptic(arrays, state):
  labels = np.random.RandomState(1).randint(0, 4, [11, 32, 32, 2])
  data = {"image": images(11), "labels": labels}
  fn = lambda state, batch: (batch["labels"] + 1) % 4
  pixels = run(data, fn, state, num=3)
  assert pixels.shape == (3 * SIDE - 4, 3 * SIDE - 4, 3)
  for i in range(3):
    want = drawing.to_uint8(data["image"][i])
    np.testing.assert_array_equal(cell(pixels, i, 0), want)
    truth, predicted = (
      drawing.draw(labels[i]),
      drawing.draw((labels[i] + 1) % 4),
    )
    np.testing.assert_array_equal(cell(pixels, i, 1), truth)
    np.testing.assert_array_equal(cell(pixels, i, 2), predicted)


def test_depth_and_its_scale(arrays, state):
  depth = np.random.RandomState(1).uniform(1, 5, [8, 32, 32, 1]).astype("f")
  data = {"image": images(8), "labels": -depth, "ground_truth": depth}

  def fn(state, batch, factor=1.0):
    return {"depth": -factor * batch["labels"][..., 0]}

  pixels = run(data, fn, state, num=2, predict_kwargs={"factor": 0.5})
  top = float(depth[1].max())
  want = drawing.draw_depth(depth[1], top)
  np.testing.assert_array_equal(cell(pixels, 1, 1), want)
  want = drawing.draw_depth(depth[1] / 2, top)
  np.testing.assert_array_equal(cell(pixels, 1, 2), want)
  pixels = run(data, fn, state, num=2, max_depth=10.0)
  want = drawing.draw_depth(depth[0], 10.0)
  np.testing.assert_array_equal(cell(pixels, 0, 2), want)


def test_colors_and_small_splits(arrays, state):
  data = {"image": images(3), "labels": images(3, 5)}  # Fewer than asked for.
  fn = lambda state, batch: {"color": -batch["labels"]}
  pixels = run(data, fn, state)
  assert pixels.shape[0] == 3 * SIDE - 4
  want = drawing.to_uint8(-data["labels"][2])
  np.testing.assert_array_equal(cell(pixels, 2, 2), want)


def test_without_ground_truth_and_the_same_examples_again(arrays, state):
  fn = lambda state, batch: jnp.int32(batch["image"][..., :2] > 0)
  found = make({"image": images(20)}, fn, num=2)
  (first,), (second,) = (list(found.run(state)) for _ in range(2))
  assert first[1].pixels.shape == (2 * SIDE - 4, 2 * SIDE - 4, 3)
  np.testing.assert_array_equal(first[1].pixels, second[1].pixels)


def test_errors(arrays, state):
  data = {"image": images(8), "labels": images(8)}
  with pytest.raises(lookup.ConfigError, match="should be int"):
    run(data, lambda state, batch: batch["labels"], state)
  with pytest.raises(lookup.ConfigError, match="num=0 should be at least 1"):
    make(data, None, num=0)
  with pytest.raises(lookup.ConfigError, match="give either data=dict"):
    make(None, None)
  with pytest.raises(lookup.ConfigError, match="has no image"):
    run({"x": images(8)}, lambda state, batch: None, state)


def test_data_sources():
  cfg = dict(dataset="coco", pp_fn="resize(8)")
  (found,) = evaluator.data_sources(cfg)
  data = {"name": "coco", "split": "validation", "skip_decode": ()}
  assert found == ("dataset", data)
