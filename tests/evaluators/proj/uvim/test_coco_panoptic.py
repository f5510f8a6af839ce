"""Panoptic quality of a dataset: padding, corruption by hand, files, checks."""

import json

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import panoptic_brute_force
import pytest
from PIL import Image

from big_vision import lookup, panoptic, resizing
from big_vision.datasets import core
from big_vision.evaluators import trial, validate
from big_vision.evaluators.proj.uvim import coco_files, coco_panoptic

pytestmark = pytest.mark.tf

LABELS = 'coco_panoptic|concat(["semantics","instances"], "labels")'
PP = f'{LABELS}|resize(32)|value_range(-1, 1)|keep("image", "labels")'
SPLIT = "validation[:11]"
NAMES = [
  f"{group}_{metric}" for group in ("All", "Stuff", "Things")
  for metric in ("pq", "rq", "sq")
]  # fmt: skip


@pytest.fixture(autouse=True)
def all_ops(tfds_data_dir, ops):
  from big_vision.pp.proj.uvim import pp_ops  # noqa: F401  (Registers.)


def make(predict_fn, pp_fn=PP, batch_size=8, **kw):
  kw = dict(dataset="shapes/tiny", split=SPLIT, devices=jax.devices()) | kw
  return coco_panoptic.Evaluator(predict_fn, pp_fn, batch_size, **kw)


def evaluate(*args, **kw):
  with jax.transfer_guard("disallow"):
    return dict(make(*args, **kw).run({}))


def perfect(state, batch):
  return batch["labels"]


def corrupted(state, batch):
  """Merges objects of a shape, drops circles, calls squares triangles."""
  semantics, instances = jnp.moveaxis(batch["labels"], -1, 0)
  semantics = jnp.where(semantics == 1, 0, semantics)
  semantics = jnp.where(semantics == 2, 3, semantics)
  instances = jnp.where(semantics == 5, instances, 7)
  return jnp.stack([semantics, instances], axis=-1)


def expected(function):
  """What loops over pixels give for a corruption of the truth."""
  data = core.get("shapes/tiny", split=SPLIT).get_tfdata(ordered=True)
  sums = np.zeros((4, 10))
  for example in data.as_numpy_iterator():
    truth = coco_files.truth_of_example(example)
    labels = example["panoptic"].astype(int)
    guess = np.asarray(function({}, {"labels": labels[None]}))[0]
    found = panoptic.segments_of_channels(guess, 10)
    sums += panoptic_brute_force.count(*found, *truth, 10)
  iou, tp, fp, fn = sums
  occurs = tp + fp + fn > 0
  with np.errstate(invalid="ignore"):
    pq = (iou / (tp + fp / 2 + fn / 2))[occurs]
  return {
    "All_pq": pq.mean(),
    "Stuff_pq": pq[-2:].mean(),
    "Things_pq": pq[:-2].mean(),
  }


@pytest.mark.parametrize("batch_size", [8, 16])
def test_truth_is_perfect(batch_size):
  result = evaluate(perfect, batch_size=batch_size)
  assert list(result) == NAMES
  assert set(result.values()) == {1.0}


def test_corruption():
  want = expected(corrupted)
  assert 0.1 < want["All_pq"] < 0.9
  evaluator = make(corrupted)
  result = dict(evaluator.run({}))
  for name, value in want.items():
    assert result[name] == pytest.approx(value, rel=1e-12), name
  assert dict(evaluator.run({})) == result
  assert evaluate(corrupted, batch_size=16) == result
  assert evaluate(corrupted, f"decode|{PP}") == result


def test_other_sizes_of_predictions():
  """They are resized to the size of the picture."""
  resize = 'resize(64, key="labels", method="nearest")|keep'
  assert evaluate(perfect, PP.replace("keep", resize))["All_pq"] == 1.0
  small = evaluate(perfect, PP.replace("keep", resize.replace("64", "16")))
  assert 0.5 < small["All_pq"] < 1


def test_resize_nearest():
  from big_vision.tf import tf

  rng = np.random.default_rng(0)
  for _ in range(30):
    *old, height, width = rng.integers(1, 90, 4)
    x = rng.integers(0, 1000, (*old, 2))
    resized = resizing.resize(x, (height, width), "nearest")
    wanted = tf.image.resize(x, (height, width), method="nearest")
    np.testing.assert_array_equal(resized, wanted)


def test_keywords_of_the_predict_function():
  def scaled(state, batch, by, shift=0):
    return batch["labels"] * by + shift

  one = evaluate(scaled, predict_kwargs={"by": 1})
  none = evaluate(scaled, predict_kwargs={"by": 0})
  assert one["All_pq"] == 1 and none["All_pq"] == 0
  with pytest.raises(lookup.ConfigError, match=r"predict_kwargs.*\[1\]"):
    make(scaled, predict_kwargs={"by": [1]})
  with pytest.raises(ValueError, match=r"0 \(no label\) to 10 .*\[15, 18"):
    evaluate(scaled, predict_kwargs={"by": 1, "shift": 10})


def test_many_instances_do_not_wrap():
  """Numbers of instances that are equal modulo 256 are different ones."""

  def far_apart(state, batch):
    return batch["labels"] * jnp.array([[[[1, 256]]]])

  assert evaluate(far_apart)["All_pq"] == 1.0


def test_per_class():
  result = evaluate(corrupted, per_class=True)
  assert list(result)[: len(NAMES)] == NAMES
  assert result["circle_pq"] == result["square_rq"] == 0
  assert result["star_pq"] == result["wall_sq"] == result["floor_rq"] == 1
  names = ("circle", "square", "triangle", "diamond", "star", "cross", "ring")
  pq = [result[f"{n}_pq"] for n in (*names, "heart") if f"{n}_pq" in result]
  assert result["Things_pq"] == pytest.approx(np.mean(pq))


def test_own_classes(tmp_path):
  """A file may say which classes there are: here all are stuff but squares."""
  names = ["circle", "square", *"abcdef", "wall", "floor"]
  path = tmp_path / "categories.json"
  path.write_text(
    json.dumps(
      [
        {"id": 9 * i, "name": n, "isthing": int(n == "square")}
        for i, n in enumerate(names)
      ]
    )
  )
  result = evaluate(corrupted, categories=str(path), per_class=True)
  plain = evaluate(corrupted, per_class=True)
  assert result["Things_pq"] == plain["square_pq"] == 0
  assert result["All_pq"] == plain["All_pq"]
  assert result["a_pq"] == plain["triangle_pq"]
  with pytest.raises(lookup.ConfigError, match=r"nothing\.json"):
    make(perfect, categories=str(tmp_path / "nothing.json"))


def test_files(tmp_path):
  """What is written scores the same when it is read back."""
  result = evaluate(
    corrupted,
    save_dir="{workdir}/panoptic/{split}/{step}",
    workdir=str(tmp_path),
    get_step=lambda: 7,
  )
  folder = tmp_path / "panoptic" / "validation_:11_".replace(":", "_") / "7"
  pred, true = (
    json.loads((folder / f"{name}.json").read_text())
    for name in ("predictions", "ground_truth")
  )
  assert pred["images"] == true["images"] and len(pred["images"]) == 11
  image = pred["images"][0]
  assert image["id"] // 10**9 == 1 and image["width"] == image["height"] == 32
  categories = {c["id"]: c for c in pred["categories"]}
  assert categories[1] == {"id": 1, "name": "circle", "isthing": 1}
  assert categories[10] == {"id": 10, "name": "floor", "isthing": 0}
  total = panoptic.zero(10)
  for p, t in zip(pred["annotations"], true["annotations"], strict=True):
    assert p["image_id"] == t["image_id"]
    assert p["file_name"] == f"{p['image_id']:012d}.png"
    maps = []
    for a, name in ((p, "predictions"), (t, "ground_truth")):
      rgb = np.asarray(Image.open(folder / name / a["file_name"])).astype(int)
      assert rgb.shape == (32, 32, 3)
      rows = [[s["id"], s["category_id"] - 1, s["area"], s["iscrowd"]]
              for s in a["segments_info"]]  # fmt: skip
      segments = panoptic.Segments(*np.array(rows).T)
      maps += [rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2], segments]
    total = panoptic.add(total, panoptic.count(*maps, 10))
  things = [categories[i]["isthing"] for i in sorted(categories)]
  assert panoptic.summary(total, things) == pytest.approx(result, rel=1e-12)
  assert evaluate(perfect, save_dir="{workdir}/x", workdir="")["All_pq"] == 1


def config(**kw):
  entry = dict(
    type="proj.uvim.coco_panoptic", pp_fn=PP, log_steps=10,
    dataset="shapes/tiny", split=SPLIT,
  )  # fmt: skip
  return mlc.ConfigDict(
    {"input": {"batch_size": 16}, "evals": {"pq": {**entry, **kw}}}
  )


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(dataset="shaps"), r"evals\.pq\.dataset.*'shaps'.*'shapes'"),
    (dict(dataset="digits", split="test"), r"\.dataset: 'digits'.*'image/id'"),
    (dict(split="valdation"), r"evals\.pq\.dataset.*valdation.*'validation'"),
    (dict(pp_fn="resiz(3)"), r"evals\.pq\.pp_fn: .*resiz"),
    (dict(perclass=True), r"evals\.pq\.perclass.*'per_class'"),
    (dict(batch_size=12), r"evals\.pq\.batch_size=12"),
  ],
)
def test_checks_before_a_run(change, message):
  validate.validate(config(), ["predict"], jax.devices())
  with pytest.raises(ValueError, match=r"^config\.evals\.pq") as e:
    validate.validate(config(**change), ["predict"], jax.devices())
  assert e.match(message)


def test_trial():
  """Shapes are tried out: predictions that are no maps, missing features."""

  def tried(fn, **kw):
    trial.check(config(**kw), {"predict": fn}, {}, {}, jax.devices())

  tried(perfect)
  with pytest.raises(ValueError, match=r"evals\.pq\.pp_fn.*\[batch, height, w"):
    tried(lambda state, batch: batch["labels"][..., 0])
  with pytest.raises(ValueError, match=r"\.pp_fn.*int.*float32"):
    tried(lambda state, batch: batch["labels"].astype(jnp.float32))
  with pytest.raises(ValueError, match=r"\.pp_fn.*'labels'"):
    tried(perfect, pp_fn='resize(32)|keep("image", "image/id")')
