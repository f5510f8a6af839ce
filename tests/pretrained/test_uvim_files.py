"""Stage I is found in workdirs, checkpoints and files."""

import json

import numpy as np
import pytest

from big_vision import checkpoints, lookup
from big_vision.pretrained import uvim_files

STATE = {
  "params": {"encoder_head": {"kernel": np.ones([2, 3], np.float32)}},
  "state": {"dictionary": np.ones([4, 3], np.float32), "counts": np.ones(4)},
  "opt": {"count": np.int32(7)},
}


def save(folder, tree=STATE, steps=(1, 2)):
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps({"model_name": "x"}))
  manager = checkpoints.CheckpointManager()
  for step in steps:
    state = {**tree, "chrono": {"step": np.int32(step)}}
    state["params"] = {**tree["params"], "bias": np.float32([step])}
    path = str(folder / "checkpoint.bv")
    checkpoints.save_checkpoint_ts(manager, state, path, step, keep=True)
  manager.wait_until_finished()
  return folder


def test_workdirs_checkpoints_and_files(tmp_path):
  run = save(tmp_path / "run")
  checkpoints.save_checkpoint(STATE, str(tmp_path / "oracle.npz"))
  sources = {
    str(run): 2,
    f"{run}/": 2,
    run: 2,
    f"{run}/checkpoint.bv": 2,
    f"{run}/checkpoint.bv-000000001": 1,
    f"{tmp_path}/oracle.npz": None,
  }
  for source, step in sources.items():
    oracle = uvim_files.read_oracle(source)
    kernel = oracle.params["encoder_head"]["kernel"]
    np.testing.assert_array_equal(kernel, np.ones([2, 3]))
    assert set(oracle.state) == {"dictionary", "counts"}
    assert isinstance(kernel, np.ndarray)
    if step is None:
      assert oracle.config is None
    else:
      assert oracle.config.model_name == "x"
      assert oracle.params["bias"] == [step]


def test_what_is_no_stage_one(tmp_path):
  stage_two = {"params": {"decoder": {"LogitsDense": {"bias": np.zeros(3)}}}}
  run = save(tmp_path / "two", stage_two)
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty/config.json").write_text("{}")
  (tmp_path / "folder").mkdir()
  np.savez(tmp_path / "x.npz", head=np.zeros(2))
  for source, message in {
    run: "is of stage II",
    tmp_path / "none": "there is no such workdir",
    tmp_path / "none.npz": "there is no such file",
    tmp_path / "empty": "has no checkpoint",
    tmp_path / "folder": "has no leaves",
    tmp_path / "x.npz": "not a checkpoint of stage I: it has head",
  }.items():
    with pytest.raises(lookup.ConfigError, match=message) as e:
      uvim_files.read_oracle(source)
    assert "\n" not in str(e.value)
