"""Prompt and answer of PaliGemma as one sequence of tokens.

`tok` turns texts into tokens, `masked_concat` joins them and tells by masks
which part each token is of, `tolen` cuts or pads them. For example, of an image
with a `question` and an `answer`:

  tok(key="question", bos="yes", model=M)|tok(key="answer", eos="yes", model=M)
  |tok(key="sep", text="\\n", model=M)
  |masked_concat(["question", "sep", "answer"], mask_ar=[0, 0, 1],
                 mask_loss=[0, 0, 1])
  |tolen(129, pad_value=0, key="text")|tolen(129, pad_value=1, key="mask_ar")
  |tolen(129, pad_value=0, key="mask_loss")

with the tokenizer M = 'gemma(tokensets=("loc", "seg"))'.

Reference: Beyer et al. 2024, PaliGemma, https://arxiv.org/abs/2407.07726.

Shapes: `L` tokens, `N` objects of an image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from big_vision import lookup
from big_vision.pp import batched, hf_tokenizer, utils
from big_vision.pp import tokenizer as tokenizers
from big_vision.pp.proj.image_text import ops_locca
from big_vision.pp.registry import Registry
from big_vision.pp.sentencepiece_tokenizer import SentencepieceTokenizer
from big_vision.pp.types import ExampleFn, TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey

NUM_LOCATIONS = 1024  # Tokens for the coordinates of a box.
# Boxes may reach over the border, but what is larger is a number of pixels.
_MOST = 2.0
_BOS = ("no", "yes")
_EOS = ("no", "yes", "sticky")


@Registry.register("tokenizers.gemma")
def get_tokenizer_gemma(
  tokensets: Iterable[str] = (),
  model: str = "gs://big_vision/gemma_tokenizer.model",
) -> tokenizers.Base:
  """Loads the tokenizer of Gemma.

  Args:
    tokensets: names of sets of extra tokens, see `tokenizer.get_extra_tokens`;
      ("loc", "seg") for PaliGemma. Those that the vocabulary has keep their
      ids, others follow at its end.
    model: path or URL, see `download.py`, of a sentencepiece model; or of a
      tokenizer.json, such as "hf://google/gemma-2b/tokenizer.json".

  Returns:
    A `Tokenizer`.

  Raises:
    ValueError: the file cannot be had, or is of another kind.
  """
  if hf_tokenizer.is_file(model):
    return hf_tokenizer.HuggingFaceTokenizer(model, tokensets)
  return SentencepieceTokenizer(model, tokensets)


@functools.cache
def tokenize_constant(
  model: str,
  text: str,
  bos: str = "no",
  eos: str = "no",
  length: int | None = None,
) -> list[int]:
  """Encodes a text, once for the same arguments.

  Args:
    model: str, see `tokenizer.get_tokenizer`.
    text: str.
    bos: "no"; "yes" for a token at the beginning.
    eos: "no"; "yes" for a token at the end, which is cut off with the rest of a
      long text; "sticky" for one that stays at the end of a long text too.
    length: int, number of ids: longer texts are cut, shorter ones padded. None
      leaves them.

  Returns:
    List of int; the same object for the same arguments, so do not change it.

  Raises:
    ConfigError: unknown `bos` or `eos`, or there is no token for padding.
    ValueError: unknown tokenizer, or it lacks the token of `bos` or `eos`.
  """
  tok = _tokenizer(model, bos, eos)
  ids = tok.to_int(text, bos=bos == "yes", eos=eos != "no")
  if length is None:
    return ids
  if len(ids) < length:
    return ids + [_padding(tok, model)] * (length - len(ids))
  if eos == "sticky" and length:
    return [*ids[: length - 1], ids[-1]]
  return ids[:length]


def _tokenizer(model, bos, eos):
  """Makes a tokenizer, which has the tokens that are asked for."""
  for name, value, known in (("bos", bos, _BOS), ("eos", eos, _EOS)):
    if value not in known:
      raise lookup.ConfigError(
        f"tok: unknown {name}={value!r}{lookup.did_you_mean(value, known)}"
      )
  tok = tokenizers.get_tokenizer(model)
  tok.to_int("", bos=bos == "yes", eos=eos != "no")  # Or an error.
  return tok


def _padding(tok, model):
  """Returns the id of the padding."""
  if tok.pad_token < 0:
    raise lookup.ConfigError(
      f"tok(length=…): the tokenizer {model!r} has no token for padding. Leave "
      "length out, and write tolen(…, pad_value=…) after it."
    )
  return tok.pad_token


@Registry.register("preprocess_ops.tolen")
@InKeyOutKey(indefault=None, outdefault=None, with_data=True)
def get_tolen(
  length: int | None,
  *,
  sticky_end: bool = False,
  pad_value: Any = None,
  pad_key: str | None = None,
) -> Callable[..., Any]:
  """Cuts or pads to a fixed length, at the end. `key` must be given.

  Args:
    length: int; None or 0 leaves the entry as it is.
    sticky_end: bool, whether the last element stays the last one when cutting.
    pad_value: what to pad with.
    pad_key: str, entry with what to pad with: a scalar, or a vector of which
      the first element counts. It takes precedence over `pad_value`.

  Returns:
    `[N] -> [length]` of the same dtype. Called with another rank it raises
    ValueError.

  Raises:
    ConfigError: neither `pad_value` nor `pad_key` is given.
  """
  if not length:
    return lambda x, data: x
  if pad_value is None and pad_key is None:
    raise lookup.ConfigError(f"tolen({length}): set pad_value, or pad_key.")

  def tolen(x, data):
    x = tf.convert_to_tensor(x)
    if x.shape.rank not in (1, None):
      raise ValueError(
        f"tolen({length}): the entry must be a vector, not of shape {x.shape}."
      )
    pad = pad_value if pad_key is None else data[pad_key]
    pad = tf.reshape(tf.convert_to_tensor(pad), [-1])[0]
    return _to_length(x, length, pad, sticky_end)

  return tolen


def _to_length(x, length, pad, sticky_end):
  """Cuts or pads a vector to a length."""
  missing = tf.maximum(length - tf.size(x), 0)
  if sticky_end:
    x = tf.concat([x[:-1][: length - 1], x[-1:]], 0)
  padding = tf.fill([missing], tf.cast(pad, x.dtype))
  return tf.ensure_shape(tf.concat([x[:length], padding], 0), [length])


@Registry.register("preprocess_ops.tok")
def get_tokenize(
  model: str,
  length: int | None = None,
  *,
  bos: str = "no",
  eos: str = "no",
  text: str | None = None,
  key: str | None = None,
  inkey: str | None = None,
  outkey: str | None = None,
) -> ExampleFn:
  """Turns a text into token ids: that of an entry, or always the same one.

  Args:
    model: str, see `tokenizer.get_tokenizer`.
    length: int, number of ids, see `tokenize_constant`; 0 leaves the number of
      ids of an entry, but makes a constant text empty.
    bos: "no" or "yes", see `tokenize_constant`.
    eos: "no", "yes" or "sticky".
    text: str, the constant text.
    key: str, entry to read and write.
    inkey: str, entry to read, a scalar string; `key` by default.
    outkey: str, entry to write; `key` by default.

  Returns:
    `dict -> dict`, with int32 [L]. Called with an entry that is not a scalar
    string it raises ConfigError.

  Raises:
    ConfigError: no entry to write or to read is named, or one to read beside
      `text`; see also `tokenize_constant`.
    ValueError: see `tokenize_constant`.
  """
  target, source = outkey or key, inkey or key
  if not target:
    raise lookup.ConfigError("tok: set key or outkey, the entry to write.")

  if text is not None:
    if inkey is not None:
      raise lookup.ConfigError(
        f"tok: text={text!r:.200} is a constant, nothing is read from inkey="
        f"{inkey!r}: leave one of them out."
      )
    constant = tokenize_constant(model, text, bos, eos, length)

    def tok_constant(data):
      data[target] = tf.constant(constant, tf.int32, [len(constant)])
      return data

    return batched.touches(tok_constant, target)

  if not source:
    raise lookup.ConfigError("tok: set key, inkey or text: what to encode.")
  tok = _tokenizer(model, bos, eos)
  pad = _padding(tok, model) if length else None

  def tok_entry(data):
    value = tf.convert_to_tensor(data[source])
    if value.dtype != tf.string or value.shape.rank not in (0, None):
      raise lookup.ConfigError(
        f"tok: the entry {source!r} must be one string, not {value.dtype.name} "
        f"{value.shape}; choice or strjoin make one of several."
      )
    ids = tok.to_int_tf_op(
      tf.ensure_shape(value, []), bos=bos == "yes", eos=eos != "no"
    )
    if length:
      ids = _to_length(ids, length, pad, eos == "sticky")
    data[target] = ids
    return data

  return batched.touches(tok_entry, source, target)


@Registry.register("preprocess_ops.masked_concat")
def get_masked_concat(
  keys: Sequence[str], outkey: str = "text", **masks: Sequence[float]
) -> ExampleFn:
  """Joins entries along the first axis, and writes which element is of which.

  Args:
    keys: list of str, entries, of which one may occur several times.
    outkey: str, entry for what is joined.
    **masks: name of a further entry -> list with a number for each of `keys`,
      which is repeated for all elements of that one.

  Returns:
    `dict -> dict`, with masks of int32, or float32 if a number is a float.

  Raises:
    ConfigError: there are no keys, or a mask has another number of values.
  """
  if not keys:
    raise lookup.ConfigError(
      "masked_concat: keys must name at least one entry."
    )
  for name, values in masks.items():
    if len(values) != len(keys):
      raise lookup.ConfigError(
        f"masked_concat: {name}={values!r} must have a value for each of the "
        f"{len(keys)} keys."
      )

  def masked_concat(data):
    parts = [tf.convert_to_tensor(data[key]) for key in keys]
    data[outkey] = tf.concat(parts, 0)
    for name, values in masks.items():
      values = tf.unstack(tf.constant(values))
      data[name] = tf.concat(
        [
          tf.ensure_shape(tf.fill(tf.shape(x), value), x.shape)
          for x, value in zip(parts, values, strict=True)
        ],
        0,
      )
    return data

  return batched.touches(masked_concat, *keys, outkey, *masks)


@Registry.register("preprocess_ops.strjoin")
@InKeyOutKey()
def get_strjoin(glue: str, axis: int | None = None) -> TensorFn:
  """Joins several strings.

  Args:
    glue: str between them.
    axis: int, along which to join; None joins all of them.

  Returns:
    `string tensor -> string tensor` without this axis, or a scalar.
  """
  return lambda x: tf.strings.reduce_join(x, axis=axis, separator=glue)


@Registry.register("preprocess_ops.majority")
@InKeyOutKey()
def get_majority() -> TensorFn:
  """Finds the most frequent element; of several, the one that comes first.

  Returns:
    `[N] -> []` of the same dtype. An empty vector is an error.
  """

  def majority(x):
    x = tf.convert_to_tensor(x)
    check = tf.debugging.assert_positive(
      tf.size(x), message="majority: there are no elements"
    )
    with tf.control_dependencies([check] if check is not None else []):
      values, _, counts = tf.unique_with_counts(x)
    # Not `tf.argmax`, which promises no order of equal ones.
    first = tf.where(counts == tf.reduce_max(counts))[0, 0]
    return tf.ensure_shape(values[first], [])

  return majority


@Registry.register("preprocess_ops.getidx")
def getidx(inkey: str, index_key: str, outkey: str | None = None) -> ExampleFn:
  """Takes the element at an index that another entry has.

  Args:
    inkey: str, entry with the elements, along its first axis.
    index_key: str, entry with the index, an integer.
    outkey: str, entry for the element; `inkey` by default.

  Returns:
    `dict -> dict`. An index out of range is an error.
  """

  def op(data):
    x = data[inkey]
    if not isinstance(x, tf.RaggedTensor):
      x = tf.convert_to_tensor(x)
    data[outkey or inkey] = x[data[index_key]]
    return data

  return batched.touches(op, inkey, index_key, outkey or inkey)


@Registry.register("preprocess_ops.boxes2str")
def get_boxes2str(
  inkey: str = "boxes",
  labels_key: str = "labels",
  outkey: str = "suffix",
  glue: str = " ; ",
) -> ExampleFn:
  """Writes objects as text: `<loc0012><loc0000><loc0499><loc1023> cat ; …`.

  A model learns to detect objects from this. `strjoin(" ; ", inkey="labels",
  outkey="names")|strfmt("detect {names}", outkey="prefix")` writes the
  question.

  Args:
    inkey: str, entry with the boxes, float [N, 4]: (ymin, xmin, ymax, xmax) in
      [0, 1].
    labels_key: str, entry with what to call them, string [N].
    outkey: str, entry for the text, a scalar string; "" without objects.
    glue: str between objects.

  Returns:
    `dict -> dict`. Called with labels that are not text, or with other shapes,
    it raises ValueError.
  """

  def boxes2str(data):
    boxes = tf.convert_to_tensor(data[inkey])
    labels = tf.convert_to_tensor(data[labels_key])
    if labels.dtype != tf.string:
      raise ValueError(
        f"boxes2str: {labels_key!r} must have names of the objects, not "
        f"{labels.dtype.name}. Set labels_key."
      )
    if not boxes.dtype.is_floating or not (
      boxes.shape.is_compatible_with([labels.shape[:1].num_elements(), 4])
      and labels.shape.is_compatible_with([None])
    ):
      raise ValueError(
        f"boxes2str: {inkey!r} must be float [N, 4], relative to the image, "
        f"and {labels_key!r} string [N], not {boxes.dtype.name} {boxes.shape} and "
        f"{labels.shape}."
      )
    boxes = tf.ensure_shape(boxes, [None, 4])
    check = tf.debugging.assert_less(
      boxes,
      tf.constant(_MOST, boxes.dtype),
      message=f"boxes2str: {inkey!r} must be relative to the image, in [0, 1]",
    )
    with tf.control_dependencies([check] if check is not None else []):
      boxes = tf.identity(boxes)
    texts = tf.strings.join([box_tokens(boxes), " ", labels])
    text = tf.strings.reduce_join(texts, separator=glue)
    data[outkey] = tf.ensure_shape(text, [])
    return data

  return batched.touches(boxes2str, inkey, labels_key, outkey)


def box_tokens(boxes: tf.Tensor) -> tf.Tensor:
  """Writes boxes as tokens, as `locations.format_box` does, within graphs.

  Args:
    boxes: float [..., 4], (ymin, xmin, ymax, xmax) relative to the image; what
      is outside of it is moved to its border.

  Returns:
    string [...], "<loc0012><loc0000><loc0499><loc1023>".
  """
  last = NUM_LOCATIONS - 1
  at = tf.cast(tf.round(tf.cast(boxes, tf.float32) * last), tf.int32)
  return ops_locca.location_tokens(tf.clip_by_value(at, 0, last))
