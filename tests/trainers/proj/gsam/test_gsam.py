"""SAM and GSAM against closed forms, and against the algorithm in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.trainers.proj.gsam import gsam

RATES = dict(rho_max=0.6, rho_min=0.1, lr_max=1e-2, lr_min=1e-4)


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


A = rand(4, 4) @ rand(4, 4).T + np.eye(4, dtype=np.float32)
W = rand(4, seed=1)


def quadratic(w, a, b):
  """w^T a w / 2 + b w, of which the gradient is a w + b."""
  return w @ a @ w / 2 + b @ w


def unit(x):
  return x / np.linalg.norm(x)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_of_a_quadratic(adaptive):
  b = rand(4, seed=2)
  loss, got = jax.jit(
    lambda w: gsam.gsam_gradient(
      quadratic, w, A, b, 0.3, 0.3, 0.0, 0.1, 1.0, 0.0,
      adaptive_perturbation=adaptive,
    )
  )(W)  # fmt: skip
  g = A @ W + b
  step = 0.3 * unit(g) * (np.abs(W) if adaptive else 1)
  np.testing.assert_allclose(got, A @ (W + step) + b, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(loss, quadratic(W, A, b), rtol=1e-5)


@pytest.mark.parametrize("minimize_fp", [True, False])
def test_gsam_takes_out_what_is_parallel(minimize_fp):
  b, alpha = rand(4, seed=2), 0.7
  _, got = gsam.gsam_gradient(
    quadratic, W, A, b, 0.3, 0.3, alpha, 0.1, 1.0, 0.0,
    minimize_fp=minimize_fp,
  )  # fmt: skip
  g = A @ W + b
  r = A @ (W + 0.3 * unit(g)) + b
  along, other = (r, g) if minimize_fp else (g, r)
  rest = np.asarray(got) - along  # What was added is orthogonal.
  assert abs(unit(rest) @ unit(along)) < 1e-3
  sign = -1 if minimize_fp else 1
  want = sign * alpha * (other - (other @ unit(along)) * unit(along))
  np.testing.assert_allclose(rest, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  "lr, rho", [(1e-2, 0.6), (1e-4, 0.1), (5.05e-3, 0.35), (0.0, 0.1 - 0.5 / 99)]
)
def test_radius_follows_the_learning_rate(lr, rho):
  assert gsam.radius(lr, **RATES) == pytest.approx(rho)
  constant = {**RATES, "lr_min": RATES["lr_max"]}
  assert gsam.radius(lr, **constant) == 0.6


def numpy_loss(p, x, y):
  """Mean squared error of a linear layer, and its gradient."""
  error = x @ p["w"] + p["b"] - y
  g = 2 * error / error.size
  return np.mean(error**2), {"w": x.T @ g, "b": g.sum(axis=0)}


def numpy_gsam(p, x, y, rho, alpha):
  flat = lambda t: np.concatenate([t["b"], t["w"].ravel()])
  tree = lambda v: {"b": v[:2], "w": v[2:].reshape(3, 2)}
  loss, g = numpy_loss(p, x, y)
  g = flat(g)
  _, r = numpy_loss(tree(flat(p) + rho * unit(g)), x, y)
  r = unit(r := flat(r)) * np.linalg.norm(r)
  return loss, tree(r - alpha * (g - (g @ unit(r)) * unit(r)))


def test_five_steps_like_numpy():
  x, y = rand(8, 3), rand(8, 2, seed=3)
  ours = {"w": jnp.asarray(rand(3, 2, seed=4)), "b": jnp.zeros(2)}
  theirs = {k: np.asarray(v, np.float64) for k, v in ours.items()}

  def loss_fn(p, x, y):
    return jnp.mean(jnp.square(x @ p["w"] + p["b"][None] - y))

  for i in range(5):
    lr = 1e-2 - i * 2e-3
    loss, g = gsam.gsam_gradient(loss_fn, ours, x, y, alpha=0.4, lr=lr, **RATES)
    ours = jax.tree.map(lambda p, g: p - 0.1 * g, ours, g)
    rho = 0.1 + 0.5 * (lr - 1e-4) / (1e-2 - 1e-4)
    want, g = numpy_gsam(theirs, x, y, rho, 0.4)
    theirs = {k: theirs[k] - 0.1 * g[k] for k in theirs}
    np.testing.assert_allclose(loss, want, rtol=1e-5)
  for k in ours:
    np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-4, atol=1e-6)


def test_at_a_minimum_nothing_is_nan():
  _, g = gsam.gsam_gradient(
    quadratic, jnp.zeros(4), A, jnp.zeros(4), 0.3, 0.3, 0.5, 0.1, 1.0, 0.0
  )
  np.testing.assert_array_equal(g, 0)
  direction, norm = gsam.dual_vector({"a": jnp.zeros(3)})
  assert norm == 0 and not np.any(direction["a"])


def test_dual_vector():
  tree = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
  direction, norm = gsam.dual_vector(tree)
  assert norm == 5
  assert direction["a"][0] == pytest.approx(0.6)
  assert direction["b"][0, 0] == pytest.approx(0.8)
