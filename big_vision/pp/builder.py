"""Builds functions from preprocessing strings.

`"decode|resize(224)|flip_lr|value_range(-1, 1)"` names ops that are registered
as `preprocess_ops.<name>`, separated by `|`. Each one maps a dict of tensors
(an example) to a dict.
"""

from __future__ import annotations

import inspect
import itertools
import re

from absl import logging

from big_vision import lookup
from big_vision.pp import batched, registry, rng
from big_vision.pp.registry import Registry, parse_name
from big_vision.pp.types import ExampleFn
from big_vision.tf import plain, tf

_PREFIX = "preprocess_ops."

# String literals and comments as a whole; brackets; the separator.
_TOKEN = re.compile(
  r"""
    \"{3} (?: \\. | [^\\] )*? \"{3}  |  '{3} (?: \\. | [^\\] )*? '{3}
  | \" (?: \\. | [^\\\"\n] )* \"     |  ' (?: \\. | [^\\'\n] )* '
  | \# [^\n]*
  | [()\[\]{}|]
  """,
  re.VERBOSE | re.DOTALL,
)


def split_pipeline(pp_pipeline: str | None) -> list[str]:
  """Splits a preprocessing string into its ops.

  Args:
    pp_pipeline: str; a `|` in quotes, brackets or a comment does not separate.
      None means "".

  Returns:
    List of str, stripped of white space; empty ones are left out.
  """
  pipeline = pp_pipeline or ""
  sections, start, depth = [], 0, 0
  for token in _TOKEN.finditer(pipeline):
    if token[0] in "([{":
      depth += 1
    elif token[0] in ")]}":
      depth = max(depth - 1, 0)
    elif token[0] == "|" and not depth:
      sections.append(pipeline[start : token.start()])
      start = token.end()
  sections.append(pipeline[start:])
  return [s.strip() for s in sections if s.strip()]


def get_preprocess_fn(
  pp_pipeline: str | None, log_data: bool | str = True, log_steps: bool = False
) -> ExampleFn:
  """Builds the function of a preprocessing string.

  Args:
    pp_pipeline: str, ops separated by `|`; None or "" for the identity.
    log_data: bool or str, whether to log the first example before and after; a
      str is used as its label.
    log_steps: bool, whether to log the data before every op, on every call.

  Returns:
    `dict -> dict`, for eager use and for `tf.data.Dataset.map`. Most ops change
    their argument. It raises ValueError if the result is not a dict. Its
    attribute `begin`, called with a `batched.Later` too, leaves to that what can
    wait; `waiting` has these ops, (section, whether it is one `OfBytes`).

  Raises:
    ValueError: an op cannot be parsed.
    KeyError: an op is not registered.
    TypeError: an op does not take these arguments.
  """
  sections = split_pipeline(pp_pipeline)
  names, ops, ours = [], [], True
  for section, following in itertools.zip_longest(sections, sections[1:]):
    name, op, is_ours = _build(section, following)
    names.append(name)
    ops.append(op)
    ours = ours and is_ours
  begins = batched.waiting(ops)
  label = log_data

  def run(data, later=None):
    nonlocal log_data
    if log_data:
      logging.info("Data before pre-processing (%s):\n%s", label, data)
    steps = zip(sections, names, ops, begins, strict=True)
    for i, (section, name, op, begin) in enumerate(steps):
      if log_steps:
        logging.info("Pre-processing step %s (%s):\n%s", name, section, data)
      with tf.name_scope(name), rng.op_scope(i):
        waits = later is not None and begin
        data = begin(data, later) if waits else op(data)
    if not isinstance(data, dict):
      raise ValueError(
        f"Argument `data` must be a dictionary, not {type(data)}"
      )
    if log_data:
      logging.info("Data after pre-processing (%s):\n%s", label, data)
    log_data = False
    return data

  def preprocess(data):
    return run(data)

  preprocess.begin = plain(run) if ours else run
  preprocess.waiting = tuple(
    (section, hasattr(op, "of_bytes"))
    for section, op, begin in zip(sections, ops, begins, strict=True)
    if begin
  )
  return plain(preprocess) if ours else preprocess


def _build(section, following):
  """Makes (name, op, whether it is ours); some want to know the next one."""
  try:
    make_op = Registry.lookup(_PREFIX + section)
    name = parse_name(section)[0]
  except SyntaxError as e:
    reason = "" if e.lineno else f" ({e.msg})"  # Python's are about places.
    raise ValueError(f"Syntax error on: {section:.200}{reason}") from e
  except KeyError as e:
    raise KeyError(_unknown_op(e.args[0].removeprefix(_PREFIX))) from e
  extra = {}
  if following and "key" not in section and _looks_ahead(make_op.func):
    extra = {"followed_by": following}
  try:
    op = make_op(**extra)
  except TypeError as e:
    raise TypeError(f"{section}: {e}.{_usage(name, make_op.func)}") from e
  # Ops of this package have no `if` or loop on tensors; others may.
  ours = make_op.func.__module__.split(".")[0] == "big_vision"
  if ours:
    op = plain(op)
    if hasattr(op, "begin"):
      op.begin = plain(op.begin)
  return name, op, ours


def _looks_ahead(factory):
  """Tells whether a factory wants to know the op that follows."""
  try:
    return "followed_by" in inspect.signature(factory).parameters
  except (TypeError, ValueError):  # Some callables have no signature.
    return False


def _usage(name, factory):
  """Describes the arguments of an op, for error messages."""
  try:
    signature = inspect.signature(factory)
  except (TypeError, ValueError):  # Some callables have no signature.
    return ""
  # Without types, which are not written in preprocessing strings.
  parameters = [
    p.replace(annotation=p.empty) for p in signature.parameters.values()
  ]
  signature = inspect.Signature(parameters)
  return f" Usage: {name}{signature}"


def _unknown_op(name):
  """Writes the error message for an op that is not registered."""
  registered = [
    n.removeprefix(_PREFIX)
    for n in Registry.global_registry()
    if n.startswith(_PREFIX)
  ]
  modules = registry.homes("preprocess_ops")
  if name in modules:
    hint = (
      f". It is in the module {modules[name]!r} of big_vision.pp: add that to "
      "config.pp_modules, or import it."
    )
  else:
    hint = lookup.did_you_mean(name, {*registered, *modules})
    hint += (
      " If it is an op of your own, config.pp_modules must name its module."
    )
  return f"Unknown preprocessing op {name!r}{hint}"
