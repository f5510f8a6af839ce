"""Writes docs/api.md from the source: what is public, with signatures.

  python docs/make_api.py

Reads the package, does not import it. `PAGE` says what is public: names to import
are listed one by one, names for configs are found.
"""

import ast
import copy
import functools
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "big_vision"

TOP = """\
# Python interface

What `import big_vision` offers to code of your own, by purpose, with the first
sentence of each docstring; `help(name)` has the rest: arguments, shapes, errors.
`big_vision.__version__` is the version.

What is listed here, the keys of configs, flags, commands, the names of metrics and the
files of a workdir are public: [CHANGELOG.md](../CHANGELOG.md) says when and how such a
name may go. Other functions can be imported, too, but change without notice.

Models, losses, optimizers, sharding, checkpoints, the training loop and predictions
need JAX only; what is about data needs `pip install 'big_vision[data]'`, and says so.

`big_vision.utils` has many of these names under one import, for code written for
google-research/big_vision. This page is written by `python docs/make_api.py`.
"""

# What is public: a module with its names, or `@` and a kind of thing that configs
# name, see `FOUND`. Other lines are text.
PAGE = """## Trained models

See [predict.md](predict.md).

pretrained: load Backbone Classifier ImageText Prediction
  TextEncoder
models.weights.catalog: names
exported: load
embedder: load Embedder
pretrained.similarity_table: table boxes

## Checkpoints

See [checkpoints.md](checkpoints.md).

checkpoints: load_params latest leaf_names load_checkpoint_ts save_checkpoint_ts
  tsload tssave load_checkpoint_np load_checkpoint save_checkpoint npload
  CheckpointManager

## Models

A model is a linen module; `apply` returns `(logits, dict of intermediates)`.

models: build
models.common: load merge_params set_head_bias
@models

## Losses and gradients

Losses return `[B]`, or their mean.

losses: get softmax_xent sigmoid_xent weighted_softmax_xent token_xent
  bidirectional_contrastive_loss self_distillation_xent distance onehot
contrastive: sigmoid softmax
mixup: get_mixup mixup
views: random_boxes crop
grads: accumulate_gradient accumulate through_embeddings EmbeddingLoss
trainers.proj.gsam.gsam: gsam_gradient dual_vector
trainers.proj.reward_tune.detection_reward: reward_fn seq2box

## Schedules and optimizers

See [optimizers.md](optimizers.md).

schedules: create_learning_rate_schedule steps itstime
optax: make schedule_fns find_states get_count replace_frozen
  clip_by_per_example_global_norm
optimizers: scale_by_adafactor momentum_hp
muon: muon axes_of
clipping: clip_adaptively

## Devices and sharding

devices: create_device_mesh batch_sharding reshard make_fsarray_from_local_slice
  get_local_slice_from_fsarray put_cpu jit_cpu sync pad_shard_unpad
  prefetch_scalar mesh_of
meshes: arrange
sharding: infer_sharding axis_rules batch_axes Leaf
@shardings
models.activations: constrain tokens hidden heads

## Trees with names

trees: tree_flatten_with_names tree_unflatten tree_map_with_names
  tree_map_with_regex tree_get tree_replace tree_compare tree_filter
  tree_broadcast recover_tree recover_dtype check_and_compile_patterns
  make_mask_trees

## Data

See [datasets.md](datasets.md).

input_pipeline: training evaluation make_for_train make_for_inference
  start_global start_input_pipeline shard_and_put prefetch_iterator
  threadstart_iterator
datasets.core: get shared
datasets.source: DataSource IndexedDataSource
@datasets
datasets.digits: prepare load_arrays
datasets.shapes.builder: prepare make_scene make_example

## Preprocessing

An op is a factory of `example -> example`, registered by name.

pp.registry: Registry temporary_ops
pp.builder: get_preprocess_fn
pp.utils: InKeyOutKey maybe_repeat
pp.rng: next_seed epoch
@preprocess_ops
pp.tokenizer: get_tokenizer Tokenizer
@tokenizers

## Evaluators

`**kw` of an entry are arguments of `input_pipeline.evaluation`: `data`, `pp_fn`,
`batch_size` and others.

evaluators.build: from_config
evaluators.iteration: Batches open_batches fetch totals rows process_sum
  host_order
evaluators.files: resolve_outfile multiprocess_write_json
@evaluators

## Training

A trainer is a function `build(setup)` that returns a `Recipe`.

training.cli: main_for train
training.setup: Setup
training.recipe: Recipe value_and_grad
training.loop: run Preempted
training.settings: make number
@trainers

## Metrics, trackers and curves

See [trackers.md](trackers.md).

metrics: BigVisionMetricWriter to_json
trackers: Tracker Run Trackers
plots.curves: read_runs read_metrics Run
plots.page: make
plots.png: save
chrono: Chrono hms log_memory
profiler: profile startstop_prof startstop_prof_at_steps

## Costs of a run

See [plan.md](plan.md).

planning.costs: estimate Costs fits_in
planning.flops: of_function
planning.chips: get of_device Chip

## Files, names and errors

fs: open exists isdir listdir glob makedirs rename remove rmtree join dirname
  absolute is_local
download: fetch cached_download cache_dir
workdir: lock maybe_cleanup_workdir
lookup: ConfigError module attribute check_keys unknown did_you_mean
types: Batches Evaluator DataSource

## Commands

`--help` of each lists its flags.

@tools
"""


Definition = ast.FunctionDef | ast.ClassDef


@functools.cache
def tree(module: str) -> ast.Module:
  """Parses a module, given by its dotted name below the package."""
  path = PACKAGE.joinpath(*module.split("."))
  path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
  return ast.parse(path.read_text(encoding="utf-8"))


def definition(module: str, name: str) -> tuple[str, Definition] | None:
  """Finds where a name is defined, through imports of other modules.

  Args:
    module: dotted name below the package.
    name: function or class; `a.b` for a name of a module that is imported there.

  Returns:
    (name of the module that defines it, its node); None if it is not there.
  """
  first, dot, rest = name.partition(".")
  found = None
  for node in tree(module).body:
    if isinstance(node, Definition) and node.name == name:
      found = module, node  # The last one: overloads come before it.
    if isinstance(node, ast.ImportFrom) and node.module:
      imported = [a.name for a in node.names if (a.asname or a.name) == first]
      package, _, below = node.module.partition(".")
      if imported and package == "big_vision":
        inner = f"{below}.{imported[0]}".lstrip(".")
        return definition(inner, rest) if dot else definition(below, *imported)
  return found


def sentence(node: Definition | ast.Module) -> str:
  """Returns the first line of a docstring."""
  return (ast.get_docstring(node) or "").partition("\n")[0]


def decorators(node: ast.AST) -> list[str]:
  """Returns the source of the decorators of a definition."""
  return [ast.unparse(d) for d in getattr(node, "decorator_list", ())]


def signature(node: ast.FunctionDef, skip: Sequence[str] = ()) -> str:
  """Formats the arguments of a function, without types and `skip`."""
  args = copy.deepcopy(node.args)
  for arg in ast.walk(args):
    if isinstance(arg, ast.arg):
      arg.annotation = None
  args.args = [a for a in args.args if a.arg not in skip]
  return f"({public(ast.unparse(args))})"


def public(arguments: str) -> str:
  """Hides the names of private constants in arguments."""
  return re.sub(r"=_[A-Z]\w+", "=…", arguments)


def fields(module: str, node: Definition) -> dict[str, str]:
  """Finds the fields of a dataclass or of a linen module, as its arguments.

  Args:
    module: that defines the class.
    node: the class.

  Returns:
    Name -> for example "width=64", those of base classes first.
  """
  found = {}
  for base in getattr(node, "bases", ()):
    if inherited := definition(module, ast.unparse(base)):
      found |= fields(*inherited)
  for item in node.body:
    if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item):
      name = text = ast.unparse(item.target)
      if item.value is not None:
        value = ast.unparse(item.value)
        is_made = value.startswith("dataclasses.field(")
        text = f"{name}={'…' if is_made else value}"
      found[name] = public(text)
  return {k: text for k, text in found.items() if not k.startswith("_")}


def is_record(module: str, node: Definition) -> bool:
  """Tells whether the fields of a class are its arguments."""
  bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
  inherited = [definition(module, base) for base in bases]
  return (
    any("dataclass" in text for text in decorators(node))
    or any(base.endswith(("Module", "NamedTuple")) for base in bases)
    or any(is_record(*found) for found in inherited if found)
  )


def arguments(module: str, node: Definition, skip: Sequence[str] = ()) -> str:
  """Formats how a function or a class is called.

  Args:
    module: that defines it.
    node: the function or class.
    skip: arguments to leave out.

  Returns:
    The arguments in brackets; "" for a class that is not called.
  """
  if isinstance(node, ast.FunctionDef):
    # A model of a named size: what it makes says what else there is.
    made = re.search(r"\n +return (\w+)\(.*\*\*kw", ast.unparse(node))
    found = made and node.name == "Model" and definition(module, made[1])
    if not found:
      return signature(node, skip)
    names = {**fields(*found), "variant": "variant=None"}
  else:
    bases = [ast.unparse(base) for base in node.bases]
    if any(base.endswith(("Error", "Exception", "Protocol")) for base in bases):
      return ""
    if init := definition_in(node, "__init__"):
      return signature(init, ("self", *skip))
    names = fields(module, node) if is_record(module, node) else {}
  listed = ", ".join(v for k, v in names.items() if k not in skip)
  return f"({listed})" if listed else ""


def definition_in(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
  """Returns the method of a name."""
  found = [n for n in node.body if isinstance(n, ast.FunctionDef)]
  return next((n for n in found if n.name == name), None)


def bullet(code: str, text: str, indent: str = "") -> str:
  """Formats an item of a list: what it is called, and what it does."""
  return textwrap.fill(
    f"- `{code}`: {text}",
    88,
    initial_indent=indent,
    subsequent_indent=indent + "  ",
    break_long_words=False,
    break_on_hyphens=False,
  )


def of_module(entry: str) -> Iterator[str]:
  """Formats a module with its public names, given as "module: name name"."""
  module, _, names = entry.partition(": ")
  yield f"### `big_vision.{module}`\n"
  yield f"{sentence(tree(module))}\n"
  for name in names.split():
    found = definition(module, name)
    if found is None:
      raise ValueError(f"There is no {name} in big_vision.{module}.")
    yield bullet(f"{name}{arguments(*found)}", sentence(found[1]))
    if isinstance(found[1], ast.ClassDef):
      yield from methods(found[1])
  yield ""


def methods(node: ast.ClassDef) -> Iterator[str]:
  """Formats what a class offers, but for methods that it only overrides."""
  text = (ast.get_docstring(node) or "").partition("\nAttributes:\n")[2]
  names = re.findall(r"^  (\w[\w, ]*):", text, re.MULTILINE)
  names = [name for line in names for name in line.split(", ")]
  if names and definition_in(node, "__init__"):
    yield bullet("`, `".join(f".{name}" for name in names), "attributes.", "  ")
  for item in node.body:
    if not isinstance(item, ast.FunctionDef) or item.name.startswith("_"):
      continue
    is_property = any(text.endswith("property") for text in decorators(item))
    args = "" if is_property else signature(item, ("self", "cls"))
    if sentence(item):
      yield bullet(f".{item.name}{args}", sentence(item), "  ")


def modules(folder: str) -> Iterator[str]:
  """Yields the dotted names of the public modules of a folder, sorted."""
  for path in sorted((PACKAGE / folder).rglob("*.py")):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if not re.match("_(?!_)", parts[-1]):
      yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def registered(kind: str) -> Iterator[str]:
  """Formats what is registered as "<kind>.<name>"."""
  pattern = rf"Registry\.register\('{kind}\.(.+)'.*\)"
  found = {}
  for module in (*modules("pp"), "sharding"):
    for node in tree(module).body:
      for text in decorators(node):
        if isinstance(node, Definition) and (m := re.fullmatch(pattern, text)):
          found[m[1]] = f"{m[1]}{arguments(module, node)}", sentence(node)
  for name in sorted(found):
    yield bullet(*found[name])


def named(folder: str, name: str, key: str, *skip: str) -> Iterator[str]:
  """Formats modules that configs name, by the class or function they define.

  Args:
    folder: of the modules.
    name: of the class or function.
    key: how a config names one, with {}.
    *skip: arguments that the config does not give.

  Yields:
    Items of a list.
  """
  for module in modules(folder):
    below = module.removeprefix(f"{folder}.")
    found = module not in (folder, f"{folder}.source") and definition(
      module, name
    )
    if found and found[0] == module:
      code = key.format(below) + arguments(*found, skip=skip)
      yield bullet(code, sentence(tree(module)))


def commands(folder: str) -> Iterator[str]:
  """Formats the modules of a folder that are run with `python -m`."""
  for module in modules(folder):
    if "__main__" in module or "__main__" in ast.unparse(tree(module)):
      name = f"big_vision.{module.removesuffix('.__main__')}"
      yield bullet(name, sentence(tree(module)))


FOUND: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
  "@models": (
    "Models by `config.model_name`, with the keys of `config.model`",
    lambda: named("models", "Model", "{}", "num_classes"),
  ),
  "@datasets": (
    "Sources by `data.name`, with the other keys of `data`",
    lambda: named("datasets", "DataSource", "bv:{}"),
  ),
  "@evaluators": (
    "Evaluators by `type`, with the keys of their entry in `config.evals`",
    lambda: named(
      "evaluators", "Evaluator", "{}", "predict_fn", "devices", "workdir",
      "get_step",
    ),
  ),
  "@preprocess_ops": (
    "Ops of preprocessing strings",
    lambda: registered("preprocess_ops"),
  ),
  "@tokenizers": ("Tokenizers by name", lambda: registered("tokenizers")),
  "@shardings": (
    "Tactics of `config.sharding_strategy`",
    lambda: registered("shardings"),
  ),
  "@trainers": (
    "Trainers besides `big_vision.train`",
    lambda: commands("trainers"),
  ),
  "@tools": ("Tools, run with `python -m`", lambda: commands("tools")),
}  # fmt: skip


def page() -> str:
  """Makes the page.

  Returns:
    Markdown.
  """
  titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
  anchor = lambda title: re.sub(r"[^\w ]", "", title.lower()).replace(" ", "-")
  lines = [TOP, *(f"- [{t}](#{anchor(t)})" for t in titles), ""]
  for line in re.sub(r"\n +", " ", PAGE).splitlines():
    if line in FOUND:
      heading, items = FOUND[line]
      lines += [f"### {heading}\n", *items(), ""]
    elif re.match(r"[\w.]+: \w", line):
      lines += of_module(line)
    else:
      lines.append(line)
  return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
  (ROOT / "docs/api.md").write_text(page(), encoding="utf-8")
