"""Sequences of patches: against NumPy, and through training and evaluation."""

import dataclasses
import json
import pathlib
import zlib

import jax
import numpy as np
import pytest

import toy
from big_vision import input_pipeline
from big_vision.datasets import shapes
from big_vision.evaluators import common
from big_vision.pp import builder, ops_general, ops_image, ops_text, rng
from big_vision.pp.proj.image_text import ops_naflex
from big_vision.tf import tf
from big_vision.trainers.proj.image_text import siglip
from big_vision.training import cli

pytestmark = pytest.mark.tf

_ = ops_general, ops_image, ops_text  # They register ops.

GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "naflex.json"
TUPLIFY = 'tuplify(["image/patches", "image/type", "image/yidx", "image/xidx"], "image")'


def noise(h, w, seed):
  random = np.random.RandomState(seed)
  return random.randint(0, 256, (h, w, 3)).astype(np.uint8)


def index(h, w, seed):
  del seed
  return (np.arange(h * w * 3) * 7 % 256).reshape(h, w, 3).astype(np.uint8)


def run(pp, image):
  """Result of ops for an image whose size is not known to the graph."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  spec = tf.TensorSpec([None, None, image.shape[-1]], image.dtype)
  ds = tf.data.Dataset.from_generator(lambda: [image], output_signature=spec)
  ds = ds.map(lambda x: fn({"image": x}))
  (graph,) = ds.as_numpy_iterator()
  eager = fn({"image": tf.constant(image)})
  jax.tree.map(np.testing.assert_array_equal, eager, graph)
  return graph["image"], ds.element_spec["image"]


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()))
def test_recorded(case):
  kind, *args = case["image"]
  got, spec = run(case["pp"], {"noise": noise, "index": index}[kind](*args))
  if "patchify" in case["pp"]:
    got, spec = got["patches"], spec["patches"]
    assert spec.shape.as_list() == [None, case["shape"][1]]
  else:
    assert spec.shape.as_list() == [None, None, 3]
  assert list(got.shape) == case["shape"]
  assert got.dtype == np.float32 if "resize" in case["pp"] else np.uint8
  if "crc" in case:
    assert zlib.crc32(got.astype("<i8").tobytes()) == case["crc"]
  if "first" in case:
    np.testing.assert_allclose(got.ravel()[:12], case["first"], atol=5e-3)
    flat = got.ravel().astype(np.float64)
    weights = np.arange(flat.size, dtype=np.uint64) * np.uint64(2654435761)
    weights = (weights % np.uint64(2**32)).astype(np.float64) / 2**32
    stats = [flat.mean(), flat.std(), (flat * weights).mean()]
    np.testing.assert_allclose(stats, case["stats"], rtol=1e-5)


def size_for_seq(hw, patch, length, divisible=True, eps=1e-5):
  """(ratio, size) by bisection in NumPy."""
  f = np.float32

  def target(ratio):
    size = np.asarray(hw, f) * ratio
    if divisible:
      size = f(patch) * np.ceil(size / f(patch))
    return np.maximum(size, f(patch)).astype(np.int32)

  low, high = f(eps / 10), f(100)
  while high - low >= f(eps):
    mid = (low + high) / f(2)
    if np.prod(target(mid) / patch) <= length:
      low = mid
    else:
      high = mid
  return low, target(low)


@pytest.mark.parametrize(
  "hw, patch, length, divisible, want",
  [
    ((100, 37), 16, 64, True, (192, 80)),
    ((100, 37), 16, 64, False, (210, 78)),
    ((2000, 3000), 16, 256, True, (208, 304)),
    ((480, 640), 16, 1024, True, (432, 576)),
    ((1, 9000), 16, 256, True, (16, 4096)),
    ((480, 640), 16, 1, True, (16, 16)),
  ],
)
def test_known_sizes(hw, patch, length, divisible, want):
  ratio, got = ops_naflex._get_image_size_for_seq(hw, patch, length, divisible)
  assert ratio.dtype == tf.float32 and got.dtype == tf.int32
  assert tuple(got.numpy()) == want


def test_sizes_as_in_numpy_and_as_large_as_possible():
  random = np.random.RandomState(0)
  fn = tf.function(ops_naflex._get_image_size_for_seq)
  for _ in range(30):
    hw = random.randint(20, 2000, 2).astype(np.int32)
    length = int(random.choice([128, 256, 576, 784, 1024]))
    ratio, size = fn(tf.constant(hw), 16, tf.constant(length))
    want_ratio, want = size_for_seq(hw, 16, length)
    assert ratio.numpy() == want_ratio
    np.testing.assert_array_equal(size, want)
    assert np.prod(size // 16) <= length and not np.any(size % 16)
    larger = np.ceil(hw * (float(ratio) + 2e-5) / 16)
    assert np.prod(larger) > length


def test_limits_of_the_size():
  get = ops_naflex._get_image_size_for_seq
  ratio, size = get((1, 1), 16, 10**6)  # Not 1000 times as large.
  assert 99 < ratio < 100 and tuple(size.numpy()) == (112, 112)
  ratio, _ = get(
    (20, 20), 16, 64, eps=1e-12
  )  # Ends, although float32 has less.
  assert float(ratio) == pytest.approx(6.4, rel=1e-6)
  with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
    get((10**7, 10**7), 1, 4)


def filter_matrix(old, new):
  """[new, old] weights of a resized axis: a triangle, wider when shrinking."""
  scale = old / new
  center = (np.arange(new) + 0.5) * scale - 0.5
  distance = np.abs(center[:, None] - np.arange(old)[None])
  w = np.maximum(1 - distance / max(scale, 1), 0)
  return w / w.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("hw", [(60, 91), (12, 7)])
def test_resize_values(hw):
  image = noise(*hw, 1)
  got, _ = run("resize_to_sequence(8, 20)", image)
  _, (h, w) = size_for_seq(hw, 8, 20)
  want = np.einsum(
    "yi,xj,ijc->yxc", filter_matrix(hw[0], h), filter_matrix(hw[1], w), image
  )
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-3)


def test_crop_values():
  image = noise(65, 90, 2)
  got, _ = run(
    "central_crop_to_sequence(8, 15, divisible_by_patch=False)", image
  )
  _, (h, w) = size_for_seq((65, 90), 8, 15, False)
  top, left = (65 - h) // 2, (90 - w) // 2
  np.testing.assert_array_equal(got, image[top : top + h, left : left + w])
  with pytest.raises(tf.errors.InvalidArgumentError, match="smaller than"):
    run("central_crop_to_sequence(8, 999)", image)


@pytest.mark.parametrize("patch", [4, (3, 5)])
def test_patches(patch):
  image = noise(13, 16, 3).astype(np.float32)
  got, spec = run(f"patchify({patch})", image)
  ph, pw = (patch, patch) if isinstance(patch, int) else patch
  cells = [(y, x) for y in range(13 // ph) for x in range(16 // pw)]
  want = [
    image[y * ph : (y + 1) * ph, x * pw : (x + 1) * pw].ravel()
    for y, x in cells
  ]
  np.testing.assert_array_equal(got["patches"], want)
  yx = np.stack([got["yidx"], got["xidx"]], 1)
  np.testing.assert_array_equal(yx, cells)
  np.testing.assert_array_equal(got["type"], np.ones(len(cells)))
  assert {k: s.dtype for k, s in spec.items()} == {
    "patches": tf.float32, "yidx": tf.int32, "xidx": tf.int32, "type": tf.int32
  }  # fmt: skip


def test_patches_of_known_size():
  fn = builder.get_preprocess_fn("patchify(4)")
  ds = tf.data.Dataset.from_tensors({"image": noise(13, 16, 3)}).map(fn)
  assert {k: s.shape.as_list() for k, s in ds.element_spec["image"].items()} == {
    "patches": [12, 48], "yidx": [12], "xidx": [12], "type": [12]
  }  # fmt: skip


def test_padding():
  image = noise(13, 16, 3)
  got, spec = run(f"patchify(4)|pad_patches(15)|{TUPLIFY}", image)
  assert isinstance(got, tuple)
  assert [s.shape.as_list() for s in spec] == [[15, 48], [15], [15], [15]]
  plain, _ = run("patchify(4)", image)
  for x, key in zip(got, ("patches", "type", "yidx", "xidx"), strict=True):
    np.testing.assert_array_equal(x[:12], plain[key])
    assert not x[12:].any()
  # As ops that are not made for it do.
  pad = "|".join(
    f'pad_to_shape({shape}, key="image/{k}")'
    for k, shape in (
      ("patches", "[15, None]"), ("type", "[15]"), ("yidx", "[15]"), ("xidx", "[15]")
    )
  )  # fmt: skip
  same, _ = run(f'patchify(4)|flatten(["image"])|{pad}|{TUPLIFY}', image)
  jax.tree.map(np.testing.assert_array_equal, same, got)
  with pytest.raises(tf.errors.InvalidArgumentError, match="more patches"):
    run("patchify(4)|pad_patches(11)", image)


def test_random_lengths():
  fn = builder.get_preprocess_fn(
    f"resize_to_sequence(4, [4, 9, 16])|patchify(4)|pad_patches(16)|{TUPLIFY}",
    log_data=False,
  )

  @tf.function
  def num_patches(seed):
    with rng.example_seed(tf.stack([seed, 1])):
      out = fn({"image": tf.zeros([20, 20, 3], tf.uint8)})["image"]
    assert out[0].shape == [16, 48]
    return tf.reduce_sum(out[1])

  seeds = tf.range(60, dtype=tf.int64)
  nums = [int(num_patches(s)) for s in seeds]
  assert set(nums) == {4, 9, 16}
  assert min(nums.count(n) for n in (4, 9, 16)) > 8  # 20 expected.
  assert nums == [int(num_patches(s)) for s in seeds]


@pytest.mark.parametrize(
  "pp, error, message",
  [
    ("resize_to_sequence(0, 9)", ValueError, "patch_size=0"),
    ("resize_to_sequence(8, [])", ValueError, r"max_sequence_len=\[\] must be"),
    ("resize_to_sequence(8, [9, 0])", ValueError, "max_sequence_len"),
    ("resize_to_sequence((8, 8), 9)", ValueError, "patch_size=.8, 8."),
    ("central_crop_to_sequence(8, 1.5)", ValueError, "central_crop_.*=1.5"),
    ("resize_to_sequence(8, 9, size=3)", TypeError, "Usage: resize_to_seq"),
    ("patchify(0)", ValueError, "patchify: patch_size=0"),
    ("patchify((4, 4, 4))", ValueError, "patchify: patch_size"),
    ("pad_patches(0)", ValueError, "max_sequence_len=0"),
  ],
)
def test_bad_arguments(pp, error, message):
  with pytest.raises(error, match=message):
    builder.get_preprocess_fn(pp)


@pytest.mark.parametrize(
  "pp, shape, error, message",
  [
    ("resize_to_sequence(8, 9)", [9, 9, 4], ValueError, "resize_to_.*3 channels"),
    ("central_crop_to_sequence(8, 9)", [9, 9, 1], ValueError, "3 channels"),
    ("patchify(8)", [2, 9, 9, 3], ValueError, "patchify needs an image"),
    ("pad_patches(8)", [9, 9, 3], ValueError, "what patchify gives"),
    ('tuplify(["image/patchs"], "t")', None, KeyError, "image/patches"),
  ],
)  # fmt: skip
def test_bad_data(pp, shape, error, message):
  image = {"patches": 1} if shape is None else tf.zeros(shape)
  with pytest.raises(error, match=message):
    builder.get_preprocess_fn(pp)({"image": image})


PP_IMG = (
  "resize((32, 64))|resize_to_sequence(8, [6, 12])|value_range(-1, 1)"
  f"|patchify(8)|pad_patches(12)|{TUPLIFY}"
)
PP_TXT = 'tokenize(max_len=8, model="shapes", eos="sticky", inkey={!r}, outkey="labels")'
PP = (
  f'decode|{PP_IMG}|choice(inkey="captions", outkey="text")|'
  + PP_TXT.format("text")
  + '|keep("image", "labels")'
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("tfds"))
  shapes.prepare(folder, "tiny")
  data = dict(name="shapes/tiny", data_dir=folder)
  tower = dict(width=16, depth=1, mlp_dim=32, num_heads=2)
  every = dict(data_dir=folder, log_steps=3)
  return toy.config(
    total_steps=3,
    input=dict(batch_size=16, data=dict(split="train", **data), pp=PP),
    model_name="proj.image_text.two_towers",
    model=dict(
      image_model="proj.image_text.naflex_vit",
      image=dict(nposemb=4, pool_type="map", head_zeroinit=False, **tower),
      text=dict(vocab_size=512, **tower),
      out_dim=8,
      bias_init=-10.0,
    ),
    loss_fn="sigmoid",
    pp_modules=[
      "ops_general", "ops_image", "ops_text", "proj.image_text.ops_naflex"
    ],
    evals=dict(
      val=dict(
        type="proj.image_text.contrastive",
        data=dict(split="validation", **data),
        pp_fn=PP,
        use_global_batch=True,
        log_steps=3,
      ),
      retrieval=dict(
        type="proj.image_text.retrieval",
        dataset="shapes/tiny",
        split="validation[:20]",
        txt_name="captions",
        pp_img=PP_IMG,
        pp_txt=PP_TXT.format("texts"),
        **every,
      ),
    ),
  )  # fmt: skip


IMAGE_SHAPES = [(16, 12, 192), (16, 12), (16, 12), (16, 12)]


@pytest.mark.multidevice
def test_batches_fit_the_model(config):
  """What the trainer sees; nothing is compiled."""
  devices = np.array(jax.devices())
  ds, _ = input_pipeline.training(config.input)
  batch_shapes = input_pipeline.shapes(ds.element_spec)
  image = batch_shapes["image"]
  assert isinstance(image, tuple)
  assert [s.shape for s in image] == IMAGE_SHAPES
  batch = next(input_pipeline.start_global(ds, devices, 0))
  assert isinstance(batch["image"], tuple)
  assert all(x.sharding.num_devices == 8 for x in batch["image"])
  assert set(np.unique(np.sum(batch["image"][1], axis=1))) == {6, 8}

  setup = dataclasses.replace(
    toy.setup(config, devices=devices), batch_shapes=batch_shapes
  )
  recipe = siglip.build(setup)
  key = jax.random.key(0)
  params = jax.eval_shape(recipe.init, key, batch_shapes)
  embedding = params["img"]["embedding"]["kernel"]
  assert embedding.shape == (192, 16)
  loss, _ = jax.eval_shape(recipe.loss_fn, params, batch, key, {})
  assert loss.shape == ()


@pytest.mark.multidevice
def test_batches_of_evaluators(config):
  data = config.evals.val.data.to_dict() | {"split": "validation[:20]"}
  get_iter, steps = common.eval_input_pipeline(
    data, PP, 16, np.array(jax.devices())
  )
  it = get_iter()
  assert steps == 2
  first, last = next(it), next(it)
  assert [x.shape for x in first["image"]] == IMAGE_SHAPES
  assert first["_mask"].sum() == 16 and last["_mask"].sum() == 4
  assert not np.any(last["image"][1][4:])  # Examples that are padding.


@pytest.mark.slow
@pytest.mark.multidevice
@pytest.mark.parametrize("accum", [1, 2])
def test_trains(config, tmp_path, accum):
  config = config.copy_and_resolve_references()
  config.grad_accum_steps = accum
  cli.train(siglip.build, config, str(tmp_path / "w"))
  rows = toy.rows(tmp_path / "w")
  assert all(np.isfinite(row["training_loss"]) for row in rows.values())
  assert rows[3]["training_loss"] < rows[1]["training_loss"]
  assert 0 < rows[3]["val/loss"] < 5
  assert 0 <= rows[3]["retrieval/txt2img_recall@10"] <= 1
