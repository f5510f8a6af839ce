"""Answers prompts about pictures, also those of a file of JSON lines."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from big_vision import fs, lookup, untrusted
from big_vision.predictions import files, rows

JSON_LINES = ".jsonl"
IMAGE, PROMPT, PREDICTION = "image", "prefix", "prediction"


@dataclasses.dataclass(frozen=True)
class Question:
  """Holds a picture and what is asked about it.

  Attributes:
    picture: the picture.
    prompt: the text.
    row: of a file of JSON lines, else {}.
  """

  picture: files.Picture
  prompt: str
  row: dict[str, Any] = dataclasses.field(default_factory=dict)


def find(
  paths: Sequence[str], prompt: str | None, stdin: TextIO
) -> list[Question]:
  """Finds pictures and what is asked about each.

  Args:
    paths: as for `files.find`, or files of JSON lines with `image`, a path relative
      to the file, and `prefix`.
    prompt: of all others, and of rows without `prefix`.
    stdin: for "-".

  Returns:
    List of Question.

  Raises:
    ConfigError: there is no prompt, or a line is not such an object.
  """
  out = []
  for path in paths:
    if path.endswith(JSON_LINES):
      out += list(_of_lines(path, prompt))
      continue
    if prompt is None:
      raise lookup.ConfigError(
        "--prompt is required: what to ask about the pictures, for example "
        "--prompt 'caption en'."
      )
    out += [Question(p, prompt) for p in files.find([path], stdin)]
  return out


def _of_lines(path, prompt) -> Iterator[Question]:
  """Yields the questions of a file."""
  with fs.open(path) as f:
    lines = [line for line in f.read().splitlines() if line.strip()]
  for number, line in enumerate(lines, start=1):
    try:
      row: Any = untrusted.json_value(line)
    except (ValueError, TypeError):
      row = None
    image = row.get(IMAGE) if isinstance(row, dict) else None
    asked = row.get(PROMPT, prompt) if isinstance(row, dict) else None
    if not isinstance(image, str) or not isinstance(asked, str):
      raise lookup.ConfigError(
        f"{path}:{number}: a row needs {IMAGE!r}, the path of a picture, and "
        f"{PROMPT!r}, unless --prompt is given; found {line[:80]!r}."
      )
    assert isinstance(row, dict)
    where = fs.join(os.path.dirname(path), image)
    yield Question(files.Picture(image, where), asked, row)


def predict(
  model: Any,
  questions: Sequence[Question],
  *,
  batch_size: int,
  threads: int,
  **kw: Any,
) -> Iterator[tuple[Question, Any, str]]:
  """Answers, in the order of the questions.

  Args:
    model: a `pretrained.VisionLanguage`.
    questions: what is asked.
    batch_size: pictures at once on the device.
    threads: how many read and preprocess.
    **kw: for `answers` of the model.

  Yields:
    (question, its Answer, ""), or (question, None, why there is none).
  """
  pictures = (q.picture for q in questions)
  prepared = files.in_threads(model.prepare, pictures, threads)
  pairs: Iterable[Any] = zip(questions, prepared, strict=True)
  # Of several batches, those of similar length are answered together.
  for some in rows.batches(pairs, 8 * batch_size):
    good = [(q, x) for q, (_, x, error) in some if not error]
    found = iter(())
    if good:
      found = iter(
        model.answers(
          [x for _, x in good],
          [q.prompt for q, _ in good],
          batch_size=batch_size,
          **kw,
        )
      )
    for question, (_, _, error) in some:
      yield question, None if error else next(found), error


def writer(kind: str, out: TextIO) -> Any:
  """Makes the function that writes an answer.

  Args:
    kind: one of `rows.FORMATS`. "jsonl" has the row of the file, `prediction`, and
      `objects` with `box` (ymin, xmin, ymax, xmax in [0, 1]) and `label`, if the
      answer names any.
    out: where to.

  Returns:
    `(question, answer, error) -> None`.
  """
  if kind != "jsonl":
    write_row = rows.writer(kind, out, None, captions=True)

    def write(question, answer, error):
      text = None if error else answer.text
      name = question.picture.name
      write_row(rows.Row(name, error=error, caption=text))

    return write

  def write_line(question, answer, error):
    row = question.row or {IMAGE: question.picture.name}
    row = {**row, PROMPT: question.prompt}
    if error:
      row["error"] = error
    else:
      row[PREDICTION] = answer.text
      if objects := answer.objects:
        named = lambda o: {"box": list(o.box), "label": o.label}
        row["objects"] = [named(o) for o in objects]
    print(json.dumps(row), file=out, flush=True)

  return write_line
