"""Workdirs with metrics, and what is on the page of their curves."""

import json
import re

from big_vision.plots import curves


def write_run(folder, records, config=None, tail=""):
  folder.mkdir(parents=True)
  lines = [json.dumps(r) + "\n" for r in records]
  (folder / curves.METRICS_FILE).write_text("".join(lines) + tail)
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))
  return str(folder)


def page_data(page):
  text = re.search(
    r'<script id="data" type="application/json">(.*?)</script>', page, re.S
  )[1]
  return json.loads(text)


def page_series(page):
  return [run["series"] for run in page_data(page)["runs"]]
