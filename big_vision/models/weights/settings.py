"""Reads the settings of a checkpoint's config.json."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Activations of transformers and of timm.
ACTIVATIONS = {
  "gelu": "gelu_erf",
  "gelu_new": "gelu",
  "gelu_fast": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "gelu_tanh": "gelu",
  "quick_gelu": "quick_gelu",
  "silu": "silu",
  "swish": "silu",
  "relu": "relu",
}
ACTIVATION_NAMES = {
  "gelu_erf": "gelu",
  "gelu": "gelu_pytorch_tanh",
  "quick_gelu": "quick_gelu",
  "silu": "silu",
  "relu": "relu",
}

_LARGEST = 1e30  # Of a number; less than the largest float32.

SIZES = dict(
  width="hidden_size",
  depth="num_hidden_layers",
  num_heads="num_attention_heads",
  mlp_dim="intermediate_size",
)


class Settings:
  """Looks up settings, with the defaults of the library that wrote them."""

  def __init__(
    self,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    where: str = "config.json",
  ):
    """Takes the settings.

    Args:
      config: content of config.json, or a part of it.
      defaults: values of settings that it may leave out.
      where: what it is, for errors.

    Raises:
      ValueError: the settings are something else than a dict.
    """
    if not isinstance(config, Mapping):
      raise ValueError(f"{where} should be a dict, but is {config!r:.60}.")
    self._config, self._defaults, self._where = config, defaults, where

  def get(self, key: str) -> Any:
    """Returns a setting.

    Args:
      key: its name.

    Returns:
      Its value, or the default.
    """
    value = self._config.get(key)
    return self._defaults.get(key) if value is None else value

  def integer(self, key: str, least: int = 1) -> int:
    """Returns a setting that is a positive number.

    Args:
      key: its name.
      least: lowest value.

    Returns:
      The number.

    Raises:
      ValueError: it is anything else.
    """
    value = self.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      raise ValueError(
        f"{self._where}: {key} = {value!r} should be a number from {least}."
      )
    return value

  def number(self, key: str) -> float:
    """Returns a setting that is a number.

    Args:
      key: its name.

    Returns:
      The number.

    Raises:
      ValueError: it is anything else.
    """
    value = self.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < _LARGEST:
      raise ValueError(
        f"{self._where}: {key} = {value!r:.60} should be a number."
      )
    return float(value)

  def section(self, key: str) -> Mapping[str, Any]:
    """Returns settings within these.

    Args:
      key: their name.

    Returns:
      A dict; empty if there are none.

    Raises:
      ValueError: they are something else.
    """
    value = self.get(key)
    if value is not None and not isinstance(value, Mapping):
      raise ValueError(
        f"{self._where}: {key} = {value!r:.60} should be a dict."
      )
    return value or {}

  def pair(self, key: str) -> tuple[int, int]:
    """Returns a setting that is a size, one number or (height, width).

    Args:
      key: its name.

    Returns:
      (height, width).

    Raises:
      ValueError: it is anything else.
    """
    value = self.get(key)
    both = [value, value] if isinstance(value, int) else value
    both = list(both) if isinstance(both, list | tuple) else []
    if len(both) != 2 or not all(isinstance(x, int) and x > 0 for x in both):
      raise ValueError(
        f"{self._where}: {key} = {value!r} should be a number of pixels, or two."
      )
    return both[0], both[1]

  def one_of(self, key: str, known: Collection[Any]) -> Any:
    """Returns a setting that has few values.

    Args:
      key: its name.
      known: the values that the models here have.

    Returns:
      The value.

    Raises:
      ValueError: it is another one.
    """
    value = self.get(key)
    if not any(value is x or value == x for x in known):
      raise ValueError(
        f"{self._where}: {key} = {value!r} is not supported, only "
        f"{', '.join(map(repr, known))}."
      )
    return value

  def sizes(self) -> dict[str, Any]:
    """Returns the sizes of a transformer of Hugging Face.

    Returns:
      Dict with width, depth, num_heads, mlp_dim, act and norm_eps.

    Raises:
      ValueError: a setting is not supported.
    """
    return {
      **{here: self.integer(there) for here, there in SIZES.items()},
      "act": ACTIVATIONS[self.one_of("hidden_act", ACTIVATIONS)],
      "norm_eps": self.number("layer_norm_eps"),
    }


def num_classes(config: Mapping[str, Any]) -> int:
  """Reads the number of classes from a config.json of transformers.

  Args:
    config: its content.

  Returns:
    The number; 2 by default, as there.
  """
  s = Settings(config, {"num_labels": 2})
  return len(s.section("id2label")) or s.integer("num_labels")


def classes(num: int | None) -> dict[str, Any]:
  """Writes the number of classes, which transformers knows by their names.

  Args:
    num: the number, or None.

  Returns:
    Dict with `id2label` and `label2id`, empty without classes.
  """
  if not num:
    return {}
  names = [f"LABEL_{i}" for i in range(num)]  # As there.
  return {
    "id2label": {str(i): name for i, name in enumerate(names)},
    "label2id": {name: i for i, name in enumerate(names)},
  }


def written(model: Any, *fields: str) -> dict[str, Any]:
  """Writes sizes as transformers calls them.

  Args:
    model: module with the fields.
    *fields: some of `SIZES`; none means all.

  Returns:
    Dict.
  """
  values = {name: getattr(model, name) for name in fields or SIZES}
  if "mlp_dim" in values:
    values["mlp_dim"] = values["mlp_dim"] or 4 * model.width
  return {SIZES[name]: value for name, value in values.items()}


def pixels(
  image_size: tuple[int, int], patch_size: Sequence[int]
) -> dict[str, Any]:
  """Writes sizes in pixels, as one number if they are square.

  Args:
    image_size: (height, width).
    patch_size: (height, width).

  Returns:
    Dict with `image_size` and `patch_size`.
  """
  one = lambda size: size[0] if size[0] == size[1] else list(size)
  return {"image_size": one(image_size), "patch_size": one(patch_size)}


def of_vit(model: Any, image_size: tuple[int, int]) -> dict[str, Any]:
  """Writes what transformers has for all ViTs.

  Args:
    model: `vit.Model(...)`.
    image_size: (height, width).

  Returns:
    Dict, with names of classes if the model has any.

  Raises:
    ValueError: unknown activation.
  """
  return {
    **written(model),
    "hidden_act": activation(model),
    "layer_norm_eps": model.norm_eps,
    **pixels(image_size, model.patch_size),
    "num_channels": 3,
    **classes(model.num_classes),
  }


def activation(model: Any) -> str:
  """Returns what transformers and timm call the activation of a model.

  Args:
    model: module with the field `act`.

  Returns:
    The name.

  Raises:
    ValueError: it is unknown.
  """
  if model.act not in ACTIVATION_NAMES:
    raise ValueError(
      f"config.model.act={model.act!r} should be one of "
      f"{', '.join(ACTIVATION_NAMES)}."
    )
  return ACTIVATION_NAMES[model.act]


def known(key: str, value: Any, names: Mapping[Any, str], title: str) -> str:
  """Returns what a library calls the value of an option.

  Args:
    key: config key of the option.
    value: its value.
    names: value -> its name there.
    title: whose they are.

  Returns:
    The name.

  Raises:
    ValueError: it is none of them.
  """
  if value not in names:
    raise ValueError(
      f"{key}={value!r}: {title} has only {', '.join(map(repr, names))}."
    )
  return names[value]


def ratio(mlp_dim: int, width: int) -> float:
  """Finds the ratio that libraries turn into the hidden width of MLPs.

  Args:
    mlp_dim: hidden width.
    width: of the model.

  Returns:
    r with int(r * width) == mlp_dim.
  """
  exact = mlp_dim / width
  return exact if int(exact * width) == mlp_dim else (mlp_dim + 0.5) / width


def rope_theta(config: Mapping[str, Any], default: float) -> float:
  """Reads the base of rotary positions, where transformers 4 or 5 has it.

  Args:
    config: content of config.json.
    default: value if it is not there.

  Returns:
    The base.
  """
  s = Settings(config, {"rope_theta": default})
  within = s.section("rope_parameters") or s.section("rope_scaling")
  if "rope_theta" in within:
    return Settings(within, {}).number("rope_theta")
  return s.number("rope_theta")
