"""Reads configs of the past, which had their data at the top level.

Some papers' configs say `dataset`, `train_split`, `pp_train`, `batch_size` where
today's have `config.input`. Trainers read them all the same.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections as mlc

from big_vision.types import ConfigLike

# Top level -> today's key.
_RENAMED = {
  "num_epochs": "total_epochs",
  "checkpoint_steps": "ckpt_steps",
  "keep_checkpoint_steps": "keep_ckpt_steps",
  "checkpoint_timeout": "ckpt_timeout",
}
# Top level -> `config.input`.
_INPUT = {
  "pp_train": "pp",
  "batch_size": "batch_size",
  "shuffle_buffer_size": "shuffle_buffer_size",
  "cache_raw": "cache_raw",
  "prefetch_to_host": "prefetch",
}
# Of the evaluation on a split of the training data, which needs all of them.
_VALIDATION = ("val_split", "pp_eval", "log_eval_steps")
# Top level -> `config.input.data`.
_DATA = {"dataset": "name", "train_split": "split", "dataset_dir": "data_dir"}


def modern(config: ConfigLike) -> ConfigLike:
  """Brings a config into today's layout.

  Args:
    config: ConfigDict of either layout.

  Returns:
    `config` itself if nothing has moved; else a ConfigDict, unlocked, with the
    same values where they belong today, references resolved.

  Raises:
    ValueError: a key is there under both names, checkpoints to be kept are not
      among those that are written, or validation is half described.
  """
  config = _with_mesh(config)
  if "input" in config or "dataset" not in config:
    return config
  old: dict[str, Any] = config.copy_and_resolve_references().to_dict()
  _check(old)
  new: dict[str, Any] = {
    _RENAMED.get(k, k): v
    for k, v in old.items()
    if k not in _INPUT and k not in _DATA and k not in _VALIDATION
  }
  new["input"] = _moved(old, _INPUT) | {"data": _moved(old, _DATA)}
  new["evals"] = {
    name: _evaluator(cfg, old)
    for name, cfg in {**_validation(old), **old.get("evals", {})}.items()
  }
  return mlc.ConfigDict(new)


def _with_mesh(config):
  """Reads `num_sharded_replicas`, how CapPa's config says its mesh."""
  num = config.get("num_sharded_replicas")
  if num is None:
    return config
  if "mesh" in config:
    raise ValueError(
      "config.num_sharded_replicas is the old name of config.mesh: remove one of "
      "them."
    )
  new = mlc.ConfigDict(config.copy_and_resolve_references().to_dict())
  del new.num_sharded_replicas
  new.mesh = [("replica", num), ("fsdp", -1)]
  if "sharding_rules" not in new:
    new.sharding_rules = [("act_batch", ("replica", "fsdp"))]
  return new


def _check(old: Mapping[str, Any]) -> None:
  """Refuses what is said twice or contradicts itself."""
  for before, now in _RENAMED.items():
    if before in old and now in old:
      raise ValueError(
        f"config.{before} is the old name of config.{now}: remove one of them."
      )
  if "num_epochs" in old and old.get("total_steps") is not None:
    raise ValueError(
      "config.num_epochs and config.total_steps: remove one of them."
    )
  keep, every = old.get("keep_checkpoint_steps"), old.get("checkpoint_steps")
  if keep and (not every or keep % every):
    raise ValueError(
      f"config.keep_checkpoint_steps={keep} must be a multiple of "
      f"config.checkpoint_steps={every}."
    )


def _moved(old: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
  """Collects the values of `old` under the keys of `names`, by their new names."""
  return {new: old[k] for k, new in names.items() if k in old}


def _validation(old: Mapping[str, Any]) -> dict[str, Any]:
  """Makes the evaluator `val` of a config that says it by keys of the top level."""
  missing = [k for k in _VALIDATION if old.get(k) is None]
  if len(missing) == len(_VALIDATION):
    return {}
  if missing:
    raise ValueError(
      f"config.{missing[0]} is missing: validation needs each of "
      f"{', '.join(_VALIDATION)}; remove them all to go without."
    )
  return {
    "val": dict(
      type="classification",
      dataset=old["dataset"],
      split=old["val_split"],
      pp_fn=old["pp_eval"],
      loss_name=old.get("loss", "sigmoid_xent"),
      log_steps=old["log_eval_steps"],
    )
  }


def _evaluator(cfg: dict[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
  """Converts one evaluator: `dataset` and `split` become `data`."""
  if "dataset" not in cfg:
    return cfg
  data = {"name": cfg["dataset"], "split": cfg.get("split")}
  if folder := cfg.get("dataset_dir", old.get("dataset_dir")):
    data["data_dir"] = folder
  rest = {
    k: v for k, v in cfg.items() if k not in ("dataset", "split", "dataset_dir")
  }
  return {**rest, "data": data}
