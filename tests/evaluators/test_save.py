"""The file of inputs and outputs: contents, order, path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from big_vision import checkpoints
from big_vision.evaluators import save
from big_vision.training import cli


def predict(state, batch):
  z = batch["x"] @ state["params"]["w"]
  return {"z": z, "deep": [z.sum(axis=1)]}


def make(outfile, n=21, fn=predict, batch_size=16):
  x = np.random.RandomState(0).randn(n, 6).astype(np.float32)
  evaluator = save.Evaluator(
    fn,
    {"x": x, "_id": np.arange(n, dtype=np.int32)},
    "",
    batch_size,
    outfile,
    devices=jax.devices(),
  )
  return evaluator, x


@pytest.mark.parametrize("batch_size", [8, 32])
def test_contents(arrays, state, tmp_path, batch_size):
  path = tmp_path / "new" / "out.npz"
  evaluator, x = make(str(path), batch_size=batch_size)
  assert list(evaluator.run(state)) == []
  saved = checkpoints.npload(str(path))
  assert set(saved) == {
    "inputs/x", "inputs/_id", "outputs/z", "outputs/deep/0"
  }  # fmt: skip
  w = np.asarray(jax.device_get(state["params"]["w"]))
  np.testing.assert_array_equal(saved["inputs/x"], x)
  np.testing.assert_array_equal(saved["inputs/_id"], np.arange(21))
  np.testing.assert_allclose(saved["outputs/z"], x @ w, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    saved["outputs/deep/0"], (x @ w).sum(axis=1), rtol=1e-4, atol=1e-5
  )


def test_step_in_the_name(arrays, state, tmp_path):
  """The step is that of the optimizer at the time of writing."""
  evaluator, _ = make(str(tmp_path / "{step:04d}.npz"))
  schedule = lambda count: jax.device_put(np.asarray(count, np.int32))
  opt = optax.ScaleByScheduleState(count=schedule(7))
  list(evaluator.run({**state, "opt": opt}))
  list(evaluator.run({**state, "opt": opt._replace(count=schedule(12))}))
  names = sorted(p.name for p in tmp_path.iterdir())
  assert names == ["0007.npz", "0012.npz"]


def test_without_workdir_nothing_is_written(arrays, state, tmp_path):
  evaluator, _ = make("{workdir}/x.npz")
  assert list(evaluator.run(state)) == []


def test_selected_inputs_and_outputs(arrays, state, tmp_path):
  path = str(tmp_path / "x.npz")
  data = {"x": np.ones([9, 6], np.float32), "y": np.arange(9)}

  def saved(**kw):
    evaluator = save.Evaluator(
      predict, data, "", 8, path, devices=jax.devices(), **kw
    )
    list(evaluator.run(state))
    return set(checkpoints.npload(path))

  assert saved(outputs=("deep",), inputs=["y"]) == {
    "inputs/y", "outputs/deep/0",
  }  # fmt: skip
  assert saved(outputs="z") == {"inputs/x", "inputs/y", "outputs/z"}
  assert saved(inputs=()) == {"outputs/z", "outputs/deep/0"}
  with pytest.raises(
    ValueError, match="outputs: unknown entry 'deeep'.*deep/0"
  ):
    saved(outputs=("deeep",))


def test_outputs_need_one_row_per_example(arrays, state, tmp_path):
  total = lambda state, batch: batch["x"].sum(axis=0)
  evaluator, _ = make(str(tmp_path / "x.npz"), fn=total)
  with pytest.raises(ValueError, match="'outputs' has shape"):
    list(evaluator.run(state))


@pytest.mark.tf
def test_training_without_flags(tfds_data_dir, tmp_path):
  """The workdir is that of the run, also where no program has flags."""
  pp = "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)"
  pp += "|onehot(10, 'label', 'labels')|keep('image', 'labels')"
  config = toy.config(
    total_steps=2,
    schedule=dict(decay_type="cosine"),
    input=dict(
      batch_size=16, data=dict(name="digits", split="train[:64]"), pp=pp,
      shuffle_buffer_size=1,
    ),
    model_name="vit",  # Is not used, the recipe has a model of its own.
    evals=dict(
      save=dict(
        data=dict(name="digits", split="test[:5]"), pp_fn=pp, batch_size=8,
        outfile="{workdir}/{step:03d}.npz", log_steps=2,
      )
    ),
  )  # fmt: skip

  def forward(params, batch):
    return batch["image"].reshape(len(batch["image"]), -1) @ params["w"]

  def build(setup):
    return toy.make(
      init=lambda rng, batch: {"w": jnp.zeros((64, 10))},
      loss_fn=lambda params, batch, rng, state: (
        jnp.square(forward(params, batch) - batch["labels"]).mean(), {},
      ),
      predict_fns={"predict": lambda s, batch: forward(s["params"], batch)},
    )  # fmt: skip

  assert cli.flags.FLAGS["workdir"].value is None
  state = cli.train(build, config, str(tmp_path))
  first, last = (np.load(tmp_path / f"{step:03d}.npz") for step in (0, 2))
  assert not first["outputs"].any()
  x = last["inputs/image"].reshape(5, -1)
  w = np.asarray(state["params"]["w"])
  np.testing.assert_allclose(last["outputs"], x @ w, rtol=1e-4, atol=1e-5)
  assert sum(p.suffix == ".npz" for p in tmp_path.iterdir()) == 2
