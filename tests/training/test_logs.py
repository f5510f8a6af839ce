"""What goes to stderr, and what to train.log."""

import logging as py_logging

import pytest
from absl import logging

from big_vision.training import console, logs


@pytest.fixture
def verbosity():
  before = logging.get_verbosity()
  logging.set_verbosity(logging.INFO)
  yield logging.set_verbosity
  logging.set_verbosity(before)


def record(path, function="f", level=py_logging.INFO, text="text"):
  return py_logging.LogRecord(
    "absl", level, path, 3, text, (), None, func=function
  )


def test_details():
  package = "/x/big_vision/"
  assert logs.is_detail(record(f"{package}trees.py"))
  assert logs.is_detail(record(f"{package}training/console.py", "clock_note"))
  assert not logs.is_detail(record(f"{package}training/console.py", "note"))
  assert not logs.is_detail(record(f"{package}download.py"))
  warning = py_logging.WARNING
  assert not logs.is_detail(record(f"{package}trees.py", level=warning))


def test_no_chatter():
  site = "/v/site-packages/"
  warning = py_logging.WARNING
  assert not logs.no_chatter(record(f"{site}orbax/a.py"))
  assert logs.no_chatter(record(f"{site}orbax/a.py", level=warning))
  hint = f"{site}tensorflow/python/util/deprecation.py"
  assert not logs.no_chatter(record(hint, level=warning))
  assert logs.no_chatter(record("/x/big_vision/fs.py"))


def test_datasets_say_the_same_once():
  once = logs._Once()
  data = "/x/big_vision/datasets/folder.py"
  assert once(record(data)) and not once(record(data))
  assert once(record(data, text="other"))
  assert once(record(data, level=py_logging.WARNING))
  other = "/x/big_vision/fs.py"
  assert once(record(other)) and once(record(other))


def test_lines(monkeypatch):
  lines = logs._Lines("%(message)s")
  monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
  text = lines.format(record("/x/a.py", text="\x1b[33mNOTE\x1b[0m: hello"))
  time, _, rest = text.partition(" ")
  assert rest == "NOTE: hello" and len(time) == 8
  text = lines.format(record("/x/a.py", level=py_logging.WARNING))
  assert text.partition(" ")[2] == "WARNING text (a.py:3)"


def test_the_file_has_everything(verbosity, tmp_path):
  file = logs.File(str(tmp_path))
  console.note("before")
  logs.detail("learning_rate: 3")
  assert not (tmp_path / "train.log").exists()
  file.begin()
  console.note("after")
  file.begin()
  text = (tmp_path / "train.log").read_text()
  assert "\x1b" not in text
  lines = [line.partition("] ")[2] for line in text.splitlines()]
  assert lines == ["NOTE: before", "learning_rate: 3", "NOTE: after"]
  file.close()
  console.note("too late")
  assert (tmp_path / "train.log").read_text() == text
  again = logs.File(str(tmp_path))
  console.note("continued")
  again.begin()
  again.close()
  assert (tmp_path / "train.log").read_text().startswith(text)
  assert "continued" in (tmp_path / "train.log").read_text()


def test_a_start_that_fails_leaves_no_file(verbosity, tmp_path):
  file = logs.File(str(tmp_path))
  console.note("before")
  file.close()
  assert list(tmp_path.iterdir()) == []
  logs.File(None).begin()  # Nothing to do.
  logs.File("gs://bucket/run").begin()


def test_details_are_shown_when_asked_for(verbosity):
  assert not logs.details_shown()
  verbosity(logging.DEBUG)
  assert logs.details_shown()
