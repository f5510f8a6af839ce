"""What a user sees."""

import io
import json

from absl import logging

from big_vision.training import console


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_on_a_terminal():
  out = Terminal()
  progress = console.Progress(200, out)
  measured = {"training_loss": 0.25, "img/sec": 1234.4, "eta": 75.0}
  progress.update(50, measured)
  assert out.getvalue() == (
    "\r\x1b[2Kstep 50/200  25%  loss 0.25  1234 img/s  ETA 1m15s  data wait 0%"
  )
  progress.close()
  assert out.getvalue().endswith("\n")
  assert progress._before_log not in logging.get_absl_handler().filters


def test_rates_and_the_time_that_data_takes(monkeypatch):
  clock = [100.0]
  monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
  out = Terminal()
  progress = console.Progress(200, out)
  for seconds in (1, 3):
    with progress.waiting_for_data():
      clock[0] += seconds
  clock[0] += 12
  measured = {"lr": 0.00025, "mfu": 0.414, "img/sec": 2.0}
  progress.update(50, measured)
  progress.update(51, measured)
  first, second = out.getvalue().split("\r\x1b[2K")[1:]
  assert (
    first == "step 50/200  25%  lr 0.00025  2 img/s  MFU 41%  data wait 25%"
  )
  assert second.endswith("data wait 0%")
  progress.close()


def test_a_terminal_shows_that_something_takes_its_time():
  out = Terminal()
  progress = console.Progress(200, out)
  with progress.busy("compiling"):
    pass
  assert out.getvalue() == "\r\x1b[2K| compiling 0s\r\x1b[2K"
  progress.close()
  elsewhere = io.StringIO()
  with console.Progress(200, elsewhere).busy("compiling"):
    assert elsewhere.getvalue() == ""


def test_progress_elsewhere_is_plain_lines(caplog):
  logging.set_verbosity(logging.INFO)
  with caplog.at_level("INFO", logger="absl"):
    console.Progress(8, io.StringIO()).update(2, {"training_loss": 3.0})
  assert "step 2/8  25%  loss 3" in caplog.text
  assert "\r" not in caplog.text


def test_summary(tmp_path):
  rows = [
    {"step": 5, "val/prec@1": 0.9, "val/loss": 1.0, "training_loss": 2.0},
    {"step": 7, "val/prec@1": 0.9, "val/loss": 0.5},
    {"step": 10, "val/prec@1": 0.75, "val/loss": 0.8, "training_loss": 1.0},
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "big_vision_metrics.txt").write_text(text)
  (tmp_path / "checkpoint.bv-000000010/x").mkdir(parents=True)
  (tmp_path / "checkpoint.bv-LAST").write_text("000000010")
  last = {**rows[-1], "y/hostmem/total": 5.0, "bad": [1]}
  text = console.summary(last, str(tmp_path), ["val/"])
  lines = text.split("\n")
  assert lines[0] == "Final metrics"
  shown = [line.split() for line in lines[1:5]]
  assert shown == [
    ["step", "10"],
    ["val/prec@1", "0.75", "best", "0.9", "at", "step", "5"],
    ["val/loss", "0.8", "best", "0.5", "at", "step", "7"],
    ["training_loss", "1"],
  ]
  assert [line.split() for line in lines[6:8]] == [
    ["metrics", f"{tmp_path}/big_vision_metrics.txt"],
    ["checkpoint", f"{tmp_path}/checkpoint.bv-000000010"],
  ]
  assert f"python -m big_vision.tools.plot {tmp_path}" in text
  assert "tools.predict" not in text  # Without the file of classes.
  (tmp_path / "data.json").write_text("{}")
  again = console.summary(last, str(tmp_path), ["val/"])
  assert f"tools.predict --from {tmp_path} PICTURES" in again
  assert "hostmem" not in text and "bad" not in text
  assert "no --workdir" in console.summary({}, None)
