"""The argument `demo` of PaliGemma's configs: four tasks on generated pictures.

A tiny model learns from scratch to answer questions, to describe pictures, and to say
where objects are, by boxes and by masks, on `shapes/closeup`, pictures of one object.
Prompts are those of PaliGemma: "answer en what color is the ring?", "detect the red
ring", "segment the red ring", "caption en".
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from big_vision.configs import demo, demo_pp
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)
from big_vision.datasets.shapes import scene, text

# The tokens of texts about `shapes`, and those of places and masks.
TOKENIZER = 'gemma(tokensets=("loc", "seg"), model="shapes")'
VOCAB_SIZE = 512 + 1024 + 128
SIZE = 32  # Pixels.
BATCH_SIZE = 128
TOTAL_STEPS = 1500
TEXT_LEN = 40
ANSWER_LEN = 12
# An answer with a mask: box, codes, what it is.
MASK_LEN = 28
# The codec of masks, see `demo_masks.py`.
MASKS = str(pathlib.Path(__file__).parent / "masks.npz")

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
  "segment": (
    "instance_masks",
    'choice(inkey=["boxes/bbox", "boxes/expression", "boxes/mask"], '
    'outkey=["objects/bbox", "objects/refs/sentence", "objects/mask"])',
    f"refcoco_mask2str({MASKS!r})",
    'strfmt("segment {prefix}", outkey="prefix")',
    'strfmt("{suffix} {objects/refs/sentence}", outkey="suffix")',
  ),
  "caption": (
    'choice(inkey="captions", outkey="suffix")',
    'strfmt("caption en", outkey="prefix")',
  ),
}
# Ops that make the features of a transfer out of those of `shapes`.
QUESTIONS = (
  "flatten",
  'choice(inkey=["qa/question", "qa/answer", "qa/type"], '
  'outkey=["question", "answer", "type"])',
  'copy("id", "question_id")',
  # As many as people gave in such datasets: all agree.
  'reshape([1], inkey="answer", outkey="answers")',
  f"concat({['answers'] * 10}, axis=0)",
)
# The same of one question, whose answer is the element `label` of `choices`.
CHOICES = (
  'strfmt("what shape is it?", outkey="question")',
  f'setdefault("choices", {list(scene.SHAPES)})',
  'getidx(inkey="choices", index_key="label", outkey="answer")',
  'copy("id", "question_id")',
)
# Number of the question whether something is there.
_PRESENCE = 5
# How often each is trained.
WEIGHTS = dict(vqa=0.4, detect=0.2, segment=0.2, caption=0.2)


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
  total_steps: int = TOTAL_STEPS,
  batch_size: int = BATCH_SIZE,
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
    config.pp_modules = [*config.pp_modules, "proj.paligemma.segmentation"]
    del config.model_init
    for key in ("res", "size", "text_len", "batch_size", "run_local"):
      if key in config:
        del config[key]
    demo.shorten(config, total_steps)
    config.update(optax_name="scale_by_adam", lr=3e-3, wd=1e-4)
    config.update(changes)


def on_shapes(
  config: Any, task: Sequence[str], data: str = "shapes/closeup"
) -> None:
  """Makes a transfer small, in place: its texts and evaluators, on other pictures.

  Args:
    config: ConfigDict, complete, for images of `SIZE` pixels.
    task: ops that make the features of the transfer out of those of `shapes`.
    data: name of the dataset.
  """
  parts = [config.input]
  if "name" not in config.input.data:  # A mixture.
    parts = [config.input[key] for key in config.input.data]
  for part in parts:
    part.data = dict(name=data, split="train")
  for cfg in config.evals.values():
    cfg.data = dict(name=data, split="validation")
    cfg.update(log_percent=0.5, batch_size=BATCH_SIZE)
  for part in (*parts, *config.evals.values()):
    key = "pp" if "pp" in part else "pp_fn"
    part[key] = "|".join([*task, part[key]])
    if part.get("shuffle_buffer_size"):
      part.shuffle_buffer_size = 4096
  config.input.batch_size = BATCH_SIZE
  demo.shorten(config, TOTAL_STEPS)
  shrink_model(config, optax_name="scale_by_adam", lr=3e-3, wd=1e-4)


def question_types(other: str, **names: str) -> tuple[str, str]:
  """Writes ops, behind `QUESTIONS`, that make `question_type`.

  Args:
    other: the name of what is not in `names`.
    **names: kind of question of `shapes`, such as "count" -> its name.

  Returns:
    The ops.
  """
  types = [names.get(name, other) for name in text.QUESTION_TYPES]
  return (
    f'setdefault("types", {types})',
    'getidx(inkey="types", index_key="type", outkey="question_type")',
  )


def question(
  index_key: str, question: str = "question", answer: str = "answer"
) -> tuple[str, ...]:
  """Writes ops, behind `flatten`, that take a certain question.

  Args:
    index_key: feature with its number, in the order of `shapes`.
    question: feature for the question.
    answer: feature for the answer.

  Returns:
    The ops.
  """
  names = {"qa/question": question, "qa/answer": answer}
  return tuple(
    f'getidx(inkey="{a}", index_key="{index_key}", outkey="{b}")'
    for a, b in names.items()
  )


def yes_no_question(**names: str) -> tuple[str, ...]:
  """Writes ops that ask whether something is in the picture.

  Args:
    **names: see `question`.

  Returns:
    The ops.
  """
  index = f'setdefault("presence", {_PRESENCE})'
  return ("flatten", index, *question("presence", **names))


def shrink_model(config: Any, **changes: Any) -> None:
  """Makes the model of a config tiny, in place: trained from scratch, anywhere.

  Data, images and lengths of texts stay as they are.

  Args:
    config: ConfigDict, complete; of images whose sides are multiples of 8 pixels.
    **changes: other values to set, such as `lr`.
  """
  with config.ignore_type():
    config.model.img, config.model.llm = dict(IMG), dict(LLM)
    # Adapters would leave most of what is random as it is.
    for key in ("model_init", "lora"):
      if key in config:
        del config[key]
    config.update(changes)
  set_tokenizer(config, TOKENIZER)


def set_tokenizer(config: Any, tokenizer: str) -> None:
  """Replaces the tokenizer of a config, in preprocessing and evaluators.

  Args:
    config: ConfigDict, complete, changed in place.
    tokenizer: its name, see `pp.tokenizer.get_tokenizer`.
  """
  parts = [config.input, *config.get("evals", {}).values()]
  if not isinstance(config.input.data.get("name"), str):  # A mixture.
    parts += [config.input[key] for key in config.input.data]
  for part in parts:
    if "tokenizer" in part:
      part.tokenizer = tokenizer
    for key, value in part.items():
      if key.split("_")[0] == "pp" and isinstance(value, str):
        part[key] = _with_tokenizer(value, tokenizer)


def _with_tokenizer(pp, tokenizer):
  """Replaces the tokenizer in a preprocessing string."""
  from big_vision.pp import builder  # The TensorFlow wing.

  ops = [demo_pp.Op(section) for section in builder.split_pipeline(pp)]
  for op in ops:
    if op.name == "tok":
      op.keys = ("model",)
      op.set("model", tokenizer)
  return "|".join(map(str, ops))


def _evals(data, size):
  """Makes `config.evals`: one of each task, and the loss of answers."""
  decode = lambda length=ANSWER_LEN: dict(
    pred="decode", pred_kw=dict(max_decode_len=length), tokenizer=TOKENIZER
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
      **decode(),
    ),
    "val/detect": dict(
      type=f"{transfer}.detection",
      pp_fn=prompt("detect", ("objects/bbox", "objects/label")),
      **decode(),
    ),
    "val/segment": dict(
      type=f"{transfer}.segmentation",
      model=MASKS,
      pp_fn=prompt("segment", ("objects/bbox", "objects/mask")),
      **decode(MASK_LEN),
    ),
    "val/caption": dict(
      type=f"{transfer}.coco_caption",
      pp_fn=prompt("caption", ("image/id", "captions")),
      **decode(),
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
