"""Shows in a notebook how well pictures and texts fit each other.

Shapes: I images, T texts.
"""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np


def table(
  images: Sequence[np.ndarray],
  texts: Sequence[str],
  values: Any,
  *,
  size: int = 96,
) -> str:
  """Makes a table with a row for each image and a column for each text.

  Args:
    images: sequence of I uint8 arrays [H, W, 3].
    texts: sequence of T str.
    values: [I, T] array in [0, 1], such as probabilities; they color the cells.
    size: longer side of the images in the table, pixels.

  Returns:
    HTML that does not need other files.

  Raises:
    ValueError: the shapes do not fit.
  """
  values = np.asarray(values)
  if values.shape != (len(images), len(texts)):
    raise ValueError(
      f"values is {values.shape}, but there are {len(images)} images and "
      f"{len(texts)} texts."
    )
  head = "".join(f"<th>{html.escape(text)}</th>" for text in texts)
  rows = [
    f'<tr><td><img src="{_data_url(image, size)}" alt="image {i}"></td>'
    + "".join(map(_cell, values[i]))
    + "</tr>"
    for i, image in enumerate(images)
  ]
  return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _cell(value):
  """Formats a value in percent; a larger one is greener."""
  style = f"background: rgba(46, 160, 67, {value:.3f}); text-align: center"
  return f'<td style="{style}">{value:.1%}</td>'


def _data_url(image, size):
  """Encodes the image as PNG in a URL, `size` pixels at its longer side."""
  from PIL import Image

  picture = Image.fromarray(image)
  scale = size / max(picture.size)
  shape = [max(round(s * scale), 1) for s in picture.size]
  file = io.BytesIO()
  picture.resize(shape).save(file, "PNG")
  return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def boxes(
  model: Any, images: Sequence[np.ndarray], texts: Sequence[str]
) -> Any:
  """Makes boxes to add images and edit texts, above a table.

  Args:
    model: `embedder.Embedder`.
    images: list of uint8 arrays [H, W, 3] to begin with.
    texts: sequence of str to begin with.

  Returns:
    ipywidgets.VBox with the children `files`, `texts`, `loss_fn` and `table`,
    which are also its attributes. Images are embedded once, not with each text.
  """
  import ipywidgets

  files = ipywidgets.FileUpload(
    accept="image/*", multiple=True, description="Add images"
  )
  lines = ipywidgets.Textarea(
    "\n".join(texts), description="Texts", rows=max(4, len(texts))
  )
  loss_fn = ipywidgets.ToggleButtons(
    options=[("each on its own", "sigmoid"), ("one of these", "softmax")],
    value=model.loss_fn,
    description="Probability",
  )
  out = ipywidgets.HTML()
  images = list(images)
  zimg = [model.images(images)] if images else []

  def draw(_=None):
    # Lines in the order of the box, without repetitions.
    wanted = dict.fromkeys(t.strip() for t in lines.value.splitlines())
    wanted.pop("", None)
    if not wanted or not images:
      out.value = "Enter a text." if images else "Add an image."
      return
    logits = model.logits(np.concatenate(zimg), model.texts(list(wanted)))
    values = model.probabilities(logits, loss_fn.value)
    out.value = table(images, list(wanted), values)

  def add(change):
    try:
      new = [model.decode(bytes(f["content"])) for f in change["new"]]
    except ValueError as e:
      out.value = html.escape(str(e))
      return
    if new:
      images.extend(new)
      zimg.append(model.images(new))
      draw()

  files.observe(add, "value")
  lines.observe(draw, "value")
  loss_fn.observe(draw, "value")
  draw()
  box: Any = ipywidgets.VBox([files, lines, loss_fn, out])
  box.files, box.texts, box.loss_fn, box.table = files, lines, loss_fn, out
  return box
