"""Losses against NumPy and SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from big_vision import lookup, losses


def _randn(*shape, seed=0, scale=1.0):
  return scale * np.random.default_rng(seed).standard_normal(shape)


def _simplex(*shape, seed=1):
  return scipy.special.softmax(_randn(*shape, seed=seed), axis=-1)


def _f32(x):
  return jnp.asarray(x, jnp.float32)


@pytest.fixture
def user_losses(tmp_path, monkeypatch):
  """Two modules of a user: one fine, one that needs what is not there."""
  (tmp_path / "bv_user_losses.py").write_text(
    "VALUE = 3\ndef focal(**kw):\n  return 0\n"
  )
  (tmp_path / "bv_user_broken.py").write_text("import bv_not_installed\n")
  monkeypatch.syspath_prepend(str(tmp_path))


def test_get_finds_losses():
  assert losses.get("sigmoid_xent") is losses.sigmoid_xent
  assert losses.get("softmax_xent") is losses.softmax_xent
  assert losses.get("big_vision.losses.softmax_xent") is losses.softmax_xent


@pytest.mark.parametrize("sep", [".", ":"])
def test_get_finds_losses_of_the_user(user_losses, sep):
  assert losses.get(f"bv_user_losses{sep}focal")() == 0


@pytest.mark.parametrize(
  "name",
  [
    "onehot",
    "get",
    "jnp",
    "_import_function",
    "no_such_module.loss",
    "bv_user_losses:huber",
    "bv_user_losses.VALUE",
    ".losses",
    "fn.",
    None,
  ],
)
def test_get_rejects(user_losses, name):
  with pytest.raises(ValueError, match="config.loss_name: unknown loss"):
    losses.get(name, key="loss_name")


def test_get_suggests_the_nearest_name():
  with pytest.raises(ValueError, match="config.loss.*'sofmax_xent'.*softmax_x"):
    losses.get("sofmax_xent")


def test_get_shows_errors_inside_of_a_users_module(user_losses):
  with pytest.raises(ModuleNotFoundError, match="bv_not_installed"):
    losses.get("bv_user_broken:loss")


def test_onehot():
  x = losses.onehot(np.array([[0, 2], [1, 1]]), 3)
  np.testing.assert_array_equal(x, np.eye(3)[[[0, 2], [1, 1]]])
  assert x.dtype == jnp.float32
  np.testing.assert_allclose(
    losses.onehot(jnp.array([-1, 1, 3]), 3, on_value=0.9, off_value=0.05),
    [[0.05] * 3, [0.05, 0.9, 0.05], [0.05] * 3],
  )
  assert losses.onehot(1, 3).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 5)])
def test_sigmoid_xent(shape):
  x, y = _randn(*shape, scale=4), _simplex(*shape)
  p = scipy.special.expit(x)
  want = -np.sum(y * np.log(p) + (1 - y) * np.log1p(-p), axis=-1)
  kw = dict(logits=_f32(x), labels=_f32(y))
  got = losses.sigmoid_xent(**kw, reduction=False)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(losses.sigmoid_xent(**kw), want.mean(), rtol=1e-5)


def test_sigmoid_xent_is_stable():
  x, y = jnp.array([[200.0, -200.0]]), jnp.array([[0.0, 1.0]])
  loss, grad = jax.value_and_grad(
    lambda x: losses.sigmoid_xent(logits=x, labels=y)
  )(x)
  np.testing.assert_allclose(loss, 400)
  np.testing.assert_allclose(grad, [[1, -1]])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kl", [False, True])
def test_softmax_xent(axis, kl):
  x = _randn(3, 4, 5, scale=5)
  y = scipy.special.softmax(_randn(3, 4, 5, seed=1), axis=axis)
  want = -np.sum(y * scipy.special.log_softmax(x, axis), axis)
  if kl:  # The entropy of the labels.
    want -= np.sum(scipy.special.entr(y), axis)
  kw = dict(logits=_f32(x), labels=_f32(y), axis=axis, kl=kl)
  got = losses.softmax_xent(**kw, reduction=False)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
  got = losses.softmax_xent(**kw)
  np.testing.assert_allclose(got, want.mean(), rtol=2e-5)


def test_softmax_xent_gradient_is_softmax_minus_labels():
  x, y = _randn(4, 6), _simplex(4, 6)
  grad = jax.grad(lambda x: losses.softmax_xent(logits=x, labels=_f32(y)))
  want = (scipy.special.softmax(x, -1) - y) / 4
  np.testing.assert_allclose(grad(_f32(x)), want, atol=1e-6)


def test_softmax_xent_kl_of_a_perfect_prediction_is_zero():
  y = np.array([[0.5, 0.5, 0], [1, 0, 0]])
  logits = _f32(np.log(np.maximum(y, 1e-30)))
  loss = losses.softmax_xent(
    logits=logits, labels=_f32(y), kl=True, reduction=False
  )
  np.testing.assert_allclose(loss, [0, 0], atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [True, False])
def test_weighted_softmax_xent(normalize, smoothing, weighted):
  rng = np.random.default_rng(3)
  x, y = _randn(3, 5, 6, scale=3), rng.integers(0, 6, (3, 5))
  w = rng.uniform(0, 2, (3, 5)) if weighted else np.ones((3, 5))
  w[:, 0] = 1.0 if not weighted else 0.0
  want = np.zeros(3)
  for b in range(3):
    for t in range(5):
      target = np.full(6, smoothing / 5)
      target[y[b, t]] = 1 - smoothing
      want[b] -= w[b, t] * target @ scipy.special.log_softmax(x[b, t])
  if normalize:
    want /= w.sum(1)
  kw = dict(
    logits=_f32(x),
    labels=jnp.asarray(y),
    weights=_f32(w) if weighted else None,
    label_smoothing=smoothing,
    normalize=normalize,
  )
  got = losses.weighted_softmax_xent(**kw, reduction=False)
  np.testing.assert_allclose(got, want, rtol=2e-5)
  got = losses.weighted_softmax_xent(**kw)
  np.testing.assert_allclose(got, want.mean(), rtol=2e-5)


def test_weighted_softmax_xent_counts_empty_sequences():
  loss = losses.weighted_softmax_xent(
    logits=jnp.zeros((2, 3, 4)),
    labels=jnp.zeros((2, 3), jnp.int32),
    weights=jnp.array([[1, 1, 0], [0, 0, 0]]),
    label_smoothing=0.1,
  )
  np.testing.assert_allclose(loss, 0.5 * np.log(4), rtol=1e-6)


def test_weighted_softmax_xent_of_a_single_class_is_zero():
  loss = losses.weighted_softmax_xent(
    logits=jnp.ones((2, 3, 1)), labels=jnp.zeros((2, 3), jnp.int32)
  )
  assert loss == 0


def test_weighted_softmax_xent_wants_indices():
  with pytest.raises(ValueError, match="one dimension more"):
    losses.weighted_softmax_xent(
      logits=jnp.zeros((2, 3, 4)), labels=jnp.zeros((2, 3, 4))
    )


def _contrastive(zimg, ztxt, t):
  logits = t * zimg @ ztxt.T
  row = np.diag(scipy.special.log_softmax(logits, 1))
  col = np.diag(scipy.special.log_softmax(logits, 0))
  return -(row + col) / 2, logits.argmax(1) == np.arange(len(zimg))


def test_contrastive():
  zimg, ztxt = _randn(6, 4), _randn(6, 4, seed=1)
  zimg = zimg + ztxt
  want, correct = _contrastive(zimg, ztxt, 0.7)
  assert 0 < correct.sum() < 6  # Else the test would not tell much.
  args = _f32(zimg), _f32(ztxt), jnp.float32(0.7)
  loss, aux = losses.bidirectional_contrastive_loss(*args)
  np.testing.assert_allclose(loss, want, rtol=2e-5)
  np.testing.assert_array_equal(aux["ncorrect"], correct)
  loss, aux = losses.bidirectional_contrastive_loss(*args, reduction=True)
  np.testing.assert_allclose(loss, want.mean(), rtol=2e-5)
  np.testing.assert_allclose(aux["ncorrect"], correct.mean(), rtol=1e-6)


def test_contrastive_temperature_may_be_a_vector_of_one():
  z = _f32(_randn(3, 4))
  a, _ = losses.bidirectional_contrastive_loss(z, z, jnp.full((1,), 2.0))
  b, _ = losses.bidirectional_contrastive_loss(z, z, 2.0)
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
def test_contrastive_mask_is_the_same_as_leaving_out(dtype):
  zimg, ztxt = _randn(5, 4), _randn(5, 4, seed=1)
  mask = np.array([0, 1, 1, 0, 1], dtype)
  keep = mask.astype(bool)
  want, correct = _contrastive(zimg[keep], ztxt[keep], 3.0)
  args = _f32(zimg), _f32(ztxt), 3.0, jnp.asarray(mask)
  loss, aux = losses.bidirectional_contrastive_loss(*args)
  np.testing.assert_allclose(loss[keep], want, rtol=2e-5)
  np.testing.assert_array_equal(loss[~keep], 0)
  np.testing.assert_array_equal(aux["ncorrect"][keep], correct)
  np.testing.assert_array_equal(aux["ncorrect"][~keep], False)
  loss, aux = losses.bidirectional_contrastive_loss(*args, reduction=True)
  np.testing.assert_allclose(loss, want.mean(), rtol=2e-5)
  np.testing.assert_allclose(aux["ncorrect"], correct.mean(), rtol=1e-6)


def test_contrastive_gradient_is_finite_with_a_mask():
  zimg, ztxt = _f32(_randn(4, 3)), _f32(_randn(4, 3, seed=1))

  def loss(z, mask):
    return losses.bidirectional_contrastive_loss(
      z, ztxt, 2.0, mask=mask, reduction=True
    )[0]

  grad = jax.grad(loss)(zimg, jnp.array([1.0, 0.0, 1.0, 1.0]))
  keep = np.array([0, 2, 3])
  want = jax.grad(
    lambda z: jnp.mean(
      losses.bidirectional_contrastive_loss(z, ztxt[keep], 2.0)[0]
    )
  )(zimg[keep])
  np.testing.assert_allclose(grad[keep], want, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(grad[1], 0)
  assert not jnp.any(jax.grad(loss)(zimg, jnp.zeros(4)))


def test_token_xent():
  logits = _randn(2, 3, 7)
  tokens = np.random.default_rng(0).integers(7, size=(2, 3))
  mask = np.array([[1, 0, 2], [0, 0, 1]])
  got = losses.token_xent(_f32(logits), tokens, mask)
  want = np.zeros([2, 3])
  for i, j in np.argwhere(mask):
    logp = scipy.special.log_softmax(logits[i, j])
    want[i, j] = -logp[tokens[i, j]]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_token_nats(smoothing):
  logits = _randn(3, 4, 7, scale=3)
  tokens = np.random.default_rng(2).integers(7, size=(3, 4))
  targets = np.full((3, 4, 7), smoothing / 6)
  np.put_along_axis(targets, tokens[..., None], 1 - smoothing, -1)
  want = -(targets * scipy.special.log_softmax(logits, -1)).sum(-1)
  fn = jax.jit(losses.token_nats, static_argnums=2)
  got = fn(_f32(logits), jnp.asarray(tokens), smoothing)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  weights = _f32(np.random.default_rng(3).random((3, 4)))
  other = losses.weighted_softmax_xent(
    logits=_f32(logits), labels=jnp.asarray(tokens), weights=weights,
    label_smoothing=smoothing, normalize=False, reduction=False,
  )  # fmt: skip
  np.testing.assert_allclose((got * weights).sum(1), other, rtol=1e-5)


def test_token_nats_are_computed_in_float32():
  logits = jnp.asarray(_randn(1, 2, 5), jnp.bfloat16)
  tokens = jnp.array([[3, 0]])
  got = losses.token_nats(logits, tokens)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(
    got, losses.token_nats(logits.astype(jnp.float32), tokens)
  )
  one = losses.token_nats(jnp.ones((1, 2, 1)), jnp.zeros((1, 2), int), 0.1)
  assert np.isfinite(one).all()  # A vocabulary of one token.


def test_self_distillation_xent():
  r = np.random.default_rng(0)
  student, teacher = r.uniform(-1, 1, size=(2, 4, 3, 7))
  center = r.uniform(-1, 1, size=7)
  fn = lambda s, t: losses.self_distillation_xent(s, t, _f32(center), 0.1, 0.04)
  p = scipy.special.softmax((teacher - center) / 0.04, axis=-1)
  q = scipy.special.softmax(student / 0.1, axis=-1)
  args = _f32(student), _f32(teacher)
  want = -np.sum(p * np.log(q), axis=-1)
  np.testing.assert_allclose(fn(*args), want, rtol=1e-4)
  grads = jax.grad(lambda s, t: fn(s, t).sum(), (0, 1))(*args)
  # (q - p) / temperature; nothing for the teacher.
  np.testing.assert_allclose(grads[0], (q - p) / 0.1, atol=1e-3)
  assert not grads[1].any()


@pytest.mark.parametrize(
  "name", ["token_xent", "bidirectional_contrastive_loss"]
)
def test_get_offers_only_losses_of_logits_and_labels(name):
  with pytest.raises(ValueError, match=f"unknown loss '{name}'"):
    losses.get(name)


@pytest.mark.parametrize("name", ["softmax_xent", "sigmoid_xent"])
@pytest.mark.parametrize(
  "labels, message",
  [
    # As many examples as classes: it would broadcast.
    (np.arange(4), r"\(4,\) must have the shape of logits \(4, 4\).*onehot\(4"),
    (np.ones((4, 1), np.int32), "indices of classes.*onehot"),
    (np.ones((4, 5), np.float32), "num_classes.*pp.*have to be equal"),
    (np.ones((1, 4), np.float32), "num_classes"),
    (np.ones((2, 4, 4), np.float32), "num_classes"),
  ],
)
def test_labels_have_the_shape_of_logits(name, labels, message):
  loss = losses.get(name)
  logits = jnp.zeros((4, 4))
  with pytest.raises(lookup.ConfigError, match=f"^{name}: .*{message}") as e:
    jax.eval_shape(lambda x: loss(logits=x, labels=labels), logits)
  assert "\n" not in str(e.value)
  loss(
    logits=logits, labels=jnp.eye(4, dtype=jnp.int32)
  )  # Integers may be 0, 1.
  loss(logits=logits.astype(jnp.bfloat16), labels=jnp.eye(4))
  with pytest.raises(lookup.ConfigError, match="floating point"):
    loss(logits=jnp.eye(4, dtype=jnp.int32), labels=jnp.eye(4))


def test_softmax_of_one_class():
  one = jnp.ones((4, 1))
  with pytest.raises(lookup.ConfigError, match="num_classes = 2.*sigmoid_xent"):
    losses.softmax_xent(logits=one, labels=one)
  with pytest.raises(lookup.ConfigError, match="one class"):
    losses.distance(one.T, one.T, "kl", feat_axis=0)
  np.testing.assert_allclose(  # Yes or no: -log(sigmoid(1)).
    losses.sigmoid_xent(logits=one, labels=one), np.log1p(np.exp(-1)), rtol=1e-6
  )


def test_distance_between_different_numbers_of_classes():
  with pytest.raises(lookup.ConfigError, match=r"student's \(2, 3\).*\(2, 1\)"):
    losses.distance(jnp.ones((2, 3)), jnp.ones((2, 1)), "kl")


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_losses_of_numbers(name):
  assert losses.get(name) is getattr(losses, name)
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 7, 3)) * 2
  e = np.abs(x - y)
  want = dict(mse=e**2, mae=e, huber=np.where(e < 1, e**2 / 2, e - 0.5))[name]
  kw = dict(logits=jnp.array(x), labels=jnp.array(y))
  got = getattr(losses, name)(**kw, reduction=False)
  assert got.shape == (7,)
  np.testing.assert_allclose(got, want.mean(axis=1), rtol=1e-5)
  np.testing.assert_allclose(
    getattr(losses, name)(**kw), want.mean(), rtol=1e-5
  )
  with pytest.raises(lookup.ConfigError, match="number of targets"):
    getattr(losses, name)(**{**kw, "labels": kw["labels"][:, 0]})


def test_huber_far_away():
  kw = dict(logits=jnp.array([[5.0]]), labels=jnp.array([[1.0]]))
  assert losses.huber(**kw, delta=2.0) == 2.0 * (4.0 - 1.0)
