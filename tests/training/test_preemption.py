"""Requests to stop that come where the loop waits: nothing that is done is lost."""

import os
import signal
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

import toy
from big_vision.training import loop, preemption, signals, watchdog

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
  monkeypatch.setattr(preemption, "_NO_BATCH", 0.3)
  monkeypatch.setattr(preemption, "_EVALUATION", 0.3)


def run(workdir, batch_fn=toy.batch, recipe=None, **kw):
  os.makedirs(workdir, exist_ok=True)
  setup = toy.setup(toy.config(**kw), workdir, None, batch_fn)
  try:
    return loop.run(setup, recipe or toy.make())
  finally:
    setup.writer.close()


def stall():
  """Asks to stop, and then waits for what never comes."""
  os.kill(os.getpid(), signal.SIGTERM)
  threading.Event().wait()


def last(workdir):
  return (workdir / "checkpoint.bv-LAST").read_text()


def test_while_the_input_stalls(tmp_path):
  def batch_fn(i, size):
    if i == 3:
      stall()
    return toy.batch(i, size)

  want = run(tmp_path / "a")
  with pytest.raises(loop.Preempted) as e:
    run(tmp_path / "b", batch_fn)
  assert e.value.code == 143
  assert last(tmp_path / "b") == "000000003-tmp"
  assert signals.active() is None
  got = run(tmp_path / "b")
  jax.tree.map(np.testing.assert_array_equal, want, got)
  assert toy.numbers(tmp_path / "a") == toy.numbers(tmp_path / "b")


def test_a_state_that_is_saved_is_not_saved_again(tmp_path, monkeypatch):
  saved = []
  save = loop.resuming.save
  monkeypatch.setattr(
    loop.resuming,
    "save",
    lambda m, s, p, step, *a: (saved.append(step), save(m, s, p, step, *a)),
  )

  def batch_fn(i, size):
    if i == 4:
      stall()
    return toy.batch(i, size)

  with pytest.raises(loop.Preempted):
    run(tmp_path / "w", batch_fn, ckpt_steps=2)
  assert saved[-2:] == [2, 4] and saved.count(4) == 1


def test_during_an_evaluation(tmp_path, monkeypatch):
  class Evaluator:
    def __init__(self, predict_fn, batch_size, devices):
      pass

    def run(self, state):
      yield "before", 1.0
      stall()

  module = types.ModuleType("bvstalls")
  module.API, module.Evaluator = "jit", Evaluator
  monkeypatch.setitem(sys.modules, "bvstalls", module)
  evals = dict(val=dict(type="bvstalls", log_steps=3, skip_first=True))
  recipe = toy.make(predict_fns={"predict": len})
  with pytest.raises(loop.Preempted):
    run(tmp_path / "w", recipe=recipe, evals=evals)
  assert last(tmp_path / "w") == "000000003-tmp"
  row = toy.rows(tmp_path / "w")[3]
  assert row["val/before"] == 1.0 and "training_loss" in row


def test_hosts_are_told_what_the_loop_does(tmp_path, monkeypatch):
  """Several hosts: phases go to the watchdog, which says when to stop."""
  phases = []

  class Dog:
    def enter(self, phase, step):
      phases.append((step, phase))

    def last_step(self, step):
      return step == 3

  monkeypatch.setattr(watchdog, "_active", Dog())
  with pytest.raises(loop.Preempted):
    run(tmp_path / "w", ckpt_steps=2)
  data, step, busy = watchdog.DATA, watchdog.STEP, watchdog.BUSY
  assert phases == [
    (1, data), (1, busy), (1, busy),  # Compiles; the first step is saved.
    (2, data), (2, step), (2, busy),
    (3, data), (3, step), (3, busy),
  ]  # fmt: skip
  assert last(tmp_path / "w") == "000000003-tmp"


def test_new_static_arguments_compile(monkeypatch):
  entered = []
  monkeypatch.setattr(
    watchdog,
    "_active",
    types.SimpleNamespace(enter=lambda phase, step: entered.append(phase)),
  )
  stop = preemption.Preemption(lambda step: None)
  try:
    for static in [(1,), (1,), (2,), (1,)]:
      stop.computing(5, static)
  finally:
    stop.close()
  step, busy = watchdog.STEP, watchdog.BUSY
  assert entered == [busy, step, busy, step]


def test_in_another_thread_than_the_main_one():
  """Where Python handles no signals, a run goes on as if there were none."""
  answers = []

  def work():
    stop = preemption.Preemption(lambda step: None)
    answers.append(stop.next(iter([7]), 1))
    answers.append(stop.reached(1))
    stop.close()

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert answers == [7, False]


@pytest.mark.slow
@pytest.mark.tf
def test_an_image_that_is_a_pipe(tmp_path):
  """The whole command, with a file whose reading never ends."""
  import subprocess

  import process_groups

  config = tmp_path / "config.py"
  config.write_text(FIFO_CONFIG)
  from PIL import Image

  for name in "ab":
    folder = tmp_path / "images" / name
    folder.mkdir(parents=True)
    for i in range(8):
      pixels = np.full((4, 4, 3), 20 * i, np.uint8)
      Image.fromarray(pixels).save(folder / f"{i:02}.png")
  workdir = tmp_path / "w"
  process = subprocess.Popen(
    [
      sys.executable, "-m", "big_vision.train", "--config", str(config),
      "--config.input.data.path", str(tmp_path / "images"),
      "--workdir", str(workdir),
    ],
    env=process_groups.environment(), cwd=process_groups.ROOT,
    stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  try:
    file = workdir / "big_vision_metrics.txt"
    while not file.exists() or file.read_text().count("\n") < 3:
      assert process.poll() is None, process.communicate()[1]
      time.sleep(0.1)
    image = folder / "00.png"
    image.unlink()
    os.mkfifo(image)
    while True:  # Until it stalls.
      rows = file.read_text()
      time.sleep(5)
      if file.read_text() == rows:
        break
    at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    took = time.monotonic() - at
  finally:
    process.kill()
  assert process.returncode == 143, err
  step = rows.count("\n")
  assert last(workdir) == f"{step:09d}-tmp"
  assert f"Stopped on request (SIGTERM) after step {step}" in err
  assert took < 60  # 15 if the machine has nothing else to do.


FIFO_CONFIG = """
import ml_collections as mlc

def get_config():
  c = mlc.ConfigDict()
  c.seed, c.num_classes, c.total_steps = 0, 2, 1_000_000
  c.loss = "softmax_xent"
  c.log_training_steps = 1
  pp = (
    "decode|resize(4)|value_range(-1, 1)"
    "|onehot(2, key='label', key_result='labels')|keep('image', 'labels')"
  )
  c.input = dict(
    data=dict(name="bv:folder", path="", split="all"), batch_size=8, pp=pp
  )
  c.model_name = "vit"
  c.model = dict(
    patch_size=(2, 2), width=8, depth=1, mlp_dim=8, num_heads=1,
    posemb="learn", pool_type="gap", rep_size=False,
  )
  c.optax_name, c.lr, c.wd = "scale_by_adam", 1e-3, 0.0
  c.schedule = dict(decay_type="cosine")
  return c
"""
