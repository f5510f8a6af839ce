"""Predicts classes or targets of pictures by what a run has trained.

  python -m big_vision.tools.predict --from WORKDIR PICTURES...

PICTURES are files, folders (with all that is below them), tar files, or - for a
list of these on standard input, one a line. For each picture there is a row with
the most probable classes; for one that cannot be read, a row that says why, and
the exit status is 1. Results go to standard output or --out, all else to standard
error. TensorFlow is not needed, unless for preprocessing ops of your own.

For a model of images and texts, --text gives the classes; without it, one that was
trained with captions describes the pictures. Stage II of UViM writes label maps, depth
or colors as PNG files into the folder --out. PaliGemma answers --prompt, or the `prefix`
of each row of a file of JSON lines, which has the path `image`, too. docs/predict.md has
more.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from big_vision import command_line
from big_vision.predictions import answers, files, label_files, rows

BATCH_SIZE = 64
_OF_ANSWERS = ("prompt", "max_len", "sampler", "beam_size", "only")
TOPK = 5  # That of `pretrained`, which is slow to import.


def parser() -> argparse.ArgumentParser:
  """Makes the parser of the command line."""
  out = command_line.make_parser(
    "big_vision.tools.predict",
    __doc__,
    usage="%(prog)s --from WORKDIR [OPTIONS] PICTURES...",
  )
  add = out.add_argument
  add("pictures", nargs="+", metavar="PICTURES", help="see above")
  add(
    "--from",
    dest="source",
    required=True,
    metavar="WORKDIR",
    help="of a run that trained the model, or a published checkpoint, such as "
    "hf://org/repo (docs/weights.md)",
  )
  add("--init", help="another checkpoint than the last one of the workdir")
  add(
    "--params",
    choices=("params", "ema"),
    default="params",
    help="ema: the average of the parameters, of a run with config.ema_decay",
  )
  add(
    "--topk",
    type=int,
    help="classes per picture (default: 5, or all with --threshold)",
  )
  add(
    "--threshold",
    type=float,
    help="only classes of at least this probability, in columns of lists",
  )
  add(
    "--text",
    action="append",
    help="a class of a model of images and texts; repeat it for each",
  )
  add(
    "--format",
    choices=rows.FORMATS,
    help="default: table on a terminal, else csv",
  )
  add(
    "--out",
    metavar="FILE",
    help="for the rows, instead of standard output; of UViM: the folder for its "
    "pictures, predictions",
  )
  add("--seed", type=int, help="of the samples of UViM (default: 0)")
  add(
    "--temperature",
    type=float,
    help="of the samples of UViM: 1 draws as it was trained, near 0 (default) are "
    "the most probable ones",
  )
  add(
    "--oracle",
    metavar="WORKDIR",
    help="stage I of UViM, if it is not where stage II was trained with it",
  )
  add("--prompt", help="what to ask PaliGemma, such as 'caption en'")
  add("--max_len", type=int, help="tokens of an answer (default: 64)")
  add(
    "--sampler",
    help="of answers: greedy (default), temperature(0.8), nucleus(0.9)",
  )
  add(
    "--beam_size",
    type=int,
    help="looks for the most probable answer, with so many at a time",
  )
  add(
    "--only",
    action="append",
    help="set of tokens that alone may be in answers, such as loc",
  )
  add(
    "--features",
    metavar="FILE.npz",
    help="also write the arrays `features` and `pictures` (their names)",
  )
  add("--pp", help="preprocessing (default: that of the run's evaluations)")
  add(
    "--pp_modules",
    help="modules of your own that the config of the run may import, with "
    "commas between them",
  )
  add(
    "--batch_size",
    type=int,
    default=BATCH_SIZE,
    help="pictures at once on the device",
  )
  add(
    "--threads",
    type=int,
    default=os.cpu_count() or 1,
    help="that read pictures; one per CPU core",
  )
  return out


def predict(
  model: Any,
  pictures: Iterable[files.Picture],
  *,
  topk: int | None = None,
  threshold: float | None = None,
  batch_size: int,
  threads: int,
  captions: bool = False,
) -> Iterator[rows.Row]:
  """Predicts pictures, in their order.

  Args:
    model: what `pretrained.load` returns.
    pictures: names and contents.
    topk, threshold: which classes, see `Classifier.predict`.
    batch_size: pictures at once on the device; all batches have this size.
    threads: how many read and preprocess.
    captions: whether to describe pictures instead of classifying them.

  Yields:
    A row for each picture.
  """
  prepared = files.in_threads(model.prepare, pictures, threads)
  for batch in rows.batches(prepared, batch_size):
    good = [x for _, x, error in batch if not error]
    if good:
      outputs, features = model.outputs(good, batch_size)
      if captions:
        found = model.caption(good, batch_size)
      elif hasattr(model, "named"):
        found = model.named(outputs)
      elif not hasattr(model, "top"):  # Without a head.
        found = [[] for _ in good]
      else:
        found = model.top(outputs, topk, threshold)
      best = iter(zip(found, features, strict=True))
    else:
      best = iter(())
    for name, _, error in batch:
      if error:
        yield rows.Row(name, error=error)
        continue
      found, feature = next(best)
      if captions:
        yield rows.Row(name, caption=found, features=feature)
      else:
        yield rows.Row(name, found, feature)


def run(args: argparse.Namespace) -> int:
  """Does what the command line asks for.

  Args:
    args: of `parser`.

  Returns:
    Exit status: 1 if a picture cannot be read.

  Raises:
    ValueError: the model cannot be loaded, or there are no pictures.
  """
  for name in ("topk", "batch_size", "threads", "max_len", "beam_size"):
    given = getattr(args, name)
    if given is not None and given < 1:
      raise ValueError(f"--{name}={given} should be at least 1.")
  if args.threshold is not None and not 0 <= args.threshold <= 1:
    raise ValueError(
      f"--threshold={args.threshold} should be a probability, such as 0.5."
    )
  if args.seed is not None and not 0 <= args.seed < 2**32:
    raise ValueError(f"--seed={args.seed} should be from 0 to {2**32 - 1}.")
  if args.temperature is not None and not 0 <= args.temperature < 1e6:
    raise ValueError(
      f"--temperature={args.temperature} should be 0 or more, such as 1."
    )
  if args.features and not args.features.endswith(".npz"):
    raise ValueError(f"--features={args.features} must end in .npz.")
  asks = any(p.endswith(answers.JSON_LINES) for p in args.pictures)
  pictures = [] if asks else files.find(args.pictures, sys.stdin)
  if not pictures and not asks:
    raise ValueError(f"There are no pictures in {', '.join(args.pictures)}.")

  from big_vision import pretrained  # Takes JAX with it.

  model: Any = pretrained.load(
    args.source,
    init=args.init,
    params=args.params,
    pp=args.pp,
    pp_modules=[m for m in (args.pp_modules or "").split(",") if m],
    oracle=args.oracle,
  )
  if isinstance(model, pretrained.UViM | pretrained.UViMOracle):
    return _predict_labels(args, model, pictures)
  if isinstance(model, pretrained.VisionLanguage):
    return _answer(args, model)
  for name in _OF_ANSWERS:
    if getattr(args, name) is not None:
      raise ValueError(
        f"--{name} is for models that answer prompts, such as PaliGemma."
      )
  if asks:
    raise ValueError(
      f"Rows of JSON lines are for models that answer prompts; {args.source} does "
      "not: give pictures."
    )
  for name in ("seed", "temperature"):
    if getattr(args, name) is not None:
      raise ValueError(
        f"--{name} is for models of UViM, which draw samples; {args.source} does "
        "not."
      )
  if not hasattr(model, "prepare"):
    raise ValueError(f"{args.source} is a model of texts, not of pictures.")
  targets = getattr(model, "target_names", ())
  if targets and (args.topk or args.threshold is not None):
    raise ValueError(
      f"--topk and --threshold are for classes; {args.source} predicts "
      f"{', '.join(targets)}."
    )
  if args.text:
    if not hasattr(model, "with_texts"):
      known = targets or getattr(model, "class_names", ())
      what = "targets" if targets else "classes"
      has = (
        f"has the {what} {', '.join(known[:5])}…" if known else "has no head."
      )
      raise ValueError(
        f"--text is for models of images and texts; {args.source} {has}"
      )
    model = model.with_texts(args.text)
  captions = not args.text and getattr(model, "captioner", None) is not None
  class_names = getattr(model, "class_names", ())
  if not hasattr(model, "class_names") and not targets and not args.features:
    raise ValueError(
      f"{args.source} has no head of classes: ask for --features FILE.npz, or "
      "fine-tune it by configs/transfer.py."
    )
  has_classes = targets or class_names or captions
  if not has_classes and not args.features:
    raise ValueError(
      f"{args.source} is a model of images and texts: give classes, as --text "
      "'a photo of a cat' --text 'a photo of a dog', or --features FILE.npz."
    )
  if model.preprocess.needs_tensorflow:
    op = model.preprocess.needs_tensorflow
    print(
      f"TensorFlow preprocesses the pictures, due to {op}.", file=sys.stderr
    )

  predicted = predict(
    model,
    pictures,
    topk=args.topk,
    threshold=args.threshold,
    batch_size=args.batch_size,
    threads=args.threads,
    captions=captions,
  )
  with contextlib.ExitStack() as stack:
    out = sys.stdout
    if args.out:
      out = stack.enter_context(
        open(args.out, "w", encoding="utf-8", newline="")
      )
    num_classes = None  # Any number.
    if not targets and args.threshold is None:
      num_classes = min(args.topk or TOPK, len(class_names))
    write = rows.writer(_format(args, out), out, num_classes, targets, captions)
    names, features = [], []

    def keep(row):
      write(row)
      if args.features and not row.error:
        names.append(row.picture)
        features.append(row.features)

    failed = _write(predicted, keep, out, len(pictures))
  if args.features:
    rows.save_features(args.features, names, features)
  return failed


def _format(args, out):
  """Chooses the format of rows."""
  return args.format or ("table" if out.isatty() else "csv")


def _write(predicted, write, out, num):
  """Writes rows and shows the progress; returns the exit status."""
  with rows.Progress(num) as progress:
    for row in predicted:
      if out.isatty():
        progress.clear()
      write(row)
      progress.step(failed=bool(row.error))
  if progress.failed:
    print(
      f"{progress.failed} of {num} pictures have no prediction: their "
      "rows say why.",
      file=sys.stderr,
    )
  return int(progress.failed > 0)


def _answer(args, model):
  """Answers prompts about pictures."""
  for name in ("topk", "threshold", "text", "features", "temperature"):
    if getattr(args, name) is not None:
      raise ValueError(f"--{name} is not for models that answer prompts.")
  questions = answers.find(args.pictures, args.prompt, sys.stdin)
  given = {name: getattr(args, name) for name in (*_OF_ANSWERS, "seed")}
  del given["prompt"]
  predicted = answers.predict(
    model,
    questions,
    batch_size=args.batch_size,
    threads=args.threads,
    **{k: v for k, v in given.items() if v is not None},
  )
  with contextlib.ExitStack() as stack:
    out, kind = sys.stdout, _format(args, sys.stdout)
    if args.out:
      out = stack.enter_context(
        open(args.out, "w", encoding="utf-8", newline="")
      )
      if not args.format and args.out.endswith(answers.JSON_LINES):
        kind = "jsonl"
    write = answers.writer(kind, out)
    failed = 0
    for question, answer, error in predicted:
      write(question, answer, error)
      failed += bool(error)
  if failed:
    print(
      f"{failed} of {len(questions)} pictures have no answer: their rows say why.",
      file=sys.stderr,
    )
  return int(failed > 0)


def _predict_labels(args, model, pictures):
  """Predicts label maps, depth or colors by a model of UViM."""
  if not hasattr(model, "oracle"):
    raise ValueError(
      f"{args.source} is stage I of UViM, which needs labels to encode: give a run "
      "of stage II (trainers/proj/uvim/train.py), which predicts them."
    )
  for name in ("topk", "threshold", "text", "features"):
    if getattr(args, name) is not None:
      raise ValueError(f"--{name} is not for models of UViM.")
  if not args.out:
    raise ValueError("--out FOLDER is required: where the pictures go.")
  label_files.check_folder(args.out, args.pictures)
  pictures = label_files.outside(pictures, args.out)
  if not pictures:
    raise ValueError(f"All pictures are in --out={args.out} itself.")
  sampling: dict[str, Any] = dict(seed=args.seed, temperature=args.temperature)
  predicted = label_files.predict(
    model,
    pictures,
    args.out,
    batch_size=min(args.batch_size, len(pictures)),
    threads=args.threads,
    **{k: v for k, v in sampling.items() if v is not None},
  )
  columns = label_files.columns(model.task)
  write = rows.writer(_format(args, sys.stdout), sys.stdout, None, columns)
  return _write(predicted, write, sys.stdout, len(pictures))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  from big_vision.training import user_errors

  return user_errors.exit_status(run, parser().parse_args(argv))


if __name__ == "__main__":
  sys.exit(main())
