"""Knows the keys of configs and their types, also of keys that are not there.

What the loop reads stands in tables. Arguments of models, optimizers, data
sources and evaluators are looked up where they are defined.
"""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from big_vision import lookup
from big_vision.types import ConfigLike

Types = dict[str, type]
UNITS = {"steps": int, "examples": int, "epochs": float, "percent": float}


def _durations(*prefixes: str) -> Types:
  """Returns all units of durations with their types."""
  return {f"{p}_{u}": t for p in prefixes for u, t in UNITS.items()}


# `object` is any Python literal: lists of rules, and what may have several types.
RUN: Types = {
  "attention": str,
  "batch_size_eval": int,
  "ckpt_timeout": float,
  "deterministic_reductions": object,
  "ema_decay": float,
  "ema_warmup": object,
  "evals": dict,
  "grad_accum_steps": int,
  "grad_clip_agc": float,
  "grad_clip_agc_eps": float,
  "grad_clip_agc_mults": object,
  "grad_clip_norm": float,
  "grad_clip_per_example": bool,
  "input": dict,
  "keep_best": object,
  "layer_decay": float,
  "lora": dict,
  "lr": float,
  "lr_mults": object,
  "mesh": object,
  "mesh_allow_split_physical_axes": bool,
  "mesh_dcn": object,
  "optax": dict,
  "optax_name": str,
  "optim_name": str,
  "pp_modules": object,
  "precision": str,
  "prefetch_to_device": int,
  "resume": str,
  "schedule": dict,
  "seed": int,
  "sharding_rules": object,
  "sharding_strategy": object,
  "trackers": object,
  "wd": float,
  "wd_mults": object,
  "weight_decay_decouple": bool,
  **_durations("total", "log_training", "ckpt", "keep_ckpt"),
}
_LABELS = "train.py", "trainers/proj/gsam/", "trainers/proj/flexi/train.py"
_DISTILL = "trainers/proj/distill/", "trainers/proj/flexi/distill.py"
_UVIM = "trainers/proj/uvim/vqvae.py"
_CAPPA = "trainers/proj/cappa/generative.py"
_PALIGEMMA = "trainers/proj/paligemma/train.py"
# Of some methods, and of `tools/eval_only.py`: (paths of the readers, keys).
_BY_READER: tuple[tuple[tuple[str, ...], Types], ...] = (
  ((*_LABELS, "tools/eval_only.py"), {"loss": str}),
  ((*_LABELS, *_DISTILL, "tools/eval_only.py"), {"num_classes": int}),
  ((*_LABELS, *_DISTILL, _UVIM), {"init_head_bias": float}),
  ((*_LABELS, *_DISTILL), {"mixup": dict}),
  (_LABELS, {"class_weights": object, "cutmix": dict}),
  ((*_LABELS, _CAPPA, _PALIGEMMA), {"label_smoothing": float}),
  ((_CAPPA,), {"num_sharded_replicas": int, "pad_token": int}),
  (("trainers/proj/jet/train.py",), {"condition_drop_prob": float}),
  (("trainers/proj/reward_tune/",), {"reward": dict}),
  (
    ("trainers/proj/givt/",),
    {
      "adaptor": dict,
      "ar_generation_config": dict,
      "masked_generation_config": dict,
      "vae": dict,
    },
  ),
  (("trainers/proj/jetformer/",), {"patch_pca": dict}),
  (
    ("trainers/proj/image_text/",),
    {
      "captioning": dict,
      "loss_chunk": int,
      "loss_fn": str,
      "self_distill": dict,
    },
  ),
  (
    _DISTILL,
    {
      "distance": str,
      "distance_kw": dict,
      "features": object,
      "teachers": object,
    },
  ),
  (("trainers/proj/gsam/",), {"gsam": dict}),
  (("trainers/proj/flexi/",), {"flexi": dict}),
  (("trainers/proj/uvim/train.py",), {"oracle": dict}),
  (
    (_UVIM,),
    {
      "freeze_dict": bool,
      "max_depth": float,
      "min_depth": float,
      "task": str,
      "w_commitment": float,
    },
  ),
  (
    ("tools/eval_only.py",),
    {
      "eval_repeats": int,
      "init_shapes": object,
      "init_types": object,
      "no_profile": object,
    },
  ),
)
READERS = {key: where for where, keys in _BY_READER for key in keys}
METHODS: Types = {k: t for _, keys in _BY_READER for k, t in keys.items()}
# Of configs of the past, which `flat_config` reads.
FLAT: Types = {
  "cache_raw": bool,
  "checkpoint_steps": int,
  "checkpoint_timeout": float,
  "dataset": str,
  "dataset_dir": str,
  "keep_checkpoint_steps": int,
  "log_eval_steps": int,
  "num_epochs": float,
  "pp_eval": str,
  "pp_train": str,
  "prefetch_to_host": int,
  "shuffle_buffer_size": int,
  "train_split": str,
  "val_split": str,
}
DATASET: Types = {
  "balance_classes": object,
  "cache_raw": bool,
  "data": dict,
  "memory_gb": float,
  "num_parallel_calls": int,
  "pack": object,
  "post_filter_fn": object,
  "pp": str,
  "pre_filter_fn": object,
  "shuffle_buffer_size": int,
  "skip_errors": bool,
  "tfdata": dict,
}
BATCHES: Types = {"batch_size": int, "prefetch": int}
MIXTURE: Types = {"data": dict, "keep_only": object, "thread_pool_size": int}
SCHEDULE: Types = {
  "base": float,
  "mult": float,
  "decay_type": str,
  "scale_with_batchsize": bool,
  "power": float,
  "end": float,
  "linear_end": float,
  "timescale": float,
  "shift": float,
  "cooldown_shape": str,
  "steps": object,
  "mults": object,
  **_durations("warmup", "cooldown", "timescale", "shift"),
}
EVALUATOR: Types = {
  "type": str,
  "params": str,
  "pred": str,
  "pred_kw": dict,
  "prefix": str,
  "skip_first": bool,
  "batch_size": int,
  "cache": str,
  "loss_name": str,
  **_durations("log"),
}
# Stage I of UViM in the config of stage II.
ORACLE: Types = {
  "max_depth": float,
  "min_depth": float,
  "model": dict,
  "model_init": str,
  "model_name": str,
  "task": str,
}
PARTS: dict[str, Types] = {
  "cutmix": {"p": float, "switch_prob": float},
  "mixup": {"p": float, "n": int, "num_shards": int},
  "lora": {
    "rank": int,
    "alpha": float,
    "targets": object,
    "train": object,
    "dtype": str,
  },
  "schedule": SCHEDULE,
  "gsam": {
    "rho_max": float,
    "rho_min": float,
    "lr_max": float,
    "lr_min": float,
    "alpha": float,
    "adaptive_perturbation": bool,
    "minimize_fp": bool,
    "per_device": bool,
  },
  "reward": {
    "name": str,
    "num_samples": int,
    "num_grads": int,
    "eos_token": int,
    "truth": str,
    "max_level": int,
    "max_conf": int,
    "num_cls": int,
    "nms_w": float,
    "cls_smooth": float,
    "reward_thr": object,
    "correct_thr": float,
    "conf_w": float,
    "cls_counts": object,
    "counts": str,
    "max_segments": int,
    "unmatched_w": float,
  },
  "self_distill": {
    "weight": float,
    "start": float,
    "decay": float,
    "local_weight": float,
    "views": int,
    "local_size": int,
    "area": object,
    "masked_weight": float,
    "mask_ratio": float,
    "hidden": int,
    "bottleneck": int,
    "prototypes": int,
    "student_temperature": float,
    "teacher_temperature": float,
    "center_decay": float,
  },
}


def type_of(config: ConfigLike, path: Sequence[str]) -> type:
  """Finds the type of a key that code reads, whether the config has it or not.

  Args:
    config: ConfigDict of a run, as far as it is there.
    path: parts of the key: ["model", "dtype_mm"] of `config.model.dtype_mm`.

  Returns:
    bool, int, float, str, dict; or object where any literal will do.

  Raises:
    lookup.ConfigError: nobody reads the key; names the nearest ones.
  """
  *part, name = path
  known = keys_of(config, part)
  if known is None:
    return object
  if name not in known:
    here = config
    for p in part:
      here = here.get(p) or {}
    there = [*known, *here]
    inner = [] if part else _inside(config, name)
    hint = f". Did you mean {' or '.join(map(repr, inner))}?" if inner else None
    raise lookup.ConfigError(
      f"config.{'.'.join(path)} is not a known key"
      f"{hint or lookup.did_you_mean(name, there)}"
    )
  return known[name]


def _inside(config: ConfigLike, name: str) -> list[str]:
  """Lists the parts of a config that read a key which the top level lacks."""
  parts = [["input"], ["input", "data"], ["optax"], ["schedule"]]
  found = []
  for part in parts + [[m] for m in _models(config)]:
    if part[0] in config:
      with contextlib.suppress(ValueError):  # It names what does not exist.
        if name in (keys_of(config, part) or {}):
          found.append(".".join([*part, name]))
  return found


def keys_of(config: ConfigLike, part: Sequence[str]) -> Types | None:
  """Lists the keys that code reads in a part of a config.

  Args:
    config: ConfigDict of a run.
    part: path of the part; empty is the config itself.

  Returns:
    Key -> type; None if the part takes any key.
  """
  if not part:
    return _top(config)
  head, *rest = part
  cfg = config.get(head) or {}
  if head in PARTS:
    return None if rest else PARTS[head]
  if head == "input":
    return _input(cfg, rest)
  if head == "evals":
    return _evaluator(cfg, rest)
  if head == "optax" and not rest:
    from big_vision import optimizers  # Imports jax: not for the help alone.

    factory = optimizers.find(config.get("optax_name"))
    return parameters(factory)
  if head == "captioning" and not rest:
    from big_vision.models.proj.image_text import captioner

    decoder = parameters(captioner.Model) or {}
    return {"weight": float, "parallel": float, **decoder}
  if head == "oracle":  # A config of its own.
    return keys_of(cfg, rest) if rest else ORACLE
  for model in _models(config):
    if head == model:
      return _model(config.get(f"{model}_name"), cfg, rest, f"{model}_name")
  return None


def _models(config: ConfigLike) -> list[str]:
  """Names what a config calls its models."""
  found = [k.removesuffix("_name") for k in config if k.endswith("_name")]
  found = [k for k in found if k not in ("optax", "optim")]
  teachers = config.get("teachers") or ()
  return [*dict.fromkeys(["model", *found, *teachers])]


def _top(config: ConfigLike) -> Types:
  """Lists the keys at the top level of a config."""
  known = {**RUN, **METHODS}
  if "input" not in config:  # Of the past, or evaluates only.
    known["batch_size"] = int
    if "dataset" in config:
      known |= FLAT
      del known["input"]
  for m in _models(config):
    known |= {
      m: dict,
      f"{m}_name": str,
      f"{m}_init": str,
      f"{m}_load": dict,
      f"{m}_dtype": str,
    }
  return known


def _input(cfg: ConfigLike, rest: Sequence[str]) -> Types | None:
  """Lists the keys of a part of `config.input`."""
  data = cfg.get("data") or {}
  is_mixture = bool(data) and not isinstance(data.get("name"), str)
  if not rest:
    if not is_mixture:
      return {**DATASET, **BATCHES}
    return {**MIXTURE, **BATCHES, **dict.fromkeys(data, dict)}
  head, *rest = rest
  if is_mixture and head in data:
    return _dataset(cfg.get(head) or {}, rest)
  return _dataset(cfg, [head, *rest]) if not is_mixture else None


def _dataset(cfg: ConfigLike, rest: Sequence[str]) -> Types | None:
  """Lists the keys of a part of the config of one dataset."""
  if not rest:
    return DATASET
  if rest[0] == "data" and len(rest) == 1:
    return _source(cfg.get("data") or {})
  return None


def _source(data: ConfigLike) -> Types | None:
  """Lists the arguments of a data source."""
  from big_vision.datasets import core  # The TensorFlow wing.

  if not isinstance(data.get("name"), str):
    return None
  found = parameters(core.source_class(data["name"]))
  return found and {"name": str, **found}


def _evaluator(evals: ConfigLike, rest: Sequence[str]) -> Types | None:
  """Lists the keys of a part of `config.evals`."""
  if not rest:  # A new evaluator needs more than a key of it.
    return {}
  name, *rest = rest
  cfg = evals.get(name) or {}
  if rest:
    return _source(cfg.get("data") or {}) if rest == ["data"] else None
  from big_vision.evaluators import build

  evaluator = build.module_of(cfg.get("type", name), name).Evaluator
  accepted, _ = build.arguments(evaluator)
  if accepted is None:
    return None
  found: Types = dict.fromkeys(accepted, object)
  classes = inspect.getmro(evaluator) if inspect.isclass(evaluator) else ()
  forwards = getattr(evaluator, "forwards", None)
  for fn in (forwards, *(vars(c).get("__init__") for c in reversed(classes))):
    if fn is not None and fn is not object.__init__:
      found |= {k: t for k, t in _of_function(fn).items() if k in accepted}
  return {**found, **EVALUATOR}


def _model(
  name: Any, cfg: ConfigLike, rest: Sequence[str], key: str
) -> Types | None:
  """Lists the arguments of a model, or of a tower in it."""
  if name is None:  # That it is missing is said later.
    return None
  module = lookup.module("models", name, kind="model", key=key, needs="Model")
  known = parameters(module.Model)
  if not rest or known is None:
    return known
  tower, *rest = rest
  chosen = f"{tower}_model"
  if chosen not in known:
    return None
  default = getattr(module.Model, chosen, None)
  args = cfg.get(tower) or {}
  return _model(cfg.get(chosen, default), args, rest, f"model.{chosen}")


def parameters(fn: Callable[..., Any]) -> Types | None:
  """Lists the arguments of a class or function, with their types.

  Args:
    fn: a linen module, a class, or a function that may pass further arguments on
      to the class that it returns.

  Returns:
    Name -> type, see `type_of`; None if it takes any argument.
  """
  if inspect.isclass(fn) and dataclasses.is_dataclass(fn):
    hints = _hints(fn)
    return {
      f.name: _simple(hints.get(f.name, f.type), f.default)
      for f in dataclasses.fields(fn)
      if f.init and f.name not in ("parent", "name")
    }
  found = _of_function(fn)
  kinds = [p.kind for p in inspect.signature(fn).parameters.values()]
  if inspect.Parameter.VAR_KEYWORD not in kinds:
    return found
  made = _hints(fn).get("return")
  if not (inspect.isclass(made) and dataclasses.is_dataclass(made)):
    return None
  return (parameters(made) or {}) | found


def _of_function(fn: Callable[..., Any]) -> Types:
  """Lists the named arguments of a function."""
  hints = _hints(fn.__init__ if inspect.isclass(fn) else fn)
  return {
    p.name: _simple(hints.get(p.name, p.annotation), p.default)
    for p in inspect.signature(fn).parameters.values()
    if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
  }


def _hints(fn: Any) -> dict[str, Any]:
  """Returns annotations as objects, {} if they cannot be resolved."""
  try:
    return typing.get_type_hints(getattr(fn, "func", fn))
  except (NameError, TypeError):
    return {}


def _simple(annotation: Any, default: Any) -> type:
  """Reduces an annotation to a type that a command line can have."""
  simple = (bool, int, float, str)
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    options = [t for t in typing.get_args(annotation) if t is not type(None)]
    if set(options) == {int, float}:
      return float
    return _simple(options[0], default) if len(options) == 1 else object
  if annotation in simple:
    return annotation
  origin = typing.get_origin(annotation) or annotation
  if origin in (dict, Mapping):
    return dict
  return type(default) if type(default) in simple else object
