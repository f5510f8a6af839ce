"""Panoptic quality with loops over pixels and pairs of segments."""

import fractions
import itertools

from big_vision import panoptic


def count(predicted, predicted_segments, truth, true_segments, num_classes):
  """Counts segment by segment and pixel by pixel, in exact fractions."""
  pixels = list(
    zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True)
  )
  iou = [fractions.Fraction(0)] * num_classes
  tp, fp, fn = ([0] * num_classes for _ in range(3))
  listed = lambda s: [
    dict(zip(("id", "category", "area", "crowd"), map(int, row), strict=True))
    for row in zip(*s, strict=True)
  ]
  mine, theirs = listed(predicted_segments), listed(true_segments)
  found = set()
  for p, t in itertools.product(mine, theirs):
    if p["category"] != t["category"] or t["crowd"]:
      continue
    both = sum(a == p["id"] and b == t["id"] for a, b in pixels)
    either = t["area"] - both
    either += sum(a == p["id"] and b != panoptic.VOID for a, b in pixels)
    if 2 * both > either:
      iou[p["category"]] += fractions.Fraction(both, either)
      tp[p["category"]] += 1
      found |= {("p", p["id"]), ("t", t["id"])}
  for t in theirs:
    if not t["crowd"] and ("t", t["id"]) not in found:
      fn[t["category"]] += 1
  for p in mine:
    if ("p", p["id"]) in found:
      continue
    crowds = [t["id"] for t in theirs if t["crowd"]
              and t["category"] == p["category"]][-1:]  # fmt: skip
    own = [b for a, b in pixels if a == p["id"]]
    if 2 * sum(b in (panoptic.VOID, *crowds) for b in own) <= len(own):
      fp[p["category"]] += 1
  return [float(x) for x in iou], tp, fp, fn
