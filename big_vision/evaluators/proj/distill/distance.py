"""Distances between the outputs of a student and a teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import losses, trees
from big_vision.evaluators import common

API = "jit"

KINDS = ("euclidean", "l2", "hard", "kl", "logsoftmax_euclidean", "agree")


def dist(student, teacher, kind, feat_axis=-1, epsilon=1e-12, t=1, ls=0.0, k=1):
  """Distance of two arrays along an axis.

  Args:
    student: [..., C] array, with C at `feat_axis`; logits where that matters.
    teacher: array of the same shape.
    kind: str, with s and z the two and CE_KL the cross-entropy less the entropy
      of the labels, 0 at best:
      "euclidean": sqrt(sum (s - z)^2 + epsilon);
      "l2": sum (s - z)^2;
      "hard": CE_KL of s and the one-hot argmax of z, smoothed by `ls`;
      "kl": t^2 CE_KL(s / t, softmax(z / t)), https://arxiv.org/abs/1503.02531;
      "logsoftmax_euclidean": "euclidean" of log-probabilities;
      "agree": no distance: 1 if the argmax of z is among the `k` largest of s,
      else 0.
    feat_axis: int, the axis to sum over.
    epsilon: float, keeps the gradient of the root finite.
    t: float, temperature.
    ls: float in [0, 1), label smoothing.
    k: int.

  Returns:
    [...] array without `feat_axis`.

  Raises:
    AssertionError: unknown kind.
  """
  assert kind in KINDS, f"Unknown kind of distance {kind!r}, not in {KINDS}."
  xent = functools.partial(
    losses.softmax_xent, reduction=False, kl=True, axis=feat_axis
  )
  if kind == "l2":
    return jnp.sum(jnp.square(student - teacher), axis=feat_axis)
  if kind == "euclidean":
    total = jnp.sum(jnp.square(student - teacher), axis=feat_axis)
    return jnp.sqrt(total + epsilon)
  if kind == "logsoftmax_euclidean":
    s, z = (jax.nn.log_softmax(x, axis=feat_axis) for x in (student, teacher))
    return dist(s, z, "euclidean", feat_axis, epsilon)
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


@functools.cache  # One compilation for all evaluators of a predict function.
def get_dist_fn(predict_fn, what, mesh, distances):
  """Compiled distances of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch) -> ((_, out_student), (_, out_teacher))`.
    what: (str, str), paths in the two `out`.
    mesh: Mesh of the devices to gather on.
    distances: tuple of functions of two arrays [B, C].

  Returns:
    `fn(train_state, batch, mask) -> (list of [B], mask)`.
  """

  def fn(train_state, batch, mask):
    student, teacher = representations(predict_fn, what, train_state, batch)
    return [d(student, teacher) for d in distances], mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def representations(predict_fn, what, train_state, batch):
  """What is compared, of one batch.

  Args:
    predict_fn: `(train_state, batch) -> ((_, out_student), (_, out_teacher))`.
    what: (str, str), paths in the two `out`.
    train_state: first argument of the predict function.
    batch: second one.

  Returns:
    Two arrays [B, -1].
  """
  outs = predict_fn(train_state, batch)
  arrays = (
    trees.tree_get(out, path) for (_, out), path in zip(outs, what, strict=True)
  )
  return [x.reshape(len(x), -1) for x in arrays]


class Evaluator:
  """Yields, for every distance, `<name>/all`, `/avg`, `/min` and `/max`.

  The name is what `dist` is given, for example `kind=kl_t=2`.
  """

  forwards = staticmethod(common.eval_input_pipeline)

  def __init__(
    self,
    student_teacher_fwd,
    data,
    pp_fn,
    distances,
    what=("logits", "logits"),
    *,
    devices,
    batch_size,
    **kw,
  ):
    """Opens the data.

    Args:
      student_teacher_fwd: `(train_state, batch) -> ((_, out_student), (_,
        out_teacher))`; the batch is without mask.
      data: arguments of the dataset, for example `name` and `split`.
      pp_fn: preprocessing string.
      distances: list of dicts, arguments of `dist`.
      what: paths in the two `out` of what is compared, flattened to [B, -1].
      devices: flat array of devices in the order of the mesh.
      batch_size: global batch size.
      **kw: further arguments of `common.eval_input_pipeline`.
    """
    distances = [dict(d) for d in distances]
    for d in distances:
      assert d.get("kind") in KINDS, (
        f"distances: unknown kind in {d}, use one of {', '.join(KINDS)}."
      )
    self.names = ["_".join(f"{k}={v}" for k, v in d.items()) for d in distances]
    self.dist_fn = get_dist_fn(
      student_teacher_fwd,
      tuple(what),
      Mesh(np.asarray(devices), ("devices",)),
      tuple(_Distance(tuple(sorted(d.items()))) for d in distances),
    )
    self.get_data_iter, self.steps = common.eval_input_pipeline(
      data=data, pp_fn=pp_fn, batch_size=batch_size, devices=devices, **kw
    )
    self.devices, self.batch_size = devices, batch_size

  def run(self, train_state):
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, value): [N] array in the order of the data, or its scalars.
    """

    def results():
      for _, batch in zip(
        range(self.steps), self.get_data_iter(), strict=False
      ):
        batch = dict(batch)
        mask = batch.pop("_mask")
        yield self.dist_fn(train_state, batch, mask)

    values, masks = zip(*common.fetch(results()), strict=True)
    order = common.host_order(self.devices, self.batch_size, self.steps)
    order = order[np.concatenate(masks)[order].astype(bool)]
    for name, parts in zip(self.names, zip(*values, strict=True), strict=True):
      each = np.concatenate(parts)[order]
      yield f"{name}/all", each
      yield f"{name}/avg", each.mean()
      yield f"{name}/min", each.min()
      yield f"{name}/max", each.max()


class _Distance(tuple):
  """`dist` with arguments, equal to another with the same ones."""

  def __call__(self, student, teacher):
    return dist(student, teacher, **dict(self))
