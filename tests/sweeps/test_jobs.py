"""Interruptions of running jobs."""

import gc
import os
import signal
import sys
import time
import warnings

import pytest

from big_vision.sweeps import jobs


@pytest.mark.filterwarnings("error")
def test_an_interruption_within_the_garbage_collector_is_not_lost(tmp_path):
  """An exception raised there would be printed and ignored."""
  with warnings.catch_warnings():  # About what other tests have left open.
    warnings.simplefilter("ignore")
    gc.collect()
  command = (sys.executable, "-c", "import time; time.sleep(600)")
  job = jobs.Job("j", str(tmp_path), command, {}, "f")

  def interrupt(phase, info):
    gc.callbacks.remove(interrupt)
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(100))  # The handler runs here.

  def on_start(job):
    gc.callbacks.append(interrupt)
    gc.collect()

  old, start = signal.getsignal(signal.SIGINT), time.time()
  with pytest.raises(KeyboardInterrupt):
    jobs.run([job], 1, on_start=on_start)
  assert time.time() - start < 60
  assert signal.getsignal(signal.SIGINT) is old
  assert not job.is_finished()
