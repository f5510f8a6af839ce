"""The protocol of colorization FID, with features that NumPy computes, too."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators.proj.uvim import coltran_fid
from big_vision.models import inception

SIDE = 256


def predict(state, batch, brightness=0.0):
  """Colors by halves, so that pixels are between those of 8 bits."""
  del state
  assert batch["image"].shape == batch["image_ctx"].shape
  tint = jnp.asarray([0.5, 0.0, -0.5])[None, None, None]
  return {"color": batch["image"] / 2 + tint + brightness}


def cheap(variables, images):
  """Means of 3 x 3 parts: [B, 27]."""
  part = images[:, :255, :255].reshape(len(images), 3, 85, 3, 85, 3)
  return (part.mean((2, 4)) * variables["scale"]).reshape(len(images), -1)


@pytest.fixture
def cheap_features(monkeypatch):
  monkeypatch.setattr(inception, "features", cheap)
  variables = {"scale": np.float32(3)}
  monkeypatch.setattr(inception, "load", lambda weights: variables)
  coltran_fid.get_eval_fn.cache_clear()
  coltran_fid.get_features_fn.cache_clear()
  yield
  coltran_fid.get_eval_fn.cache_clear()
  coltran_fid.get_features_fn.cache_clear()


def make(**kw):
  kw = dict(dataset="shapes/tiny", resolution=48, device_batch_size=1) | kw
  return coltran_fid.Evaluator(predict, 7, devices=jax.devices(), **kw)


def raw_images():
  from big_vision.datasets import core
  from big_vision.tf import tf

  ds = core.get("shapes/tiny", split="validation").get_tfdata(ordered=True)
  return [tf.io.decode_jpeg(x["image"]).numpy() for x in ds.as_numpy_iterator()]


def picture(image, side):
  """By TensorFlow: halves are frequent, and rounded as its sums turn out."""
  from big_vision.tf import tf

  resized = tf.image.resize(image, (side, side), method="area")
  return np.round(resized.numpy()) / 128 - 1


def area(x, side):
  """Area resizing of [h, w, C]: enlarges each pixel, then averages blocks."""
  for axis in (0, 1):
    old = x.shape[axis]
    x = x.repeat(side, axis)
    x = x.reshape(*x.shape[:axis], side, old, *x.shape[axis + 1 :])
    x = x.mean(axis + 1)
  return x


def expected_fid(num, begin, resolution, brightness=0.0):
  images = raw_images()
  quantize = lambda y: np.clip(np.round((y + 1) * 128), 0, 255) / 128 - 1
  real = [picture(x, SIDE) for x in images[begin:][:num]]
  fake = []
  for image in images[:num]:
    gray = picture(image, resolution).astype(np.float64) @ [
      0.2989,
      0.587,
      0.114,
    ]
    y = gray[..., None] / 2 + np.array([0.5, 0, -0.5]) + brightness
    fake.append(quantize(area(y, SIDE)))
  scale = {"scale": 3}
  a, b = (cheap(scale, np.stack(x)) for x in (real, fake))
  cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  values = np.linalg.eigvals(cov_a @ cov_b).real
  root = np.sqrt(np.maximum(values, 0)).sum()
  apart = np.square(a.mean(0) - b.mean(0)).sum()
  return apart + np.trace(cov_a + cov_b) - 2 * root


@pytest.mark.tf
@pytest.mark.parametrize(
  "kw, num, begin",
  [
    (dict(), 10, 20),
    (dict(num_images=9, coltran_seed=0, device_batch_size=2), 9, 9),
    (dict(num_images=5, predict_kwargs={"brightness": 0.25}), 5, 10),
  ],
)
def test_protocol(tfds_data_dir, cheap_features, state, kw, num, begin):
  """Which images, sizes and roundings; batches that need padding."""
  evaluator = make(**kw)
  [(name, found)] = evaluator.run(state)
  assert name == f"FID_{num}"
  brightness = kw.get("predict_kwargs", {}).get("brightness", 0)
  expected = expected_fid(num, begin, 48, brightness)
  # Single values may be rounded the other way.
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert dict(evaluator.run(state)) == {name: found}


@pytest.mark.tf
def test_area_resize():
  from big_vision.tf import tf

  x = np.random.RandomState(0).rand(2, 20, 33, 3).astype(np.float32)
  for side in (10, 7, 64):
    expected = tf.image.resize(x, (side, side), method="area").numpy()
    found = coltran_fid.area_resize(jnp.asarray(x), side)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.tf
def test_largest_square_in_the_middle():
  """Of a picture of 4 x 7 pixels: columns 1 to 4."""
  image = np.arange(28, dtype=np.uint8).reshape(4, 7, 1).repeat(3, -1)
  labels = coltran_fid._picture(4, {"image": jnp.asarray(image)})["labels"]
  np.testing.assert_array_equal(labels, image[:, 1:5] / 128.0 - 1)


def test_which_images():
  ranges = coltran_fid.image_ranges
  assert ranges(50000, None, 1) == (range(5000), range(10000, 15000))
  assert ranges(50000, None, 0) == (range(5000), range(5000, 10000))
  assert ranges(256, None, 1) == (range(85), range(170, 255))
  for total, num, seed in ((50000, 20000, 1), (5, None, 1), (99, 1, 0)):
    with pytest.raises(lookup.ConfigError, match=r"^num_images=\w+ should be"):
      ranges(total, num, seed)
  with pytest.raises(lookup.ConfigError, match="^coltran_seed=-1 should"):
    ranges(50000, None, -1)


@pytest.mark.tf
def test_published_number(tfds_data_dir, cheap_features, monkeypatch):
  ranges = range(1000), range(1000, 2000)
  monkeypatch.setattr(coltran_fid, "image_ranges", lambda *args: ranges)
  assert make().name == "FID_1k"


@pytest.mark.parametrize(
  "fn",
  [
    lambda s, b: b["image"],
    lambda s, b: {"depth": b["image"]},
    lambda s, b: {"color": b["image"][..., :1]},
  ],
)
def test_trial_finds_other_predictions(fn):
  shape = jax.ShapeDtypeStruct((8, 16, 16, 3), np.float32)
  batch = {"image": shape, "_mask": jax.ShapeDtypeStruct((8,), bool)}

  def trial(fn, **cfg):
    run = lambda b: coltran_fid.trial(fn, {}, b, cfg)
    return jax.eval_shape(run, batch)

  with pytest.raises(lookup.ConfigError, match="colorization task"):
    trial(fn)
  assert trial(predict, predict_kwargs={"brightness": 0.5}).shape == (
    8, SIDE, SIDE, 3,
  )  # fmt: skip


@pytest.mark.tf
def test_trial_of_the_resolution(tfds_data_dir):
  """It is tried before a run, which would reach it after 100,000 steps."""
  from big_vision.evaluators import trial

  def of_16_pixels(state, batch):
    del state
    if batch["image_ctx"].shape[1:] != (16, 16, 3):
      raise ValueError(f"Other shape: {batch['image'].shape}.")
    return {"color": batch["image"]}

  def check(**kw):
    cfg = {"type": "proj.uvim.coltran_fid", "dataset": "shapes/tiny"} | kw
    config = {"evals": {"fid": cfg}, "input": {"batch_size": 8}}
    predict_fns = {"predict": of_16_pixels}
    trial.check(config, predict_fns, {}, {}, np.asarray(jax.devices()))

  check(resolution=16)
  with pytest.raises(
    lookup.ConfigError,
    match=r"evals.fid.resolution \(image \[8, 512, 512, 3\]\) does not fit: Oth",
  ):
    check()


@pytest.mark.tf
def test_checks_of_the_config(tfds_data_dir, monkeypatch):
  from big_vision.evaluators import validate

  def check(**kw):
    cfg = {"type": "proj.uvim.coltran_fid", "log_steps": 100000} | kw
    config = {"evals": {"fid": cfg}, "input": {"batch_size": 8}}
    validate.validate(config, None, jax.devices())

  with pytest.raises(ValueError) as e:
    check(dataset="shapes/tiny", weights="no/such/file.pth")
  text = str(e.value)
  assert text.startswith("config.evals.fid.weights: ")
  assert "'no/such/file.pth'" in text and inception.WEIGHTS in text
  assert "\n" not in text
  monkeypatch.setattr(inception, "fetch", lambda weights: weights)
  check(dataset="shapes/tiny")
  with pytest.raises(ValueError, match="fid.num_images=20 should be from 2 to"):
    check(dataset="shapes/tiny", num_images=20)
  with pytest.raises(
    ValueError, match=r"evals\.fid\.dataset\.name: no dataset"
  ):
    check(dataset="shpaes")
  with pytest.raises(ValueError, match="fid.device_batch_size=0 should be"):
    check(dataset="shapes/tiny", device_batch_size=0)
  with pytest.raises(ValueError, match="Did you mean 'weights'"):
    check(dataset="shapes/tiny", weigths="x")


@pytest.mark.tf
def test_lists_of_names(tmp_path, monkeypatch):
  from big_vision.tf import tf

  names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(6)]
  ds = tf.data.Dataset.from_tensor_slices({"file_name": names})
  source = types.SimpleNamespace(get_tfdata=lambda **kw: ds)
  ranges = range(2), range(4, 6)
  check = lambda: coltran_fid._check_names(source, ranges)
  monkeypatch.setenv("FID_DATA_DIR", str(tmp_path))
  check()  # There are no lists.
  first, second = (tmp_path / name for name in coltran_fid.NAME_LISTS)
  first.write_text("\n".join(names[1::-1]) + "\n")
  second.write_text("\n".join(names[4:]))
  check()
  second.write_text("\n".join(names[3:5]))
  with pytest.raises(lookup.ConfigError, match="reference_file_names.txt does"):
    check()
