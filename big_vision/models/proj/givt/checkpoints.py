"""Reads the states of GANs in which the VAEs of ImageNet were published.

The public ones are `gs://big_vision/givt/vae_imagenet_2012_beta_*_params`, files
of flax's msgpack. Beside the VAE they hold other parts of that training.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from flax import serialization

from big_vision import checkpoint_npz, checkpoints, fs, lookup, trees
from big_vision.types import Params

_STEP = re.compile(r"checkpoint_(\d+)")


def load_malib(
  init_file: str | os.PathLike | Mapping[str, Any], use_ema_params: bool = False
) -> Params:
  """Reads the VAE of such a state.

  Args:
    init_file: the file; a folder with files `checkpoint_<step>`, of which the
      last is read, or a folder that orbax has written; or the state itself, a
      nested mapping.
    use_ema_params: whether to take the average of the parameters.

  Returns:
    Nested dict, the parameters of `cnn.Model`.

  Raises:
    FileNotFoundError: the file does not exist.
    ConfigError: it is not such a state.
  """
  part = "ema_params" if use_ema_params else "g_params"
  tree = init_file if isinstance(init_file, Mapping) else _read(init_file, part)
  named = trees.tree_flatten_with_names(tree)[0]
  # "params/ema_params/encoder/..." -> "cnn_encoder/...".
  found = {
    f"cnn_{m[1]}": value
    for name, value in named
    if (m := re.fullmatch(rf"(?:.*/)?{part}/(.+)", name))
  }
  if not found:
    raise lookup.ConfigError(
      f"{_name(init_file)} has no parameters {part}/..., but "
      f"{', '.join(sorted(tree)[:5]) or 'nothing'}: with malib_ckpt=True it "
      "should be one of gs://big_vision/givt/vae_imagenet_2012_beta_*_params."
    )
  return trees.recover_tree(list(found), list(found.values()))


def _name(init_file):
  """Names a checkpoint, for errors."""
  is_path = not isinstance(init_file, Mapping)
  return os.fspath(init_file) if is_path else "The state"


def _read(path, part):
  """Reads a state, or the part of it that is needed."""
  if fs.isdir(path):
    steps = {int(m[1]): n for n in fs.listdir(path) if (m := _is_step(n))}
    if steps:
      return _read(fs.join(path, steps[max(steps)]), part)
    return checkpoints.load_checkpoint_ts(
      os.fspath(path), regex=rf"(.*/)?{part}/.*", shardings="host"
    )
  with fs.open(path, "rb") as f:
    content = f.read()
  try:
    return dict(serialization.msgpack_restore(content))
  except Exception as e:  # msgpack and NumPy have many errors of their own.
    what = checkpoint_npz.what_stands_for(content[:64]) or (
      "is not a file of flax's msgpack, or is damaged: download it again."
    )
    raise lookup.ConfigError(f"{_name(path)} {what}") from e


def _is_step(name):
  """Matches the name of a checkpoint of flax, which has its step."""
  return _STEP.fullmatch(name)
