"""tools/benchmark.py on the smallest models."""

import json
import os
import subprocess
import sys
import types

import jax
import pytest

from big_vision.benchmarks import inputs, measure
from big_vision.tools import benchmark

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = [
  "--variant=mu/16",
  "--res=32",
  "--batch=8",
  "--classes=10",
  "--steps=1",
  "--rounds=2",
  "--devices=1",
]


def test_step(tmp_path, capsys):
  path = tmp_path / "figures.json"
  results = benchmark.main(["--parts=step", f"--json={path}", *TINY])
  step = results["step"]
  # Embedding, position embedding, block, norms and head of width 32, 2x2 grid.
  block = 4 * (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32) + 4 * 32
  want = (16 * 16 * 3 * 32 + 32) + 4 * 32 + block + 2 * 32 + (32 * 10 + 10)
  assert step["num_params"] == step["num_params_plain_flax"] == want
  seconds = step["seconds_per_step"]
  assert set(seconds) == {"big_vision", "plain_flax"}
  for times in seconds.values():
    assert 0 < times["best"] <= times["median"]
  best = seconds["big_vision"]["best"]
  assert step["images_per_second"] == pytest.approx(8 / best)
  assert step["time_relative_to_plain_flax"] == pytest.approx(
    best / seconds["plain_flax"]["best"]
  )
  # Forward and backward pass: about 6 operations per parameter and token, of
  # which there are 4 per image, with little beside the matrix products.
  tokens = 8 * 4
  assert 4 < step["flops_per_step"] / (want * tokens) < 9
  assert step["peak_memory"]["host_bytes"] > 1e7
  assert results["machine"]["devices"] == len(jax.devices())
  assert json.loads(path.read_text()) == results
  assert "images_per_second" in capsys.readouterr().out


@pytest.mark.multidevice
def test_step_in_bfloat16_on_several_devices_without_reference():
  results = benchmark.main(
    ["--parts=step", "--no-reference", "--dtype=bfloat16", *TINY]
    + ["--devices=2", "--rounds=1"]
  )
  assert results["step"]["devices"] == 2
  assert set(results["step"]["seconds_per_step"]) == {"big_vision"}


def test_checkpoint(tmp_path):
  results = benchmark.main(["--parts=checkpoint", f"--dir={tmp_path}", *TINY])[
    "checkpoint"
  ]
  assert 0 < results["seconds_blocked"] <= results["seconds_until_on_disk"]
  assert results["bytes"] > 3 * 4 * 37_000  # Parameters and Adam's moments.
  # Compressed, with metadata.
  assert 4 * 37_000 < results["bytes_on_disk"] < 1.5 * results["bytes"]
  for name in ("save_relative_to_disk", "load_relative_to_disk"):
    assert results[name] > 0
  assert not list(tmp_path.iterdir())


@pytest.mark.tf
def test_input():
  pytest.importorskip("tensorflow")
  results = benchmark.main(
    ["--parts=input", "--images=8", "--rounds=1", "--res=32"]
  )["input"]
  assert "crop(32)" in results["pp"]
  assert 0 < results["images_per_second_per_core"]
  assert 0 < results["images_per_cpu_second"]
  assert (
    results["images_per_second_per_core"] * measure.num_cpus()
  ) == pytest.approx(results["images_per_second"])


@pytest.mark.tf
def test_source(tmp_path, monkeypatch):
  pytest.importorskip("tensorflow")
  for name in ("tfrecord_all_in_memory", "array_record"):  # Each takes seconds.
    monkeypatch.delitem(inputs._SOURCES, name)
  results = benchmark.main(
    ["--parts=source", "--examples=100", "--res=32", f"--dir={tmp_path}"]
  )["source"]
  assert 80_000 < results["bytes"] / 100 < 140_000
  for name in inputs._SOURCES:
    assert results[name]["images_per_second"] > 0
    assert results[name]["seconds_to_resume"] > 0
    assert results[name]["peak_memory_bytes"] > 1e8
  assert results["seconds_to_make_index"] > 0
  assert not list(tmp_path.iterdir())


@pytest.mark.tf
def test_jpegs():
  tf = pytest.importorskip("tensorflow")
  one, two = inputs.make_jpegs(2, height=375, width=500)
  assert one != two and inputs.make_jpegs(1) == [one]
  assert tf.io.decode_jpeg(one).shape == (375, 500, 3)
  assert 80_000 < len(one) < 140_000


def test_rounds_alternate_and_are_per_step(monkeypatch):
  calls, now = [], 0.0
  clock = types.SimpleNamespace(perf_counter=lambda: now)
  monkeypatch.setattr(measure, "time", clock)

  def run(name, *seconds):
    rounds = iter(seconds)

    def fn(steps):
      nonlocal now
      calls.append((name, steps))
      now += next(rounds) * steps

    return fn

  seconds = measure.timed_rounds(
    {"a": run("a", 2.0, 0.5, 1.0), "b": run("b", 4.0, 8.0, 4.0)},
    steps=2,
    rounds=3,
  )
  assert calls == [("a", 2), ("b", 2)] * 3
  assert seconds["a"] == {"median": 1.0, "best": 0.5}
  assert seconds["b"] == {"median": 4.0, "best": 4.0}


def test_peak_flops():
  assert benchmark.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
  assert benchmark.peak_flops("NVIDIA H100 PCIe") == 756e12
  assert benchmark.peak_flops("TPU v5 lite") == 197e12
  assert benchmark.peak_flops("cpu") is None


def test_table():
  results = {"step": {"name": "x", "n": 1234567, "s": {"best": 0.012345}}}
  assert benchmark.format_table(results) == (
    "step\n  name    x\n  n       1,234,567\n  s/best  0.01235"
  )


def test_bad_arguments(capsys):
  with pytest.raises(SystemExit):
    benchmark.main(["--parts=steps"])
  assert "'steps' is none of step, input, checkpoint" in capsys.readouterr().err
  with pytest.raises(ValueError, match="--batch=3 .* 2 devices"):
    benchmark.main(["--parts=step", "--batch=3", "--devices=2"])
  with pytest.raises(ValueError, match="unknown model 'vot'.*'vit'"):
    benchmark.main(["--parts=step", "--model=vot", *TINY])


def test_step_needs_jax_flax_and_optax_only():
  """As on GPU machines that have nothing else."""
  code = (
    "import sys\n"
    "for m in ('tensorflow', 'orbax', 'orbax.checkpoint', 'ml_collections',\n"
    "          'tensorstore', 'scipy', 'tensorboardX', 'psutil'):\n"
    "  sys.modules[m] = None\n"
    "from big_vision.tools import benchmark\n"
    f"benchmark.main(['--parts=step', *{TINY!r},\n"
    "                '--no-reference', '--rounds=1'])\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
