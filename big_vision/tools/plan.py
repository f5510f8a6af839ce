r"""Plans a run before it has any device: what it needs, how fast it can be.

  python -m big_vision.tools.plan \
    --config big_vision/configs/vit_i1k.py:variant=B/16 --mesh data=64

From the config alone, in seconds on a laptop: bytes on each device of
parameters, optimizer, gradients and activations; FLOPs per step; bytes that
each kind of collective moves; upper bounds of images per second on TPUs and
GPUs; on which of them the run does not fit, why, and what would help. Nothing
is allocated and no data is read.

  python -m big_vision.tools.plan \
    --config big_vision/configs/vit_i1k.py:variant=B/16 --suggest --chips v5p=256

looks for the mesh, the sharding of parameters, recomputation and micro-batches
with which a step is fastest, and prints the flags of the config for them.

Parts of the config change as everywhere: --config.input.batch_size 1024.
docs/plan.md says how figures are made and how far they agree with XLA's own.
"""

import importlib
import json
import math
import re
from collections.abc import Sequence

import ml_collections as mlc
from absl import app, flags, logging

from big_vision import command_line, untrusted
from big_vision.planning import chips
from big_vision.training import config_keys, run_help

run_help.define(run_help.READS_CONFIG)

flags.DEFINE_string(
  "mesh",
  None,
  "Axes and sizes, data=256,model=8, instead of config.mesh, which may say -1 "
  "only with --devices.",
)
flags.DEFINE_integer(
  "devices", None, "Number of devices, for -1 in config.mesh."
)
flags.DEFINE_list(
  "chip",
  list(chips.USUAL),
  f"For which chips, of {', '.join(chips.CHIPS)}.",
)
flags.DEFINE_bool(
  "suggest",
  False,
  "Look for the fastest way to run it on --chips, which does not change what is "
  "trained.",
)
flags.DEFINE_string(
  "chips", None, "Chip and how many there are, v5p=256, for --suggest."
)
flags.DEFINE_integer(
  "image_size",
  None,
  "Side of the images in pixels, if the preprocessing does not tell.",
)
flags.DEFINE_string(
  "trainer",
  None,
  "Module with `build`; by default the one that alone reads keys of the config, "
  "or trains its model, else big_vision.train.",
)
flags.DEFINE_bool(
  "advice",
  True,
  "Look for what would make it fit, which takes several times as long as the "
  "rest; --noadvice does not.",
)
flags.DEFINE_string("json", None, "File for the figures.")

# Ops of preprocessing that fix the size of images, and the name of the size.
_SIZES = {
  "resize": "size",
  "inception_crop": "size",
  "decode_jpeg_and_inception_crop": "size",
  "random_crop": "crop_size",
  "central_crop": "crop_size",
}
# Trainers of models that others cannot train.
_OF_MODELS = {
  "proj.image_text.two_towers": "big_vision.trainers.proj.image_text.siglip",
  "proj.cappa.cappa": "big_vision.trainers.proj.cappa.generative",
  "proj.paligemma.paligemma": "big_vision.trainers.proj.paligemma.train",
  "proj.clippo.one_tower": "big_vision.trainers.proj.image_text.contrastive",
}
_OP = re.compile(rf"\b({'|'.join(_SIZES)})\s*(\((?:[^()]|\([^()]*\))*\))")


def parse_mesh(
  text: str | None,
  config_mesh: Sequence[tuple[str, int]] | None = None,
  devices: int | None = None,
) -> dict[str, int]:
  """Reads the mesh to plan for.

  Args:
    text: str such as "data=256,model=8"; None takes `config_mesh`.
    config_mesh: sequence of (name, size), one of which may be -1.
    devices: int, number of devices, for -1; or None.

  Returns:
    dict of axis name -> size.

  Raises:
    ValueError: it cannot be read, or does not tell the number of devices.
  """
  if text is None:
    axes = [(name, int(size)) for name, size in config_mesh or [("data", -1)]]
  else:
    axes = re.findall(r"(\w+)=(\d+)", text)
    axes = [(name, int(size)) for name, size in axes]
    read_back = ",".join(f"{name}={size}" for name, size in axes)
    names = {name for name, _ in axes}
    if (
      read_back != text
      or len(names) < len(axes)
      or not all(dict(axes).values())
    ):
      raise ValueError(
        f"--mesh={text!r} is a comma-separated list of distinct axes with "
        "their sizes, for example --mesh data=2048 or --mesh data=256,model=8."
      )
  mesh = dict(axes)
  known = math.prod(size for size in mesh.values() if size > 0)
  free = [name for name, size in mesh.items() if size < 0]
  if free and not devices:
    raise ValueError(
      f"config.mesh = {axes} has {free[0]!r} take all devices there are: say "
      f"how many with --devices, or use --mesh, for example --mesh {free[0]}=8."
    )
  if devices and (devices % known or (not free and devices != known)):
    raise ValueError(
      f"--devices={devices} does not fit the mesh {axes}: it must be "
      f"{'a multiple of ' if free else ''}{known}."
    )
  return {name: size if size > 0 else devices // known for name, size in axes}


def image_size(
  config: mlc.ConfigDict, side: int | None = None
) -> tuple[int, int]:
  """Finds the size of training images.

  Args:
    config: ConfigDict; reads `input.pp`, without building it.
    side: int, value of --image_size, or None.

  Returns:
    (height, width) in pixels.

  Raises:
    ValueError: the preprocessing does not tell.
  """
  if side:
    return side, side
  pp = config.input.get("pp")
  size = None
  for op, arguments in _OP.findall(pp if isinstance(pp, str) else ""):
    call = untrusted.expression(op + arguments)
    named = {k.arg: k.value for k in call.keywords}
    node = call.args[0] if call.args else named.get(_SIZES[op])
    if node is not None:
      size = untrusted.literal(node)
  if not size:
    raise ValueError(
      f"config.input.pp = {pp!r} does not tell the size of images, by one of "
      f"{', '.join(_SIZES)}. Use --image_size."
    )
  return (size, size) if isinstance(size, int) else tuple(size)[:2]


def trainer_of(config: mlc.ConfigDict) -> str:
  """Finds the trainer of a config.

  Args:
    config: ConfigDict.

  Returns:
    The module which alone reads one of its keys, else that of its model,
    `big_vision.train` if there is none.
  """
  for key in config:
    path, *others = config_keys.READERS.get(key, ("",))
    if path.startswith("trainers/") and path.endswith(".py") and not others:
      return f"big_vision.{path.removesuffix('.py').replace('/', '.')}"
  return _OF_MODELS.get(config.get("model_name"), "big_vision.train")


def _build_of(args, config):
  """Imports the trainer, which takes seconds: after flags have been checked."""
  trainer = args.trainer or trainer_of(config)
  return importlib.import_module(trainer).build


def _plan(args, config):
  """Prints the plan of one mesh; returns its figures."""
  from big_vision.planning import report

  mesh = parse_mesh(args.mesh, config.get("mesh"), args.devices)
  size = image_size(config, args.image_size)
  build = _build_of(args, config)
  costs, figures = report.plan(build, config, mesh, size, args.chip)
  print(report.show(figures), flush=True)
  if args.advice and not all(c["fits"] for c in figures["chips"].values()):
    print("\nLooking for what would help …\n", flush=True)
    report.advise(build, config, costs, figures)
    print(report.show_advice(figures))
  return figures


def _suggest(args, config):
  """Prints the best way to run on some chips; returns the figures."""
  from big_vision.planning import suggest, suggest_text

  chip, count = suggest.parse_chips(args.chips)
  size = image_size(config, args.image_size)
  build = _build_of(args, config)
  figures = suggest.figures(build, config, size, chip, count)
  print(suggest_text.show(figures, config))
  return figures


def main(argv: Sequence[str]) -> None:
  """Plans what the flags ask for.

  Args:
    argv: what flags have left of the command line.
  """
  del argv
  args = flags.FLAGS
  if args.config is None:
    raise SystemExit("--config is required: the config of a training.")
  logging.set_verbosity(logging.WARNING)
  from big_vision.training import flat_config

  config = flat_config.modern(args.config)
  if "input" not in config:
    raise SystemExit("config.input is required: --config is of no training.")
  try:
    run = _suggest if args.suggest else _plan
    figures = run(args, config)
  except ValueError as e:
    if command_line.wants_debug():
      raise
    raise SystemExit(str(e)) from e
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(figures, f, indent=2)


if __name__ == "__main__":
  app.run(main)
