"""Names for the types that signatures share.

Arrays are annotated as `Array`; their shapes, dtypes and units stand in the
docstrings, in the letters that the module lists: `[B, L, D]`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
  import jax
  import numpy as np

  # Arrays.
  Array: TypeAlias = jax.Array
  # What `jnp.asarray` takes: arrays of JAX and NumPy, numbers.
  ArrayLike: TypeAlias = jax.typing.ArrayLike
  # On the host or on devices.
  AnyArray: TypeAlias = jax.Array | np.ndarray
  DType: TypeAlias = jax.typing.DTypeLike
  # A random key, of `jax.random.key` or `jax.random.PRNGKey`.
  Key: TypeAlias = jax.Array
  Scalar: TypeAlias = jax.Array | np.ndarray | float
  # Devices in the order of the mesh.
  Devices: TypeAlias = Sequence[Any] | np.ndarray
else:
  # Everything imports this module. Commands print their help and refuse wrong
  # configs before jax is imported, which takes seconds.
  Array = ArrayLike = AnyArray = DType = Key = Scalar = Devices = Any

Shape: TypeAlias = tuple[int, ...]
# Nested dicts, lists, tuples and dataclasses of arrays (or of their shapes).
PyTree: TypeAlias = Any
# Parameters of a model: nested dicts of arrays, named as in checkpoints.
Params: TypeAlias = dict[str, Any]
# Name -> array [B, ...]; the leading axis is split over all devices. In
# evaluation `_mask` [B] is False on padding.
Batch: TypeAlias = dict[str, Any]
# The state of a run: `params`, `opt` and what a recipe adds; with `frozen`
# where functions of the recipe receive it.
TrainState: TypeAlias = dict[str, Any]
# Metrics of a step: name -> scalar.
Measurements: TypeAlias = dict[str, Any]
# A config or a part of one: an `ml_collections.ConfigDict` or a plain dict.
ConfigLike: TypeAlias = Any

# Step (0-based) -> multiplier of the learning rate.
Schedule: TypeAlias = Callable[[Any], Any]
# `(params, batch, rng, state, *static) -> (loss [], measurements)`.
LossFn: TypeAlias = Callable[..., tuple[Any, Measurements]]
# `(train_state, batch, **kw) -> anything`: what an evaluator measures.
PredictFn: TypeAlias = Callable[..., Any]
PredictFns: TypeAlias = Mapping[str, PredictFn]
# `params -> params`: reads from a checkpoint what the checkpoint has.
LoadFn: TypeAlias = Callable[[Params], Params]


class Batches(Protocol):
  """Iterates over global batches of training."""

  def __next__(self) -> Batch:
    """Returns the next batch, on the devices."""
    ...

  def close(self) -> None:
    """Stops reading ahead."""
    ...


class Evaluator(Protocol):
  """Measures a training state.

  Its module declares `API = "jit"` and names the class `Evaluator`. The class
  is called as `Evaluator(predict_fn, *, batch_size, devices, **own)`.
  """

  def run(self, train_state: TrainState) -> Iterator[tuple[str, Any]]:
    """Yields `(metric name, float)`, in the same order at every run."""
    ...


class DataSource(Protocol):
  """Provides raw examples; the least that a source of one's own offers.

  `datasets.core.DataSource` has defaults for what else the pipeline asks for.
  """

  def get_tfdata(self, ordered: bool, **kw: Any) -> Any:
    """Returns a finite tf.data.Dataset of dicts of tensors."""
    ...

  def num_examples_per_process(self) -> Sequence[int]:
    """Returns the number of examples of each process."""
    ...

  @property
  def total_examples(self) -> int:
    """Number of examples over all processes."""
    ...
