"""The command line of trainers, apart from the run."""

import numpy as np
import pytest

from big_vision import checkpoints
from big_vision.training import user_errors


def interrupt(workdir):
  with user_errors.interruptible(workdir):
    raise KeyboardInterrupt


def test_ctrl_c_says_what_comes_next(tmp_path, capsys, monkeypatch):
  for workdir in (None, str(tmp_path)):
    with pytest.raises(SystemExit) as e:
      interrupt(workdir)
    assert e.value.code == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
  manager = checkpoints.CheckpointManager()
  state = {"params": {"x": np.zeros(3, np.float32)}}
  prefix = str(tmp_path / "checkpoint.bv")
  checkpoints.save_checkpoint_ts(manager, state, prefix, 7, keep=False)
  manager.wait_until_finished()
  with pytest.raises(SystemExit):
    interrupt(str(tmp_path))
  text = "The same command goes on from the last checkpoint."
  assert text in capsys.readouterr().err
  monkeypatch.setattr("sys.argv", ["train", "--debug"])
  with pytest.raises(KeyboardInterrupt):
    interrupt(str(tmp_path))
