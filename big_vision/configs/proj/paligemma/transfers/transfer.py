"""Shared by the configs of PaliGemma's transfers: what most of them have.

A transfer is a file that says what is its own: the dataset, the texts that are made of
it, the recipe, and what is evaluated. `get_config` of each

  - begins with `parse`, which takes the arguments that all have,
  - makes `config.input` by `training_data`, and the rest of the recipe by `settings`,
  - adds evaluators by `add_pplx` and `add_evals`,
  - ends with `finish`, which makes it small if that is asked for.

`sweep_best` and `metrics` are for a tool that runs many: the best settings that were
found for each resolution, and the names of metrics to compare.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo
from big_vision.configs.proj.paligemma import demo as paligemma_demo
from big_vision.configs.proj.paligemma.transfers.common import TOKENIZER

# Ops that make `prefix`.
ASK = 'strfmt("answer en {question}", outkey="prefix")'
QUESTION = 'copy(inkey="question", outkey="prefix")'
CAPTION = 'strfmt("caption en", outkey="prefix")'
# Ops that make `suffix`.
ANSWER = 'copy(inkey="answer", outkey="suffix")'
ANY_ANSWER = 'choice_no_replacement(inkey="answers", outkey="suffix")'
# Op for those that are compared in lower case.
LOWER = 'lower(key="answers")'

_LOCAL = ("runlocal", "mock")


def parse(arg: str | None, **defaults: Any) -> mlc.ConfigDict:
  """Parses the arguments of a transfer.

  Args:
    arg: those given, of which `demo` is not in the config; `finish` looks for it.
    **defaults: arguments besides `mode`, which is "xm", "runlocal" or "mock".

  Returns:
    ConfigDict with their values; of a demo, `res` is small and `freeze_vit` False
    unless they are given.

  Raises:
    ValueError: see `bvcc.parse_arg`, or there is no such mode.
  """
  arg, is_demo = demo.split_arg(arg)
  if is_demo:
    small = dict(res=paligemma_demo.SIZE, freeze_vit=False)
    defaults |= {k: v for k, v in small.items() if k in defaults}
  c = bvcc.parse_arg(arg, mode="xm", **defaults)
  if c.mode not in ("xm", *_LOCAL):
    raise lookup.unknown("mode", c.mode, ("xm", *_LOCAL), "mode")
  return c


def image(res: int, antialias: bool = True) -> str:
  """Writes the preprocessing of images.

  Args:
    res: pixels.
    antialias: whether to filter before pixels are left out.

  Returns:
    The ops; values will be in [-1, 1].
  """
  how = ", antialias=True" if antialias else ""
  return f"decode|resize({res}{how})|value_range(-1, 1)"


def training_data(
  name: str,
  split: str,
  pp: str,
  batch_size: int = 256,
  shuffle_buffer_size: int = 50_000,
) -> dict[str, Any]:
  """Makes `config.input` of one dataset.

  Args:
    name: of the dataset.
    split: its split.
    pp: preprocessing.
    batch_size: examples of a batch.
    shuffle_buffer_size: examples that are shuffled together.

  Returns:
    The dict.
  """
  return dict(
    data=dict(name=name, split=split),
    pp=pp,
    batch_size=batch_size,
    shuffle_buffer_size=shuffle_buffer_size,
  )


def mixture(
  weights: Mapping[str, float],
  parts: Mapping[str, Mapping[str, Any]],
  batch_size: int = 256,
) -> dict[str, Any]:
  """Makes `config.input` of several datasets.

  Args:
    weights: name of a part -> how often it is trained on.
    parts: name -> `training_data`, of which the batch size does not count.
    batch_size: examples of a batch.

  Returns:
    The dict.
  """
  own = {
    name: {k: v for k, v in part.items() if k != "batch_size"}
    for name, part in parts.items()
  }
  return dict(data=dict(weights), batch_size=batch_size, **own)


def schedules(freeze_vit: bool, freeze_llm: bool) -> list:
  """Makes `config.schedule`, in which None freezes a part.

  Args:
    freeze_vit: whether the image model stays as it is.
    freeze_llm: whether the language model does.

  Returns:
    The list.
  """
  return [
    ("img/.*", None if freeze_vit else _schedule()),
    ("llm/.*", None if freeze_llm else _schedule()),
  ]


def _schedule():
  return dict(decay_type="cosine", warmup_percent=0.05)


def model(
  c: mlc.ConfigDict, dropout: float = 0.0, pp_modules: Sequence[str] = ()
) -> None:
  """Sets the model and where its parts lie, in place.

  Args:
    c: the config.
    dropout: of the language model.
    pp_modules: modules of ops besides those that all need.
  """
  c.model_name = "proj.paligemma.paligemma"
  c.model = dict(
    img=dict(variant="So400m/14", pool_type="none", scan=True),
    llm=dict(vocab_size=256_000 + 1024 + 128, dropout=dropout),
  )
  c.mesh = [("data", -1)]
  c.sharding_strategy = [(".*", 'fsdp(axis="data")')]
  c.sharding_rules = [("act_batch", ("data",))]
  ops = ("ops_general", "ops_image", "ops_text", "proj.paligemma.ops")
  c.pp_modules = [*ops, *pp_modules]


def settings(
  c: mlc.ConfigDict,
  *,
  lr: float,
  wd: float = 0.0,
  label_smoothing: float = 0.0,
  dropout: float = 0.0,
  pp_modules: Sequence[str] = (),
  **duration: int,
) -> None:
  """Sets the recipe, in place.

  Args:
    c: the config; with the arguments `freeze_vit` and `freeze_llm`, parts can stay as
      they are.
    lr: learning rate.
    wd: weight decay.
    label_smoothing: 0 for none.
    dropout: of the language model.
    pp_modules: see `model`.
    **duration: `total_epochs` or `total_examples`.
  """
  c.update(duration)
  c.optax_name = "scale_by_adam"
  c.optax = dict(b2=0.999)
  c.lr = lr
  c.wd = wd
  c.grad_clip_norm = 1.0
  c.label_smoothing = label_smoothing
  if "freeze_vit" in c:
    c.schedule = schedules(c.freeze_vit, c.freeze_llm)
  else:
    c.schedule = _schedule()
  c.log_training_steps = 50
  c.ckpt_steps = 1000
  c.seed = 0
  model(c, dropout, pp_modules)
  c.model_init = f"pt_{c.res}"


def add_pplx(
  c: mlc.ConfigDict,
  prefix: str,
  splits: Mapping[str, str],
  pp: str,
  log_percent: float = 0.05,
  name: str | None = None,
) -> None:
  """Adds evaluators of the loss of given answers.

  Args:
    c: the config, changed in place.
    prefix: of their names, `{prefix}/{name}/pplx`.
    splits: name -> split.
    pp: preprocessing, that of training.
    log_percent: when they run.
    name: of the dataset, if it is not that of training.
  """
  for part, split in splits.items():
    c.evals[f"{prefix}/{part}/pplx"] = dict(
      type="proj.paligemma.perplexity",
      pred="logits",
      key="text",
      shift_labels=True,
      log_percent=log_percent,
      data=dict(name=name or c.input.data.name, split=split),
      pp_fn=pp,
    )


def add_evals(
  c: mlc.ConfigDict,
  kind: str,
  prefix: str,
  splits: Mapping[str, str],
  pp: str,
  *,
  max_decode_len: int,
  beam_size: int = 0,
  suffix: str = "",
  file: str | None = "{prefix}_{name}",
  name: str | None = None,
  at_end: Sequence[str] = (),
  **kw: Any,
) -> None:
  """Adds evaluators of answers.

  Args:
    c: the config, changed in place.
    kind: module of `evaluators/proj/paligemma/transfers`.
    prefix: of their names, `{prefix}/{name}{suffix}`.
    splits: name -> split.
    pp: preprocessing.
    max_decode_len: tokens of an answer.
    beam_size: 0 for greedy answers.
    suffix: see `prefix`.
    file: name of the file of the answers, without folder and extension; None for
      what the evaluator takes.
    name: of the dataset, if it is not that of training.
    at_end: names of `splits` that are evaluated once, after training.
    **kw: other arguments, such as `log_percent`, `batch_size` and `skip_first`.
  """
  beams = dict(beam_size=beam_size) if beam_size else {}
  for part, split in splits.items():
    if at_end:
      kw["skip_first"] = part in at_end
    cfg: dict[str, Any] = dict(
      type=f"proj.paligemma.transfers.{kind}",
      pred="beam_decode" if beam_size else "decode",
      pred_kw=dict(max_decode_len=max_decode_len, **beams),
      data=dict(name=name or c.input.data.name, split=split),
      pp_fn=pp,
      tokenizer=TOKENIZER,
      **kw,
    )
    if part in at_end:
      cfg["log_percent"] = 1.0
    if file:
      stem = file.format(prefix=prefix.replace("/", "_"), name=part)
      cfg["outfile"] = f"{{workdir}}/{stem}.json"
    c.evals[f"{prefix}/{part}{suffix}"] = cfg


def finish(
  c: mlc.ConfigDict,
  arg: str | None,
  task: Sequence[str],
  local: Callable[[mlc.ConfigDict], None] | None = None,
) -> mlc.ConfigDict:
  """Makes a config small, where its arguments ask for that.

  Args:
    c: the config, complete.
    arg: the arguments. Of the mode `runlocal`, it reads little data; `demo` trains a
      tiny model from scratch on the generated dataset `shapes`.
    task: ops that make the features of the transfer out of those of `shapes`.
    local: changes the config in the modes `runlocal` and `mock`, in place of
      `run_local`.

  Returns:
    The config.
  """
  if c.mode in _LOCAL:
    (local or run_local)(c)
  if demo.split_arg(arg)[1]:
    paligemma_demo.on_shapes(c, task)
  return c


def run_local(c: mlc.ConfigDict) -> None:
  """Shuffles nothing and evaluates 16 examples, in place; see `finish`."""
  parts = [c.input]
  if "name" not in c.input.data:  # A mixture.
    parts += [c.input[name] for name in c.input.data]
  for part in parts:
    if "shuffle_buffer_size" in part:
      part.shuffle_buffer_size = None
  few_examples(c)
  if c.mode == "runlocal":
    c.log_training_steps = 1
    c.input.batch_size = 2


def run_few_steps(c: mlc.ConfigDict) -> None:
  """Does the same, and trains 10 steps in the mode `runlocal`, in place."""
  run_local(c)
  if c.mode == "runlocal":
    del c.total_epochs
    c.total_steps = 10


def few_examples(c: mlc.ConfigDict) -> None:
  """Evaluates 16 examples of each split, in place."""
  for cfg in c.evals.values():
    cfg.data.split = cfg.data.split.split("[")[0] + "[:16]"


def metrics(
  prefixes: Sequence[str],
  parts: Sequence[str],
  names: Sequence[str],
  over: str | None = None,
) -> list[Any]:
  """Lists metrics to compare.

  Args:
    prefixes: of evaluators.
    parts: what follows in their names.
    names: what they measure.
    over: the metric to draw them over; None for steps.

  Returns:
    Such as `["training_loss", "okvqa/eval/acc"]`, or pairs with `over`.
  """
  found = ["training_loss", *measured(prefixes, parts, names)]
  return [(over, name) for name in found] if over else found


def measured(
  prefixes: Sequence[str], parts: Sequence[str], names: Sequence[str]
) -> list[str]:
  """Lists metrics of evaluators, see `metrics`.

  Args:
    prefixes: of evaluators.
    parts: what follows in their names.
    names: what they measure.

  Returns:
    Such as `["okvqa/eval/acc"]`.
  """
  return [f"{a}/{b}/{name}" for a in prefixes for b in parts for name in names]


def sweep(
  add: Callable[..., None],
  arg: str | None,
  best: Mapping[int, Mapping[str, Any]],
  own: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
  """Adds one run for each resolution.

  Args:
    add: called with what changes in the config, and with `bvcc.arg` of the arguments
      of the config.
    arg: arguments for all runs, such as "final_split".
    best: resolution -> what changes in the config.
    own: resolution -> arguments of the config besides `res`, such as `freeze_vit`;
      those of `arg` come before them.
  """
  args = bvcc.parse_arg(arg, lazy=True)
  for res, changes in best.items():
    more = own[res] if own else {}
    add(**changes, **bvcc.arg(**{**more, **args, "res": res}))


def cropped_image(res: int, crop: str) -> str:
  """Writes the preprocessing of images to train on.

  Args:
    res: pixels.
    crop: "rs" for all of an image, "rc" for nearly all, "ic" for a part of it.

  Returns:
    The ops, as those of `image`.

  Raises:
    ValueError: there is no such crop.
  """
  ops = {
    "rs": f"resize({res})",
    "rc": f"resize_small({res * 8 // 7})|random_crop({res})",
    "ic": f"inception_crop({res}, area_min=50)",
  }
  if crop not in ops:
    raise lookup.unknown("crop", crop, ops, "crop")
  return f"decode|{ops[crop]}|value_range(-1, 1)"


def run_single_steps(c: mlc.ConfigDict) -> None:
  """Logs each of small steps in the mode `runlocal`, in place."""
  if c.mode == "runlocal":
    c.log_training_steps = 1
    c.input.batch_size = 2
