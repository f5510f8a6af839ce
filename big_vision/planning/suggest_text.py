"""Writes what `suggest.py` has found as text."""

from typing import Any

import ml_collections as mlc

from big_vision import precision
from big_vision.planning import report
from big_vision.planning.costs import RESERVE
from big_vision.planning.report import GIB
from big_vision.training import config_keys

_BOUNDS = {"memory": "memory traffic"}
_HEADER = (
  "layout", "computed again", "micro-batches", "examples at a time",
  "ms per step", "MFU", "images/s", "GiB needed", "limit",
)  # fmt: skip


def show(figures: dict[str, Any], config: mlc.ConfigDict) -> str:
  """Writes a suggestion.

  Args:
    figures: dict, from `suggest.figures`.
    config: ConfigDict of the run.

  Returns:
    Text: a table, the flags, and what would be needed to go further.
  """
  f = figures
  height, width = f["image_size"]
  text = [
    f"{f['num_params']:,} parameters, batch {f['batch_size']:,} of "
    f"{height}x{width} images on {f['chips']:,} x {f['chip']}"
    + (f" ({f['devices']:,} devices)" if f["devices"] != f["chips"] else "")
    + f" with {f['memory_bytes'] / GIB:g} GiB each. Bounds: a step cannot be "
    "faster."
  ]
  if f["options"]:
    best = {}  # Of each layout; the first is the best of all.
    for o in f["options"]:
      best.setdefault(o["layout"], o)
    rows = [_row(o) for o in best.values()]
    text.append(report.table(rows, _HEADER))
    flags = "\n".join(f"  {flag}" for flag in f["flags"])
    text.append(
      f"Take the first row:\n{flags}"
      if flags
      else "The first row is the config as it is."
    )
  text.append(further(f, config))
  if f["more_than_a_pod"]:
    text.append(
      f"{f['chip']}: more devices than a pod has. The network between pods is "
      "not counted."
    )
  for what, why in f["refused"].items():
    text.append(f"Not possible here: {what}. {why}")
  return "\n\n".join(text)


def _row(o):
  """Cells of an option."""
  return (
    o["layout"],
    o["computed_again"],
    str(o["micro_batches"]),
    f"{o['examples_per_device']:g}",
    f"{1e3 * o['step_seconds']:.4g}",
    f"{o['mfu']:.0%}",
    f"{o['images_per_second']:,.0f}",
    f"{o['peak_bytes'] / GIB:.2f}",
    limit(o),
  )


def limit(option: dict[str, Any]) -> str:
  """Names what bounds a step of an option.

  Args:
    option: dict, one of `options` of `suggest.figures`.

  Returns:
    "compute", "memory traffic" or "network".
  """
  return _BOUNDS.get(option["bound"], option["bound"])


def further(figures: dict[str, Any], config: mlc.ConfigDict) -> str:
  """Says what limits the best option, and what would be needed to go further.

  Args:
    figures: dict, from `suggest.figures`.
    config: ConfigDict of the run.

  Returns:
    One or two sentences.
  """
  if not figures["options"]:
    return _does_not_fit(figures)
  best = figures["options"][0]
  seconds = best["seconds"]
  bound = best["bound"]
  text = []
  if bound == "network":
    times = seconds["network"] / max(seconds["compute"], seconds["memory"])
    text.append(
      "The network limits: "
      + (
        f"a batch {times:.1f} times as large, or as many times fewer chips, "
        "would hide it."
        if best["layout"].split()[0] != "tensor"
        else "links that are faster."
      )
    )
  elif bound == "memory":
    text.append("The traffic of memory limits: " + _less_traffic(config))
  else:
    text.append("Compute limits, as it should: more or faster chips.")
  if best["computed_again"] != "-" or best["micro_batches"] > 1:
    what = [
      f"computing {best['computed_again']} again"
      if best["computed_again"] != "-"
      else "",
      f"{best['micro_batches']} micro-batches"
      if best["micro_batches"] > 1
      else "",
    ]
    text.append(
      "All activations together do not have room in "
      f"{figures['room_bytes'] / GIB:.1f} GiB, hence "
      f"{' and '.join(filter(None, what))}."
    )
  if figures["batch_size"] == figures["devices"]:
    text.append(
      "The batch size limits the number of chips: each device has one example."
    )
  return " ".join(text)


def _less_traffic(config):
  """How less would be read and written."""
  model = config.get("model") or {}
  takes = "dtype_mm" in (config_keys.keys_of(config, ["model"]) or {})
  parts = (model, model.get("image") or {}, model.get("text") or {})
  exact = all(part.get("dtype_mm") in (None, "float32") for part in parts)
  if takes and exact and precision.dtype(config) is None:
    return (
      "activations in --config.model.dtype_mm=bfloat16, which changes the numbers "
      "a little, take half of it."
    )
  return "chips with faster memory, or more of them."


def _does_not_fit(figures):
  """That nothing fits, and how many chips it takes."""
  o, chip = figures["smallest"], figures["chip"]
  least = (
    f"Does not fit on {figures['chips']:,} x {chip}: the least that a device "
    f"needs is {o['peak_bytes'] / GIB:.2f} GiB ({o['layout']}, computed again: "
    f"{o['computed_again']}, {o['micro_batches']} micro-batches), and it has "
    f"{figures['memory_bytes'] / GIB:g} GiB less {RESERVE:.0%}."
  )
  if figures["chips_needed"]:
    return f"{least} It fits with --chips {chip}={figures['chips_needed']}."
  return (
    f"{least} No larger number of chips that divides the batch makes it fit: "
    "take chips with more memory."
  )
