"""Starts several processes on this machine that form one run.

  python -m big_vision.tools.launch --hosts 2 --devices 4 -- \\
      big_vision.train --config configs/quickstart.py --workdir workdirs/two

On a machine with GPUs each process has `--devices` of them, else as many
simulated devices of the CPU, to try what runs on many hosts. Each line of
their output begins with the number of the process. When one fails the others are
stopped; Ctrl-C and SIGTERM are passed on to all, a second one kills them. The
exit status is that of the first that failed, 128 + n if signal n ended it.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from big_vision import command_line
from big_vision.launching import gpus, local

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def main(argv: Sequence[str] | None = None) -> int:
  """Starts processes and waits for them.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  given = list(sys.argv[1:] if argv is None else argv)
  split = given.index("--") if "--" in given else len(given)
  parser = _parser()
  args = parser.parse_args(given[:split])
  module = given[split + 1 :]
  if not module:
    parser.error("write -- and what each process runs: -- MODULE ARGS")
  wanted = args.gpus.split(",") if args.gpus else gpus.find(os.environ)
  share = args.devices or max(len(wanted) // max(args.hosts, 1), 1)
  groups: list[local.Group] = []
  with _passing_on(groups):
    try:
      group = local.start(
        [sys.executable, "-m", *module],
        hosts=args.hosts,
        devices=share,
        gpus=wanted,
        grace=args.grace,
      )
    except ValueError as e:
      parser.error(str(e))
    groups.append(group)
    with group:
      group.wait()
  first = group.first_failed()
  if first is None:
    return 0
  code = group.processes[first].returncode
  return code if code > 0 else 128 - code


@contextlib.contextmanager
def _passing_on(groups: Sequence[local.Group]) -> Iterator[None]:
  """Passes signals on while the body runs; before there is one they end it."""
  came = 0

  def pass_on(number: int, frame: object) -> None:
    nonlocal came
    if not groups:
      raise SystemExit(128 + number)
    came += 1
    for group in groups:
      group.send(number if came == 1 else signal.SIGKILL)

  old = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
  try:
    yield
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def _parser():
  parser = command_line.make_parser(
    "big_vision.tools.launch",
    __doc__,
    usage="python -m big_vision.tools.launch --hosts 2 -- MODULE ARGS",
  )
  add = parser.add_argument
  add("--hosts", type=int, default=2, help="Number of processes.")
  add(
    "--devices", type=int,
    help="Number of devices of each (default: its share of the GPUs, else 1).",
  )  # fmt: skip
  add(
    "--gpus",
    help="Numbers of GPUs to divide, for example 0,1,2,3 (default: those of "
    "CUDA_VISIBLE_DEVICES, else all; JAX_PLATFORMS=cpu uses none).",
  )
  add(
    "--grace", type=float, default=60.0,
    help="Seconds to end in, when they are stopped.",
  )  # fmt: skip
  return parser


if __name__ == "__main__":
  sys.exit(main())
