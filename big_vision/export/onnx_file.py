"""Writes ONNX, the format of onnxruntime and of many devices.

Files: `model.onnx`; weights that do not fit into it (2 GB, the limit of its
encoding), or with `external_data`, are in `model.onnx.data` beside it.
"""

import os
from typing import Any

import jax
import numpy as np

import big_vision
from big_vision import compat, extras
from big_vision.export import onnx_graph, onnx_trace
from big_vision.export.forward import Forward, refuse_free_sizes
from big_vision.export.onnx_graph import Graph, Value

PROGRAM, DATA = "model.onnx", "model.onnx.data"
_LARGEST = 1_900_000_000  # Bytes of weights; the rest is for the graph.


def write(
  forward: Forward, folder: str, external_data: bool = False
) -> dict[str, Any]:
  """Writes the files.

  Args:
    forward: the function.
    folder: exists.
    external_data: whether weights are in a file of their own; they always are
      if they are too large.

  Returns:
    For `export.json`: `files`, `opset`.

  Raises:
    ConfigError: a primitive has no counterpart, or the batch cannot be free.
    ModuleNotFoundError: the package onnx is not installed.
  """
  onnx = extras.load("onnx")
  model, num_bytes = _model(onnx, forward)
  path = os.path.join(folder, PROGRAM)
  external_data = external_data or num_bytes > _LARGEST
  onnx.save_model(
    model,
    path,
    save_as_external_data=external_data,
    location=DATA,
    size_threshold=1024,
  )
  onnx.checker.check_model(path)
  return {
    "files": [PROGRAM, *[DATA] * external_data],
    "opset": onnx_graph.OPSET,
  }


def _model(onnx, forward):
  """Makes a ModelProto; also returns the bytes of its weights."""
  specs = forward.specs()
  shapes = {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in forward.params.items()
  }
  with refuse_free_sizes(forward):
    closed, out = jax.make_jaxpr(forward.fn, return_shape=True)(shapes, specs)
  graph = Graph()
  params = {}
  for name, array in sorted(forward.params.items()):
    params[name] = value = onnx_graph.known(array)
    if value.data.size > 64:  # Smaller ones may be shared.
      graph.constant(value.data, name)
  for i in forward.inputs:
    for axis, size in enumerate(i.shape):
      if isinstance(size, str):
        graph.define(size, i.name, axis)
  inputs = {
    k: Value(k, tuple(s.shape), onnx_graph.dtype_of(s.dtype))
    for k, s in specs.items()
  }
  arguments = [*params.values(), *(inputs[k] for k in sorted(inputs))]
  jaxpr = compat.jaxpr_of(closed)
  results = onnx_trace.convert(graph, jaxpr, arguments, closed.consts)
  for name, value in zip(sorted(out), results, strict=True):
    graph.rename(value, name)

  helper = onnx.helper
  info = lambda name, dtype, shape: helper.make_tensor_value_info(
    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
  )
  size = lambda s: int(s) if isinstance(s, int | np.integer) else str(s)
  nodes = graph.used_nodes(sorted(out))
  needed = {name for node in nodes for name in node.input}
  constants = {k: v for k, v in graph.constants.items() if k in needed}
  content = helper.make_graph(
    nodes,
    "big_vision",
    [info(i.name, inputs[i.name].dtype, i.shape) for i in forward.inputs],
    [
      info(k, onnx_graph.dtype_of(out[k].dtype), list(map(size, out[k].shape)))
      for k in sorted(out)
    ],
    [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
  )
  model = helper.make_model(
    content,
    producer_name="big_vision",
    producer_version=big_vision.__version__,
    ir_version=onnx_graph.IR_VERSION,
    opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)],
  )
  return model, sum(v.nbytes for v in constants.values())
