"""Order, restarts, hosts and errors of the training data."""

import json

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest

import toy
from big_vision import input_pipeline as ip
from big_vision.datasets import core
from big_vision.pp import rng
from big_vision.tf import tf
from big_vision.training import cli, recipe

pytestmark = pytest.mark.tf

N = 23  # Rows of the small dataset, a prime: batches straddle epochs.


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """Config of a dataset with rows n = 0, 1, ..., N - 1."""
  path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
  path.write_text("\n".join(json.dumps({"n": i}) for i in range(N)))
  return {"name": "bv:jsonl", "fname": str(path)}


def config(rows, **kw):
  return mlc.ConfigDict({"batch_size": 8, "data": dict(rows), **kw})


def mixture(rows, sub=None, **kw):
  parts = {k: {"data": dict(rows), **(sub or {})} for k in "ab"}
  return mlc.ConfigDict(
    {"batch_size": 8, "data": {"a": 1, "b": 3}, **parts, **kw}
  )


def take(cfg, num, **kw):
  """[num, local B] values of `n` in the first batches."""
  ds, _ = ip.training(cfg, **kw)
  return np.array(
    [b["n"].numpy() for _, b in zip(range(num), ds, strict=False)]
  )


def seeds_of(example):
  """A preprocess_fn that shows what random ops are given."""
  return {**example, "seed": rng.next_seed(), "epoch": rng.epoch()}


# Everything whose positions are known without preprocessing.
EXACT = {
  "plain": {},
  "shuffle": {"shuffle_buffer_size": 10},
  "cache": {"shuffle_buffer_size": 100, "cache_raw": True},
  "filter": {
    "shuffle_buffer_size": 5,
    "pre_filter_fn": lambda x: x["n"] % 3 != 0,
  },
  "cached_filter": {
    "cache_raw": True,
    "pre_filter_fn": lambda x: x["n"] % 3 != 0,
  },
}
# The rest.
INEXACT = {
  "post_filter": {
    "shuffle_buffer_size": 5,
    "post_filter_fn": lambda x: x["n"] % 4 != 0,
  }
}


def test_plain_order_straddles_epochs(rows):
  got = take(config(rows), 6).ravel()
  np.testing.assert_array_equal(got, np.arange(48) % N)


@pytest.mark.parametrize("name", ["shuffle", "cache"])
def test_each_epoch_is_a_full_differently_shuffled_pass(rows, name):
  got = take(config(rows, **EXACT[name]), 3 * N).ravel()
  epochs = got.reshape(-1, N)
  np.testing.assert_array_equal(np.sort(epochs), [np.arange(N)] * len(epochs))
  assert len({tuple(e) for e in epochs}) == len(epochs)


def test_order_depends_on_the_seed_alone(rows):
  cfg = config(rows, shuffle_buffer_size=10)
  first = take(cfg, 6, seed=3)
  tf.random.set_seed(99)
  other = config(rows, shuffle_buffer_size=10, num_parallel_calls=1)
  np.testing.assert_array_equal(take(other, 6, seed=3), first)
  assert (take(cfg, 6, seed=4) != first).any()


@pytest.mark.parametrize(
  "kind, name",
  [(config, k) for k in [*EXACT, *INEXACT]]
  + [(mixture, k) for k in ("shuffle", "cached_filter", "post_filter")],
)
def test_start_step(rows, kind, name):
  options = {**EXACT, **INEXACT}[name]
  cfg = kind(rows, **options) if kind is config else kind(rows, options)
  straight = take(cfg, 9)
  for start in (2, 6):
    got = take(cfg, 3, start_step=start)
    np.testing.assert_array_equal(got, straight[start : start + 3])


@pytest.mark.parametrize(
  "kind, name",
  [(config, k) for k in ("plain", "shuffle", "filter")]
  + [(mixture, "cached_filter")],
)
def test_hosts_share_the_batches_of_one(rows, kind, name):
  options = EXACT[name]
  cfg = kind(rows, **options) if kind is config else kind(rows, options)
  one = take(cfg, 7)
  for hosts, start in ((2, 3), (4, 0)):
    parts = [
      take(cfg, 4, process_index=i, process_count=hosts, start_step=start)
      for i in range(hosts)
    ]
    np.testing.assert_array_equal(
      np.concatenate(parts, axis=1), one[start : start + 4]
    )


@pytest.mark.parametrize("kind", [config, mixture])
def test_hosts_with_post_filter(rows, kind):
  options = INEXACT["post_filter"]
  cfg = kind(rows, **options) if kind is config else kind(rows, options)
  kw = dict(process_index=1, process_count=2)
  straight = take(cfg, 8, **kw)
  assert (straight % 4 != 0).all()
  np.testing.assert_array_equal(take(cfg, 3, start_step=5, **kw), straight[5:])
  if kind is config:  # Each row of the data goes to one host only.
    other = take(cfg, 8, process_index=0, process_count=2)
    assert not set(straight[:2].ravel()) & set(other[:2].ravel())


def test_mixture_follows_the_weights(rows):
  cfg = mixture(rows)
  cfg.batch_size = 1000
  cfg.a.pre_filter_fn = lambda x: x["n"] == 0
  cfg.b.pre_filter_fn = lambda x: x["n"] == 1
  ds, total = ip.training(cfg)
  assert total == 2 * N
  share = np.mean(next(iter(ds))["n"])  # Of b: 3/4.
  assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 1000)


def test_mixture_skips_weight_zero_and_keeps_keys(rows):
  cfg = mixture(rows, keep_only=["n"])
  cfg.data = {"a": 1, "b": 0}
  ds, total = ip.training(cfg)
  assert total == N and set(ds.element_spec) == {"n"}


def test_mixture_errors(rows):
  with pytest.raises(AssertionError, match="per-dataset in multi-input"):
    ip.training(mixture(rows, pack=4))
  with pytest.raises(AssertionError, match="pre_filter_fn"):
    ip.training(config(rows, filter_fn=lambda x: True))
  for data, match in (
    ({"a": -1, "b": 1}, "negative"),
    ({"a": 0, "b": 0}, "positive"),
    ({"a": 1, "c": 1}, "input.c is missing"),
  ):
    cfg = mixture(rows)
    del cfg.data
    cfg.data = data
    with pytest.raises(ValueError, match=match):
      ip.training(cfg)
  with pytest.raises(ValueError, match="keep_only.*'label'"):
    ip.training(mixture(rows, keep_only=["label"]))


def test_batch_size_must_divide(rows):
  with pytest.raises(ValueError, match="divisible"):
    ip.training(config(rows), process_index=0, process_count=3)


def test_filter_that_leaves_nothing(rows):
  with pytest.raises(ValueError, match="pre_filter_fn"):
    ip.training(config(rows, pre_filter_fn=lambda x: x["n"] < 0))


def numbers(n):
  return tf.data.Dataset.range(n).map(lambda i: {"x": i})


def test_cache_reads_once():
  reads = []

  def gen():
    reads.append(1)
    yield from range(5)

  data = tf.data.Dataset.from_generator(
    gen, output_signature=tf.TensorSpec([], tf.int64)
  ).map(lambda i: {"x": i})
  ds = ip.make_for_train(
    data, lambda x: x, 5, cache_raw=True, shuffle_buffer_size=9
  )
  for _, b in zip(range(6), ds, strict=False):
    assert sorted(b["x"].numpy()) == [0, 1, 2, 3, 4]
  assert len(reads) == 1


def test_seeds_differ_by_example_and_epoch_and_seed():
  def seeds(**kw):
    ds = ip.make_for_train(numbers(7), seeds_of, 7, **kw)
    batches = [b for _, b in zip(range(3), ds, strict=False)]
    epochs = np.concatenate([b["epoch"] for b in batches])
    np.testing.assert_array_equal(epochs, np.repeat(range(3), 7))
    x = np.concatenate([b["x"] for b in batches])
    s = np.concatenate([b["seed"] for b in batches])
    return {(e, i): tuple(v) for e, i, v in zip(epochs, x, s, strict=True)}

  plain = seeds()
  assert len(set(plain.values())) == 21
  # They belong to the example, wherever it is in the order.
  assert seeds(shuffle_buffer_size=7, num_parallel_calls=2) != {}
  assert not set(seeds(seed=1).values()) & set(plain.values())
  assert seeds(start_step=0) == plain


def test_seeds_do_not_depend_on_the_order():
  """Shuffled or not, the same example of an epoch has the same seed."""

  def by_example(**kw):
    ds = ip.make_for_train(numbers(7), seeds_of, 7, **kw)
    b = next(iter(ds))
    pairs = zip(b["x"].numpy(), b["seed"].numpy(), strict=True)
    return {int(x): tuple(s) for x, s in pairs}

  assert by_example() == by_example(shuffle_buffer_size=7)


def test_no_batch_size_and_packing():
  ds = ip.make_for_train(numbers(3), lambda d: {"y": d["x"] * 3}, None)
  assert [int(e["y"]) for e in ds.take(7)] == [0, 3, 6, 0, 3, 6, 0]
  fill = lambda d: {"t": tf.fill([d["x"] + 1], d["x"] + 1)}
  ds = ip.make_for_train(numbers(3), fill, 2, pack=4)
  b = next(iter(ds))
  np.testing.assert_array_equal(b["t"], [[1, 2, 2, 0], [3, 3, 3, 1]])
  np.testing.assert_array_equal(
    b["t_segment_ids"], [[1, 2, 2, 0], [1, 1, 1, 2]]
  )
  rest = ip.make_for_train(numbers(3), fill, 2, pack=4, start_step=1)
  want = list(ds.take(3).as_numpy_iterator())[1:]
  for a, w in zip(rest.take(2).as_numpy_iterator(), want, strict=True):
    np.testing.assert_array_equal(a["t"], w["t"])


def fails_at(*bad):
  def fn(example):
    x = tf.cast(example["x"], tf.int64)
    ok = tf.reduce_all(x != tf.constant(bad, tf.int64))
    with tf.control_dependencies([tf.debugging.Assert(ok, ["broken image"])]):
      return {"x": tf.identity(x)}

  return fn


@pytest.mark.parametrize("kw", [{}, {"shuffle_buffer_size": 5}])
def test_error_names_the_example(kw):
  ds = ip.make_for_train(numbers(10), fails_at(7), 2, name="toy", **kw)
  it = ip.start_global(ds, np.array(jax.devices()[:1]))
  with pytest.raises(ValueError, match="index 7 of the dataset 'toy'") as e:
    for _ in range(6):
      next(it)
  assert "skip_errors=True" in str(e.value) and "broken image" in str(e.value)


def test_error_names_the_example_after_filter():
  ds = ip.make_for_train(
    numbers(10),
    fails_at(7),
    2,
    name="toy",
    post_filter_fn=lambda x: x["x"] % 2 == 1,
  )
  it = ip.start_global(ds, np.array(jax.devices()[:1]), n_prefetch=0)
  with pytest.raises(ValueError, match="index 7 of the dataset 'toy'"):
    for _ in range(6):
      next(it)


def test_skip_errors_warns_and_counts(caplog):
  ds = ip.make_for_train(
    numbers(6), fails_at(1, 2, 4), 3, skip_errors=True, name="toy"
  )
  with caplog.at_level("WARNING", logger="absl"):
    got = [b["x"].numpy().tolist() for _, b in zip(range(2), ds, strict=False)]
  assert got == [[0, 3, 5], [0, 3, 5]]
  dropped = [r.getMessage() for r in caplog.records if "toy" in r.getMessage()]
  assert any("dropped 2 of" in m for m in dropped), dropped
  again = ip.make_for_train(
    numbers(6), fails_at(1, 2, 4), 2, skip_errors=True, start_step=1
  )
  assert next(iter(again))["x"].numpy().tolist() == [5, 0]


def test_digits_with_random_ops(tfds_data_dir):
  """A real config: TFDS, strings of ops, two hosts, a restart."""
  from big_vision.pp import ops_general, ops_image  # noqa: F401 - registers ops

  cfg = {
    "batch_size": 6,
    "data": {"name": "digits", "split": "train[:20]"},
    "pp": "decode(channels=1)|flip_lr|keep('image', 'label')",
    "shuffle_buffer_size": 10,
    "tfdata": {"shuffle_seed": 0},
  }
  ip.validate(cfg, device_count=1)
  ds, total = ip.training(cfg, seed=1)
  assert total == 20
  straight = [b["image"] for b in ds.take(6).as_numpy_iterator()]
  assert straight[0].shape == (6, 8, 8, 1)
  hosts = [
    ip.training(cfg, seed=1, start_step=3, process_index=i, process_count=2)[0]
    for i in (0, 1)
  ]
  parts = [[b["image"] for b in h.take(3).as_numpy_iterator()] for h in hosts]
  for want, *got in zip(straight[3:], *parts, strict=True):
    np.testing.assert_array_equal(np.concatenate(got), want)


@pytest.mark.parametrize("random_access", [None, False])
@pytest.mark.parametrize("size", [None, 1])
def test_a_run_without_shuffling_follows_the_source(
  tfds_data_dir, tmp_path, random_access, size
):
  """A whole training sees the examples in the order of the source."""
  data = {"name": "digits", "split": "train[:10]"}
  data["random_access"] = random_access
  run = mlc.ConfigDict(
    dict(
      input=dict(
        data=data, batch_size=8, pp="keep('label')", shuffle_buffer_size=size
      ),
      total_steps=4,
      log_training_steps=1,
      model_name="vit",  # Not built.
      optax_name="identity",
      lr=0.0,
    )
  )

  def build(setup):
    del setup

    def loss_fn(params, batch, rng, state):
      del rng, state
      rows = {f"row{i}": batch["label"][i] for i in range(8)}
      return jnp.sum(params["w"]), rows

    init = lambda rng, batch: {"w": jnp.zeros([1])}
    return recipe.Recipe(init=init, loss_fn=loss_fn)

  cli.train(build, run, str(tmp_path))
  rows = toy.rows(tmp_path)
  got = [[rows[step][f"row{i}"] for i in range(8)] for step in (1, 2, 3, 4)]
  source = core.get(**data).get_tfdata(ordered=True)
  labels = [int(x["label"]) for x in source]
  np.testing.assert_array_equal(np.ravel(got), np.resize(labels, 32))


def test_a_buffer_of_two_shuffles(tfds_data_dir):
  data = {"name": "digits", "split": "train[:10]"}
  ds, _ = ip.training(
    dict(data=data, batch_size=10, pp="keep('id')", shuffle_buffer_size=2)
  )
  ids = [x["id"].numpy() for x in core.get(**data).get_tfdata(ordered=True)]
  (batch,) = ds.take(1).as_numpy_iterator()
  assert sorted(batch["id"]) == sorted(ids) and list(batch["id"]) != ids
