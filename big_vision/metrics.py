"""Writes the metrics of a run: JSON lines, TensorBoard, log, other trackers."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
from absl import logging

from big_vision import (
  config_history,
  disk_space,
  fs,
  pictures,
  tensorboard,
  trackers,
  untrusted,
)
from big_vision.types import ConfigLike


class BigVisionMetricWriter:
  """Collects the metrics of a step and appends them to files in the workdir.

  Process 0 writes; in the others all calls do nothing. With a workdir there
  are `big_vision_metrics.txt`, one JSON object a line, which a resumed run
  continues, `config.json`, and TensorBoard event files (local folders only).
  `trackers` of the config get the same values at the same steps. Pictures go to
  PNG files, TensorBoard and the trackers, see `pictures.py`.

  A write is one system call, made by a thread before the next `step_end`
  returns: a process killed at any time loses at most its latest line. What a
  checkpoint must not outlive is written by `secure` before.

  Attributes:
    latest: dict name -> most recent value of all that was measured.
  """

  def __init__(
    self,
    xid: int = -1,
    wid: int = -1,
    workdir: str | None = None,
    config: ConfigLike = None,
    *,
    hold: bool = False,
    files: Mapping[str, str] | None = None,
  ) -> None:
    """Prepares the files.

    Args:
      xid, wid: numbers of experiment and work unit. If both are not -1, the
        file is called `big_vision_<xid>_<wid>_metrics.txt`.
      workdir: folder of the run; created if missing. None: only logs.
      config: ConfigDict or dict, written to `<workdir>/config.json`.
      hold: whether to write nothing before `begin` is called, so that a start
        that fails leaves the folder as it was.
      files: name -> text of further files, written beside the config.
    """
    self.step = 0
    self.step_metrics = {}
    self.step_pictures = {}
    self.latest = {}
    self.workdir = workdir if jax.process_index() == 0 else None
    self._config = config
    self._files = dict(files or {})
    self._held = None  # Else a list of lines that wait for `begin`.
    self._pool: futures.ThreadPoolExecutor | None = None
    self._pending = None
    self._tensorboard: tensorboard.Events | None = None
    self._trackers = None
    self._names = trackers.names(config) if jax.process_index() == 0 else []
    self.fname = self.fname_initial = None
    if workdir and self.workdir:
      self._name_files(workdir, xid, wid)
    elif not self._names:
      return
    self._held = []
    if not hold:
      self.begin()

  def _name_files(self, workdir: str, xid: int, wid: int) -> None:
    name = "big_vision_metrics.txt"
    if xid != -1 and wid != -1:
      name = f"big_vision_{xid}_{wid}_metrics.txt"
    self.fname = fs.join(workdir, name)
    self.fname_initial = fs.join(workdir, "big_vision_initial_metrics.txt")

  def begin(self, first_step: int = 0) -> None:
    """Writes the config and what was held back; once, later calls do nothing.

    Args:
      first_step: where the run continues; the config that held until there is
        kept as `config-<first_step>.json` if it was another.
    """
    if self._held is None:
      return
    held, self._held = self._held, None
    if self.workdir is not None:
      fs.makedirs(self.workdir)
      if self._config is not None:
        self._files["config.json"] = to_json(self._config)
        text = self._files["config.json"]
        config_history.keep(self.workdir, text, first_step)
      for name, text in self._files.items():
        _replace(fs.join(self.workdir, name), text)
      _repair(self.fname)
      _repair(self.fname_initial)
      self._restore(first_step)
      self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="metrics")
    if self._names:
      plain = json.loads(to_json(self._config))
      self._trackers = trackers.Trackers(self._config, plain, self.workdir)
    for line in held:
      self._submit(*line)

  @property
  def has_begun(self) -> bool:
    """Whether the folder may have been written to."""
    return self._held is None

  def step_start(self, step: int) -> None:
    """Begins a step; drops values that no `step_end` has written.

    Args:
      step: number of finished steps that the coming values belong to.
    """
    self.step = step
    self.step_metrics, self.step_pictures = {}, {}

  def measure(self, name: str, value: Any) -> float | tuple[int, ...] | None:
    """Logs one value and collects it for the line of this step.

    Args:
      name: name of the metric.
      value: number or array, also on a device. An array of more than one
        element is represented by its shape. Or a `pictures.Picture`.

    Returns:
      The float or the shape tuple; None on other processes and for a picture.
    """
    if jax.process_index() != 0:
      return None
    if isinstance(value, pictures.Picture):
      self.step_pictures[name] = value.pixels
      return None
    # Fetched explicitly: the transfer guard forbids the implicit kind.
    value = np.squeeze(np.asarray(jax.device_get(value)))
    value = float(value) if value.ndim == 0 else value.shape
    logging.info("\u001b[35m[%s]\u001b[0m %s = %s", self.step, name, value)
    self.step_metrics[name] = self.latest[name] = value
    return value

  def step_end(self, initial: bool = False) -> None:
    """Appends the line of this step, if there are values.

    Args:
      initial: whether the values were measured before training. They then go
        to `big_vision_initial_metrics.txt`, so that every line of the metrics
        file proper is one of a training step.
    """
    # Taken away here and handed over: the thread never sees a later step.
    step, metrics, shown = self.step, self.step_metrics, self.step_pictures
    self.step_metrics, self.step_pictures = {}, {}
    if not metrics and not shown:
      return
    fname = self.fname_initial if initial else self.fname
    if self._held is not None:
      self._held.append((fname, step, metrics, shown))
    else:
      self._submit(fname, step, metrics, shown)

  def secure(self) -> None:
    """Writes what was measured so far where a restart finds it.

    A checkpoint of a step may be complete before the line of that step is written:
    evaluations come in between. `begin` of a run that continues from it appends
    the values to the metrics file, unless that has the line.
    """
    if self._pool is None or self.fname is None or not self.step_metrics:
      return
    self._wait()
    line = json.dumps({"step": self.step, **self.step_metrics}) + "\n"
    _replace(self._secured, line)
    if fs.is_local(self.fname) and os.path.exists(self.fname):
      with disk_space.explained(self.fname), open(self.fname, "ab") as f:
        os.fsync(f.fileno())  # A power cut must not leave the checkpoint alone.

  def row_of(self, step: int) -> dict[str, Any] | None:
    """Reads what an interrupted run has measured at a step.

    Args:
      step: number of finished steps.

    Returns:
      Name of metric -> value; None if there is no metrics file.
    """
    if self.fname is None:
      return None
    paths = [p for p in (self._secured, self.fname) if fs.exists(p)]
    rows = [row for path in paths for row in read_rows(path)]
    found = {}
    for row in rows:
      if row["step"] == step:
        found |= row
    found.pop("step", None)
    return found if rows else None

  @property
  def _secured(self):
    return f"{self.fname}.secured"

  def _restore(self, first_step):
    """Appends the line of the step of a checkpoint if a kill prevented it."""
    if self.fname is None or not fs.exists(self._secured):
      return
    with fs.open(self._secured) as f:
      line = f.read()
    if json.loads(line)["step"] != first_step:
      return
    rows = read_rows(self.fname) if fs.exists(self.fname) else []
    if not any(row["step"] == first_step for row in rows):
      _append(self.fname, line)

  def close(self) -> None:
    """Writes what is left and waits until it is written.

    Before `begin`, nothing is left: the run has not started.
    """
    self.step_end()
    if self._trackers is not None:
      self._trackers.close(_outcome())
      self._trackers = None
    if self._pool is None:
      return
    try:
      self._wait()
    finally:
      self._pool.shutdown()
      self._pool = None
      if self._tensorboard is not None:
        self._tensorboard.close()

  def _submit(self, fname, step, metrics, shown):
    if self._trackers is not None:
      self._trackers.log(step, metrics, shown)
    if self._pool is not None:
      self._wait()
      self._pending = self._pool.submit(
        self._write, fname, step, metrics, shown
      )

  def _wait(self):
    if self._pending is not None:
      pending, self._pending = self._pending, None
      pending.result()  # Raises what the thread raised, a full disk say.

  def _write(self, fname, step, metrics, shown):
    for name, pixels in shown.items():
      path = pictures.path_of(fs.dirname(fname), name, step)
      with disk_space.explained(path):
        pictures.save(pixels, path)
    line = json.dumps({"step": step, **metrics}) + "\n" if metrics else ""
    if line or fs.is_local(fname):  # Where the file is, also if it is empty.
      _append(fname, line)
    if fs.is_local(fname):
      self._show(fname, step, metrics, shown)

  def _show(self, fname, step, metrics, shown):
    """Writes the events of TensorBoard."""
    if self._tensorboard is None:
      self._tensorboard = tensorboard.Events(os.path.dirname(fname))
      if "tensorboard" in self._names:
        text = json.dumps(json.loads(to_json(self._config)), indent=2)
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._tensorboard.text("config", indented)  # Markdown of code.
    for name, value in metrics.items():
      if isinstance(value, float):
        self._tensorboard.scalar(name, value, step)
    for name, pixels in shown.items():
      self._tensorboard.image(name, pixels, step)
    self._tensorboard.flush()


def read_rows(path: str) -> list[dict[str, Any]]:
  """Reads a metrics file.

  A run that was interrupted repeats steps: of the values of a step, the last ones
  count. A line that is being written, or was torn by a kill, is left out.

  Args:
    path: file of JSON lines.

  Returns:
    The rows in the order of the file, dicts with `step`.
  """
  with fs.open(path) as f:
    rows = [_parse(line) for line in f]
  return [row for row in rows if row is not None]


def _parse(line):
  try:
    row = untrusted.json_value(line)
  except ValueError:
    return None
  return row if isinstance(row, dict) and "step" in row else None


def to_json(config: ConfigLike) -> str:
  """Formats a ConfigDict or plain containers as JSON.

  Args:
    config: what `config.json` is to hold.

  Returns:
    The text; values that JSON does not know are described.
  """
  if not hasattr(config, "to_json"):
    return json.dumps(config)
  try:
    return config.to_json()
  except TypeError:  # A value that JSON does not know, a dtype for example.
    return config.to_json_best_effort()


def _append(fname, line):
  """Appends a whole line, or nothing if there is no room for it."""
  if not fs.is_local(fname):
    with fs.open(fname, "a") as f:
      f.write(line)
    return
  with disk_space.explained(fname), open(fname, "ab", buffering=0) as f:
    before, content = f.tell(), line.encode()
    # A disk that gets full takes a part of what it is given without an error.
    written = f.write(content)
    try:
      while written < len(content):
        written += f.write(content[written:])
    except OSError:
      f.truncate(before)
      raise


def _replace(path, text):
  with disk_space.explained(path):
    fs.replace(path, text)


def _repair(fname):
  """Completes or removes the line at the end that a kill may have torn."""
  if not fs.is_local(fname) or not os.path.exists(fname):
    return  # Remote stores write whole objects.
  with open(fname, "r+b") as f:
    content = f.read()
    complete = content.rfind(b"\n") + 1
    if complete == len(content):
      return
    if _parse(content[complete:]) is not None:  # Only its end is missing.
      f.write(b"\n")
      return
    logging.warning("Removing an incomplete last line from %s", fname)
    f.truncate(complete)


def _outcome() -> str:
  """Tells what became of a run; called in the course of an exception, if any."""
  error = sys.exc_info()[1]
  if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:
    return "preempted"  # See `training/preemption.py`.
  return "finished" if error is None else "failed"
