"""What a user sees."""

import io

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
    "\r\x1b[2Kstep 50/200  25%  loss 0.25  1234 img/s  ETA 1m15s"
  )
  progress.close()
  assert out.getvalue().endswith("\n")
  assert progress._before_log not in logging.get_absl_handler().filters


def test_progress_elsewhere_is_plain_lines(caplog):
  logging.set_verbosity(logging.INFO)
  with caplog.at_level("INFO", logger="absl"):
    console.Progress(8, io.StringIO()).update(2, {"training_loss": 3.0})
  assert "step 2/8  25%  loss 3" in caplog.text
  assert "\r" not in caplog.text


def test_summary():
  text = console.summary(
    {"test/prec@1": 0.98765432, "step": 10, "y/hostmem/total": 5.0, "bad": [1]},
    "/w",
  )
  lines = text.split("\n")
  assert lines[0] == "Final metrics"
  assert lines[1].split() == ["test/prec@1", "0.987654"]
  assert lines[2].split() == ["step", "10"]
  assert lines[4].split() == ["metrics", "/w/big_vision_metrics.txt"]
  assert "hostmem" not in text and "bad" not in text
  assert "no --workdir" in console.summary({}, None)
