"""Setup: everything that a run knows before its method is built."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import ml_collections as mlc
import numpy as np

from big_vision import chrono as chrono_lib
from big_vision import metrics, models, schedules, sharding


@dataclasses.dataclass(frozen=True)
class Setup:
  """The surroundings of a run.

  Attributes:
    config: the run's config.
    workdir: output folder, or None to write nothing.
    mesh: device mesh of `config.mesh`.
    writer: where metrics go.
    batch_shapes: dict of ShapeDtypeStruct of one process' training batch.
    batches: `first_step -> iterator` of global batches, the first of them for
      the (0-based) step `first_step`.
    num_examples: examples per epoch.
    total_steps: length of the training.
    chrono: the clock.
  """

  config: mlc.ConfigDict
  workdir: str | None
  mesh: jax.sharding.Mesh
  writer: metrics.BigVisionMetricWriter
  batch_shapes: dict[str, Any]
  batches: Callable[[int], Any]
  num_examples: int
  total_steps: int
  chrono: chrono_lib.Chrono = chrono_lib.chrono

  @property
  def batch_size(self):
    """Global batch size, in examples."""
    return self.config.input.batch_size

  @property
  def sched_kw(self):
    """What schedules need to know besides `config.schedule`."""
    return dict(
      total_steps=self.total_steps,
      batch_size=self.batch_size,
      data_size=self.num_examples,
    )

  @property
  def devices(self):
    """[num_devices] array in mesh order, the one order used everywhere."""
    return np.asarray(self.mesh.devices).flatten()

  @property
  def checkpoint_prefix(self):
    """Path that names of checkpoints start with; None without workdir."""
    return f"{self.workdir}/checkpoint.bv" if self.workdir else None

  def get_steps(self, name, default=ValueError, cfg=None):
    """Resolves a duration `<name>_{steps,examples,epochs,percent}`.

    Args:
      name: str, prefix of the config keys.
      default: what to return if there is none; ValueError: raise.
      cfg: mapping to look in, the run's config by default.

    Returns:
      The duration in steps.
    """
    return schedules.steps(
      name,
      self.config if cfg is None else cfg,
      data_size=self.num_examples,
      batch_size=self.batch_size,
      total_steps=self.total_steps,
      default=default,
    )

  @contextlib.contextmanager
  def context(self):
    """Mesh and logical axis rules, active around everything on devices."""
    rules = sharding.axis_rules(self.config)
    with jax.set_mesh(self.mesh), nn.logical_axis_rules(rules):
      yield

  def make_model(self, key="model", **kw):
    """Builds `config.<key>_name` with the arguments `config.<key>`.

    Args:
      key: str, what the config calls the model.
      **kw: further arguments of the model, such as `num_classes`; the config's
        own come first.

    Returns:
      (model, load): the linen module; and `params -> params` that reads
      `config.<key>_init`, with the arguments `config.<key>_load`, or None if the
      config has none.

    Raises:
      ValueError: unknown model.
    """
    return models.build(self.config, key, **kw)
