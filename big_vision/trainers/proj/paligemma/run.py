"""Talks with PaliGemma in the terminal: a picture, prompts, answers.

  python -m big_vision.trainers.proj.paligemma.run --ckpt pt_224.npz --image cat.jpg

Prompts are lines on standard input, such as "caption en", "detect cat" or "answer en
what color is the cat?"; answers are written while they come, to standard error. --ckpt
is an npz file of PaliGemma 1; or whatever `pretrained.load` takes: a folder of Hugging
Face, `hf://google/paligemma2-3b-pt-224`, the workdir of a run.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision import command_line


def parser() -> argparse.ArgumentParser:
  """Makes the parser of the command line."""
  out = command_line.make_parser(
    "big_vision.trainers.proj.paligemma.run", __doc__
  )
  add = out.add_argument
  add("--ckpt", required=True, help="see above")
  add("--image", required=True, help="file with a picture")
  add(
    "--sampler",
    default="greedy",
    help="greedy, temperature(0.8) or nucleus(0.9)",
  )
  add("--res", type=int, default=224, help="pixels, of an npz file")
  add("--max_decode_len", type=int, default=128, help="tokens of an answer")
  add(
    "--prefill_len",
    type=int,
    default=32,
    help="tokens of a prompt; longer ones take longer the first time",
  )
  add("--ckpt_dtype", help="of the parameters, for example float16")
  add("--seed", type=int, default=0, help="of what a sampler draws")
  return out


def config_of(ckpt: str, res: int) -> Any:
  """Makes the config of an npz file of PaliGemma 1.

  Args:
    ckpt: its path.
    res: pixels.

  Returns:
    ConfigDict.
  """
  import ml_collections

  return ml_collections.ConfigDict(
    dict(
      model_name="proj.paligemma.paligemma",
      model=dict(
        img=dict(variant="So400m/14", pool_type="none", scan=True),
        llm=dict(vocab_size=256_000 + 1024 + 128),
      ),
      model_init=ckpt,
      input=dict(pp=f"decode|resize({res})|value_range(-1, 1)"),
      pp_modules=["ops_general", "ops_image", "ops_text", "proj.paligemma.ops"],
    )
  )


def load(args: argparse.Namespace) -> Any:
  """Loads the model, on all devices together.

  Args:
    args: of `parser`.

  Returns:
    A `pretrained.VisionLanguage`.

  Raises:
    ValueError: the checkpoint is of another model.
  """
  import jax

  from big_vision import devices, pretrained, sharding
  from big_vision.pretrained import pixels, vision_language

  if args.ckpt.endswith(".npz"):
    config = config_of(args.ckpt, args.res)
    pp = pixels.Preprocess(vision_language.image_pp(config), {}, config)
    model: Any = vision_language.VisionLanguage(config, args.ckpt, pp=pp)
  else:
    model = pretrained.load(args.ckpt)
  if not isinstance(model, pretrained.VisionLanguage):
    raise ValueError(
      f"--ckpt={args.ckpt} does not answer prompts: give PaliGemma."
    )
  model.smallest_prompt = args.prefill_len
  if args.ckpt_dtype:
    cast = lambda x: x.astype(args.ckpt_dtype)
    model.params = jax.tree.map(cast, model.params)
  if jax.local_device_count() > 1:
    mesh = devices.mesh_of({"mesh": [("data", -1)]})
    rules = [(".*", 'fsdp(axis="data")')]
    where = sharding.infer_sharding(model.params, rules, mesh)
    model.params = jax.device_put(model.params, where)
  return model


def talk(
  model: Any, image: Any, prompts: Iterable[str], out: Any, **kw: Any
) -> None:
  """Answers one prompt after the other.

  Args:
    model: a `pretrained.VisionLanguage`.
    image: what it takes.
    prompts: lines.
    out: where answers go.
    **kw: for `stream` of the model.
  """
  for line in prompts:
    if not (prompt := line.strip()):
      continue
    for piece in model.stream(image, prompt, **kw):
      out.write(piece)
      out.flush()
    out.write("\n")


def run(args: argparse.Namespace) -> int:
  """Does what the command line asks for.

  Args:
    args: of `parser`.

  Returns:
    Exit status.

  Raises:
    ValueError: the model or the picture cannot be loaded.
  """
  for name in ("res", "max_decode_len", "prefill_len"):
    if getattr(args, name) < 1:
      raise ValueError(f"--{name}={getattr(args, name)} should be at least 1.")
  model = load(args)
  kw: dict[str, Any] = dict(
    max_len=args.max_decode_len, sampler=args.sampler, seed=args.seed
  )
  begin = time.monotonic()
  for _ in model.stream(args.image, "caption en", **kw):
    pass  # Compiles, before anybody waits.
  seconds = time.monotonic() - begin
  print(f"Ready after {seconds:.1f} s. Prompts?", file=sys.stderr)
  talk(model, args.image, sys.stdin, sys.stderr, **kw)
  return 0


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
