"""The operations are those of a closed form; times have the right order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.evaluators import timing


def predict(state, batch):
  return jnp.tanh(batch["image"]) @ state["params"]["w"]


def make(fn=predict, **kw):
  default = dict(
    input_shapes=[(50, 6)],
    batch_size=8 * jax.device_count(),
    devices=jax.devices(),
    rounds=3,
    secs_per_round=0.05,
  )
  with jax.transfer_guard("allow"):  # As where evaluators are built.
    return timing.Evaluator(fn, **dict(default, **kw))


def test_operations(state):
  (result,) = make(timing=False).run(state)
  matmul = 2 * 50 * 6 * 4
  assert result[0] == "gflops_per_img"
  # The tanh counts as well, but not much, and not alike on all backends.
  assert matmul / 1e9 <= result[1] <= (matmul + 10 * 50 * 6) / 1e9


class Slow:
  """A compiled function on a clock of its own: 3 s, then half a second each."""

  def __init__(self, fn):
    self.lower = fn.lower
    self.fn, self.calls = fn, 0

  def __call__(self, *args):
    self.calls += 1
    return self.fn(*args)

  def perf_counter(self):
    return 0.5 * self.calls + 2.5 * bool(self.calls)


def test_times(state, monkeypatch):
  evaluator = make(secs_per_round=1.9, rounds=3)
  slow = evaluator.predict_fn = Slow(evaluator.predict_fn)
  monkeypatch.setattr(timing, "time", slow)
  got = dict(evaluator.run(state))
  del got["gflops_per_img"]
  batch_size = 8 * jax.device_count()
  assert got == {
    "secs_to_first_batch": 3.0,
    "secs_per_batch": 0.5,
    "img_per_sec": batch_size / 0.5,
    "img/sec/core": 8 / 0.5,
  }
  # One with and one without compilation, then as many as take the time given.
  assert slow.calls == 1 + 1 + 3 * 4


def test_two_inputs(state):
  given = {}

  def fn(state, batch):
    given.update(jax.tree.map(lambda x: (x.shape, x.dtype), batch))
    return batch["image"].sum() + state["params"]["w"].sum()

  evaluator = make(
    fn, input_shapes=[(4, 4, 3), (7,)], input_types=["bfloat16", "int32"]
  )
  list(evaluator.run(state))
  n = 8 * jax.device_count()
  assert given["image"] == ((n, 4, 4, 3), jnp.bfloat16)
  assert given["labels"] == ((n, 7), np.int32)


def test_bad_input():
  with pytest.raises(ValueError, match="an entry for each of input_types"):
    make(input_types=["float32", "int32"])
  with pytest.raises(ValueError, match="at most 2: image, labels"):
    make(input_shapes=[(3,)] * 3)
