"""The update step of a run, traced for one device, without devices or data.

What is traced is the trainer's own recipe in the trainer's own step, with the
share of the batch that one device gets. Nothing is allocated.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import ml_collections as mlc
import numpy as np

from big_vision import compat, precision, schedules, sharding, trees
from big_vision.planning import graph as graph_lib
from big_vision.planning import jaxpr as jaxpr_lib
from big_vision.planning import passes, primitives
from big_vision.planning.partition import spec_of
from big_vision.training import adapters, ema
from big_vision.training import recipe as recipe_lib
from big_vision.training import setup as setup_lib
from big_vision.training import state as state_lib
from big_vision.training import step as step_lib

# Durations in epochs are turned into steps with it; no cost depends on it.
_NUM_EXAMPLES = 10**9

# `build` of a trainer.
Build = Callable[[setup_lib.Setup], recipe_lib.Recipe]
# Traced steps by what they depend on, for plans that differ in the layout only.
Traces = dict[tuple[Any, ...], compat.ClosedJaxpr]

# Keys that say how arrays lie on devices.
_LAYOUT = ("mesh", "sharding_strategy", "sharding_rules")


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds a traced step.

  Attributes:
    graph: Graph of the update step of one device's share of the batch.
    state: tree of ShapeDtypeStruct, the training state.
    shardings: tree of NamedSharding, same structure.
    batch: dict of ShapeDtypeStruct, one device's share.
    frozen: tree of ShapeDtypeStruct with shardings, what is not trained.
    mesh: dict of axis name -> size.
    batch_axes: axes over which the batch is split.
    batch_size: int, of all devices together.
    accum_steps: int, micro-batches per step.
  """

  graph: graph_lib.Graph
  state: dict[str, Any]
  shardings: dict[str, Any]
  batch: dict[str, jax.ShapeDtypeStruct]
  frozen: dict[str, Any]
  mesh: dict[str, int]
  batch_axes: tuple[str, ...]
  batch_size: int
  accum_steps: int

  @property
  def num_devices(self) -> int:
    """Number of devices of the whole mesh."""
    return math.prod(self.mesh.values())

  @property
  def data_parallel(self) -> int:
    """Number of shares into which the batch is split."""
    return math.prod(self.mesh[a] for a in self.batch_axes)


class _Setup(setup_lib.Setup):
  """A Setup on a mesh without devices, as one data-parallel share sees it."""

  @property
  def devices(self):
    """One stand-in: augmentations mix within the share of a device."""
    return np.empty(1, dtype=object)

  @property
  def mix_parts(self):
    return 1

  @contextlib.contextmanager
  def context(self):
    rules = sharding.axis_rules(self.config)
    batch = sharding.batch_axes(self.config, self.mesh.shape)
    # The batch is one share already.
    drop = lambda to: (
      ()
      if to is None
      else tuple(
        a for a in ((to,) if isinstance(to, str) else to) if a not in batch
      )
    )
    rules = [(name, drop(to) or None) for name, to in rules]
    with (
      jax.sharding.use_abstract_mesh(self.mesh),
      nn.logical_axis_rules(rules),
      precision.context(self.config),
    ):
      yield


def trace(
  build: Build,
  config: mlc.ConfigDict,
  mesh: dict[str, int],
  image_size: tuple[int, int],
  *,
  channels: int = 3,
  traces: Traces | None = None,
) -> Program:
  """Traces the update step of a config.

  Args:
    build: `Setup -> Recipe`, of a trainer.
    config: ConfigDict of a run.
    mesh: dict of axis name -> size.
    image_size: (height, width) in pixels.
    channels: int, of the images.
    traces: what earlier calls have traced, with the same `build`, `image_size`
      and `channels`, and batches split over some of the same axes; is added to.

  Returns:
    The Program.

  Raises:
    ValueError: the batch cannot be split over the mesh, or the recipe needs
      what is not planned (frozen models).
  """
  batch_shapes = _batch_shapes_of(build)
  required = ("model_name", "optax_name", "lr")
  for key in required if batch_shapes else ("num_classes", *required):
    if config.get(key) is None:
      raise ValueError(
        f"config.{key} is required: what is planned is the training of one model."
      )
  axes = sharding.batch_axes(config, mesh)
  share = _share(config, mesh, axes)
  config = config.copy_and_resolve_references().unlock()
  if batch_shapes:
    batch = batch_shapes(config, share, image_size)
  else:
    floats = lambda *shape: jax.ShapeDtypeStruct((share, *shape), np.float32)
    batch = {
      "image": floats(*image_size, channels),
      "labels": floats(config.num_classes),
    }
  abstract = compat.abstract_mesh(mesh)
  total = schedules.steps(
    "total", config, _NUM_EXAMPLES, share * math.prod(mesh[a] for a in axes)
  )
  setup = _Setup(
    config=config,
    workdir=None,
    mesh=abstract,
    writer=None,
    batch_shapes=batch,
    batches=None,
    num_examples=_NUM_EXAMPLES,
    total_steps=min(int(total), 2**30),  # Schedules count in int32.
    abstract=True,
  )
  recipe = adapters.adapt(build(setup), setup)
  if any(hasattr(x, "nbytes") for x in jax.tree.leaves(recipe.frozen)):
    raise ValueError(
      f"Frozen models ({', '.join(recipe.frozen)}) are not planned: --trainer "
      "has to be one that trains all that it holds."
    )
  plan = state_lib.plan(recipe, setup)
  accum = config.get("grad_accum_steps") or 1
  update = functools.partial(
    step_lib.update,
    recipe=_marked(recipe),
    tx=plan.tx,
    schedule=config.get("schedule", {}),
    accum_steps=accum,
    shardings=plan.shardings,
    static=recipe.static_args(1) if recipe.static_args else (),
    average=ema.settings(config),
  )

  def fn(state, batch, frozen, key):
    frozen = jax.tree.map(jaxpr_lib.gather_p.bind, frozen)
    return update(state, batch, frozen, key)

  key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
  traces = {} if traces is None else traces
  known = _what_decides(config, share, mesh, axes)
  if known not in traces:
    with setup.context():
      traces[known] = jax.make_jaxpr(fn)(plan.shapes, batch, plan.frozen, key)
  graph = jaxpr_lib.from_jaxpr(traces[known])
  _set_specs(graph, jax.tree.leaves(plan.shardings["params"]))
  passes.place_communication(graph)
  where = jax.tree.leaves(plan.shardings)
  frozen = [x.sharding for x in jax.tree.leaves(plan.frozen)]
  first = len(where) + len(jax.tree.leaves(batch))
  for v, s in [
    *zip(graph.inputs, where, strict=False),
    *zip(graph.inputs[first:], frozen, strict=False),
  ]:
    v.spec = spec_of(s, len(v.shape))
  return Program(
    graph=graph,
    state=plan.shapes,
    shardings=plan.shardings,
    batch=batch,
    frozen=plan.frozen,
    mesh=dict(mesh),
    batch_axes=axes,
    batch_size=share * math.prod(mesh[a] for a in axes),
    accum_steps=accum,
  )


def _batch_shapes_of(build):
  """Returns the function `batch_shapes` of a trainer's module, or None."""
  fn = inspect.unwrap(getattr(build, "func", build))
  return getattr(sys.modules[fn.__module__], "batch_shapes", None)


def _share(config, mesh, axes):
  """Examples per data-parallel share; raises ValueError if not whole."""
  batch, accum = config.input.batch_size, config.get("grad_accum_steps") or 1
  devices = math.prod(mesh.values())
  if batch % (devices * accum):
    times = f"config.grad_accum_steps={accum} times " if accum > 1 else ""
    unit = devices * accum
    raise ValueError(
      f"config.input.batch_size={batch} is not divisible by {times}the "
      f"{devices} devices of --mesh. Use for example "
      f"--config.input.batch_size={max(round(batch / unit), 1) * unit}."
    )
  return batch // math.prod(mesh[a] for a in axes)


def _what_decides(config, share, mesh, axes):
  """Returns all that the traced operations depend on.

  If all axes split the batch, the layout does not: it is in the marks alone,
  which `_set_specs` completes.
  """
  plain = config.to_dict()
  if set(mesh) <= set(axes):
    plain = {k: v for k, v in plain.items() if k not in _LAYOUT}
    mesh = {}
  return share, repr(plain), tuple(mesh.items())


def _marked(recipe):
  """`recipe` with marks on the parameters it reads and the gradients."""

  def marked(fn, params):
    out, grads = fn(jax.tree.map(jaxpr_lib.gather_p.bind, params))
    leaves, structure = jax.tree.flatten(grads)
    leaves = [jaxpr_lib.scatter_p.bind(g, leaf=i) for i, g in enumerate(leaves)]
    return out, structure.unflatten(leaves)

  def grad_fn(loss_fn, params, *args):
    return marked(lambda p: recipe.grad_fn(loss_fn, p, *args), params)

  def accumulate(params, *args, **kw):
    return marked(lambda p: recipe.accumulate(p, *args, **kw), params)

  changes = {"grad_fn": grad_fn}
  if recipe.accumulate:
    changes["accumulate"] = accumulate
  return dataclasses.replace(recipe, **changes)


def _set_specs(graph, shardings):
  """Tells the marks of gradients how their parameters are split."""
  for op in graph.ops:
    for body in op.bodies:
      _set_specs(body, shardings)
    if op.name == primitives.SCATTER:
      (out,) = op.outputs
      where = shardings[op.params["leaf"]]
      op.params = {"spec": spec_of(where, len(out.shape))}


def leaves(
  program: Program, part: str
) -> list[tuple[str, tuple[int, ...], int, int]]:
  """Lists the leaves of a part of the state on one device.

  Args:
    program: Program.
    part: str, for example "params" or "opt".

  Returns:
    List of (name, shape, bytes of the whole, bytes on one device).
  """
  named = trees.tree_flatten_with_names(program.state[part])[0]
  where = jax.tree.leaves(program.shardings[part])
  out = []
  for (name, x), place in zip(named, where, strict=True):
    local = math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
    whole = math.prod(x.shape) * x.dtype.itemsize
    out.append((name, tuple(x.shape), whole, local))
  return out


def argument_bytes(program: Program) -> dict[str, Any]:
  """Counts the bytes on one device of each part of the state and the batch."""
  sizes = {
    part: sum(local for *_, local in leaves(program, part))
    for part in program.state
  }
  if program.frozen:
    sizes["frozen"] = sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(program.frozen)
    )
  # The pipeline splits the batch over all devices, whatever the model does.
  copies = program.num_devices // program.data_parallel
  sizes["batch"] = sum(
    math.prod(x.shape) * x.dtype.itemsize // copies
    for x in program.batch.values()
  )
  return sizes
