"""Trained models of UViM: labels, codes and pictures, against their parts."""

import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import uvim_runs
from big_vision import checkpoints, lookup, models, pretrained
from big_vision.pretrained import uvim_labels
from big_vision.trainers.proj.uvim import common

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASKS = ("panoptic", "depth", "colorization")


@pytest.fixture(scope="module", params=TASKS)
def runs(request, tmp_path_factory):
  """(task, workdir of stage I, of stage II, their models)."""
  folder, task = tmp_path_factory.mktemp("runs"), request.param
  one = uvim_runs.stage_one(folder / "one", task)
  two = uvim_runs.stage_two(folder / "two", task, one)
  return task, one, two, pretrained.load(one), pretrained.load(two)


def test_stage_one(runs):
  task, workdir, _, model, _ = runs
  assert isinstance(model, pretrained.UViMOracle)
  assert model.task == task.replace("colorization", "color")
  images = uvim_runs.images()
  labels = uvim_runs.labels(task, images)
  codes = model.encode(labels, images)
  assert codes.shape == (3, 4) and codes.dtype == np.int32
  found = model.decode(codes, images)

  # The same by the trainer's functions, one picture at a time.
  config = ConfigDict(uvim_runs.stage_one_config(task))
  functions, (module, _) = common.get_task(config), models.build(config)
  stored = checkpoints.load_checkpoint_ts(f"{workdir}/checkpoint.bv")
  variables = {k: stored[k] for k in ("params", "state")}

  @jax.jit
  def compute(batch):
    logits, out = module.apply(variables, **functions.input_pp(batch))
    return functions.predict_outputs(logits), out["code"]

  for i, image in enumerate(images):
    inputs = model.preprocess.inputs(image)
    size, own = (uvim_runs.SIZE, uvim_runs.SIZE), image.shape[:2]
    label = uvim_labels.to_model(model.task, labels[i], size)
    batch = {"labels": label[None], "image": inputs["image"][None]}
    want, code = compute(batch)
    np.testing.assert_array_equal(code[0], codes[i])
    want = jax.tree.map(lambda x: np.asarray(x[0]), want)
    want = uvim_labels.from_model(model.task, want, own)
    assert found[i].shape[:2] == own and found[i].dtype == want.dtype
    np.testing.assert_allclose(
      found[i], want, atol=1e-4 if task == "depth" else 1
    )
    assert model.draw(found[i]).shape == (*own, 3)
  for a, b in zip(found, model.reconstruct(labels, images), strict=True):
    np.testing.assert_array_equal(a, b)


def test_stage_two(runs):
  task, *_, model = runs
  assert isinstance(model, pretrained.UViM)
  images = uvim_runs.images()
  codes = model.codes(images)
  found = model.predict(images)
  for a, b in zip(found, model.oracle.decode(codes, images), strict=True):
    np.testing.assert_array_equal(a, b)
  if task != "depth":
    return  # The rest is the same for all.
  # The most probable code, one after the other, without a cache.
  apply = jax.jit(model.model.apply)
  for image, want in zip(images, codes, strict=True):
    x = model.preprocess.inputs(image)["image"][None]
    tokens = np.zeros([1, uvim_runs.NUM_CODES], np.int32)
    for i in range(uvim_runs.NUM_CODES):
      logits = apply({"params": model.params}, x, tokens)
      tokens[0, i] = 1 + np.argmax(logits[0, i, 1:])  # 0 is no code.
    np.testing.assert_array_equal(tokens[0] - 1, want)


def test_sampling_depends_on_the_seed_not_on_other_pictures(runs):
  task, *_, model = runs
  if task != "depth":
    return  # It is the same for all.
  images = uvim_runs.images()
  first = model.codes(images, temperature=3.0, seed=1)
  np.testing.assert_array_equal(
    first[::-1], model.codes(images[::-1], temperature=3.0, seed=1)
  )
  np.testing.assert_array_equal(
    first[2:], model.codes(images[2:], temperature=3.0, seed=1)
  )
  others = [model.codes(images, temperature=3.0, seed=s) for s in (2, 3, 4)]
  assert any((first != other).any() for other in others)


def test_other_sources(tmp_path):
  one = uvim_runs.stage_one(tmp_path / "one", "depth")
  two = uvim_runs.stage_two(tmp_path / "two", "depth", one)
  images = uvim_runs.images(1)
  want = pretrained.load(two).codes(images)
  stored = checkpoints.load_checkpoint_ts(f"{one}/checkpoint.bv")
  npz = str(tmp_path / "oracle.npz")
  tree = {k: stored[k] for k in ("params", "state")}
  checkpoints.save_checkpoint(tree, npz)
  config = ConfigDict(uvim_runs.stage_one_config("depth"))
  labels = uvim_runs.labels("depth", images)
  codes = pretrained.load(one).encode(labels, images)
  for model in (
    pretrained.load(npz, config=config),
    pretrained.load(f"{one}/checkpoint.bv-000000003-tmp"),
    pretrained.load(one, init=f"{one}/checkpoint.bv"),
  ):
    np.testing.assert_array_equal(model.encode(labels, images), codes)

  # Stage I has moved.
  shutil.move(one, tmp_path / "moved")
  with pytest.raises(lookup.ConfigError, match="oracle.model_init=") as e:
    pretrained.load(two)
  assert "\n" not in str(e.value) and "give oracle=" in str(e.value)
  for oracle in (npz, tmp_path / "moved"):
    found = pretrained.load(two, oracle=oracle)
    np.testing.assert_array_equal(found.codes(images), want)
  with pytest.raises(lookup.ConfigError, match="oracle='nowhere'"):
    pretrained.load(two, oracle="nowhere")
  with pytest.raises(lookup.ConfigError, match="is for stage II; "):
    pretrained.load(tmp_path / "moved", oracle=npz)


def test_what_does_not_fit(tmp_path):
  one = uvim_runs.stage_one(tmp_path / "one", "panoptic")
  model = pretrained.load(one)
  images = uvim_runs.images()
  labels = uvim_runs.labels("panoptic", images)
  for fn, message in [
    (lambda: model.encode(labels), "sees the pictures of labels"),
    (lambda: model.encode(labels, images[:2]), "2 images for 3 labels"),
    (lambda: model.encode([x[..., 0] for x in labels], images), "int .height"),
    (lambda: model.decode(np.zeros([3, 5]), images), r"int .pictures, 4., got"),
    (lambda: model.decode(np.full([3, 4], 8), images), "0 to 7, got 8 to 8"),
    (lambda: pretrained.load(one, image_size=32), "image_size=32 does not"),
  ]:
    with pytest.raises(ValueError, match=message):
      fn()
  config = json.loads((one / "config.json").read_text())
  config["model"]["width"] = 32
  (one / "config.json").write_text(json.dumps(config))
  with pytest.raises(lookup.ConfigError, match="does not fit its config"):
    pretrained.load(one)


@pytest.mark.tf
def test_labels_of_the_model():
  pytest.importorskip("tensorflow")
  from big_vision.pp.proj.uvim import pp_ops

  rng = np.random.default_rng(0)
  labels = rng.integers(-2, 9, [12, 9, 2]).astype(np.int32)
  got = uvim_labels.to_model("panoptic", labels, (12, 9))
  want = pp_ops.get_make_canonical()({"labels": labels})["labels"]
  np.testing.assert_array_equal(got, want)
  large = np.kron(labels[..., 1], np.ones([3, 3], np.int64)) * 1000
  large = np.stack([np.ones_like(large), large], axis=-1)
  got = uvim_labels.to_model("panoptic", large, (12, 9))
  assert got[..., 1].max() == 8 and (got[..., 0] == 1).all()


def test_describe():
  labels = np.zeros([4, 4, 2], np.int32)
  labels[0], labels[1], labels[2] = (3, 1), (3, 2), (5, 3)
  found = uvim_labels.describe("panoptic", labels, {3: "cat"})
  assert found == {"classes": 2, "instances": 3, "found": "cat x 2; 5 x 1"}
  found = uvim_labels.describe("depth", np.float32([[0, 1], [3, 2]]))
  assert found == {"min_depth": 1, "mean_depth": 2, "max_depth": 3}


@pytest.mark.tf
def test_examples(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  from big_vision.datasets import core
  from big_vision.pp import builder, ops_general  # noqa: F401  (Registers.)
  from big_vision.pp.proj.uvim import pp_ops  # noqa: F401  (Registers.)
  from big_vision.pretrained import uvim_examples

  data = dict(name="shapes/tiny", split="validation")
  pp = 'coco_panoptic|concat(["semantics","instances"], "labels")'
  for task in TASKS:
    config = ConfigDict(uvim_runs.stage_one_config(task))
    assert uvim_examples.data_of(config) == data
    del config.evals.one["dataset"]
    with pytest.raises(ValueError, match="no evaluator with `data`"):
      uvim_examples.examples(config, 3)
    config.evals.val.data = data
    (image, labels), *others = uvim_examples.examples(config, 3)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert len(others) == 2 and labels.shape[:2] == (32, 32)
    if task == "panoptic":
      source = uvim_examples.data_of(config)
      raw = next(iter(core.get(**source).get_tfdata(ordered=True)))
      want = builder.get_preprocess_fn(pp, log_data=False)(raw)["labels"]
      np.testing.assert_array_equal(labels, want)
