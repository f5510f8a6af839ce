"""Panoptic quality and its files do not depend on the number of processes."""

import pathlib

import pytest

import process_groups

SCRIPT = pathlib.Path(__file__).with_name("panoptic_processes.py")


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.multidevice
def test_two_processes(tmp_path, tfds_data_dir):
  [alone] = process_groups.results(SCRIPT, tmp_path / "one", 1)
  first, second = process_groups.results(SCRIPT, tmp_path / "two", 2)
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
