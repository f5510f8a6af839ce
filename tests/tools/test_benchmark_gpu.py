"""tools/benchmark_gpu.py on the smallest model, on a CPU."""

import json
import math
import types

import jax
import numpy as np
import pytest

from big_vision import xla_flags
from big_vision.benchmarks import gpu, steps
from big_vision.planning import chips
from big_vision.tools import benchmark_gpu

pytestmark = pytest.mark.usefixtures("quick_compilation", "short_rounds")

TINY = ["--sizes=mu/16", "--batch=4", "--res=32", "--classes=10"]


@pytest.fixture
def short_rounds(monkeypatch):
  monkeypatch.setattr(gpu, "ROUND_SECONDS", 0.0)
  monkeypatch.setattr(gpu, "WARMUP", 1)


def test_sizes(tmp_path, capsys, monkeypatch):
  chip = types.SimpleNamespace(flops=1e9)
  monkeypatch.setattr(chips, "of_device", lambda kind: chip)
  path = tmp_path / "figures.json"
  # Slow machines have the time, too.
  more = ["--parts=sizes", "--minutes=60", f"--json={path}"]
  results = benchmark_gpu.main([*TINY, *more])
  assert json.loads(path.read_text()) == results
  assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]
  machine = results["machine"]
  assert machine["jax"] == jax.__version__ and machine["platform"] == "cpu"
  step, fed, forward = results["rows"]
  assert step["what"] == "mu/16 at 32, step"
  assert fed["what"].endswith("fed with uint8")
  for row in results["rows"]:
    seconds = row["milliseconds"] / 1e3
    assert row["images_per_second"] == pytest.approx(4 / seconds)
    assert row["mfu"] > 0
  # A step is the forward pass three times, and what an update costs.
  flops = lambda row: row["mfu"] * row["milliseconds"]
  assert 2.5 < flops(step) / flops(forward) < 6
  assert flops(step) == pytest.approx(flops(fed))
  assert "img/s" in capsys.readouterr().out


def test_images_are_scaled_on_the_device():
  image = np.array([0, 51, 255], np.uint8)
  got = steps.scaled({"image": image, "labels": 3})
  np.testing.assert_allclose(got["image"], [-1, -0.6, 1], atol=1e-6)
  assert got["image"].dtype == np.float32 and got["labels"] == 3


def test_smaller_batch_if_out_of_memory(monkeypatch):
  tried, make = [], steps.make_trainer

  def make_trainer(args):
    tried.append(args.batch)
    if args.batch > 2:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")
    return make(args)

  monkeypatch.setattr(steps, "make_trainer", make_trainer)
  size = gpu.Size("mu/16", 8, res=32, classes=10)
  assert tried == [8, 4, 2] and size.step()["batch"] == 2
  params = jax.tree.leaves(size.trainer.state["params"])
  assert {x.dtype.name for x in params} == {"float32"}
  with pytest.raises(RuntimeError, match="memory with 8 images"):
    gpu.Size("mu/16", 8, res=32, classes=10, time_left=lambda: -1.0)


def test_attention():
  rows = list(gpu.attention_rows([196, 256], [64]))
  assert len(rows) == 11
  assert {r["padded"] for r in rows if r["length"] == 196} == {
    196,
    200,
    208,
    256,
  }
  small = dict(length=3, head_size=8, tokens=6, width=16)
  for kind, padded in (("models", 3), ("flax", 3), ("xla", 3), ("xla", 4)):
    row = gpu.attention(kind, padded=padded, **small)
    assert (row["batch"], row["heads"]) == (2, 2)
    seconds = row["milliseconds"] / 1e3
    assert row["tflops"] * 1e12 == pytest.approx(12 * 2 * 2 * 9 * 8 / seconds)
  assert gpu.why_not("xla") is None
  assert "this is cpu" in gpu.why_not("cudnn")


def test_what_is_left_out_is_said(capsys):
  parts = ["--parts=attention,remat,flags", "--minutes=0"]
  results = benchmark_gpu.main([*TINY, *parts])
  assert all("left_out" in row for row in results["rows"])
  out = capsys.readouterr().out
  assert "attention 197 x 72, cudnn padded to 208" in out
  assert "cudnn needs an NVIDIA GPU, this is cpu" in out
  assert "needs about 30 s, 0 s left" in out


def test_options_and_recomputation(monkeypatch):
  monkeypatch.setattr(
    xla_flags, "TRIALS", {"one": {"xla_gpu_triton_gemm_any": True}}
  )
  only = {k: v for k, v in gpu.RECOMPUTATION.items() if k != "scan, all again"}
  monkeypatch.setattr(gpu, "RECOMPUTATION", only)
  more = ["--parts=remat,flags", "--minutes=60"]
  results = benchmark_gpu.main([*TINY, *more])
  *remat, usual, fused, one = results["rows"]
  assert "needs an NVIDIA GPU" in fused["left_out"]
  assert len(remat) == 3 and all(row["batch"] == 4 for row in remat)
  assert one["relative_time"] == pytest.approx(
    one["milliseconds"] / usual["milliseconds"]
  )


def test_an_error_leaves_out_one_row():
  rows = benchmark_gpu.Rows(1, None, clock=lambda: 0.0)

  def broken():
    raise ValueError("no such kernel\nmore")

  assert rows.measure("more", "a", broken) is None
  assert rows.measure("more", "b", lambda: {"batch": 1}) == {"batch": 1}
  first, second = rows.results["rows"]
  assert first["left_out"] == "ValueError: no such kernel"
  assert second == {"what": "b", "batch": 1}


def test_time_is_learned():
  now = 0.0
  rows = benchmark_gpu.Rows(1, None, clock=lambda: now)

  def slow():
    nonlocal now
    now += 40
    return {}

  assert rows.measure("more", "a", slow) == {}
  assert rows.measure("more", "b", slow) is None  # It would take 40 seconds.
  assert "needs about 40 s, 20 s left" in rows.results["rows"][-1]["left_out"]


def test_rounds_of_a_second(monkeypatch):
  now, calls = 0.0, []
  monkeypatch.setattr(gpu.time, "perf_counter", lambda: now)
  monkeypatch.setattr(gpu, "ROUND_SECONDS", 1.0)

  def run(num):
    nonlocal now
    calls.append(num)
    now += 0.3 * num

  found = gpu.seconds(run, warmup=2)
  assert calls == [2, 1, 4, 4, 4] and math.isclose(found["median"], 0.3)


def test_unknown_part(capsys):
  with pytest.raises(SystemExit):
    benchmark_gpu.parse_args(["--parts=step"])
  assert "'step' is none of sizes" in capsys.readouterr().err
