"""What does not fit is named before data is read or anything compiles."""

import logging

import jax
import jax.numpy as jnp
import ml_collections as mlc
import pytest

import toy
from big_vision import input_pipeline, train
from big_vision.trainers.proj.flexi import train as flexi_train
from big_vision.training import cli, loop

PP = "decode(channels=1)|resize(8)|value_range(-1, 1)"
ONEHOT = '|onehot(10, key="label", key_result="labels")'
KEEP = '|keep("image", "labels")'
FEW = PP + '|keep("image", "label")'


def config(**kw):
  """Two steps of a tiny ViT on digits, and an evaluation."""
  pp = PP + ONEHOT + KEEP
  c = mlc.ConfigDict(
    dict(
      input=dict(
        data=dict(name="digits", split="train[:64]"), batch_size=16, pp=pp
      ),
      evals=dict(
        val=dict(
          type="classification",
          data=dict(name="digits", split="test[:32]"),
          pp_fn=pp,
          loss_name="softmax_xent",
          log_steps=2,
          skip_first=True,  # It would run only after the training.
        )
      ),
      num_classes=10,
      loss="softmax_xent",
      model_name="vit",
      model=dict(patch_size=(4, 4), width=8, depth=1, mlp_dim=8, num_heads=2),
      total_steps=2,
      log_training_steps=1,
      optax_name="scale_by_adam",
      lr=1e-3,
    )
  )
  for key, value in kw.items():
    *path, last = key.split(".")
    node = c
    for p in path:
      node = node[p]
    if value is None:
      del node[last]
    else:
      node[last] = value
  return c


@pytest.fixture
def nothing_starts(monkeypatch, tfds_data_dir):
  """Fails where data is read or something of a run compiles."""

  def fail(*args, **kw):
    raise AssertionError("too late")

  monkeypatch.setattr(input_pipeline, "start_global", fail)
  monkeypatch.setattr("big_vision.training.state.start", fail)


RAW = PP + '|copy("label", "labels")' + KEEP
TRAIN = r"^config.input.pp \(image \[16, 8, 8, 1\]"
VAL = r"^config.evals.val.pp_fn \(image \[16, "


@pytest.mark.tf
@pytest.mark.parametrize(
  "kw, message",
  [
    ({"input.pp": PP.replace("|resize(8)", "") + ONEHOT + KEEP},
     r"^config.input.pp \(labels .*image, which has the shape .*no 'image' .*resize"),
    ({"input.pp": "value_range(-1, 1)" + ONEHOT + KEEP},
     r"^config.input.pp \(image \[16\]; .*\[height, width, channels\]. .*decode"),
    ({"input.pp": PP + '|keep("image")'}, TRAIN + r"\) .* no 'labels'.*keep"),
    ({"input.pp": RAW}, TRAIN + r".*labels \(16,\) .*indices.*onehot\(10"),
    # As many examples as classes: it would broadcast.
    ({"input.pp": RAW, "num_classes": 16}, "indices"),
    ({"input.pp": RAW, "num_classes": 16, "loss": "sigmoid_xent"}, "indices"),
    ({"num_classes": 5}, TRAIN + r".*\(16, 10\) .*\(16, 5\).*config.num_classes"),
    ({"num_classes": None}, "^config.num_classes is required"),
    ({"evals.val.pp_fn": (PP + ONEHOT + KEEP).replace("(8)", "(16)")},
     VAL + r"16, 16, 1\]; labels .* Training has \(image \[16, 8, 8, 1\]\)\."),
    ({"evals.val.pp_fn": (PP + ONEHOT + KEEP).replace("|resize(8)", "")},
     r"^config.evals.val.pp_fn \(labels.*; image, which has the shape .*'image'"),
    ({"evals.val.pp_fn": PP + '|keep("image")'}, VAL + ".*label_key='labels'"),
    ({"evals.val.pp_fn": (PP + ONEHOT + KEEP).replace("10", "12")},
     VAL + r".*\(16, 10\), but labels are \(16, 12\): config.num_classes"),
    ({"evals.val.pp_fn": RAW}, VAL + ".*labels"),
    ({"evals.val.loss_name": "sigmoid_xent", "evals.few": dict(
        type="fewshot_lsr", representation_layer="pre_logits", shots=[1],
        l2_reg=1.0, log_steps=2, display_first=[], pp_train=FEW, pp_eval=FEW.replace("8", "12"),
        datasets=dict(digits=("digits", "train[:32]", "test[:32]")))},
     r"^config.evals.few.pp_eval \(image \[16, 12, 12, 1\]; label \[16\]\)"),
  ],
)  # fmt: skip
def test_what_does_not_fit(kw, message, nothing_starts):
  with pytest.raises(ValueError, match=message) as e:
    cli.train(train.build, config(**kw))
  assert "\n" not in str(e.value)
  assert e.value.__cause__ is not None or "num_classes is" in str(e.value)


@pytest.mark.tf
@pytest.mark.parametrize("key", ["input.pp", "evals.val.pp_fn"])
def test_text_that_would_be_put_on_devices(key, nothing_starts):
  message = f"^config.{key}: the feature 'id' that it leaves is text.*keep"
  with pytest.raises(ValueError, match=message):
    cli.train(train.build, config(**{key: PP + ONEHOT}))
  if key == "input.pp":  # Which nothing reads if nothing is trained.
    with pytest.raises(AssertionError, match="too late"):
      cli.train(train.build, config(total_steps=0, **{key: PP + ONEHOT}))


@pytest.mark.tf
def test_what_fits(nothing_starts):
  for kw in ({}, {"total_steps": 0, "loss": "no_such:loss"}, {"evals": {}}):
    if "loss" in kw:
      kw = {"total_steps": 0}
    with pytest.raises(AssertionError, match="too late"):
      cli.train(train.build, config(**kw))


def test_the_step_is_traced_once():
  """The check costs nothing: JAX finds its trace again."""
  calls = []

  def loss_fn(*args):
    calls.append(1)
    return toy.loss_fn(*args)

  loop.run(toy.setup(toy.config(total_steps=3)), toy.make(loss_fn=loss_fn))
  assert len(calls) == 1


def test_the_step_compiles_in_a_thread_only(caplog):
  caplog.set_level(logging.WARNING, "jax")
  jax.config.update("jax_log_compiles", True)
  try:
    # Another program than that of other tests.
    setup = toy.setup(toy.config(total_steps=3, lr=0.0123))
    loop.run(setup, toy.make())
  finally:
    jax.config.update("jax_log_compiles", False)
  threads = {  # Those of other tests may be at work, still.
    record.threadName
    for record in caplog.records
    if "Finished XLA compilation of jit(step)" in record.getMessage()
  }
  assert threads == {"compile_0"}


def test_errors_about_something_else_are_shown_as_they_are():
  def loss_fn(*args):
    raise NotImplementedError("of the user's code")

  with pytest.raises(NotImplementedError, match="of the user's"):
    loop.run(toy.setup(toy.config()), toy.make(loss_fn=loss_fn))

  def lookup_fails(params, batch, rng, state):
    return jnp.zeros(()) + params["hid"]["kernel"].sum(), {}

  with pytest.raises(KeyError, match="hid"):
    loop.run(toy.setup(toy.config()), toy.make(loss_fn=lookup_fails))


@pytest.mark.tf
def test_sizes_that_later_steps_draw(nothing_starts):
  """Of FlexiViT: the third step is the first that draws 30 tokens per side."""
  flexi = lambda **kw: dict(seqhw=dict(**kw))
  kw = {"model_name": "proj.flexi.vit", "evals": {}, "total_steps": 5}
  large = flexi(v=(2, 30), p=(3, 1))
  with pytest.raises(ValueError, match="no 30 tokens per side"):
    cli.train(flexi_train.build, config(**kw, flexi=large))
  with pytest.raises(AssertionError, match="too late"):
    cli.train(flexi_train.build, config(**kw, flexi=flexi(v=(2, 3), p=None)))
  with pytest.raises(ValueError, match="config.flexi is required"):
    cli.train(flexi_train.build, config(**kw))
