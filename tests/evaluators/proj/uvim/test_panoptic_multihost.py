"""Panoptic quality and its files do not depend on the number of processes."""

import json
import os

import pytest

import process_groups

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "panoptic_processes.py")
ROOT = os.path.abspath(os.path.join(HERE, *[".."] * 4))


def run(folder, count):
  """Results of `count` processes, by process."""
  folder.mkdir()
  with process_groups.coordinator_address() as address:
    args = [str(count), address, str(folder)]
    process_groups.run(
      [[SCRIPT, str(i), *args] for i in range(count)],
      envs=[{"PYTHONPATH": ROOT}] * count,
      timeout=240,
    )
  return [
    json.loads((folder / f"result{i}.json").read_text()) for i in range(count)
  ]


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.multidevice
def test_two_processes(tmp_path, tfds_data_dir):
  [alone] = run(tmp_path / "one", 1)
  first, second = run(tmp_path / "two", 2)
  assert first == second and list(first) == list(alone)
  assert 0.1 < alone["All_pq"] < 0.9
  assert first == pytest.approx(alone, rel=1e-6)
  for name in ("predictions", "ground_truth"):
    one, two = (tmp_path / k / "saved" / f"{name}.json" for k in ("one", "two"))
    assert one.read_text() == two.read_text()
    one, two = (sorted(p.with_suffix("").iterdir()) for p in (one, two))
    assert len(one) == 13
    for a, b in zip(one, two, strict=True):
      assert a.name == b.name and a.read_bytes() == b.read_bytes()
