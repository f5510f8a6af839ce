"""Defines the flags of trainers and of tools that read a training config.

Imports no jax: `--help` and mistakes on the command line are answered at once.
"""

from absl import flags

from big_vision import command_line
from big_vision.training import config_flag

config_flag.define(
  "config",
  "Training configuration: a file, and its arguments after a colon. "
  "--config.KEY VALUE changes a key; --config FILE --help lists arguments and "
  "keys.",
)
flags.DEFINE_string(
  "workdir", None, "Folder for logs and checkpoints; without, none are written."
)
flags.DEFINE_boolean(
  "cleanup", False, "Delete the workdir after successful completion."
)
flags.DEFINE_enum(
  "config_changed",
  "refuse",
  ["refuse", "continue"],
  "What to do if the workdir holds a run of another model, optimizer, seed, data "
  "or batch size.",
)
flags.DEFINE_integer(
  "keep_going",
  0,
  "How often to restart the run in place after a crash, a signal such as SIGKILL "
  "or the loss of a host.",
  lower_bound=0,
)
flags.DEFINE_boolean(
  "profile", False, "Trace a few steps into <workdir>/profile."
)
# A trainer of one's own may define its own flag of this name.
flags.DEFINE_boolean(
  "debug", False, command_line.DEBUG_HELP, allow_override=True
)
