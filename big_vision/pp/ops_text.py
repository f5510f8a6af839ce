"""Preprocessing ops for text: `coco_captions`, `lower`, `strfmt`."""

import string

import tensorflow as tf

from big_vision.pp.registry import Registry
from big_vision.pp.utils import InKeyOutKey


@Registry.register("preprocess_ops.coco_captions")
def get_coco_captions(outkey="captions"):
  """Takes the captions of COCO, string [N], out of their nested features.

  Args:
    outkey: str, entry for the result.

  Returns:
    `dict -> dict`.
  """

  def coco_captions(data):
    data[outkey] = data["captions"]["text"]
    return data

  return coco_captions


@Registry.register("preprocess_ops.lower")
@InKeyOutKey(indefault="text", outdefault="text")
def get_lower():
  """Makes the letters A-Z lower case, and leaves all other characters alone."""
  return tf.strings.lower


@Registry.register("preprocess_ops.strfmt")
def get_strfmt(template, outkey="text"):
  """Fills entries into a template.

  Args:
    template: str, for example "a photo of {label}"; names in braces are names of
      entries (any characters), "{{" and "}}" stand for braces. Numbers look as
      in `tf.strings.format`, arrays are not abbreviated.
    outkey: str, entry for the result, a scalar string.

  Returns:
    `dict -> dict`. Called with a format ("{x:.2f}") or a conversion ("{x!r}") in
    the template it raises AssertionError.
  """

  def strfmt(data):
    parts = []
    for text, field, spec, conversion in string.Formatter().parse(template):
      assert not spec and not conversion, (
        f"strfmt knows neither formats nor conversions: {template!r}"
      )
      parts.append(tf.constant(text))
      if field:
        parts.append(_as_string(data[field]))
    data[outkey] = tf.strings.join(parts) if parts else tf.constant("")
    return data

  return strfmt


def _as_string(value):
  """A string tensor that shows a value."""
  value = tf.convert_to_tensor(value)
  if value.dtype == tf.string:
    return value
  return tf.strings.format("{}", value, summarize=-1)
