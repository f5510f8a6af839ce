"""Setup: everything that a run knows before its method is built."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from big_vision import chrono as chrono_lib
from big_vision import (
  lookup,
  metrics,
  models,
  precision,
  schedules,
  sharding,
)
from big_vision.models import attention
from big_vision.training import logs
from big_vision.types import Batches, ConfigLike, LoadFn


@dataclasses.dataclass(frozen=True)
class Setup:
  """Holds what a run has opened and resolved from its config.

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
    log: the file of the run's log, if there is one.
    started_on: number of devices of the first start of the run; 0: this is it.
    abstract: whether only shapes matter, to plan a run: models that are not
      trained may be trees of ShapeDtypeStruct.
  """

  config: ConfigLike
  workdir: str | None
  mesh: jax.sharding.Mesh
  writer: metrics.BigVisionMetricWriter
  batch_shapes: dict[str, Any]
  batches: Callable[[int], Batches]
  num_examples: int
  total_steps: int
  chrono: chrono_lib.Chrono = chrono_lib.chrono
  log: logs.File | None = None
  started_on: int = 0
  abstract: bool = False
  # Made once, although several parts of a method may ask for them.
  _models: dict[Any, tuple[Any, LoadFn | None]] = dataclasses.field(
    default_factory=dict, init=False, repr=False, compare=False
  )

  @property
  def batch_size(self) -> int:
    """Global batch size, in examples."""
    return self.config.input.batch_size

  @property
  def num_classes(self) -> Any:
    """Number of classes; raises ConfigError if the config does not say it."""
    if "num_classes" not in self.config:
      raise lookup.ConfigError(
        "config.num_classes is required: the number of classes that the model "
        "tells apart, as in onehot(N, ...) of config.input.pp."
      )
    return self.config.num_classes

  @property
  def sched_kw(self) -> dict[str, int]:
    """Arguments of schedules besides `config.schedule`."""
    return dict(
      total_steps=self.total_steps,
      batch_size=self.batch_size,
      data_size=self.num_examples,
    )

  @property
  def devices(self) -> np.ndarray:
    """[num_devices] array in mesh order, the one order used everywhere."""
    return np.asarray(self.mesh.devices).flatten()

  @property
  def mix_parts(self) -> int:
    """Consecutive parts of a batch within which examples are mixed.

    `config.mixup.num_shards`, or the number of `config.deterministic_reductions`,
    else one for each device. A run that goes on with another number of devices
    keeps them.
    """
    groups = self.config.get("deterministic_reductions")
    groups = groups if type(groups) is int else 0
    if num := (self.config.get("mixup") or {}).get("num_shards") or groups:
      return num
    whole = self.started_on and self.batch_size % self.started_on == 0
    return self.started_on if whole else self.devices.size

  @property
  def checkpoint_prefix(self) -> str | None:
    """Path that names of checkpoints start with; None without workdir."""
    return f"{self.workdir}/checkpoint.bv" if self.workdir else None

  def get_steps(
    self,
    name: str,
    default: Any = ValueError,
    cfg: ConfigLike | None = None,
  ) -> Any:
    """Resolves a duration `<name>_{steps,examples,epochs,percent}`.

    Args:
      name: prefix of the config keys.
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
  def context(self) -> Iterator[None]:
    """Sets mesh, axis rules, precision, kernels, around all on devices."""
    rules: Any = sharding.axis_rules(self.config)
    with (
      jax.set_mesh(self.mesh),
      nn.logical_axis_rules(rules),
      precision.context(self.config),
      attention.context(self.config),
    ):
      yield

  def make_model(
    self, key: str = "model", **kw: Any
  ) -> tuple[Any, LoadFn | None]:
    """Builds a model of the config, see `models.build`.

    Args:
      key: what the config calls the model.
      **kw: further arguments of the model, such as `num_classes`; the config's
        own win.

    Returns:
      (model, load): the linen module; and `params -> params` that reads
      `config.<key>_init`, or None if the config has none.
    """
    which = (key, *sorted(kw.items()))
    if which not in self._models:
      image = self.batch_shapes.get(key, self.batch_shapes.get("image"))
      shape = getattr(image, "shape", ())  # NaFlex has several arrays.
      size = shape[1:3] if len(shape) == 4 else None
      self._models[which] = models.build(
        self.config, key, image_size=size, **kw
      )
    return self._models[which]
