"""Iterators of tf.data never keep a program from going on, or from ending."""

import pathlib
import subprocess
import sys
import time

import pytest

from big_vision.pipeline import failures

ROOT = pathlib.Path(__file__).parents[2]


class Data:
  """Stands for a dataset."""

  def __init__(self, ended):
    self._ended = ended

  def __iter__(self):
    return Slow(self._ended)


class Slow:
  """An iterator whose destructor takes its time, outside of Python."""

  def __init__(self, ended):
    self._ended = ended

  def __next__(self):
    return 1

  def __del__(self):
    time.sleep(2)
    self._ended.append(True)


def test_a_slow_destructor_does_not_hold_up_the_program():
  ended = []
  batches = failures.iterate(Data(ended))
  assert next(batches) == 1
  start = time.monotonic()
  batches.close()
  assert time.monotonic() - start < 1.5 and not ended
  while not ended:  # It is released all the same.
    time.sleep(0.1)


@pytest.mark.parametrize("where", ["builtins", "__main__", "nowhere"])
def test_a_program_ends_with_an_open_iterator(where):
  """Whenever it is collected: from then on, new threads would not start."""
  code = f"""
import sys
from big_vision.pipeline import failures

class Data:
  def __iter__(self):
    return self
  def __next__(self):
    return 1

batches = failures.iterate(Data())
next(batches)
if {where!r} == "nowhere":
  cycle = [batches]
  cycle.append(cycle)
  del cycle, batches
else:
  sys.modules[{where!r}].batches = batches
  if {where!r} != "__main__":
    del batches
print("last line", flush=True)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT, capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert done.returncode == 0 and done.stdout == "last line\n", done.stderr
  assert done.stderr == ""
