"""Sends metrics to experiment trackers: `config.trackers = ["wandb", "mlflow"]`.

Each library is imported when a run asks for it. Its own environment variables say
where things go, for example WANDB_PROJECT, WANDB_MODE=offline,
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, TRACKIO_PROJECT, TRACKIO_SPACE_ID.

A tracker has a thread of its own: training does not wait for a network, and what
fails there costs the run one warning. `<workdir>/trackers.json` has the names of
the runs at the trackers, which a resumed run continues.
"""

import dataclasses
import importlib.util
import json
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging

from big_vision import fs, lookup

IDS_FILE = "trackers.json"
PROJECT = "big_vision"
# Seconds that the end of a run waits for what is still to be sent.
TIMEOUT = 60
_ids_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Run:
  """Describes a run to a tracker.

  Attributes:
    config: all of it, plain dicts and lists.
    workdir: output folder, or None.
    id: of the run at the tracker if it continues, else None.
  """

  config: dict[str, Any]
  workdir: str | None
  id: str | None

  @property
  def name(self) -> str:
    """Name to show: that of the folder, or of this minute."""
    name = os.path.basename(os.path.normpath(self.workdir or ""))
    return name.strip(".") or time.strftime("%Y-%m-%d-%H-%M")


class Tracker(Protocol):
  """One run at one tracker."""

  id: str

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """Sends the values of a step."""
    ...

  def log_pictures(self, step: int, pictures: Mapping[str, Any]) -> None:
    """Sends pictures of a step, uint8 [H, W, 3]."""
    ...

  def finish(self, outcome: str) -> None:
    """Sends what is left; tells what became of the run, see `Trackers.close`."""
    ...


class _Wandb:
  """Weights & Biases."""

  def __init__(self, run: Run):
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    folder = run.workdir if run.workdir and fs.is_local(run.workdir) else None
    self._run = wandb.init(
      project=project,
      name=os.environ.get("WANDB_NAME", run.name),
      id=run.id or os.environ.get("WANDB_RUN_ID"),
      resume="allow",
      config=run.config,
      dir=os.environ.get("WANDB_DIR", folder),
    )
    self.id = self._run.id
    # Its own counter of steps cannot go back, as a run does that continues from
    # a checkpoint before its end.
    self._run.define_metric("*", step_metric="step")

  def log(self, step, metrics):
    self._run.log({"step": step, **metrics})

  def log_pictures(self, step, pictures):
    import wandb

    shown = {name: wandb.Image(x) for name, x in pictures.items()}
    self._run.log({"step": step, **shown})

  def finish(self, outcome):
    if outcome == "preempted":  # Else it would count as failed.
      self._run.mark_preempting()
    self._run.finish(exit_code=int(outcome != "finished"))


class _MLflow:
  """MLflow: the client, which keeps no state of the process."""

  def __init__(self, run: Run):
    import mlflow
    from mlflow import entities

    self._entities = entities
    self._client = mlflow.MlflowClient()
    if run.id:
      self.id = run.id
      self._client.update_run(run.id, status="RUNNING")
    else:
      name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
      experiment = self._client.get_experiment_by_name(name)
      where = (
        experiment.experiment_id
        if experiment
        else self._client.create_experiment(name)
      )
      self.id = self._client.create_run(where, run_name=run.name).info.run_id
      params = [
        entities.Param(self._allowed(key), str(value)[:500])
        for key, value in flatten(run.config).items()
      ]
      for i in range(0, len(params), 100):  # Its largest batch.
        self._client.log_batch(self.id, params=params[i : i + 100])
    self._client.log_dict(self.id, run.config, "config.json")

  @staticmethod
  def _allowed(name):
    """Replaces what its names cannot have: val/prec@1 -> val/prec_at_1."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))[:250]

  def log(self, step, metrics):
    now = int(1000 * time.time())
    values = [
      self._entities.Metric(self._allowed(name), value, now, step)
      for name, value in metrics.items()
    ]
    for i in range(0, len(values), 1000):
      self._client.log_batch(self.id, metrics=values[i : i + 1000])

  def log_pictures(self, step, pictures):
    for name, pixels in pictures.items():
      key = self._allowed(name)
      self._client.log_image(self.id, pixels, key=key, step=step)

  def finish(self, outcome):
    status = {"failed": "FAILED", "preempted": "KILLED"}
    self._client.set_terminated(self.id, status.get(outcome, "FINISHED"))


class _Trackio:
  """Trackio, where a run is found by its name."""

  def __init__(self, run: Run):
    import trackio

    self.id = run.id or f"{run.name}-{uuid.uuid4().hex[:6]}"
    self._run = trackio.init(
      project=os.environ.get("TRACKIO_PROJECT", PROJECT),
      name=self.id,
      config=run.config,
      resume="allow",
      embed=False,
    )

  def log(self, step, metrics):
    self._run.log(metrics, step=step)

  def log_pictures(self, step, pictures):
    import trackio

    shown = {name: trackio.Image(x) for name, x in pictures.items()}
    self._run.log(shown, step=step)

  def finish(self, outcome):
    self._run.finish()


# Name -> (class, the package on PyPI). TensorBoard's files are written anyway, see
# `metrics`; asked for by name, they also have the config.
_TRACKERS: dict[str, tuple[Callable[[Run], Tracker] | None, str]] = {
  "wandb": (_Wandb, "wandb"),
  "mlflow": (_MLflow, "mlflow"),
  "trackio": (_Trackio, "trackio"),
  "tensorboard": (None, "tensorboardX"),
}


def names(config: Any) -> list[str]:
  """Reads `config.trackers`.

  Args:
    config: ConfigDict, dict or None.

  Returns:
    Names, without repetitions; empty if the config asks for none.

  Raises:
    lookup.ConfigError: a name that is not known.
  """
  value = config.get("trackers") if hasattr(config, "get") else None
  listed = value.split(",") if isinstance(value, str) else list(value or ())
  listed = [n.strip() if isinstance(n, str) else n for n in listed]
  for name in listed:
    if name not in _TRACKERS:
      raise lookup.unknown(
        "tracker", name, _TRACKERS, "trackers", lookup.ConfigError
      )
  return list(dict.fromkeys(listed))


def check(config: Any) -> None:
  """Checks `config.trackers` before a run starts.

  Args:
    config: ConfigDict.

  Raises:
    lookup.ConfigError: an unknown name, or a library that is not installed.
  """
  for name in names(config):
    package = _TRACKERS[name][1]
    if importlib.util.find_spec(package) is None:
      raise lookup.ConfigError(
        f"config.trackers: {name!r} needs a package that is not installed: "
        f"pip install {package}"
      )


class Trackers:
  """Sends a run to all trackers of its config."""

  def __init__(self, config: Any, plain: dict[str, Any], workdir: str | None):
    """Starts them, without waiting.

    Args:
      config: ConfigDict; reads `trackers`.
      plain: the same as plain containers.
      workdir: folder of the run, which exists; or None.
    """
    self._workdir = workdir
    ids = self._read_ids()
    self._workers = []
    for name in names(config):
      start = _TRACKERS[name][0]
      if start is not None:
        run = Run(plain, workdir, ids.get(name))
        self._workers.append(_Worker(name, start, run, self._started))

  def log(
    self,
    step: int,
    metrics: Mapping[str, Any],
    pictures: Mapping[str, Any] | None = None,
  ) -> None:
    """Hands the values of a step over.

    Args:
      step: number of finished steps.
      metrics: name -> value; what is not a float is left out.
      pictures: name -> uint8 [H, W, 3].
    """
    values = {k: v for k, v in metrics.items() if isinstance(v, float)}
    for worker in self._workers:
      worker.todo.put((step, values, pictures or {}))

  def close(self, outcome: str = "finished") -> None:
    """Waits until everything is sent, at most a minute.

    Args:
      outcome: "finished", "failed", or "preempted": the run was asked to stop, and
        goes on when it is started again.
    """
    for worker in self._workers:
      worker.outcome = outcome
      worker.todo.put(None)
    end = time.monotonic() + TIMEOUT
    for worker in self._workers:
      worker.join(max(end - time.monotonic(), 0))
      if worker.is_alive():
        logging.warning(
          "config.trackers: %s was still sending after %d seconds; what is left "
          "is lost there.",
          worker.name,
          TIMEOUT,
        )
    self._workers = []

  def _started(self, name: str, run_id: str) -> None:
    """Stores the id of a run at a tracker, for when it is resumed."""
    if not self._workdir:
      return
    with _ids_lock:
      ids = {**self._read_ids(), name: run_id}
      with fs.open(fs.join(self._workdir, IDS_FILE), "w") as f:
        f.write(json.dumps(ids, indent=2) + "\n")

  def _read_ids(self) -> dict[str, str]:
    path = fs.join(self._workdir, IDS_FILE) if self._workdir else ""
    if not path or not fs.exists(path):
      return {}
    with fs.open(path) as f:
      try:
        return dict(json.loads(f.read()))
      except ValueError:  # Half of it, of a killed run.
        logging.warning("%s cannot be read; trackers begin new runs.", path)
        return {}


class _Worker(threading.Thread):
  """Runs one tracker; after an error it does nothing but empty its queue."""

  def __init__(self, name, start, run, started):
    # A daemon: a network that does not answer must not keep the process.
    super().__init__(name=name, daemon=True)
    self.todo = queue.Queue()
    self.outcome = "finished"
    self._start, self._run_info, self._started_fn = start, run, started
    self._takes_pictures = True
    self.start()

  def run(self):
    try:
      tracker = self._start(self._run_info)
      self._started_fn(self.name, tracker.id)
      while (row := self.todo.get()) is not None:
        step, values, pictures = row
        if values or not pictures:
          tracker.log(step, values)
        if pictures and self._takes_pictures:
          self._send(tracker, step, pictures)
      tracker.finish(self.outcome)
    # Of any kind: training is worth more than its curves at a tracker.
    except Exception as e:
      logging.warning(
        "config.trackers: %s failed, and gets nothing more of this run, which "
        "goes on: %s: %s",
        self.name,
        type(e).__name__,
        " ".join(str(e).split()),
      )

  def _send(self, tracker, step, pictures):
    """Sends pictures; a version of a library without them still gets numbers."""
    try:
      tracker.log_pictures(step, pictures)
    except Exception as e:
      self._takes_pictures = False
      logging.warning(
        "config.trackers: %s did not take pictures, and gets no more of them: "
        "%s: %s",
        self.name,
        type(e).__name__,
        " ".join(str(e).split()),
      )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flattens a config.

  Args:
    config: nested dicts.
    prefix: of the names.

  Returns:
    Dotted key -> value.
  """
  found = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      found |= flatten(value, f"{prefix}{key}.")
    else:
      found[f"{prefix}{key}"] = value
  return found
