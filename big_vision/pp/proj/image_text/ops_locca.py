"""Token sequences of captioning and of dense captioning.

References:
  Wan et al. 2024, LocCa (section 3.2), https://arxiv.org/abs/2403.19596
  Beyer et al. 2024, PaliGemma (location tokens),
  https://arxiv.org/abs/2407.07726

`L` tokens, `N` regions of an image. A box is (ymin, xmin, ymax, xmax) in [0,
1].
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from big_vision import lookup
from big_vision.pp import batched, rng
from big_vision.pp import tokenizer as tokenizers
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn
from big_vision.tf import tf

TASKS = ("caption", "refer", "ground")
# As text, and as the tokens of `tokensets.loc`.
_LOCATIONS = ("text", "loc")


@Registry.register("preprocess_ops.locca")
def get_locca(
  max_len: int,
  tokenizer: str,
  p: Sequence[float] = (1, 1, 1),
  prefixes: Sequence[str] = ("cap:", "aref:", "gcap:"),
  location: str = "text",
  bins: int = 500,
  lower: bool = True,
  caption: str = "text",
  boxes: str = "boxes/bbox",
  phrases: str = "boxes/expression",
) -> ExampleFn:
  """Makes the sequence of one of three tasks, drawn at random per example.

  - caption: `cap:` | text about the image
  - refer: `aref: phrase :` | box
  - ground: `gcap: box :` | phrase

  The tokens before the bar are given; those after it are to be predicted, with
  an end-of-text token. Box and phrase belong to one region of the image, drawn
  at random. An image without regions gets the caption task, or nothing to
  predict if `p` excludes that.

  Args:
    max_len: int, L. Longer sequences are cut at the end; the given part leaves
      at least half of L to the rest, or as much as it needs.
    tokenizer: str, see `tokenizer.get_tokenizer`, with an end-of-text token.
    p: relative probabilities of the three tasks. Entries for tasks of
      probability 0 need not exist.
    prefixes: three str, which tell the task; "" means none.
    location: "text" writes a coordinate as an integer, as LocCa does; "loc" as
      the token <loc0123> of the tokenizer's `tokensets=("loc",)`.
    bins: int, coordinates are integers in [0, bins).
    lower: bool, whether to make all letters (of Unicode) lower case.
    caption: str, entry with the text, a scalar, or [N] for one of N at random.
    boxes: str, entry with the boxes, [N, 4]; "a/b" is also entry b of entry a.
    phrases: str, entry with the text about each box, string [N].

  Returns:
    `dict -> dict`, with the new entries `cap_tokens` int32 [L], `cap_mask`
    int32 [L], 1 where a token is to be predicted, and `cap_task` int32, the
    index of the task in `TASKS`.

  Raises:
    ValueError: an argument has no such value, or the tokenizer lacks a required
      token.
  """
  if location not in _LOCATIONS:
    raise ValueError(
      f"locca: unknown location={location!r}"
      f"{lookup.did_you_mean(location, _LOCATIONS)}"
    )
  if not (isinstance(max_len, int) and max_len > 0):
    raise ValueError(f"locca: max_len={max_len!r} must be an integer > 0.")
  if len(p) != len(TASKS) or min(p) < 0 or not sum(p) > 0:
    raise ValueError(f"locca: p={p!r} must be three probabilities of {TASKS}.")
  if len(prefixes) != len(TASKS):
    raise ValueError(f"locca: prefixes={prefixes!r} must be three, of {TASKS}.")
  tok = tokenizers.get_tokenizer(tokenizer)
  if location == "loc":
    _check_location_tokens(tok, tokenizer, bins)
  tok.to_int("", eos=True)  # Or an error.
  pad = max(tok.pad_token, 0)
  limits = np.cumsum(np.asarray(p, np.float64) / sum(p))[:-1]
  is_dense = p[1] > 0 or p[2] > 0

  def text(x):
    x = tf.convert_to_tensor(x, tf.string)
    return tf.strings.lower(x, encoding="utf-8") if lower else x

  def region(data):
    """Draws a region: (number of regions, box as text, phrase)."""
    seed = rng.next_seed()
    if not is_dense:
      return 0, "", ""
    every, said = _entry(data, boxes), text(_entry(data, phrases))
    num = tf.shape(said)[0]
    index = tf.random.stateless_uniform(
      [], seed, maxval=tf.maximum(num, 1), dtype=tf.int32
    )
    # One more box, so that index 0 exists without regions too.
    every = tf.concat([tf.reshape(every, [-1, 4]), tf.zeros([1, 4])], 0)
    box = _box_as_text(every[index], location, bins)
    return num, box, tf.concat([said, [""]], 0)[index]

  def begin(data, later):
    draw = tf.random.stateless_uniform([], rng.next_seed())
    task = tf.reduce_sum(tf.cast(draw >= limits, tf.int32))
    num, box, phrase = region(data)
    task = tf.where(num > 0, task, 0)
    about = text(_one_of(_entry(data, caption))) if p[0] > 0 else ""
    a, b, c = (f"{prefix} " if prefix else "" for prefix in prefixes)
    given = tf.stack([a, tf.strings.join([b, phrase, " : "]),
                      tf.strings.join([c, box, " : "])])[task]  # fmt: skip
    target = tf.stack([about, box, phrase])[task]
    # Nothing is to be predicted without regions if there are no captions.
    exists = tf.logical_or(task > 0, p[0] > 0)
    both = _packed(tf.strings.strip(given), target, exists)
    for i, key in enumerate(("cap_tokens", "cap_mask")):
      step = lambda x, i=i: _sequences(x, tok, max_len, pad)[i]
      data[key] = later.put(key, both, step)
    data["cap_task"] = task
    return data

  def locca(data):
    later = batched.Later()
    return later.finish(begin(data, later))

  locca.begin, locca.keys = begin, ("cap_tokens", "cap_mask")
  read = [name.partition("/")[0] for name in (caption, boxes, phrases)]
  return batched.touches(
    locca, *read, caption, boxes, phrases, *locca.keys, "cap_task"
  )


def parse_box(text: str, bins: int = 500) -> tuple[float, ...] | None:
  """Parses a box of four integers, to the centers of their bins.

  Args:
    text: str, for example "12 0 480 499" or "<loc0012><loc0000>…".
    bins: int, as given to the op.

  Returns:
    (ymin, xmin, ymax, xmax), floats in [0, 1]; None if there are not four.
  """
  found = [int(n) for n in re.findall(r"\d+", text)]
  if len(found) != 4:
    return None
  return tuple((min(n, bins - 1) + 0.5) / bins for n in found)


def location_tokens(numbers: tf.Tensor) -> tf.Tensor:
  """Writes numbers as the tokens of `tokensets.loc`, within graphs, too.

  Args:
    numbers: int [..., N], in [0, 10000).

  Returns:
    string [...], "<loc0012><loc0000>…".
  """
  numbers = tf.strings.as_string(numbers, width=4, fill="0")
  tokens = tf.strings.join(["<loc", numbers, ">"])
  return tf.strings.reduce_join(tokens, axis=-1)


def _entry(data, name):
  """Returns `data[name]`, or the entry of an entry."""
  if name in data:
    return data[name]
  outer, _, inner = name.partition("/")
  if inner and outer in data and inner in data[outer]:
    return data[outer][inner]
  raise ValueError(
    f"locca: no entry {name!r}{lookup.did_you_mean(name, data)} Set `caption`, "
    "`boxes` and `phrases` to the names of the entries, or `p` to exclude a task."
  )


def _one_of(texts):
  """Draws a scalar of several, "" if there are none."""
  texts = tf.convert_to_tensor(texts, tf.string)
  if texts.shape.rank == 0:
    return texts
  index = tf.random.stateless_uniform(
    [], rng.next_seed(), maxval=tf.maximum(tf.size(texts), 1), dtype=tf.int32
  )
  return tf.concat([texts, [""]], 0)[index]


def _box_as_text(box, location, bins):
  """Writes a box [4] as "12 0 480 499" or "<loc0012><loc0000>…"."""
  at = tf.cast(tf.floor(tf.cast(box, tf.float32) * bins), tf.int32)
  at = tf.clip_by_value(at, 0, bins - 1)
  if location == "text":
    return tf.strings.reduce_join(tf.strings.as_string(at), separator=" ")
  return location_tokens(at)


def _packed(given, target, exists):
  """Puts two texts, and whether the second is to be predicted, into one."""
  head = tf.stack([tf.cast(exists, tf.int32), tf.strings.length(given)])
  head = tf.strings.reduce_join(tf.strings.as_string(head), separator=" ")
  return tf.strings.join([head, " ", given, target])


def _sequences(packed, tok, max_len, pad):
  """Joins given ids and ids to be predicted.

  Args:
    packed: string [...], results of `_packed`.
    tok: Tokenizer.
    max_len: L.
    pad: id of the padding.

  Returns:
    (tokens, mask), each int32 [..., L].
  """

  def encode(packed):
    packed = np.asarray(packed, object)
    tokens = np.full([packed.size, max_len], pad, np.int32)
    mask = np.zeros_like(tokens)
    for i, text in enumerate(packed.ravel().tolist()):
      exists, length, rest = text.split(b" ", 2)
      given = tok.to_int(rest[: int(length)])
      target = tok.to_int(rest[int(length) :], eos=True)
      given = given[: max_len - min(len(target), (max_len + 1) // 2)]
      target = target[: max_len - len(given)]
      end = len(given) + len(target)
      tokens[i, :end] = [*given, *target]
      mask[i, len(given) : end] = int(exists)
    shape = (*packed.shape, max_len)
    return tokens.reshape(shape), mask.reshape(shape)

  outputs = tf.numpy_function(
    encode, [packed], (tf.int32, tf.int32), stateful=False
  )
  for x in outputs:
    x.set_shape(packed.shape.concatenate([max_len]))
  return outputs


def _check_location_tokens(tok, name, bins):
  """Raises ValueError if a tokenizer has no single token for each bin."""
  last = f"<loc{bins - 1:04d}>"
  # Some tokenizers put a token for the beginning of a word before it.
  if len(tok.to_int(last)) > 2:
    raise ValueError(
      f"locca: location='loc' with bins={bins} needs the token {last}, which "
      f"{name!r} does not have; use tokensets=('loc({bins})',) there."
    )
