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
