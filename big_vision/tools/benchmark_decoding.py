"""Compares decoding with a cache with running the model again for each token.

  python -m big_vision.tools.benchmark_decoding --batch 1,8

The model is UViM's of stage II, or with `--model paligemma` PaliGemma. Seconds, on the clock and of CPU time (which does
not depend on other load), are those of all tokens of one image:

  cached               the loop of `models/proj/uvim/decode.py`
  cached, image again  without keys and values of the image that are kept
  decoder again        the decoder on all tokens, for each token
  model again          the encoder, too; of PaliGemma the ViT, too

Results go to stdout as a table, with `--json` also to a file.
"""

import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

from big_vision import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser(
    "big_vision.tools.benchmark_decoding", __doc__
  )
  add = parser.add_argument
  add("--model", choices=("uvim", "paligemma"), default="uvim")
  add("--batch", default="1,8", help="Images at a time, separated by commas.")
  add("--length", type=int, default=256, help="Tokens of a sequence.")
  add("--vocab", type=int, default=4097, help="Size of the vocabulary.")
  add("--width", type=int, default=256, help="Width of the model.")
  add("--layers", type=int, default=12, help="Layers of encoder and decoder.")
  add("--res", type=int, default=256, help="Side of images in pixels.")
  add("--patch", type=int, default=16, help="Side of patches in pixels.")
  add(
    "--tokens",
    type=int,
    default=8,
    help="Tokens to decode without a cache; their time is scaled up.",
  )
  add("--rounds", type=int, default=3, help="Rounds; the least counts.")
  add("--json", help="File for the figures.")
  args = parser.parse_args(argv)
  import jax

  kw, measure = _paligemma(args) if args.model == "paligemma" else _uvim(args)
  print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {kw}")
  print(
    f"{'batch':>5} {'form':20} {'s/image':>8} {'CPU s':>8} {'CPU ratio':>9}"
  )
  rows = []
  for batch in map(int, args.batch.split(",")):
    found = measure(batch=batch, tokens=args.tokens, rounds=args.rounds)
    for form, seconds in found.items():
      ratio = seconds["cpu"] / found["cached"]["cpu"]
      rows.append(dict(batch=batch, form=form, ratio=ratio, **seconds))
      print(
        f"{batch:5} {form:20} {seconds['wall']:8.3f} {seconds['cpu']:8.3f} "
        f"{ratio:9.1f}",
        flush=True,
      )
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(rows, f, indent=2)
  return 0


def _uvim(args):
  """Returns the fields of the model, and what measures it."""
  from big_vision.benchmarks import decoding

  kw = dict(
    patches=dict(size=(args.patch, args.patch)),
    num_heads=max(args.width // 64, 1),
    num_layers=args.layers,
    mlp_dim=4 * args.width,
    emb_dim=args.width,
    vocab_size=args.vocab,
    seq_len=args.length,
    input_size=(args.res, args.res),
  )
  return kw, functools.partial(decoding.measure, kw)


def _paligemma(args):
  """Returns the fields of the model, and what measures it."""
  from big_vision.benchmarks import answers

  size = dict(
    width=args.width,
    depth=args.layers,
    mlp_dim=4 * args.width,
    num_heads=max(args.width // 64, 1),
  )
  llm = dict(size, num_kv_heads=1, head_dim=64, vocab_size=args.vocab)
  img = dict(
    size, patch_size=(args.patch, args.patch), pool_type="none", scan=True
  )
  kw: dict[str, Any] = dict(img=img, llm=dict(llm, cache_dtype=None))
  return kw, functools.partial(
    answers.measure, kw, args.res, length=args.length
  )


if __name__ == "__main__":
  sys.exit(main())
