"""Imports only go down: the layers of the package, read from its source."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From bottom to top. A module may import from its own layer and from those
# below, also within functions.
LAYERS = (
  # Functions that stand alone.
  "types compat meshes tensor_dims command_line launching extras lookup untrusted rules partial fs hub retries remote_stores tf transfer download trees schedules exported"
  " losses precision xla_flags panoptic segment_colors class_weights mixup cutmix views ring contrastive grads clipping profiler disk_space lease malloc workdir guards config_history pictures drawing decoding resizing plots predictions",
  # Labels and names of classes: facts.
  "datasets.imagenet.class_names datasets.imagenet.label_maps",
  # Parts of a run.
  "trackers chrono devices tensorboard metrics sharding muon optimizers layer_decay lora optax checkpoint_checksums"
  " checkpoint_io checkpoint_write checkpoint_npz checkpoint_orbax checkpoints models pp datasets probes",
  # Old names, collected.
  "utils",
  # Measuring a state; weights in and out; records -> batches; costs.
  "pretrained publishing embedder pipeline input_pipeline evaluators planning",
  # One run.
  "training",
  # What a paper computes; many runs; what a run would cost.
  "export train bytecode trainers sweeps faults planning.trace planning.costs planning.advice planning.report"
  " planning.candidates planning.suggest planning.suggest_text",
  "configs benchmarks tools __main__",
)
# Modules at old paths, which import what has moved up.
DOORS = {"datasets.sequence_packing"}
# To be mended: (importing, imported) module.
EXCEPTIONS: set[tuple[str, str]] = set()


@functools.cache
def modules():
  """Dotted name below the package -> path of the file."""
  files = (ROOT / "big_vision").rglob("*.py")
  names = {}
  for path in files:
    parts = path.relative_to(ROOT / "big_vision").with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    names[".".join(parts)] = path
  return names


@functools.cache
def imports(name, inside_functions=True):
  """Names of the modules of the package that a module imports."""
  tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
  found = set()
  for node in nodes(tree, inside_functions):
    if isinstance(node, ast.ImportFrom) and not node.level:
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  out = set()
  for path in found:
    head, _, rest = path.partition(".")
    while head == "big_vision" and rest:
      if rest in modules():
        out.add(rest)
        break
      rest = rest.rpartition(".")[0]  # It is a name in a module.
  return {other for other in out - {name} if (name, other) not in EXCEPTIONS}


def nodes(tree, inside_functions):
  """Nodes that are run: not what is for type checkers only."""
  for node in ast.iter_child_nodes(tree):
    is_function = isinstance(node, ast.FunctionDef | ast.Lambda)
    is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(
      node.test
    )
    if not is_typing and (inside_functions or not is_function):
      yield node
      yield from nodes(node, inside_functions)


def layer(name):
  """Number of the layer of a module: that of the longest matching name."""
  best = max(
    (len(entry), number)
    for number, entries in enumerate(LAYERS)
    for entry in entries.split()
    if name == entry or name.startswith(entry + ".")
  )
  return best[1]


def test_each_module_has_a_layer():
  for name in modules():
    if name:
      layer(name)


def test_imports_go_down():
  up = {
    (name, other)
    for name in modules()
    if name and name not in DOORS
    for other in imports(name)
    if layer(other) > layer(name)
  }
  assert not up


@pytest.mark.parametrize("inside_functions", [False, True])
def test_no_circles(inside_functions):
  """Between modules; those within functions count, too."""
  done, path, circles = set(), [], []

  def visit(name):
    if name in path:
      circles.append([*path[path.index(name) :], name])
      return
    if name in done:
      return
    path.append(name)
    for other in sorted(imports(name, inside_functions)):
      visit(other)
    path.pop()
    done.add(name)

  for name in sorted(modules()):
    visit(name)
  assert not circles, "\n".join(" -> ".join(c) for c in circles)


def test_folders_have_no_circles():
  """Between the wings: `datasets` must not need what needs `datasets`."""
  edges = {
    (wing(name), wing(other))
    for name in modules()
    if name and name not in DOORS
    for other in imports(name)
    if wing(name) != wing(other)
  }
  for a, b in edges:
    assert (b, a) not in edges, (a, b)


def wing(name):
  """First part of a module's name.

  Facts about classes are no data sources; what runs would cost is another thing
  than what a function costs, and needs runs.
  """
  if layer(name) == 1:
    return "facts"
  first = name.split(".")[0]
  return "runs" if first == "planning" and layer(name) > layer(first) else first
