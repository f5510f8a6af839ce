"""Names of published checkpoints, for `pretrained.list`.

`catalog.txt` has those that most look for; any other of these families can be
loaded, too.
"""

import fnmatch
import pathlib

from big_vision.models.weights import native


def names(pattern: str = "*") -> list[str]:
  """Lists names of published checkpoints.

  Args:
    pattern: with `*` and `?`, without regard to case, of a whole name or of what
      follows its last slash.

  Returns:
    Sources that `pretrained.load` takes.
  """
  text = (pathlib.Path(__file__).parent / "catalog.txt").read_text()
  known = [*native.names(), *text.split()]
  pattern = pattern.lower()
  matches = lambda name: fnmatch.fnmatchcase(name.lower(), pattern)
  return [n for n in known if matches(n) or matches(n.rpartition("/")[2])]
