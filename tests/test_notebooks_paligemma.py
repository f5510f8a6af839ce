"""The notebook of PaliGemma: from JSON lines to boxes, by a tiny model."""

import base64
import io
import json
import re

import numpy as np
import pytest

import notebook_runs
import toy

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.tf

NAME = "finetune_paligemma"
MAGENTA = (255, 0, 255)
# What it shows of itself at its end.
THEN = (
  "print('SAID', json.dumps(said))",
  "print('STREAMED', json.dumps(''.join(model.stream("
  "str(DATA / row['image']), row['prefix']))))",
  "show(held_out[:4], [r['suffix'] for r in held_out[:4]])",
  "truth = held_out[1]['suffix']\n"
  "half = '<loc0000><loc0000><loc0500><loc1023>'\n"
  "all_ = '<loc0000><loc0000><loc1023><loc1023>'\n"
  "print('RIGHT', [is_right(*texts) for texts in ["
  "(truth, truth), ('', truth), ('Red ', 'red'), ('red', 'blue'),"
  "(all_, half + ' x'), (half, all_), (half + ' ; ' + all_, all_),"
  "(all_, all_ + ' ; <loc0000><loc0000><loc0100><loc0100>')]])",
)


def picture(output):
  """Pixels of a figure, uint8 [H, W, 3]."""
  from PIL import Image

  data = base64.b64decode(output["data"]["image/png"])
  return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def area(image, color):
  """The share of the pixels that have a color."""
  return (np.abs(image.astype(int) - color).max(axis=-1) < 40).mean()


def test_finetune_paligemma(tmp_path, monkeypatch):
  data, workdir = tmp_path / "data", tmp_path / "run"
  for name, value in dict(
    BV_WORKDIR=workdir,
    BV_DATA=data,
    BV_PICTURES=24,
    BV_EPOCHS=5,
    BV_CONFIG="res=32,text_len=32,batch_size=16",
    JAX_PLATFORMS="cpu",
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
  ).items():
    monkeypatch.setenv(name, str(value))
  nb = notebook_runs.run(NAME, then=THEN)
  text, num = notebook_runs.texts(nb)

  # Data.
  assert "48 rows to train on, 16 held out." in text
  train, val = (
    [json.loads(line) for line in (data / name).read_text().splitlines()]
    for name in ("train.jsonl", "val.jsonl")
  )
  assert len(train) == 48 and len(val) == 16
  assert all((data / row["image"]).exists() for row in (*train, *val))
  assert re.fullmatch(r"answer en what color is the \w+\?", val[0]["prefix"])
  assert re.fullmatch(r"(<loc\d{4}>){4} the \w+ \w+", val[1]["suffix"])
  assert json.dumps(train[1]) in text

  # Training.
  rows = toy.rows(workdir)
  name = "training_loss"
  losses = {step: row[name] for step, row in rows.items() if name in row}
  assert max(losses) == 15 and losses[15] < losses[10] < losses[1]
  assert rows[15]["val/pplx/avg"] < rows[2]["val/pplx/avg"]
  assert "Checkpoint: 000000015" in text

  # Predictions.
  said = json.loads(re.search("SAID (.*)", text)[1])
  assert len(said) == 16 and all(isinstance(x, str) for x in said)
  first = f"{val[0]['prefix']}\n  model: {said[0]}\n  truth: {val[0]['suffix']}"
  assert first in text
  assert json.loads(re.search("STREAMED (.*)", text)[1]) == said[1]
  same = [x == row["suffix"] for x, row in zip(said, val, strict=True)]
  share = f"{np.mean(same[::2]):.1%}"  # Of questions.
  assert f"answer: {share} of 8 answers are right" in text
  assert re.search(r"detect: [\d.]+% of 8 answers are right", text)
  right = re.search(r"RIGHT \[(.*)\]", text)[1].split(", ")
  assert right == "True False True False False False True False".split()

  # Figures: examples, curves, predictions, and true boxes drawn as predicted.
  figures = [
    picture(o) for o in notebook_runs.outputs(nb) if "image/png" in o.get("data", {})
  ]  # fmt: skip
  assert num == len(figures) == 4
  assert all(min(x.shape[:2]) > 200 for x in figures)
  assert area(figures[3], MAGENTA) > 0.003 > area(figures[0], MAGENTA)
