"""What several hosts would read, one after the other in this process."""

import jax
import numpy as np

from big_vision.pipeline import evaluation, to_devices


def batches(host, num_hosts, data, pp, batch_size, monkeypatch):
  """One pass as a host sees it: (dict of [steps, local batch, ...], by_rows)."""
  with monkeypatch.context() as m:
    m.setattr(jax, "process_count", lambda: num_hosts)
    m.setattr(jax, "process_index", lambda: host)
    start = lambda ds, *args: ds.as_numpy_iterator()
    m.setattr(to_devices, "start_global", start)
    get_iter, steps = evaluation.evaluation(
      data, pp, batch_size, jax.devices()[:1], cache="none"
    )
    got = [b for _, b in zip(range(steps), get_iter(), strict=False)]
  return jax.tree.map(lambda *x: np.stack(x), *got), get_iter.by_rows


def global_batches(num_hosts, data, pp, batch_size, monkeypatch):
  """All hosts together: dict of [steps, batch, ...]; of `by_rows` sources."""
  args = num_hosts, data, pp, batch_size, monkeypatch
  parts = [batches(i, *args) for i in range(num_hosts)]
  assert num_hosts == 1 or all(by_rows for _, by_rows in parts)
  return jax.tree.map(
    lambda *x: np.concatenate(x, axis=1), *(part for part, _ in parts)
  )
