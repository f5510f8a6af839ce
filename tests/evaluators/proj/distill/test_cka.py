"""CKA against its definition with sums over quadruples, and its invariances."""

import itertools

import jax
import numpy as np
import pytest

from big_vision.evaluators.proj.distill import cka


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_hsic_is_unbiased():
  """Equals the U-statistic: a mean over all ordered quadruples of examples."""
  x, y = rand(7, 3), rand(7, 2, seed=1)
  k, l = x @ x.T, y @ y.T  # noqa: E741
  terms = [
    k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q]
    for i, j, q, r in itertools.permutations(range(7), 4)
  ]
  hsic = jax.jit(cka.hsic)
  got = hsic(k, l, np.ones(7))
  np.testing.assert_allclose(got, np.mean(terms), rtol=1e-4)
  # Padding changes nothing, whatever is in it.
  pad = lambda a: np.pad(a, (0, 3), constant_values=np.nan)
  mask = np.arange(10) < 7
  np.testing.assert_allclose(hsic(pad(k), pad(l), mask), got, rtol=1e-5)
  assert hsic(k, l, 1.0 * (np.arange(7) < 3)) == 0


@pytest.mark.tf
def test_evaluator(tfds_data_dir):
  from big_vision.pp import ops_general, ops_image  # noqa: F401

  w = rand(64, 6) / 8
  turn = np.linalg.qr(rand(6, 6, seed=2))[0]
  noise = rand(64, 6, seed=3)

  def evaluator(other):
    def forward(state, batch):
      assert "_mask" not in batch
      x = batch["image"].reshape(len(batch["image"]), -1)
      return (None, {"a": state["scale"] * x @ w}), (None, {"b": other(x)})

    return cka.Evaluator(
      forward,
      what=("a", "b"),
      data=dict(name="digits", split="test"),
      pp_fn="decode(channels=1)|resize(8)|value_range(-1, 1)|keep('image')",
      devices=jax.devices(),
      batch_size=64,
    )

  run = lambda other: dict(evaluator(other).run({"scale": np.float32(1)}))
  # Turned, larger and shifted is the same.
  same = run(lambda x: 3 * x @ w @ turn + 1)
  assert list(same) == ["cka"]
  assert same["cka"] == pytest.approx(1, abs=1e-3)
  # A projection of all other directions shares what images have in common.
  assert 0 < run(lambda x: x @ noise)["cka"] < 0.95
