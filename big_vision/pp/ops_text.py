"""Preprocessing ops for text; importing this also registers `tokenizers.sp`.

Shapes: `B` texts, `T` tokens.
"""

from __future__ import annotations

import functools
import string
from typing import Any

from absl import logging

from big_vision import lookup
from big_vision.datasets.imagenet import class_names
from big_vision.pp import (
  batched,
  hf_tokenizer,
  ops_general,
  sentencepiece_model,
  sentencepiece_ops,
  string_ops,
)
from big_vision.pp.registry import Registry
from big_vision.pp.sentencepiece_model import KNOWN_TOKENIZERS
from big_vision.pp.sentencepiece_tokenizer import SentencepieceTokenizer
from big_vision.pp.types import ExampleFn, TensorFn
from big_vision.pp.utils import InKeyOutKey
from big_vision.tf import tf

__all__ = ["KNOWN_TOKENIZERS", "SentencepieceTokenizer"]  # Re-exported.

_EOS = ("none", "yes", "sticky")


def create_tokenizer(
  model: str = "c4_en",
  add_eos: bool = True,
  add_bos: bool = False,
  lower: bool = False,
) -> sentencepiece_ops.SentencepieceOps:
  """Loads a sentencepiece model or a tokenizer.json as TensorFlow ops.

  Args:
    model: str, one of KNOWN_TOKENIZERS, or a path or URL, see `download.py`. What
      ends in `.json` is a tokenizer.json of Hugging Face, see `hf_tokenizer.py`.
    add_eos: bool, whether texts end with the model's "</s>".
    add_bos: bool, whether texts begin with the model's "<s>".
    lower: bool, whether to make the letters A-Z lower case before.

  Returns:
    An object with the methods of `tensorflow_text.SentencepieceTokenizer`, see
    `sentencepiece_ops.py`.

  Raises:
    ValueError: unknown model, or it does not have such a token.
  """
  if hf_tokenizer.is_file(model):
    return hf_tokenizer.HuggingFaceOps(model, add_eos, add_bos, lower)
  data = sentencepiece_model.read(model)
  return sentencepiece_ops.SentencepieceOps(data, add_eos, add_bos, lower)


def tokenize(
  input_text: tf.Tensor | tf.RaggedTensor,
  tokenizer: Any,
  max_len: int,
  *,
  pad_value: int,
  force_eos: bool,
  multi_text: bool = False,
) -> tf.Tensor | tf.RaggedTensor:
  """Turns text into a fixed number of token ids.

  Args:
    input_text: string scalar; with `multi_text` a string tensor of any shape.
    tokenizer: result of `create_tokenizer`; or any object whose `tokenize`
      returns ragged ids of string vectors, such as those of tensorflow_text.
    max_len: int > 0, number of ids per text.
    pad_value: int, id of the padding of short texts.
    force_eos: bool, whether the last id of a text that is too long replaces the
      last id that fits.
    multi_text: bool, whether `input_text` holds many texts.

  Returns:
    int32, of the shape of `input_text` plus [max_len]. The ids of a text do not
    depend on the other texts.
  """
  if isinstance(input_text, tf.RaggedTensor):
    flat = tokenize(
      input_text.flat_values,
      tokenizer,
      max_len,
      pad_value=pad_value,
      force_eos=force_eos,
      multi_text=multi_text,
    )
    return input_text.with_flat_values(flat)
  input_text = tf.convert_to_tensor(input_text, tf.string)
  if not multi_text:
    input_text.shape.assert_has_rank(0)
  if hasattr(tokenizer, "encode"):  # In one step, twice as fast.
    return string_ops.encode_padded(
      tokenizer.encode,
      input_text,
      max_len,
      pad_value=pad_value,
      keep_last=force_eos,
    )
  rows = tokenizer.tokenize(tf.reshape(input_text, [-1]))  # [B, (T)]
  tokens = rows.to_tensor(pad_value, shape=[None, max_len])
  if force_eos:
    # One value more, so that the index of no text is in range.
    values = tf.concat([rows.values, [pad_value]], 0)
    last = tf.gather(values, tf.maximum(rows.row_limits() - 1, 0))  # [B]
    too_long = rows.row_lengths() > max_len  # [B]
    at_end = tf.range(max_len) == max_len - 1  # [max_len]
    cut = too_long[:, None] & at_end[None]  # [B, max_len]
    tokens = tf.where(cut, last[:, None], tokens)
  tokens = tf.reshape(tokens, tf.concat([tf.shape(input_text), [max_len]], 0))
  return tf.ensure_shape(tokens, input_text.shape.concatenate([max_len]))


@Registry.register("preprocess_ops.tokenize")
@InKeyOutKey(indefault=None, outdefault="labels")
def get_pp_tokenize(
  max_len: int,
  eos: str,
  model: str = "c4_en",
  lower: bool = True,
  sample_if_multi: bool = True,
  pad_value: int | str = "<pad>",
  add_bos: bool = False,
) -> TensorFn:
  """Turns text into a fixed number of token ids. `inkey` must be given.

  Args:
    max_len: int, number of ids; longer texts are cut, shorter ones padded.
    eos: "none"; "yes" for an end token, which is cut off with the rest of a
      long text; "sticky" for one that stays at the end of a long text too.
    model: str, the vocabulary, see `create_tokenizer`.
    lower: bool, whether to make the letters A-Z lower case.
    sample_if_multi: bool, whether to choose one at random if there are several
      texts, "" if there are none. Deprecated: use the op `choice`. False keeps
      all, and gives [..., max_len].
    pad_value: int id, or str for the id of this piece; the unknown piece
      replaces a piece that the model lacks.
    add_bos: bool, whether texts begin with the model's "<s>".

  Returns:
    `text -> int32 [max_len]`.

  Raises:
    ValueError: unknown `eos` or model, `max_len` is not positive, or the model
      lacks a required token.
  """
  if eos not in _EOS:
    raise ValueError(
      f"tokenize: unknown eos={eos!r}{lookup.did_you_mean(eos, _EOS)}"
    )
  if not (isinstance(max_len, int) and max_len > 0):
    raise ValueError(f"tokenize: max_len={max_len!r} must be an integer > 0.")
  tokenizer = create_tokenizer(model, eos != "none", add_bos, lower)
  if isinstance(pad_value, str):
    pad_value = tokenizer.piece_to_id(pad_value)
  choice = ops_general.get_choice(key="text", fewer_ok=True)

  def choose(text):
    if not isinstance(text, tf.RaggedTensor):
      text = tf.convert_to_tensor(text, tf.string)
    if sample_if_multi and text.shape.rank:
      logging.log_first_n(
        logging.WARNING,
        "tokenize(sample_if_multi=True) is deprecated: choose one of several texts "
        "by the op choice before it.",
        1,
      )
      ragged = isinstance(text, tf.RaggedTensor)
      texts = text.flat_values if ragged else tf.reshape(text, [-1])
      text = choice({"text": texts})["text"]
    if sample_if_multi:
      text.shape.assert_has_rank(0)
    return text

  encode = functools.partial(
    tokenize,
    tokenizer=tokenizer,
    max_len=max_len,
    pad_value=pad_value,
    force_eos=eos == "sticky",
    multi_text=True,
  )
  return batched.TwoSteps(choose, encode)


@Registry.register("preprocess_ops.coco_captions")
def get_coco_captions(outkey: str = "captions") -> ExampleFn:
  """Takes the captions of COCO, string [N], from their nested features.

  Args:
    outkey: str, entry for the result.

  Returns:
    `dict -> dict`.
  """

  def coco_captions(data):
    data[outkey] = data["captions"]["text"]
    return data

  return coco_captions


@Registry.register("preprocess_ops.clip_i1k_label_names")
@InKeyOutKey(indefault="label", outdefault="labels")
def get_pp_clip_i1k_label_names() -> TensorFn:
  """Turns labels of ImageNet-1k into the class names that CLIP uses."""
  return _names_of(class_names.CLIP_IMAGENET_CLASS_NAMES)


@Registry.register("preprocess_ops.i21k_label_names")
@InKeyOutKey(indefault="label", outdefault="labels")
def get_pp_i21k_label_names() -> TensorFn:
  """Turns labels of ImageNet-21k into class names."""
  return _names_of(class_names.IMAGENET21k_CLASS_NAMES)


def _names_of(names):
  """Makes `labels -> names`, which raises an error for labels out of range."""
  with tf.init_scope():  # Once per op, also if a graph is being built.
    names = tf.constant(names)
  return lambda labels: tf.gather(names, labels)


@Registry.register("preprocess_ops.lower")
@InKeyOutKey(indefault="text", outdefault="text")
def get_lower(encoding: str = "") -> TensorFn:
  """Makes the letters A-Z lower case, and leaves other characters unchanged.

  Args:
    encoding: str, "utf-8" makes the letters of all alphabets lower case, by the
      language-independent rules of Unicode; "" only those of ASCII.

  Returns:
    `string tensor -> string tensor`.

  Raises:
    ValueError: another encoding.
  """
  if encoding not in ("", "utf-8"):
    raise ValueError(f"lower: encoding={encoding!r} must be '' or 'utf-8'.")
  return lambda text: tf.strings.lower(text, encoding=encoding)


@Registry.register("preprocess_ops.strfmt")
def get_strfmt(template: str, outkey: str = "text") -> ExampleFn:
  """Fills entries into a template.

  Args:
    template: str, for example "a photo of {label}"; names in braces are names
      of entries (any characters), "{{" and "}}" stand for braces. Numbers are
      written as by `tf.strings.format`, arrays in full.
    outkey: str, entry for the result, a scalar string.

  Returns:
    `dict -> dict`. Called with a format ("{x:.2f}") or a conversion ("{x!r}")
    in the template it raises ConfigError.
  """

  def strfmt(data):
    parts = []
    for text, field, spec, conversion in string.Formatter().parse(template):
      if spec or conversion:
        raise lookup.ConfigError(
          f"strfmt knows neither formats nor conversions: {template!r}"
        )
      parts.append(tf.constant(text))
      if field:
        parts.append(_as_string(data[field]))
    data[outkey] = tf.strings.join(parts) if parts else tf.constant("")
    return data

  return strfmt


def _as_string(value):
  """Formats a value as a string tensor."""
  value = tf.convert_to_tensor(value)
  if value.dtype == tf.string:
    return value
  return tf.strings.format("{}", value, summarize=-1)
