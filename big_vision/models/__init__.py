"""Models; `build` is the one way from a config to one of them."""

from typing import Any

from big_vision import lookup
from big_vision.types import ConfigLike, LoadFn, Params


def build(
  config: ConfigLike, key: str = "model", **kw: Any
) -> tuple[Any, LoadFn | None]:
  """Builds the model `config.<key>_name` with the arguments `config.<key>`.

  Args:
    config: mapping; reads `<key>_name`, `<key>`, `<key>_init`, `<key>_load`.
    key: what the config calls the model, for example "model" or "teacher".
    **kw: further arguments of the model, such as `num_classes`; the config's
      own win.

  Returns:
    (model, load): the linen module; and `params -> params` that reads
    `config.<key>_init`, with the arguments `config.<key>_load`, or None if the
    config has none.

  Raises:
    ValueError: unknown model, or arguments that it does not take.
  """
  name = config.get(f"{key}_name")
  if name is None:
    raise ValueError(f"config.{key}_name is required.")
  module = lookup.module(
    "models", name, kind="model", key=f"{key}_name", needs="Model"
  )
  args = config.get(key)
  try:
    model = module.Model(**{**kw, **(args or {})})
  except TypeError as e:
    raise ValueError(
      f"config.{key} does not fit config.{key}_name={name!r}: {e}"
    ) from e
  init = config.get(f"{key}_init")
  if not init:
    return model, None
  if not hasattr(module, "load"):
    raise ValueError(
      f"config.{key}_init={init!r}: config.{key}_name={name!r} has no `load`, "
      "so it cannot start from a checkpoint."
    )

  def load(params: Params) -> Params:
    return module.load(params, init, args, **(config.get(f"{key}_load") or {}))

  return model, load
