"""Makes curves over an argument of the model, such as FlexiViT's patch size.

A config that evaluates a model for several values of an argument has an
evaluator for each: `val05` with `pred="predict_seqhw=5"`, and so on. Here the
last values of such evaluators become one curve.
"""

import re
from typing import Any

# A more familiar name for an argument, given the size of images.
_PATCH = "patch size (pixels)"


def sweeps(
  series: dict[str, Any], config: dict[str, Any]
) -> dict[str, dict[str, Any]]:
  """Makes the curves of a run over the arguments in `config.flexi`.

  Args:
    series: dict of metric name -> (steps, values).
    config: flat dict of config key -> value.

  Returns:
    dict of label of the argument -> dict of name -> (list of arguments,
    ascending; list of values). A name is that of the evaluators, without the
    number, and that of the metric: "val/prec@1".
  """
  points = {}  # (label, name, other arguments) -> {x: y}
  args = [m[1] for m in map(re.compile(r"flexi\.(.+)\.v$").match, config) if m]
  for evaluator, pred in _predictions(config):
    prefix = config.get(f"evals.{evaluator}.prefix", f"{evaluator}/")
    for arg in args:
      match = re.search(rf"(?<![A-Za-z0-9]){re.escape(arg)}=([\d.]+)", pred)
      if not match:
        continue
      others = pred[: match.start()] + pred[match.end() :]
      label, x = _axis(arg, match[1], config)
      short = _without(evaluator, match[1])
      for metric, (_, values) in series.items():
        if metric.startswith(prefix) and values:
          name = f"{short}/{metric.removeprefix(prefix)}"
          points.setdefault((label, name, others), {})[x] = values[-1]
  found = {}
  for (label, name, others), curve in points.items():
    if len(curve) < 2:
      continue
    of_label = found.setdefault(label, {})
    # With several arguments, there is a curve for each value of the others.
    name = f"{name} {others}" if name in of_label else name
    xs = sorted(curve)
    of_label[name] = xs, [curve[x] for x in xs]
  return found


def _predictions(config):
  """Yields pairs of the name of an evaluator and its predict function."""
  for key, value in config.items():
    match = re.fullmatch(r"evals\.(.+)\.pred", key)
    if match and isinstance(value, str):
      yield match[1], value


def _axis(arg, value, config):
  """Returns the label of the axis and the position of a value on it."""
  x = float(value) if "." in value else int(value)
  res = config.get("res")
  if arg == "seqhw" and isinstance(res, int) and x:
    return _PATCH, res // x
  return arg, x


def _without(name, value):
  """Removes the number that tells a name from others: val05 -> val."""
  number = rf"[_=]?(?<!\d)0*{re.escape(value)}(?!\d)"
  return re.sub(number, "", name, count=1) or name
