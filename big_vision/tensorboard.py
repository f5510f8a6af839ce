"""Writes TensorBoard's event files, each event in the thread that makes it.

The writer of tensorboardX has a thread of its own. That ends at the first error, a
full disk for example, and whoever adds events then waits for it for ever.
"""

import os
import time
from typing import Any

import numpy as np

from big_vision import disk_space


class Events:
  """The event file of a run in a local folder."""

  def __init__(self, folder: str):
    """Makes the file.

    Args:
      folder: where TensorBoard looks for it; exists.

    Raises:
      disk_space.WriteError: as all methods, if the disk is full.
    """
    # Here, since runs without a workdir do not need it.
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    self._folder = folder
    # An attribute that protobuf makes at run time.
    self._event = getattr(event_pb2, "Event")  # noqa: B009
    self._summary = summary
    with disk_space.explained(folder):
      self._writer = event_file_writer.EventsWriter(
        os.path.join(folder, "events")
      )

  def scalar(self, name: str, value: float, step: int) -> None:
    """Adds a value."""
    self._add(self._summary.scalar(name, value), step)

  def image(self, name: str, pixels: np.ndarray, step: int) -> None:
    """Adds a picture, [height, width, channels] uint8."""
    self._add(self._summary.image(name, pixels, dataformats="HWC"), step)

  def text(self, name: str, text: str) -> None:
    """Adds a text in Markdown."""
    self._add(self._summary.text(name, text), 0)

  def _add(self, summary: Any, step: int) -> None:
    event = self._event(summary=summary, wall_time=time.time(), step=step)
    with disk_space.explained(self._folder):
      self._writer.write_event(event)

  def flush(self) -> None:
    """Hands what was added to the operating system."""
    with disk_space.explained(self._folder):
      self._writer.flush()

  def close(self) -> None:
    """Ends the file."""
    with disk_space.explained(self._folder):
      self._writer.close()
