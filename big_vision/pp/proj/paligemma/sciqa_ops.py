"""Multiple choice of ScienceQA, in another order each time."""

from __future__ import annotations

import itertools
import string

from big_vision.pp import batched, rng
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn
from big_vision.tf import tf

# A, …, Z, AA, AB, …, ZZ.
_LETTERS = [
  "".join(letters)
  for n in (1, 2)
  for letters in itertools.product(string.ascii_uppercase, repeat=n)
]


@Registry.register("preprocess_ops.sci_qa_choices_shuffle")
def sci_qa_choices_shuffle(
  choice_str_inkey: str = "choices",
  ans_inkey: str = "answer",
  indexed_choices_outkey: str = "indexed_choices",
  indexed_answer_outkey: str = "indexed_answer",
) -> ExampleFn:
  """Shuffles the choices of a question, and gives them letters.

  Args:
    choice_str_inkey: str, entry with the choices, string [N], N up to 702.
    ans_inkey: str, entry with the index of the right one, an integer scalar.
    indexed_choices_outkey: str, entry for the text "(A) choice, (B) choice, …".
    indexed_answer_outkey: str, entry for the letter of the right choice; "" if
      the index is out of range.

  Returns:
    `dict -> dict`.
  """

  def shuffle(data):
    choices = tf.convert_to_tensor(data[choice_str_inkey], tf.string)
    choices = tf.ensure_shape(choices, [None])
    answer = tf.cast(data[ans_inkey], tf.int64)
    order = tf.random.experimental.stateless_shuffle(
      tf.range(tf.size(choices, tf.int64)), rng.next_seed()
    )
    letters = tf.gather(_LETTERS, tf.range(tf.size(choices)))
    texts = tf.strings.join(["(", letters, ") ", tf.gather(choices, order)])
    right = tf.boolean_mask(letters, order == answer)
    for key, parts in (
      (indexed_choices_outkey, texts),
      (indexed_answer_outkey, right),
    ):
      data[key] = tf.strings.reduce_join(parts, axis=0, separator=", ")
    return data

  return batched.touches(
    shuffle,
    choice_str_inkey,
    ans_inkey,
    indexed_choices_outkey,
    indexed_answer_outkey,
  )
