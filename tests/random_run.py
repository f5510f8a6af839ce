"""Workdirs of runs that have never trained: a config and random parameters."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from big_vision import checkpoints, models


def make(
  path: pathlib.Path,
  config: dict[str, Any],
  *inputs: np.ndarray,
  class_names: tuple[str, ...] = (),
  **call: Any,
) -> pathlib.Path:
  """Writes the workdir.

  Args:
    path: a new folder.
    config: with `model_name`, `model` and what else the run has.
    *inputs: of the model, with a batch axis.
    class_names: for data.json.
    **call: arguments of the model.

  Returns:
    The folder.
  """
  path.mkdir(parents=True)
  kw = {k: config[k] for k in ("num_classes",) if k in config}
  own = {k: config[k] for k in ("model_name", "model")}
  model, _ = models.build(ConfigDict(own), **kw)
  shapes = jax.eval_shape(
    lambda *x: model.init(jax.random.key(0), *x, **call), *inputs
  )["params"]
  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  params = jax.tree.map(draw, shapes)
  text = ConfigDict(config).to_json_best_effort()
  (path / "config.json").write_text(text, encoding="utf-8")
  if class_names:
    data = json.dumps({"class_names": class_names})
    (path / "data.json").write_text(data, encoding="utf-8")
  manager = checkpoints.CheckpointManager()
  checkpoints.save_checkpoint_ts(
    manager, {"params": params}, str(path / "checkpoint.bv"), 1, keep=False
  )
  manager.close()
  return path


def vit(path: pathlib.Path, **model: Any) -> pathlib.Path:
  """Writes that of a small ViT of three classes, for pictures of 32 pixels.

  Args:
    path: a new folder.
    **model: arguments of the model.

  Returns:
    The folder.
  """
  config = dict(
    num_classes=3,
    loss="softmax_xent",
    model_name="vit",
    model=dict(
      width=16, depth=2, mlp_dim=32, num_heads=2, patch_size=(8, 8), **model
    ),
    input=dict(pp="decode|resize(32)|value_range(-1, 1)"),
  )  # fmt: skip
  x = np.zeros([1, 32, 32, 3])
  return make(path, config, x, class_names=("cat", "dog", "red panda"))
