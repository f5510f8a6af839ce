"""Small functions and configs whose costs tests of the planner know."""

import jax
import ml_collections as mlc
import numpy as np

from big_vision.planning import jaxpr, partition

F32 = 4  # Bytes.

VIT = dict(width=192, depth=2, mlp_dim=768, num_heads=3, patch_size=(8, 8))
RES, CLASSES = 64, 100
FSDP = [(".*", "fsdp(axis='data', min_size_to_shard_mb=0.01)")]
# As in Megatron: heads and hidden units are split.
TENSOR = [
  (".*(query|key|value)/kernel", "shard_dim('model', -2)"),
  (".*(query|key|value)/bias", "shard_dim('model', -2)"),
  (".*out/kernel", "shard_dim('model', -3)"),
  (".*MlpBlock_0/Dense_0/kernel", "shard_dim('model', -1)"),
  (".*MlpBlock_0/Dense_1/kernel", "shard_dim('model', -2)"),
]


def make_config(batch=32, model=None, **kw):
  """Config of a training of a small ViT; `model` changes parts of it."""
  default = dict(
    total_steps=100,
    num_classes=CLASSES,
    input=dict(batch_size=batch),
    model_name="vit",
    model={**VIT, **(model or {})},
    optax_name="scale_by_adam",
    lr=1e-3,
    wd=1e-4,
    grad_clip_norm=1.0,
    schedule=dict(decay_type="cosine", warmup_steps=10),
  )
  return mlc.ConfigDict({**default, **kw})


def trace(fn, *shapes):
  """Graph of a function of float32 arrays."""
  args = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
  return jaxpr.from_function(fn, *args)


def names(g):
  """Names of the operations of a graph."""
  return [op.name for op in g.ops]


def nbytes(value):
  """Bytes of a value that is not split."""
  return value.size * value.itemsize


def split(fn, shapes, specs, mesh, batch=("data",)):
  """The graph of a function, partitioned, and its Partition."""
  g = trace(fn, *shapes)
  for v, spec in zip(g.inputs, specs, strict=True):
    v.spec = spec
  parts = partition.Partition(mesh, batch)
  parts.run(g)
  return g, parts
