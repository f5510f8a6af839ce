"""Sorts metrics into the groups in which they are shown."""

import re
from collections.abc import Iterable, Sequence

from big_vision.plots import curves

# Title of a group on the page, and the pattern of its metrics; the first match
# counts. The other metrics come below, folded, by the part before a "/".
GROUPS = (
  ("Loss", r"^training_loss$|(^|/)(\w+_)?loss(_\w+)?$"),
  ("Learning rate", r"^(lr|global_schedule)\d*$|(^|/)lr$"),
  ("Accuracy", r"prec@\d+$|(^|/)acc(uracy)?$|^a/.*shot"),
  ("Speed", r"^(img/sec(/core)?|mfu)$"),
)


def group_metrics(names: Iterable[str]) -> list[tuple[str, list[str], bool]]:
  """Sorts metric names into groups.

  Args:
    names: names of metrics.

  Returns:
    List of (title, list of names, whether it is shown unfolded).
  """
  names = list(names)
  groups, rest = {title: [] for title, _ in GROUPS}, {}
  # What is known of the learning rate itself is shown in their place.
  hidden = [f"global_schedule{n[2:]}" for n in names if re.match(r"lr\d*$", n)]
  # Seldom logged metrics (of evaluators) come after the training curves.
  for name in sorted(names, key=lambda n: ("/" in n, n)):
    for title, pattern in GROUPS:
      if re.search(pattern, name) and name not in hidden:
        groups[title].append(name)
        break
    else:
      title = name.split("/")[0] + "/" if "/" in name else "Other"
      rest.setdefault(title, []).append(name)
  return [(t, n, True) for t, n in groups.items() if n] + [
    (t, rest[t], False) for t in sorted(rest, key=lambda t: (t != "Other", t))
  ]


def group_sweeps(
  runs: Sequence[curves.Run],
) -> list[tuple[str, list[str], bool, str]]:
  """Groups curves over other axes than steps: accuracies, then the rest.

  Args:
    runs: list of `Run`.

  Returns:
    List of (title, list of names, whether it is shown unfolded, label of the
    axis).
  """
  labels = dict.fromkeys(label for run in runs for label in run.sweeps)
  found = []
  for label in labels:
    names = {name for run in runs for name in run.sweeps.get(label, {})}
    groups = group_metrics(names)
    main = [
      n for title, names, _ in groups if title == "Accuracy" for n in names
    ]
    rest = [n for _, names, _ in groups for n in names if n not in main]
    for title, names in (("Accuracy", main), ("Others", rest)):
      if names:
        found.append((f"{title} by {label}", names, title == "Accuracy", label))
  return found
