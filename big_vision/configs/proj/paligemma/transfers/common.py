"""Shared by the configs of PaliGemma's transfers: how texts become tokens."""

from collections.abc import Sequence
from typing import Any

TOKENIZER = 'gemma(tokensets=("loc", "seg"))'


def tok(**kw: Any) -> str:
  """Writes the op `tok`.

  Args:
    **kw: its arguments; `model` is `TOKENIZER` if it is not given.

  Returns:
    Such as `tok(key='prefix', bos='yes', model='gemma(...)')`.
  """
  kw.setdefault("model", TOKENIZER)
  return f"tok({', '.join(f'{k}={v!r}' for k, v in kw.items())})"


def combine_and_keep_train(
  text_len: int,
  before: Sequence[str] = (),
  sep: str = "\n",
  tokenizer: str = TOKENIZER,
  outkey: str | None = "text",
) -> str:
  """Writes preprocessing that makes one sequence of `prefix` and `suffix`.

  Args:
    text_len: how many tokens the model predicts, one less than the sequence has.
    before: ops in front.
    sep: text between prefix and suffix.
    tokenizer: its name.
    outkey: of the sequence; None leaves it to `masked_concat`.

  Returns:
    The ops, joined by `|`. They keep `image`, `text`, `mask_ar` and `mask_loss`:
    the prefix attends to all of itself, and the suffix, which is predicted, ends
    with the end token.
  """
  keys = '["prefix", "septok", "suffix"]'
  out = "" if outkey is None else f', outkey="{outkey}"'
  return "|".join(
    [
      *before,
      tok(key="prefix", bos="yes", model=tokenizer),
      tok(key="suffix", eos="yes", model=tokenizer),
      tok(key="septok", text=sep, model=tokenizer),
      f"masked_concat({keys}{out}, mask_ar=[0, 0, 1], mask_loss=[0, 0, 1])",
      *_to_length(text_len + 1, "mask_loss"),
      'keep("image", "text", "mask_ar", "mask_loss")',
    ]
  )


def combine_and_keep_packed(
  size: int,
  before: Sequence[str] = (),
  sep: str = "\n",
  tokenizer: str = TOKENIZER,
) -> str:
  """Writes preprocessing for sequences that several examples share.

  Args:
    size: pixels of the images.
    before: as in `combine_and_keep_train`.
    sep: as there.
    tokenizer: as there.

  Returns:
    The ops, joined by `|`. They keep what `combine_and_keep_train` keeps, as long as
    it is, and images as a sequence of one. `packs` has the lengths.
  """
  every = combine_and_keep_train(0, before, sep, tokenizer).split("|tolen(")
  ops, keep = every[0], every[-1].partition("|")[2]
  return f'{ops}|reshape([1, {size}, {size}, 3], key="image")|{keep}'


def packs(text_len: int, images: int) -> dict[str, int]:
  """Makes `config.input.pack`.

  Args:
    text_len: how many tokens the model predicts, of all examples of a sequence.
    images: how many examples share a sequence at most.

  Returns:
    The dict.
  """
  texts = ("text", "mask_ar", "mask_loss")
  return dict(image=images, **dict.fromkeys(texts, text_len + 1))


def combine_and_keep_eval(
  text_len: int,
  keep: Sequence[str] = (),
  before: Sequence[str] = (),
  sep: str = "\n",
  tokenizer: str = TOKENIZER,
) -> str:
  """Writes preprocessing of a prompt: `prefix`, and `suffix` if there is one.

  Args:
    text_len: number of tokens of the sequence.
    keep: features to keep besides.
    before: ops in front.
    sep: text between prefix and suffix.
    tokenizer: its name.

  Returns:
    The ops, joined by `|`. They keep `image`, `text`, `mask_ar`, `mask_input` and
    `keep`.
  """
  names = ("image", "text", "mask_ar", "mask_input", *keep)
  return "|".join(
    [
      *before,
      tok(key="prefix", bos="yes", model=tokenizer),
      tok(key="septok", text=sep, model=tokenizer),
      'setdefault("suffix", "")',
      tok(key="suffix", eos="no", model=tokenizer),
      'masked_concat(["prefix", "septok", "suffix"], outkey="text", '
      "mask_ar=[0, 0, 1], mask_input=[1, 1, 1])",
      *_to_length(text_len, "mask_input"),
      "keep(" + ", ".join(f'"{name}"' for name in names) + ")",
    ]
  )


def _to_length(length, mask):
  """Writes ops that cut or pad sequences; padding starts blocks of its own."""
  pad = {"text": 0, "mask_ar": 1, mask: 0}
  return [f'tolen({length}, pad_value={v}, key="{k}")' for k, v in pad.items()]
