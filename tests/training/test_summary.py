"""What a user sees at the end."""

import io
import json

import pytest
from absl import logging

from big_vision.training import summary


class Terminal(io.StringIO):
  def isatty(self):
    return True


def plain(metrics, workdir):
  return summary.as_text(summary.collect(metrics, workdir, ["val/"]))


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
  text = plain(last, str(tmp_path))
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
  again = plain(last, str(tmp_path))
  assert f"tools.predict --from {tmp_path} PICTURES" in again
  assert "hostmem" not in text and "bad" not in text
  assert "no --workdir" in plain({}, None)


def test_commands_name_modules_and_the_way_of_starting(tmp_path, monkeypatch):
  (tmp_path / "checkpoint.bv-000000010").mkdir()
  (tmp_path / "checkpoint.bv-LAST").write_text("000000010")
  (tmp_path / "data.json").write_text("{}")
  config = {
    "model_name": "mine.tiny",
    "model": {"image_model": "vit", "text_model": "mine.words"},
    "pp_modules": ["ops_image", "proj.clippo.pp_ops", "my_ops"],
    "embed": {},
  }
  (tmp_path / "config.json").write_text(json.dumps(config))
  monkeypatch.setenv("BV_START", "bash ../setup.sh")
  commands = summary.collect({}, str(tmp_path)).commands
  assert commands["predict"] == (
    f"bash ../setup.sh big_vision.tools.predict --from {tmp_path} --pp_modules "
    "mine.tiny,mine.words,my_ops --text 'a cat' --text 'a dog' PICTURES"
  )
  assert commands["curves"].startswith("bash ../setup.sh big_vision.tools.plot")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_shows_tables(tmp_path, monkeypatch, width, caplog):
  monkeypatch.setenv("COLUMNS", str(width))
  rows = [
    {"step": 5, "val/prec@1": 0.9, "training_loss": 2.0},
    {"step": 10, "val/prec@1": 0.75, "training_loss": 1.0},
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "big_vision_metrics.txt").write_text(text)
  workdir, out = str(tmp_path), Terminal()
  logging.set_verbosity(logging.INFO)
  with caplog.at_level("INFO", logger="absl"):
    summary.show({**rows[1], "[red]odd": 1.0}, workdir, ["val/"], out)
  lines = [line.split() for line in out.getvalue().splitlines()]
  assert ["val/prec@1", "0.75", "0.9", "5"] in lines
  assert ["training_loss", "1"] in lines
  assert ["[red]odd", "1"] in lines
  # Never cut or wrapped: it is copied.
  assert f"python -m big_vision.tools.plot {workdir}" in out.getvalue()
  # The log file gets the plain lines.
  assert "  val/prec@1             0.75  best 0.9 at step 5" in caplog.text


def test_elsewhere_the_summary_has_no_escape_codes(tmp_path, caplog):
  logging.set_verbosity(logging.INFO)
  with caplog.at_level("INFO", logger="absl"):
    summary.show({"loss": 1.0}, None, (), out := io.StringIO())
  assert out.getvalue() == "" and "\x1b" not in caplog.text
  assert "Nothing was written" in caplog.text
