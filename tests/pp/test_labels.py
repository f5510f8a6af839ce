"""Labels outside of the range of `onehot`: errors of examples, where they have
a pipeline; all `off` in the op itself."""

import jax
import numpy as np
import pytest

from big_vision import input_pipeline
from big_vision.evaluators import classification
from big_vision.pp import builder, labels, ops_general, ops_image, rng  # noqa: F401 (registers ops)
from big_vision.tf import tf

pytestmark = pytest.mark.tf

DIGITS = dict(name="digits", split="train[:64]")
PP = "onehot({}, key='label', key_result='labels')|keep('labels')"


def onehot(label, depth=3, key="label"):
  fn = builder.get_preprocess_fn(f"onehot({depth}, key='{key}')")
  return fn({key: label})[key]


def test_the_op_itself_is_as_specified():
  for label in (-1, 3, 2**40):
    assert not np.any(onehot(tf.constant(label, tf.int64)))
  assert onehot(tf.constant(1.9)).numpy().tolist() == [0, 1, 0]
  with pytest.raises(ValueError, match="'label' holds text.*lookup"):
    onehot(tf.constant("dog"))


@pytest.mark.parametrize("label", [3, -2, 2**40, 0.5, float("nan")])
def test_examples_of_a_pipeline(label):
  dtype = tf.float32 if isinstance(label, float) else tf.int64
  with rng.example_seed([0, 0]):
    with pytest.raises(
      tf.errors.InvalidArgumentError,
      match=r"label .* .label. is not an integer",
    ):
      onehot(tf.constant(label, dtype))
    assert not np.any(onehot(tf.constant(-1, dtype)))
    assert onehot(tf.constant(2, dtype)).numpy().tolist() == [0, 0, 1]
    # Of sets and maps of labels only the op itself knows what is right.
    onehot(tf.constant([2], dtype))


def test_who_reads_labels_is_recorded():
  with labels.record() as uses:
    onehot(tf.constant(1))
    onehot(tf.constant([1]), key="many")
  assert [(u.key, u.key_result, u.depth, u.rank) for u in uses] == [
    ("label", "label", 3, 0),
    ("many", "many", 3, 1),
  ]
  with labels.record() as uses:
    pass
  onehot(tf.constant(1))
  assert not uses


def batches(num, **kw):
  cfg = dict(batch_size=16, data=DIGITS, pp=PP.format(num), **kw)
  ds, _ = input_pipeline.training(cfg)
  it = input_pipeline.start_global(ds, np.array(jax.devices()[:1]))
  try:
    return [np.asarray(next(it)["labels"]) for _ in range(2)]
  finally:
    it.close()


def test_training_on_labels_out_of_range():
  """Of ten classes five are known: none leaves loss and accuracy silently."""
  with pytest.raises(ValueError, match=r"train_00.*\n.*onehot\(5\)|tfds_id"):
    batches(5)
  assert all((x.sum(axis=1) == 1).all() for x in batches(5, skip_errors=True))
  assert all((x.sum(axis=1) == 1).all() for x in batches(10))
  has_label = lambda e: tf.reduce_any(e["labels"] > 0)
  kept = batches(5, post_filter_fn=has_label)
  assert all((x.sum(axis=1) == 1).all() for x in kept)
  # A filter of something else does not hide them.
  with pytest.raises(ValueError, match=r"onehot\(5\)"):
    batches(5, post_filter_fn=lambda e: tf.size(e["labels"]) > 0)


def predict(state, batch):
  return jax.nn.one_hot(batch["image"][:, 0].astype(int), 10) * state, None


def evaluate(label, depth=10, more=""):
  """Evaluates on examples whose label and image is `label`."""

  class Source:
    total_examples = len(label)
    num_examples_per_process = lambda self: [len(label)]

    def get_tfdata(self, ordered, **kw):
      values = np.array(label, np.int64)
      image = np.maximum(values, 0)[:, None].astype(np.float32)
      examples = {"label": values, "image": image}
      return tf.data.Dataset.from_tensor_slices(examples)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      "big_vision.datasets.core.source_class", lambda name: lambda: Source()
    )
    evaluator = classification.Evaluator(
      predict,
      "softmax_xent",
      data=dict(name="mine"),
      pp_fn=more
      + f"onehot({depth}, key='label', key_result='labels')"
      + "|keep('image', 'labels')",
      batch_size=8,
      devices=jax.devices()[:1],
    )
  return [dict(evaluator.run(np.float32(9))) for _ in range(2)]


def test_examples_without_label_are_counted_and_said(caplog):
  with caplog.at_level("WARNING", logger="absl"):
    first, second = evaluate([0, 1, -1, 3, -1])
  assert first == second and first["unlabeled"] == 2 and first["prec@1"] == 1
  assert caplog.text.count("2 examples of {'name': 'mine'} have no label:") == 1
  caplog.clear()
  with caplog.at_level("WARNING", logger="absl"):
    first, _ = evaluate([0, 1, 2])
    assert set(first) == {"prec@1", "loss"}
    # Sets of labels may be empty: -1 in place of none, removed.
    first, _ = evaluate(
      [0, 1, -1],
      more="reshape([1], key='label')|drop_negative|",
    )
  assert set(first) == {"prec@1", "loss"} and not caplog.text
  with pytest.raises(ValueError, match="label 7 .label. is not an integer"):
    evaluate([0, 7], depth=5)


@pytest.fixture(autouse=True)
def ops():
  from big_vision.pp import registry

  def drop_negative():
    def op(data):
      label = data["label"]
      data["label"] = tf.boolean_mask(label, label >= 0)
      return data

    return op

  with registry.temporary_ops(drop_negative=drop_negative):
    yield
