"""The argument `demo` of PaliGemma's configs: three tasks on generated pictures.

A tiny model learns from scratch to answer questions, to describe pictures, and to say
where objects are, on `shapes/closeup`, pictures of one object. Prompts are those of
PaliGemma: "answer en what color is the ring?", "detect the red ring", "caption en".
"""

from collections.abc import Sequence
from typing import Any

from big_vision.configs import demo
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# The tokens of texts about `shapes`, and those of places and masks.
TOKENIZER = 'gemma(tokensets=("loc", "seg"), model="shapes")'
VOCAB_SIZE = 512 + 1024 + 128
SIZE = 32  # Pixels.
TEXT_LEN = 32
ANSWER_LEN = 12

_SIZES = dict(width=64, depth=3, mlp_dim=192, num_heads=4)
IMG = dict(
  patch_size=(8, 8),
  pool_type="none",
  head_zeroinit=False,
  posemb="learn",
  **_SIZES,
)
LLM = dict(
  variant="gemma_2b",
  num_kv_heads=1,
  head_dim=16,
  vocab_size=VOCAB_SIZE,
  scan=False,
  remat_policy="none",
  **_SIZES,
)
# Ops that make `prefix` and `suffix`.
TASKS = {
  "vqa": (
    'choice(inkey=["qa/question", "qa/answer"], outkey=["question", "suffix"])',
    'strfmt("answer en {question}", outkey="prefix")',
  ),
  "detect": (
    'choice(1, inkey=["boxes/bbox", "boxes/expression"], '
    'outkey=["objects/bbox", "objects/label"])',
    'strjoin(" ; ", inkey="objects/label", outkey="names")',
    'strfmt("detect {names}", outkey="prefix")',
    'boxes2str(inkey="objects/bbox", labels_key="objects/label")',
  ),
  "caption": (
    'choice(inkey="captions", outkey="suffix")',
    'strfmt("caption en", outkey="prefix")',
  ),
}
# How often each is trained.
WEIGHTS = dict(vqa=0.5, detect=0.3, caption=0.2)


def before(task: str, size: int = SIZE) -> list[str]:
  """Lists the ops in front of those that make tokens.

  Args:
    task: one of `TASKS`.
    size: pixels of the images.

  Returns:
    The ops.
  """
  image = f"decode|resize({size})|value_range(-1, 1)"
  return [image, "flatten", *TASKS[task]]


def apply(
  config: Any,
  *,
  data: str = "shapes/closeup",
  size: int = SIZE,
  total_steps: int = 3000,
  batch_size: int = 128,
  **changes: Any,
) -> None:
  """Makes a config small, in place.

  Args:
    config: ConfigDict, complete.
    data: name of the dataset.
    size: pixels of the images.
    total_steps: length of the training.
    batch_size: examples of a batch.
    **changes: other values to set.
  """
  with config.ignore_type():
    source = lambda split: dict(name=data, split=split)
    train = lambda task: combine_and_keep_train(
      TEXT_LEN, before=before(task, size), tokenizer=TOKENIZER
    )
    config.input = dict(
      data=dict(WEIGHTS),
      batch_size=batch_size,
      **{
        task: dict(
          data=source("train"), pp=train(task), shuffle_buffer_size=4096
        )
        for task in TASKS
      },
    )
    config.model.img, config.model.llm = dict(IMG), dict(LLM)
    config.evals = _evals(source("validation"), size)
    del config.model_init
    for key in ("res", "size", "text_len", "batch_size", "run_local"):
      if key in config:
        del config[key]
    demo.shorten(config, total_steps)
    config.update(optax_name="scale_by_adam", lr=3e-3, wd=1e-4)
    config.update(changes)


def _evals(data, size):
  """Makes `config.evals`: one of each task, and the loss of answers."""
  decode = dict(
    pred="decode", pred_kw=dict(max_decode_len=ANSWER_LEN), tokenizer=TOKENIZER
  )
  prompt = lambda task, keep: combine_and_keep_eval(
    TEXT_LEN,
    keep=keep,
    # The answer must not be part of the prompt.
    before=[*before(task, size), *_hide(task)],
    tokenizer=TOKENIZER,
  )
  transfer = "proj.paligemma.transfers"
  evals = {
    "val/pplx": dict(
      type="proj.paligemma.perplexity",
      pred="logits",
      key="text",
      shift_labels=True,
      pp_fn=combine_and_keep_train(
        TEXT_LEN, before=before("vqa", size), tokenizer=TOKENIZER
      ),
    ),
    "val/vqa": dict(
      type=f"{transfer}.vqa",
      pp_fn=prompt("vqa", ("question_id", "answer")),
      **decode,
    ),
    "val/detect": dict(
      type=f"{transfer}.detection",
      pp_fn=prompt("detect", ("objects/bbox", "objects/label")),
      **decode,
    ),
    "val/caption": dict(
      type=f"{transfer}.coco_caption",
      pp_fn=prompt("caption", ("image/id", "captions")),
      **decode,
    ),
  }
  for cfg in evals.values():
    cfg.update(data=dict(data), log_percent=0.5)
  return evals


def _hide(task: str) -> Sequence[str]:
  """Lists ops that rename what evaluators compare answers with."""
  if task == "vqa":
    return ['copy("suffix", "answer")|copy("id", "question_id")|drop("suffix")']
  return ['drop("suffix")']
