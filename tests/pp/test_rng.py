import numpy as np
import pytest
from scipy import stats

from big_vision.pp import builder, registry, rng
from big_vision.tf import tf

pytestmark = pytest.mark.tf

SEED = [123, 2**40 + 5]
SALT_31 = 92655289252268599
SALT_30 = 583561635677445203


@pytest.fixture(autouse=True)
def ops():
  """The op `t_draw(key, n)`, which appends `n` draws to an entry."""

  def draw(key, n=1):
    def fn(data):
      new = [tf.random.stateless_uniform([], rng.next_seed()) for _ in range(n)]
      data[key] = tf.concat([data.get(key, tf.zeros([0])), tf.stack(new)], 0)
      return data

    return fn

  with registry.temporary_ops(t_draw=draw, t_nop=lambda: lambda d: d):
    yield


def draw(pp, seed=SEED, epoch=0, **kw):
  fn = builder.get_preprocess_fn(pp, log_data=False)
  with rng.example_seed(seed, epoch, **kw):
    return {k: v.numpy().tolist() for k, v in fn({}).items()}


def test_same_seed_same_draws():
  pp = "t_draw('a', 3)|t_draw('b', 2)"
  first = draw(pp)
  assert len(set(first["a"] + first["b"])) == 5
  assert draw(pp) == first
  assert draw(pp, seed=tf.constant(SEED, tf.int64)) == first
  assert draw(pp, seed=np.array(SEED)) == first
  assert draw(pp, seed=[123, 2**40 + 6]) != first
  assert draw(pp, seed=[124, 2**40 + 5]) != first


def test_draws_depend_on_the_position_and_nothing_else():
  alone = draw("t_nop|t_draw('a', 2)")["a"]
  # Neither the draws of other ops nor the number of own draws matter.
  both = draw("t_draw('b', 5)|t_draw('a', 7)|t_draw('c')")
  assert both["a"][:2] == alone
  assert draw("t_draw('a', 2)")["a"] != alone
  assert draw("|t_nop| |t_draw('a', 2)")["a"] == alone  # Empty sections.


def test_graph_and_threads_give_what_eager_mode_gives():
  fn = builder.get_preprocess_fn("t_nop|t_draw('a', 2)|t_draw('a')")

  def prepare(i):
    with rng.example_seed(tf.stack([7, i])):
      return fn({})["a"]

  indices = tf.data.Dataset.range(20)
  eager = [prepare(i).numpy().tolist() for i in indices]
  assert len({x for draws in eager for x in draws}) == 60
  for parallel in (None, 1, 8):
    ds = indices.map(prepare, num_parallel_calls=parallel)
    assert [x.tolist() for x in ds.as_numpy_iterator()] == eager
  late = indices.skip(13).map(prepare, num_parallel_calls=2)
  assert [x.tolist() for x in late.as_numpy_iterator()] == eager[13:]


def test_derivation_is_fixed():
  """These numbers must never change: runs would no longer continue."""
  with rng.example_seed([1, 2]), rng.op_scope(3):
    seeds = [rng.next_seed(), rng.next_seed()]
  assert seeds[0].dtype == tf.int64
  # The first words of SHA-256 of "3/0" and "3/1", without the lowest bit.
  assert [int(s[1]) for s in seeds] == [SALT_30, SALT_31]
  full = dict(minval=None, maxval=None, dtype=tf.int64)
  word = tf.random.stateless_uniform([], [1, 2], **full)
  assert [int(s[0]) for s in seeds] == [int(word)] * 2
  np.testing.assert_array_equal(rng.fold_in([1, 2], SALT_30), seeds[0])


def test_draws_are_uniform_and_independent():
  fn = builder.get_preprocess_fn("t_draw('a', 2)|t_draw('b')", log_data=False)

  def prepare(i):
    with rng.example_seed(tf.stack([0, i])):
      return fn({})

  rows = list(tf.data.Dataset.range(2000).map(prepare).as_numpy_iterator())
  x = np.stack([[*r["a"], *r["b"]] for r in rows])
  for column in x.T:
    assert stats.kstest(column, "uniform").pvalue > 1e-3
  corr = np.corrcoef(np.concatenate([x[:-1], x[1:]], 1).T)
  assert np.abs(corr - np.eye(6)).max() < 0.08  # 3.5 standard deviations.


def test_without_example_seed_tensorflow_decides():
  fn = builder.get_preprocess_fn("t_draw('a', 2)", log_data=False)
  rows = []
  for seed in (1, 1, 2):
    tf.random.set_seed(seed)
    rows.append(fn({})["a"].numpy().tolist())
  assert rows[0] == rows[1] != rows[2]
  assert fn({})["a"].numpy().tolist() != rows[2]
  assert rng.epoch() is None and rng.op_seed() is None
  ds = tf.data.Dataset.range(50).map(lambda _: fn({})["a"][0])
  assert len(set(ds.as_numpy_iterator())) == 50


def test_scopes_end_after_exceptions():
  with pytest.raises(RuntimeError):
    with rng.example_seed(SEED, 3), rng.op_scope(0):
      raise RuntimeError
  assert rng.epoch() is None


def test_epoch():
  with rng.example_seed(SEED, epoch=4):
    assert rng.epoch().dtype == tf.int64 and int(rng.epoch()) == 4
    with rng.op_scope(1):
      assert int(rng.epoch()) == 4
    with rng.example_seed(SEED):
      assert int(rng.epoch()) == 0
    assert int(rng.epoch()) == 4


def test_op_seed_is_one_per_run_and_position():
  def op_seed(run_seed, position, seed=SEED):
    with rng.example_seed(seed, run_seed=run_seed), rng.op_scope(position):
      return tuple(rng.op_seed().numpy())

  assert op_seed([1, 2], 0) == op_seed([1, 2], 0, seed=[5, 6])
  others = [op_seed(r, p) for r in ([1, 2], [1, 3]) for p in (0, 1)]
  assert len(set(others)) == 4


def test_pipelines_in_an_op_and_repeated_ones_draw_other_numbers():
  inner = builder.get_preprocess_fn("t_draw('a')", log_data=False)

  def two_views():
    def fn(data):
      data["views"] = tf.stack([inner({})["a"], inner({})["a"]])
      return data

    return fn

  with registry.temporary_ops(t_views=two_views):
    got = draw("t_draw('a')|t_views|t_views(" + ")")
    again = draw("t_draw('a')|t_views")
  first, second = np.ravel(got["views"])
  assert len({first, second, *got["a"]}) == 3
  assert np.ravel(again["views"]).tolist() != [first, second]

  with rng.example_seed(SEED):
    one, two = inner({})["a"].numpy(), inner({})["a"].numpy()
  assert one != two
  assert [one.tolist()] == [draw("t_draw('a')")["a"]]
