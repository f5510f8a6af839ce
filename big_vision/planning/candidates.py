"""Lists layouts that a plan may choose without changing what is trained.

A candidate is a layout (a mesh, and how parameters are split over it), a kind of
recomputation, and a number of micro-batches; all are values of config keys. A
further way to lay out a model is an entry of `LAYOUTS`.
"""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections as mlc

from big_vision import sharding
from big_vision.models import vit
from big_vision.planning.chips import Chip
from big_vision.training import config_keys

# Rules of `config.sharding_strategy`.
Strategy = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Says how a model lies on devices.

  Attributes:
    name: what tables call it.
    mesh: pairs (axis, size).
    strategy: value of `config.sharding_strategy`.
    batch_axes: axes of the mesh that split the batch.
  """

  name: str
  mesh: tuple[tuple[str, int], ...]
  strategy: Strategy
  batch_axes: tuple[str, ...] = ("data",)


@dataclasses.dataclass(frozen=True)
class Remat:
  """Says what the backward pass computes again.

  Attributes:
    name: what tables call it.
    model: keys of `config.model`.
  """

  name: str
  model: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run a config."""

  layout: Layout
  remat: Remat
  accum: int

  @property
  def mesh(self) -> dict[str, int]:
    """The mesh as the planner takes it: axis name -> size."""
    return dict(self.layout.mesh)


# The defaults of the keys that candidates set.
_REPLICATE: Strategy = ((".*", "replicate"),)
_DEFAULTS = {
  "mesh": (("data", -1),),
  "sharding_strategy": _REPLICATE,
  "sharding_rules": (),  # As the strategy needs them.
  "grad_accum_steps": 1,
  "scan": False,
  "remat_policy": "nothing_saveable",
}
_FSDP: Strategy = ((".*", 'fsdp(axis="data")'),)
_TENSOR_PARALLEL: Strategy = (
  (".*", 'tensor_parallel(axis="model")|fsdp(axis="data")'),
)
# Devices that share the parameters, where not all can or should.
_GROUPS = (8, 64)
_TENSOR = (2, 4, 8)


def _replicated(config: mlc.ConfigDict, n: int, chip: Chip) -> Iterator[Layout]:
  """Every device has all parameters."""
  del config, chip
  yield Layout("replicated", (("data", n),), _REPLICATE)


def _fsdp(config: mlc.ConfigDict, n: int, chip: Chip) -> Iterator[Layout]:
  """All devices share the parameters."""
  del config, chip
  if n > 1:
    yield Layout("fsdp", (("data", n),), _FSDP)


def _fsdp_in_groups(
  config: mlc.ConfigDict, n: int, chip: Chip
) -> Iterator[Layout]:
  """Groups share the parameters: those in a fast network, or smaller ones.

  Dimensions that the number of all devices does not divide can be split, too.
  """
  del config
  for group in sorted({*_GROUPS, chip.group * chip.devices}):
    if 1 < group < n and n % group == 0:
      yield Layout(
        f"fsdp in groups of {group}",
        (("replica", n // group), ("data", group)),
        _FSDP,
        ("replica", "data"),
      )


def _tensor(config: mlc.ConfigDict, n: int, chip: Chip) -> Iterator[Layout]:
  """Heads and hidden units are split, as in Megatron; the rest is shared."""
  del chip
  if config.get("model_name") != "vit":
    return
  heads = vit.Model(**(config.get("model") or {})).num_heads
  for m in _TENSOR:
    if m < n and n % m == 0 and heads % m == 0:
      mesh = (("data", n // m), ("model", m))
      yield Layout(f"tensor parallel by {m}", mesh, _TENSOR_PARALLEL)


# Functions (config, number of devices, chip) -> layouts, the simplest first.
# All devices work on different examples:
SIMPLE = (_replicated, _fsdp, _fsdp_in_groups)
# Several devices work on the same examples. That saves memory and the
# communication of parameters, and costs that of activations.
SPLIT = (_tensor,)
LAYOUTS = (*SIMPLE, *SPLIT)


def layouts(
  config: mlc.ConfigDict,
  n: int,
  chip: Chip,
  kinds: Sequence[Callable[..., Iterator[Layout]]] = LAYOUTS,
) -> list[Layout]:
  """Lists the layouts that are tried.

  Args:
    config: ConfigDict of a run.
    n: number of JAX devices.
    chip: their Chip.
    kinds: entries of `LAYOUTS`.

  Returns:
    List of Layout, the simplest first.
  """
  return [x for kind in kinds for x in kind(config, n, chip)]


_POLICY = "dots_with_no_batch_dims_saveable"
_REMATS = (
  Remat("-", (("scan", False),)),
  Remat(
    "all but products", (("scan", True), ("remat_policy", _POLICY))
  ),
  Remat(
    "layers", (("scan", True), ("remat_policy", "nothing_saveable"))
  ),
)  # fmt: skip
# Has the FLOPs of the first, and is traced much faster.
_NO_REMAT = Remat(
  "-", (("scan", True), ("remat_policy", "everything_saveable"))
)


def remats(config: mlc.ConfigDict) -> tuple[Remat, ...]:
  """Lists the kinds of recomputation that a model has.

  Args:
    config: ConfigDict of a run.

  Returns:
    Kinds, that which needs most memory first.
  """
  return _REMATS if _can_scan(config) else (Remat("-"),)


def without_remat(config: mlc.ConfigDict) -> Remat:
  """Returns the kind that computes nothing twice, for counts of FLOPs."""
  return _NO_REMAT if _can_scan(config) else Remat("-")


def _can_scan(config):
  return "scan" in (config_keys.keys_of(config, ["model"]) or {})


def accums(config: mlc.ConfigDict, n: int) -> list[int]:
  """Lists numbers of micro-batches that leave whole examples to each device.

  Args:
    config: ConfigDict of a run.
    n: number of JAX devices; divides the batch.

  Returns:
    Numbers, the smallest first.
  """
  share = config.input.batch_size // n
  return [k for k in range(1, share + 1) if share % k == 0]


def apply(config: mlc.ConfigDict, candidate: Candidate) -> mlc.ConfigDict:
  """Returns a config with what a candidate sets.

  Args:
    config: ConfigDict of a run.
    candidate: Candidate.

  Returns:
    A new ConfigDict.
  """
  plain = config.copy_and_resolve_references().to_dict()
  for path, value in _values(candidate).items():
    node, (*parts, key) = plain, path.split(".")
    for part in parts:
      node[part] = dict(node.get(part) or {})
      node = node[part]
    node[key] = value
  return mlc.ConfigDict(plain)


def flags(config: mlc.ConfigDict, candidate: Candidate) -> list[str]:
  """Writes what a candidate changes, for a command line.

  Args:
    config: ConfigDict of a run.
    candidate: Candidate.

  Returns:
    List of `--config.key=value`, quoted for a shell; empty if the config is
    like that already.
  """
  out = []
  for path, value in _values(candidate).items():
    node, (*parts, key) = config, path.split(".")
    for part in parts:
      node = node.get(part) or {}
    now = node.get(key)
    now = _DEFAULTS[key] if now is None else now
    if key == "sharding_rules":
      is_same = _rules(now, candidate) == _rules(value, candidate)
    else:
      is_same = _plain(now) == _plain(value)
    if not is_same:
      out.append(shlex.quote(f"--config.{path}={_literal(value)}"))
  return out


def _values(candidate):
  """Config key -> value; the first axis takes the devices that there are."""
  layout = candidate.layout
  (first, _), *rest = layout.mesh
  axes = layout.batch_axes
  return {
    "mesh": [(first, -1), *rest],
    "sharding_strategy": [*layout.strategy],
    "sharding_rules": [] if axes == ("data",) else [("act_batch", axes)],
    **{f"model.{key}": value for key, value in candidate.remat.model},
    "grad_accum_steps": candidate.accum,
  }


def _rules(value, candidate):
  """The rules of activations that a value of `sharding_rules` means."""
  strategy = candidate.layout.strategy
  rules = dict(sharding_rules=value, sharding_strategy=strategy)
  return _plain(sharding.axis_rules(rules))


def _plain(value):
  """A value in which lists and tuples compare as equal."""
  if isinstance(value, list | tuple):
    return tuple(map(_plain, value))
  return value


def _literal(value):
  """A value as a flag takes it, without the quotes that shells use."""
  if isinstance(value, tuple):
    return f"({', '.join(map(_nested, value))})"
  if isinstance(value, list):
    return f"[{', '.join(map(_nested, value))}]"
  return str(value)


def _nested(value):
  return json.dumps(value) if isinstance(value, str) else _literal(value)
