"""The file of recorded figures, and the picture of it."""

import json
import multiprocessing
import os
import subprocess

import matplotlib.image
import pytest

from big_vision.benchmarks import record
from big_vision.plots import benchmarks as plots
from big_vision.tools import benchmark, plot_benchmarks


def row(commit="abc1234", cpu="A", ratio=1.0, **kw):
  results = {
    "step": {
      "model": "vit S/16",
      "batch": 8,
      "num_params": 22,
      "images_per_second": 5.0 * ratio,
      "time_relative_to_plain_flax": ratio,
      "seconds": {"best": 0.5, "median": float("nan")},
    }
  }
  machine = {"cpu": cpu, "cpu_cores": 2}
  return {
    "date": "2026-11-30T12:00:00Z",
    "commit": commit,
    "dirty": False,
    "machine": machine,
    "versions": {"python": "3.11"},
    "results": results,
    **kw,
  }


def git(folder, *args):
  identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
  return subprocess.run(
    ["git", "-C", str(folder), *identity, *args],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


def test_commit(tmp_path):
  (tmp_path / "inner").mkdir()
  assert record.commit(tmp_path) == {}
  git(tmp_path, "init", "-q")
  assert record.commit(tmp_path) == {}  # Without a commit.
  (tmp_path / "file").write_text("1")
  git(tmp_path, "add", ".")
  git(tmp_path, "commit", "-q", "-m", "x")
  head = git(tmp_path, "rev-parse", "--short", "HEAD")
  assert record.commit(tmp_path) == {"commit": head, "dirty": False}
  (tmp_path / "file").write_text("2")
  assert record.commit(tmp_path) == {"commit": head, "dirty": True}
  git(tmp_path, "tag", "v1.0")
  assert record.commit(tmp_path) == {"commit": "v1.0", "dirty": True}
  # As for a package in an environment within somebody's repository.
  assert record.commit(tmp_path / "inner") == {}


def test_commit_without_git(tmp_path, monkeypatch):
  (tmp_path / ".git").mkdir()
  monkeypatch.setenv("PATH", str(tmp_path))
  assert record.commit(tmp_path) == {}


def test_row_of_this_machine():
  made = record.make_row({"step": {"seconds": 1.0}})
  assert made["results"] == {"step": {"seconds": 1.0}}
  assert made["date"].endswith("Z") and len(made["date"]) == 20
  machine = made["machine"]
  assert machine["cpu_cores"] == len(os.sched_getaffinity(0))
  assert machine["memory_bytes"] > 2**28
  assert made["versions"]["python"].startswith("3.")
  with open("/proc/cpuinfo", encoding="utf-8") as f:
    assert machine["cpu"] in f.read()


def append_many(path, name):
  for i in range(50):
    record.append(path, row(commit=f"{name}-{i}", note="x" * 3000))


def test_append_from_several_processes(tmp_path):
  path = str(tmp_path / "rows.jsonl")
  context = multiprocessing.get_context("spawn")
  processes = [
    context.Process(target=append_many, args=(path, name)) for name in "ab"
  ]
  for p in processes:
    p.start()
  for p in processes:
    p.join()
    assert p.exitcode == 0
  found = [r["commit"] for r in record.read(path)]
  assert sorted(found) == sorted(f"{n}-{i}" for n in "ab" for i in range(50))
  assert [c for c in found if c[0] == "a"] == [f"a-{i}" for i in range(50)]


def test_append_after_a_torn_row(tmp_path, capsys):
  path = tmp_path / "rows.jsonl"
  record.append(str(path), row("one"))
  whole = path.read_bytes()
  path.write_bytes(whole + whole[: len(whole) // 2])
  assert [r["commit"] for r in record.read(str(path))] == ["one"]
  record.append(str(path), row("two"))
  assert [r["commit"] for r in record.read(str(path))] == ["one", "two"]
  assert f"{path}: left out 1 torn row(s)" in capsys.readouterr().err
  path.write_bytes(whole.rstrip())  # By an editor.
  record.append(str(path), row("two"))
  assert [r["commit"] for r in record.read(str(path))] == ["one", "two"]


@pytest.mark.parametrize(
  "line, why",
  [
    ("nonsense", "it is not JSON"),
    ("[1]", "it is a list, not an object"),
    ('{"date": "x"}', "it lacks machine, versions, results"),
    (json.dumps(row(machine=3)), "machine is 3, not an object"),
    (json.dumps(row(results={"step": 1})), "results.step is 1, not an object"),
    (json.dumps(row(commit=5)), "commit is 5, not a string"),
  ],
)
def test_bad_rows(tmp_path, capsys, line, why):
  path, out = tmp_path / "rows.jsonl", tmp_path / "out.png"
  path.write_text(f"{json.dumps(row())}\n{line}\n")
  assert plot_benchmarks.main([str(path), "--out", str(out)]) == 1
  error = capsys.readouterr().err
  assert f"{path}:2 is not a row" in error and why in error
  assert not out.exists()


def test_no_rows(tmp_path, capsys):
  path = tmp_path / "rows.jsonl"
  assert plot_benchmarks.main([str(path)]) == 1
  assert str(path) in capsys.readouterr().err
  path.write_text("")
  assert plot_benchmarks.main([str(path)]) == 1
  assert f"{path} has no rows" in capsys.readouterr().err


def test_curves():
  rows = [
    row("a", ratio=1.0),
    row("a", ratio=1.2),
    row("b", cpu="B", ratio=2.0),
    row("b", ratio=0.9, dirty=True),
  ]
  found = plots.curves(rows)
  assert list(found) == [  # Ratios first, and neither settings nor NaN.
    "step/time_relative_to_plain_flax",
    "step/images_per_second",
    "step/seconds/best",
  ]
  assert found["step/time_relative_to_plain_flax"] == {
    "2 x A; model vit S/16, batch 8": {"a": [1.0, 1.2], "b*": [0.9]},
    "2 x B; model vit S/16, batch 8": {"b": [2.0]},
  }
  assert list(plots.curves(rows, "images")) == ["step/images_per_second"]
  without = {k: v for k, v in row().items() if k != "commit"}
  assert plots.place(without) == "2026-11-30"
  gpu = {
    "machine": {"cpu": "A", "cpu_cores": 4, "devices": 2, "device_kind": "H"}
  }
  assert plots.machine(gpu) == "4 x A, 2 x H"


def test_picture(tmp_path, capsys):
  path, out = tmp_path / "rows.jsonl", tmp_path / "out.png"
  for r in (row("a"), row("b", cpu="B"), row("c", ratio=1.4)):
    record.append(str(path), r)
  assert plot_benchmarks.main([str(path), "--out", str(out)]) == 0
  assert str(out) in capsys.readouterr().out
  image = matplotlib.image.imread(out)[..., :3]
  assert image.shape[1] > 1000 and image.min() < 0.5
  # Both machines have a color of their own: matplotlib's first two.
  for color in ((31, 119, 180), (255, 127, 14)):
    near = abs(image * 255 - color).max(axis=-1) < 3
    assert near.sum() > 20
  assert plot_benchmarks.main([str(path), f"--out={out}", "--figures=xyz"]) == 1
  assert "No figure matches --figures 'xyz'" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    plot_benchmarks.main([str(path), "--figures=("])
  assert "not a regular expression" in capsys.readouterr().err


def test_benchmark_records(tmp_path, monkeypatch):
  path = tmp_path / "rows.jsonl"
  monkeypatch.setitem(
    benchmark._BENCHMARKS, "step", lambda args: {"batch": args.batch, "x": 1.5}
  )
  benchmark.main(["--parts=step", f"--record={path}"])
  benchmark.main(["--parts=step", "--batch=4", f"--record={path}"])
  one, two = record.read(str(path))
  assert one["results"] == {"step": {"batch": 8, "x": 1.5}}
  assert two["results"] == {"step": {"batch": 4, "x": 1.5}}
  monkeypatch.chdir(tmp_path)
  benchmark.main(["--parts=step", "--record"])
  assert len(record.read(record.FILE)) == 1
