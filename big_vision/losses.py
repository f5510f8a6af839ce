"""Losses: plain functions of logits or embeddings and labels.

Dimension letters: `B` batch, `L` sequence length, `V` classes or vocabulary,
`D` embedding width, `K` prototypes. All losses are in nats.

A config names a loss by its function, `config.loss = "softmax_xent"`; see
`get`. A new loss is a new public function here. Configs can name it if its
arguments are `logits` and `labels`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import guards, lookup
from big_vision.types import Array, ArrayLike


def get(name: str, key: str = "loss") -> Callable[..., Any]:
  """Finds the loss function that a config asks for.

  Args:
    name: a loss of this file with the arguments `logits` and `labels`, for
      example "sigmoid_xent", or a function of the user's own, "my.module:fn" or
      "my.module.fn".
    key: the config key that holds `name`, for the error message.

  Returns:
    The function.

  Raises:
    ValueError: nothing has that name; lists the nearest names. Errors inside a
      user's module that exists propagate unchanged.
  """
  known = {
    n: f
    for n, f in globals().items()
    if inspect.isfunction(f)
    and f.__module__ == __name__
    and not n.startswith("_")
    and {"logits", "labels"} <= set(inspect.signature(f).parameters)
  }
  if name in known:
    return known[name]
  fn = lookup.attribute(str(name))
  if not callable(fn):
    raise lookup.unknown("loss", name, known, key)
  return fn


@guards.transfers
def onehot(
  labels: ArrayLike,
  num_classes: int,
  on_value: float = 1.0,
  off_value: float = 0.0,
) -> Array:
  """Turns indices into vectors of `off_value` with one `on_value`.

  Args:
    labels: [...] integers; those outside [0, num_classes) become a vector of
      `off_value` alone. A scalar counts as a batch of one.
    num_classes: V.
    on_value: value at the label.
    off_value: value elsewhere.

  Returns:
    [..., V] float32.
  """
  labels = jnp.atleast_1d(jnp.asarray(labels))
  classes = jax.lax.broadcasted_iota(
    jnp.int32, (*labels.shape, num_classes), labels.ndim
  )
  hit = labels[..., None] == classes
  return jnp.where(hit, on_value, off_value).astype(jnp.float32)


def _check_shapes(name: str, logits: ArrayLike, labels: ArrayLike) -> None:
  """Refuses what would broadcast to a wrong loss, as indices as labels do."""
  got, want = np.shape(labels), np.shape(logits)
  dtype = jnp.result_type(logits)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise lookup.ConfigError(
      f"{name}: logits must be floating point numbers, not {dtype}."
    )
  if got == want:
    return
  key = f"{name}: labels {got} must have the shape of logits {want}"
  if len(got) == len(want) - 1 or got == (*want[:-1], 1) != want:
    raise lookup.ConfigError(
      f"{key}: they look like indices of classes. Make vectors of them in "
      f'config.input.pp (evaluators: pp_fn), |onehot({want[-1]}, key="label", '
      'key_result="labels").'
    )
  raise lookup.ConfigError(
    f"{key}: config.num_classes and the number of classes in "
    "config.input.pp (evaluators: pp_fn), onehot(N, ...), have to be equal."
  )


def _check_several(num_classes: int) -> None:
  """Refuses a softmax over one class, which is sure of it from the start."""
  if num_classes == 1:
    raise lookup.ConfigError(
      "A softmax over one class has loss 0 whatever the model says: use "
      "config.num_classes = 2 or more, or for one yes-or-no label "
      "config.loss = 'sigmoid_xent'."
    )


@guards.transfers
def sigmoid_xent(
  *, logits: Array, labels: Array, reduction: bool = True
) -> Array:
  """Binary cross-entropy of independent classes, summed over the classes.

  Args:
    logits: [..., V] float.
    labels: [..., V] float in [0, 1], the probability of each class.
    reduction: whether to average over everything but the classes.

  Returns:
    [] if `reduction`, else [...] per example.

  Raises:
    lookup.ConfigError: labels do not have the shape of logits.

  References:
    Beyer et al. 2020, Section 3.1, https://arxiv.org/abs/2006.07159.
  """
  _check_shapes("sigmoid_xent", logits, labels)
  # 1 - sigmoid(x) = sigmoid(-x); the left side has no digits left at large x.
  on, off = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
  loss = -jnp.sum(labels * on + (1.0 - labels) * off, axis=-1)
  return jnp.mean(loss) if reduction else loss


def _check_targets(name: str, logits: ArrayLike, labels: ArrayLike) -> None:
  """Refuses targets that would broadcast to a wrong loss."""
  if np.shape(labels) != np.shape(logits):
    raise lookup.ConfigError(
      f"{name}: targets {np.shape(labels)} must have the shape of the model's "
      f"outputs {np.shape(logits)}: set config.num_classes to the number of "
      "targets, and end config.input.pp (evaluators: pp_fn) in labels [targets]."
    )


@guards.transfers
def mse(*, logits: Array, labels: Array, reduction: bool = True) -> Array:
  """Mean squared error of numbers, the loss of a regression.

  Args:
    logits: [..., T] float, predictions.
    labels: [..., T] float, targets, best of mean 0 and variance 1.
    reduction: whether to average over everything.

  Returns:
    [] if `reduction`, else [...] per example, the mean over its targets.

  Raises:
    lookup.ConfigError: labels do not have the shape of logits.
  """
  _check_targets("mse", logits, labels)
  loss = jnp.mean(jnp.square(logits - labels), axis=-1)
  return jnp.mean(loss) if reduction else loss


@guards.transfers
def mae(*, logits: Array, labels: Array, reduction: bool = True) -> Array:
  """Mean absolute error of numbers: outliers matter less than with `mse`.

  Args:
    logits: [..., T] float, predictions.
    labels: [..., T] float, targets.
    reduction: whether to average over everything.

  Returns:
    [] if `reduction`, else [...] per example, the mean over its targets.

  Raises:
    lookup.ConfigError: labels do not have the shape of logits.
  """
  _check_targets("mae", logits, labels)
  loss = jnp.mean(jnp.abs(logits - labels), axis=-1)
  return jnp.mean(loss) if reduction else loss


@guards.transfers
def huber(
  *, logits: Array, labels: Array, reduction: bool = True, delta: float = 1.0
) -> Array:
  """Huber loss of numbers: half of `mse` near 0, `mae` in the distance.

  Args:
    logits: [..., T] float, predictions.
    labels: [..., T] float, targets.
    reduction: whether to average over everything.
    delta: errors up to it are squared, d^2 / 2; beyond, delta * (d - delta / 2).

  Returns:
    [] if `reduction`, else [...] per example, the mean over its targets.

  Raises:
    lookup.ConfigError: labels do not have the shape of logits.

  References:
    Huber 1964, https://doi.org/10.1214/aoms/1177703732.
  """
  _check_targets("huber", logits, labels)
  error = jnp.abs(logits - labels)
  small = jnp.minimum(error, delta)
  loss = jnp.mean(0.5 * small**2 + delta * (error - small), axis=-1)
  return jnp.mean(loss) if reduction else loss


@guards.transfers
def softmax_xent(
  *,
  logits: Array,
  labels: Array,
  reduction: bool = True,
  kl: bool = False,
  axis: int = -1,
) -> Array:
  """Cross-entropy of soft labels, or their KL divergence to the prediction.

  Args:
    logits: [..., V] float, the classes along `axis`.
    labels: like `logits`, a distribution over the classes.
    reduction: whether to average over everything but the classes.
    kl: whether to subtract the entropy of the labels, so that a perfect
      prediction has loss 0.
    axis: the axis of the classes.

  Returns:
    [] if `reduction`, else the shape of `logits` without `axis`.

  Raises:
    lookup.ConfigError: labels do not have the shape of logits, or there is one
      class only.
  """
  _check_shapes("softmax_xent", logits, labels)
  _check_several(np.shape(logits)[axis])
  loss = -jnp.sum(labels * jax.nn.log_softmax(logits, axis=axis), axis=axis)
  if kl:
    loss += jnp.sum(labels * jnp.log(jnp.maximum(labels, 1e-8)), axis=axis)
  return jnp.mean(loss) if reduction else loss


@guards.transfers
def weighted_softmax_xent(
  *,
  logits: Array,
  labels: Array,
  reduction: bool = True,
  weights: Array | None = None,
  label_smoothing: float = 0.0,
  normalize: bool = True,
) -> Array:
  """Cross-entropy of token sequences with a weight per token.

  Args:
    logits: [B, L, V] float.
    labels: [B, L] integers.
    reduction: whether to average over the batch. A sequence whose weights are
      all 0 has loss 0 and counts in this average.
    weights: [B, L], the weight of each token, 1 for all if None.
    label_smoothing: total probability given to the wrong tokens.
    normalize: whether to divide the sum over a sequence by its weights (by L if
      there are none).

  Returns:
    [] if `reduction`, else [B].

  Raises:
    lookup.ConfigError: `logits` does not have exactly one dimension more than
      `labels`, or labels are not integers.
  """
  if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape:
    raise lookup.ConfigError(
      f"logits {logits.shape} must have one dimension more than labels "
      f"{labels.shape}; labels are indices here, not one-hot vectors."
    )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise lookup.ConfigError(
      f"weighted_softmax_xent: labels are indices, so they must be integers, "
      f"not {labels.dtype}."
    )
  vocab = logits.shape[-1]
  targets = onehot(
    labels,
    vocab,
    on_value=1.0 - label_smoothing,
    off_value=label_smoothing / max(vocab - 1, 1),
  )  # [B, L, V]
  loss = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)  # [B, L]
  if weights is not None:
    loss = loss * weights
  loss = jnp.sum(loss, axis=1)  # [B]
  if normalize:
    if weights is None:
      loss = loss / labels.shape[1]
    else:
      # The bound is just above the smallest normal float32.
      loss = loss / jnp.maximum(jnp.sum(weights, axis=1), 2e-38)
  return jnp.mean(loss) if reduction else loss


def token_nats(
  logits: Array, labels: Array, label_smoothing: float = 0.0
) -> Array:
  """Cross-entropy of each token, without making targets of the vocabulary's size.

  Args:
    logits: [B, L, V] float.
    labels: [B, L] integers.
    label_smoothing: total probability given to the wrong tokens.

  Returns:
    [B, L] float32.
  """
  logits = logits.astype(jnp.float32)
  own = jnp.take_along_axis(logits, labels[:, :, None], axis=-1)[:, :, 0]
  log_sum = jax.nn.logsumexp(logits, axis=-1)
  if not label_smoothing:
    return log_sum - own
  off = label_smoothing / max(logits.shape[-1] - 1, 1)
  rest = jnp.sum(logits, axis=-1) - own
  return log_sum - (1 - label_smoothing) * own - off * rest


def token_xent(logits: Array, tokens: Array, mask: Array) -> Array:
  """Negative log-likelihood of each predicted token, 0 elsewhere.

  Args:
    logits: [B, L, V] float.
    tokens: [B, L] int.
    mask: [B, L], not 0 where a token is predicted.

  Returns:
    [B, L] float32.
  """
  logp = jax.nn.log_softmax(logits.astype(jnp.float32))
  own = jnp.take_along_axis(logp, tokens[:, :, None], axis=-1)[:, :, 0]
  return jnp.where(mask != 0, -own, 0.0)


def self_distillation_xent(
  student: Array,
  teacher: Array,
  center: Array,
  student_temperature: float,
  teacher_temperature: float,
) -> Array:
  """Cross-entropy of the student against the centered, sharpened teacher.

  Args:
    student: [..., K] outputs of the student's head.
    teacher: [..., K] outputs of the teacher's head, which get no gradient.
    center: [K], is subtracted from the teacher's outputs.
    student_temperature: of the student's softmax.
    teacher_temperature: of the teacher's softmax.

  Returns:
    [...], -Σ_k p_k log q_k with p = softmax((teacher - center) /
    teacher_temperature) and q = softmax(student / student_temperature).

  References:
    Caron et al. 2021, DINO, eq. 2 and section 3.1,
    https://arxiv.org/abs/2104.14294.
  """
  center = center.reshape(*[1] * (teacher.ndim - 1), -1)
  target = jax.lax.stop_gradient(teacher) - center
  p = jax.nn.softmax(target / teacher_temperature)
  logq = jax.nn.log_softmax(student / student_temperature)
  return -jnp.sum(p * logq, axis=-1)


@guards.transfers
def bidirectional_contrastive_loss(
  zimg: Array,
  ztxt: Array,
  t: ArrayLike,
  mask: Array | None = None,
  reduction: bool = False,
) -> tuple[Array, dict[str, Array]]:
  """Softmax contrastive loss, the mean of image->text and text->image.

  Args:
    zimg: [B, D] image embeddings, usually of unit norm.
    ztxt: [B, D] embeddings of the matching texts.
    t: [] inverse temperature, already exponentiated.
    mask: [B], 0 for examples that do not exist: they are not candidates for
      the others, have loss 0 and are never correct.
    reduction: whether to average over the batch, with the mask as weight.

  Returns:
    (loss, {"ncorrect": is the own text the best match of an image}), both [B]
    (float, bool), or both [] float if `reduction`.

  References:
    Radford et al. 2021, Figure 3, https://arxiv.org/abs/2103.00020.
  """
  size = zimg.shape[0]
  logits = jnp.dot(zimg, ztxt.T) * jnp.reshape(t, ())  # [B, B]
  exists = None if mask is None else jnp.asarray(mask) != 0  # [B]
  if exists is not None:
    pair = exists[:, None] & exists[None, :]
    # A masked example keeps itself as only candidate. That makes its loss an
    # exact 0; a row of -inf alone would put NaN into the gradient.
    logits = jnp.where(
      pair, logits, jnp.where(jnp.eye(size, dtype=bool), 0.0, -jnp.inf)
    )
  img2txt = -jnp.diag(jax.nn.log_softmax(logits, axis=1))  # [B]
  txt2img = -jnp.diag(jax.nn.log_softmax(logits, axis=0))
  loss = 0.5 * (img2txt + txt2img)
  ncorrect = jnp.argmax(logits, axis=1) == jnp.arange(size)
  if exists is not None:
    loss = jnp.where(exists, loss, 0.0)
    ncorrect &= exists

  if reduction:
    if mask is None:
      average = jnp.mean
    else:
      average = lambda x: jnp.sum(x * mask) / (jnp.sum(mask) + 1e-8)
    loss, ncorrect = average(loss), average(ncorrect)
  return loss, {"ncorrect": ncorrect}


# Kinds of `distance`.
DISTANCES = (
  "euclidean", "l2", "hard", "kl", "logsoftmax_euclidean", "agree"
)  # fmt: skip


def distance(
  student: jax.Array,
  teacher: jax.Array,
  kind: str,
  feat_axis: int = -1,
  epsilon: float = 1e-12,
  t: float = 1,
  ls: float = 0.0,
  k: int = 1,
) -> jax.Array:
  """Measures how far a student is from its teacher, along an axis.

  With s and z the two arrays, and CE_KL the cross-entropy less the entropy of
  the labels (0 at best), the kinds are:
    "euclidean": sqrt(sum (s - z)^2 + epsilon);
    "l2": sum (s - z)^2;
    "hard": CE_KL of s and the one-hot argmax of z, smoothed by `ls`;
    "kl": t^2 CE_KL(s / t, softmax(z / t)), https://arxiv.org/abs/1503.02531;
    "logsoftmax_euclidean": "euclidean" of log-probabilities;
    "agree": not a distance: 1 if the argmax of z is among the `k` largest of
      s, else 0.

  Args:
    student: [..., V] array, with V at `feat_axis`; logits where that matters.
    teacher: array of the same shape.
    kind: one of `DISTANCES`.
    feat_axis: the axis to sum over.
    epsilon: keeps the gradient of the root finite.
    t: temperature.
    ls: label smoothing, in [0, 1).
    k: number of the student's best classes that count.

  Returns:
    [...] array without `feat_axis`.

  Raises:
    ConfigError: unknown kind, or the shapes differ.
  """
  if kind not in DISTANCES:
    raise lookup.ConfigError(
      f"Unknown kind of distance {kind!r}, not in {DISTANCES}."
    )
  if student.shape != teacher.shape:
    raise lookup.ConfigError(
      f"distance {kind!r}: the student's {student.shape} and the teacher's "
      f"{teacher.shape} must have equal shapes: do config.num_classes and the "
      "classes of the teacher agree?"
    )
  if kind == "l2":
    return jnp.sum(jnp.square(student - teacher), axis=feat_axis)
  if kind == "euclidean":
    total = jnp.sum(jnp.square(student - teacher), axis=feat_axis)
    return jnp.sqrt(total + epsilon)
  if kind == "logsoftmax_euclidean":
    s, z = (jax.nn.log_softmax(x, axis=feat_axis) for x in (student, teacher))
    return distance(s, z, "euclidean", feat_axis, epsilon)
  xent = functools.partial(
    softmax_xent, reduction=False, kl=True, axis=feat_axis
  )
  if kind == "hard":
    num = teacher.shape[feat_axis]
    labels = jax.nn.one_hot(
      jnp.argmax(teacher, axis=feat_axis), num, axis=feat_axis
    )
    if ls:
      labels = (1.0 - ls) * labels + ls / (num - 1) * (1.0 - labels)
    return xent(logits=student, labels=labels)
  if kind == "kl":
    labels = jax.nn.softmax(teacher / t, axis=feat_axis)
    return t**2 * xent(logits=student / t, labels=labels)
  student, teacher = (
    jnp.moveaxis(x, feat_axis, -1) for x in (student, teacher)
  )
  _, top = jax.lax.top_k(student, k)  # [..., k]
  best = jnp.argmax(teacher, axis=-1)[..., None]
  return jnp.sum(top == best, axis=-1)
