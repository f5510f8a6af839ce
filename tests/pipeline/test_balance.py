"""Class-balanced sampling: counts, restarts, hosts, refusals."""

import json

import ml_collections as mlc
import numpy as np
import pytest

from big_vision import input_pipeline as ip
from big_vision import lookup
from big_vision.datasets.label_sets import LabelSets
from big_vision.pipeline import balance, validate
from big_vision.pp import rng

pytestmark = pytest.mark.tf

SIZES = [20, 5, 2, 1]  # Examples of the classes 0 to 3.
LABELS = np.repeat(np.arange(4), SIZES)
KINDS = {
  "shuffle": {"shuffle_buffer_size": 100},
  "ordered": {"shuffle_buffer_size": 1},
  "skip_errors": {"shuffle_buffer_size": 100, "skip_errors": True},
}


@pytest.fixture(autouse=True)
def ops():
  """Registers the ops of the preprocessing."""
  from big_vision.pp import ops_general  # noqa: F401


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """Config of a dataset with rows n = 0, 1, …, class by class; 28 has none."""
  path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
  labels = [*LABELS.tolist(), -1]
  lines = [json.dumps({"n": i, "label": y}) for i, y in enumerate(labels)]
  path.write_text("\n".join(lines))
  return {"name": "bv:jsonl", "fname": str(path)}


def config(rows, **kw):
  return mlc.ConfigDict(
    {"batch_size": 8, "data": rows, "balance_classes": True, **kw}
  )


def take(cfg, num, key="n", **kw):
  """[num, local B] values in the first batches."""
  ds, _ = ip.training(cfg, **kw)
  batches = [b[key].numpy() for _, b in zip(range(num), ds, strict=False)]
  return np.array(batches)


@pytest.mark.parametrize("kind", ["shuffle", "ordered"])
def test_counts(rows, kind):
  n = take(config(rows, **KINDS[kind]), 20).ravel()  # 40 of each class.
  np.testing.assert_array_equal(np.bincount(LABELS[n]), [40] * 4)
  # So do any that follow each other, as far as four divides them.
  for part in n.reshape(-1, 4):
    assert sorted(LABELS[part]) == [0, 1, 2, 3]
  # Each class goes through all of its examples, over and over.
  want = np.concatenate([[40 // size] * size for size in SIZES])
  np.testing.assert_array_equal(np.bincount(n, minlength=28), want)
  first = [x for x in n if x < 20][:20]
  assert sorted(first) == list(range(20))
  assert (first == list(range(20))) == (kind == "ordered")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1, 5, 13])
def test_start_step(rows, kind, start):
  cfg = config(rows, **KINDS[kind])
  np.testing.assert_array_equal(
    take(cfg, 4, start_step=start), take(cfg, start + 4)[start:]
  )


def test_depends_on_the_seed_alone(rows):
  cfg = config(rows, shuffle_buffer_size=100)
  a, b, c = take(cfg, 5), take(cfg, 5), take(cfg, 5, seed=1)
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()
  cfg.shuffle_buffer_size = 7  # No matter how large it is.
  np.testing.assert_array_equal(a, take(cfg, 5))


def test_hosts_share_the_batches_of_one(rows):
  cfg = config(rows, shuffle_buffer_size=100)
  parts = [
    take(cfg, 6, process_index=i, process_count=2, start_step=2)
    for i in range(2)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), take(cfg, 8)[2:])


def test_within_a_mixture(rows):
  one = {"data": rows, "shuffle_buffer_size": 100}
  cfg = mlc.ConfigDict(
    {
      "batch_size": 8,
      "data": {"a": 1, "b": 1},
      "a": {**one, "balance_classes": True},
      "b": one,
    }
  )
  validate.validate(cfg)
  n = take(cfg, 60).ravel()
  assert (n == 28).any()  # Of the other.
  # One draw in eight is of the only example of a class.
  assert 30 < (n == 27).sum() < 30 + 60
  np.testing.assert_array_equal(take(cfg, 3, start_step=9), take(cfg, 12)[9:])


def test_random_ops_differ_each_time(rows, monkeypatch):
  """Also where an example comes several times in an epoch."""
  from big_vision.pp import builder

  with_seed = lambda x: {**x, "seed": rng.next_seed(), "epoch": rng.epoch()}
  monkeypatch.setattr(builder, "get_preprocess_fn", lambda *a, **k: with_seed)
  cfg = config(rows, shuffle_buffer_size=100)
  n = take(cfg, 6).ravel()
  seeds = take(cfg, 6, "seed").reshape(-1, 2)
  epochs = take(cfg, 6, "epoch").ravel()
  assert len({*map(tuple, seeds)}) == len(seeds)
  for i in set(n):  # How often it was used before.
    assert epochs[n == i].tolist() == list(range((n == i).sum()))


def test_several_labels(tmp_path):
  """Each class and the examples without any come equally often."""
  sets = [[0], [0, 1], [0], [], [0, 1, 2], [0], [], [0]]
  path = tmp_path / "rows.jsonl"
  lines = [json.dumps({"n": i, "label": x}) for i, x in enumerate(sets)]
  path.write_text("\n".join(lines))
  data = {"name": "bv:jsonl", "fname": str(path)}
  pp = 'keep("n")'
  n = take(config(data, shuffle_buffer_size=9, pp=pp), 6).ravel()  # 12 each.
  counts = np.bincount(n, minlength=8)
  want = np.zeros(8)
  for members in ([0, 1, 2, 4, 5, 7], [1, 4], [4], [3, 6]):
    want[members] += 12 / len(members)
  np.testing.assert_array_equal(counts, want)
  found = balance.make(
    Source(LabelSets(sets)), True, "key", seed=0, shuffle=True
  )
  assert found.most == 3
  of_4 = found.ranks[found.members == 4]
  assert sorted(of_4) == [0, 1, 2]


class Source:
  """Knows nothing but labels."""

  can_read_by_index = True
  random_access = False
  total_examples = 8

  def __init__(self, labels):
    self.values_of = lambda feature: labels


def test_tfds(tfds_data_dir):
  data = dict(name="digits", split="train[:100]", data_dir=tfds_data_dir)
  cfg = config(data, batch_size=10, shuffle_buffer_size=100, pp='keep("label")')
  for labels in take(cfg, 5, "label"):
    assert sorted(labels) == list(range(10))
  validate.validate(cfg, device_count=1)
  for kw, message in (
    (dict(balance_classes="image"), "'image' is string"),
    (dict(balance_classes="lable"), "no feature 'lable'; raw examples have"),
    (dict(pre_filter_fn=lambda x: True), "does not go with pre_filter_fn"),
    (dict(data={**data, "random_access": False}), "from front to back"),
  ):
    with pytest.raises(lookup.ConfigError, match=message) as e:
      ip.training(
        config(data, **kw) if "data" not in kw else config(kw["data"])
      )
    assert "\n" not in str(e.value)
    assert "config.input.balance_classes" in str(e.value)
