"""One of the hosts of test_watchdog.py: steps of collectives, and nothing else."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../.."))

import jax
import numpy as np
from jax.experimental import multihost_utils

from big_vision.training import hosts, peers, preemption, signals, watchdog

signals.listen()

with peers.running(None):
  hosts.join()
  dog = watchdog.active()
  assert dog is not None
  stop = preemption.Preemption(lambda step: None)
  for step in range(1, 1000):
    dog.enter(watchdog.STEP, step)
    total = multihost_utils.process_allgather(np.float32(step)).sum()
    assert total == step * jax.process_count()
    print("step", step, flush=True)
    if stop.reached(step):
      print("saved", step, flush=True)
      raise stop.leave(step)
    time.sleep(0.3)
