"""Checks that an environment has the oldest releases that are allowed.

`tests/newest/run.sh --oldest` runs it: if a lower bound of requirements.txt
cannot be reached since another package needs more, the bound is to be raised to
what has been tested.
"""

import importlib.metadata
import pathlib
import sys

from packaging.requirements import Requirement
from packaging.version import Version

REPO = pathlib.Path(__file__).resolve().parents[2]


def too_new(lines, installed=importlib.metadata.version):
  """Finds requirements whose lower bound is not what is installed.

  Args:
    lines: of requirements.txt.
    installed: `name -> version`, str.

  Returns:
    List of messages.
  """
  found = []
  for line in lines:
    if not line.strip() or line.startswith("#"):
      continue
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
      continue
    (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
    version = installed(requirement.name)
    if Version(version) != Version(bound):
      found.append(
        f"{requirement.name}>={bound} is not tested: the oldest release that "
        f"can be installed is {version}. Write that in requirements.txt and "
        "pyproject.toml."
      )
  return found


if __name__ == "__main__":
  # `sys.exit("")` would be a failure.
  found = too_new((REPO / "requirements.txt").read_text().splitlines())
  sys.exit("\n".join(found) or 0)
