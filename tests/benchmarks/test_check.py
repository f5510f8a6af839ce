"""The comparison with recorded ratios: what makes it fail, and what does not."""

import argparse
import dataclasses
import json
import statistics
import threading
import time

import jax
import pytest

from big_vision.benchmarks import check, measure, steps
from big_vision.tools import benchmark


def spin(seconds):
  """Uses so much CPU time."""
  end = time.thread_time() + seconds
  while time.thread_time() < end:
    pass


def test_cpu_seconds_are_of_all_threads_and_of_this_process_alone():
  threads = []

  def run():  # Returns before its threads have finished.
    threads.extend(threading.Thread(target=spin, args=(0.1,)) for _ in range(2))
    for t in threads:
      t.start()

  found = measure.cpu_seconds(run)
  assert not any(t.is_alive() for t in threads)
  assert found == pytest.approx(0.2, rel=0.3)
  assert measure.cpu_seconds(lambda: time.sleep(0.3)) < 0.1


def test_ratios_are_medians_of_pairs_in_turns():
  calls, seconds = [], iter([2, 1, 9, 1, 4, 2, 3, 1, 3, 1, 1, 1.0])
  found = check.ratios(
    lambda: "run",
    lambda: "plain",
    measurements=2,
    seconds=lambda fn: (calls.append(fn()), next(seconds))[1],
  )
  assert found == [2, 3]
  assert calls == ["run", "plain"] * 6


@pytest.fixture
def recorded(tmp_path):
  path = tmp_path / "ratios.json"
  path.write_text(json.dumps({"a": 1.0, "b": 2.0}))
  return path


@pytest.mark.parametrize(
  "first, second, ok, verdicts",
  [
    (1.1, None, True, ["ok"]),
    (0.5, None, True, ["faster"]),
    (1.2, 1.1, True, ["slower", "ok"]),  # Other load on the machine.
    (1.2, 1.3, False, ["slower", "slower"]),
  ],
)
def test_verdict(recorded, monkeypatch, first, second, ok, verdicts):
  values = iter([[first] * 5, [second] * 5])
  monkeypatch.setattr(check, "ratios", lambda *_: next(values))
  lines = []
  make = lambda: (lambda: None, lambda: None)
  assert check.check({"a": make}, recorded, lines.append) == ok
  found = [
    line.split("recorded: ")[1].split()[0] for line in lines[: 1 + bool(second)]
  ]
  assert found == verdicts
  assert ("a: more than 15% slower" in lines[-1]) == (not ok)


def test_command_fails(monkeypatch, recorded, capsys):
  for ratio, status in ((2.4, 1), (2.2, 0)):
    monkeypatch.setattr(check, "ratios", lambda *_, r=ratio: [r] * 5)
    monkeypatch.setattr(check, "FILE", recorded)
    make = lambda: (lambda: None, lambda: None)
    monkeypatch.setattr(check, "_RUNS", {"b": make})
    if status:
      with pytest.raises(SystemExit) as e:
        benchmark.main(["--check"])
      assert e.value.code == 1
    else:
      assert benchmark.main(["--check"]) == {}
    assert f"b: {ratio:.3f} of the CPU time" in capsys.readouterr().out


def test_recorded_ratios():
  """Of what is measured, and nothing else."""
  ratios = json.loads(check.FILE.read_text())
  assert ratios.keys() == check._RUNS.keys()
  assert all(0.5 < r < 5 for r in ratios.values())


def test_a_slower_step_is_found(tmp_path, monkeypatch):
  """A second forward pass is a third of a step; it stands for any extra work."""
  small = argparse.Namespace(
    **{**vars(check._STEP), "model_kw": '{"depth": 2}'}
  )
  monkeypatch.setattr(check, "_STEP", small)
  monkeypatch.setattr(measure, "_WINDOW", 0.01)
  run, plain = check.step_runs()
  make_update = steps.step_lib.make_update

  def make_slower(recipe, *args, **kw):
    def loss_fn(params, batch, rng, state):
      loss, aux = recipe.loss_fn(params, batch, rng, state)
      other = {**batch, "image": batch["image"] * 0.5}
      params = jax.lax.stop_gradient(params)
      more, _ = recipe.loss_fn(params, other, rng, state)
      return loss + 1e-9 * more, aux

    changed = dataclasses.replace(recipe, loss_fn=loss_fn)
    return make_update(changed, *args, **kw)

  monkeypatch.setattr(steps.step_lib, "make_update", make_slower)
  slower, _ = steps.make_trainer(small)
  slower.first_step()
  path = tmp_path / "ratios.json"
  recorded = statistics.median(check.ratios(run, plain))
  path.write_text(json.dumps({"step": recorded}))
  assert check.check({"step": lambda: (run, plain)}, path)
  slow = lambda: slower.run(check._STEPS)
  assert not check.check({"step": lambda: (slow, plain)}, path)


def test_input_takes_longer_than_decoding_alone():
  """The boxes are the same, see `test_loaders.py`."""
  pytest.importorskip("tensorflow")
  (ratio,) = check.ratios(*check.input_runs(), measurements=1)
  assert 1 < ratio < 5
