"""Reads and writes the settings that all models of timm have."""

from collections.abc import Mapping, Sequence
from typing import Any

from big_vision.models.weights import settings
from big_vision.models.weights.family import Found


def check(config: Mapping[str, Any], only: Mapping[str, Any]) -> None:
  """Checks settings of which only one value is supported.

  Args:
    config: content of config.json.
    only: argument of the model -> its default, which is the only value.

  Raises:
    ValueError: another value, or pooling by anything else than the average.
  """
  only = {"global_pool": "avg", "in_chans": 3, **only}
  args = settings.Settings(
    settings.Settings(config, {}).section("model_args"),
    only,
    "config.json: model_args",
  )
  for key, value in only.items():
    args.one_of(key, [value])
  settings.Settings(config, only).one_of("global_pool", ["avg"])


def image_size(config: Mapping[str, Any]) -> tuple[int, int]:
  """Reads the size of images.

  Args:
    config: content of config.json.

  Returns:
    (height, width).
  """
  where = settings.Settings(config, {})
  args = where.section("model_args")
  if args.get("img_size") is not None:
    return settings.Settings(args, {}, "model_args").pair("img_size")
  size = where.section("pretrained_cfg").get("input_size") or (3, 224, 224)
  size = list(size)[1:] if isinstance(size, list | tuple) else size
  return settings.Settings({"input_size": size}, {}).pair("input_size")


def shape(
  shapes: Mapping[str, tuple[int, ...]], name: str, model: str
) -> tuple[int, ...]:
  """Looks up the shape of a tensor.

  Args:
    shapes: name -> shape.
    name: of the tensor.
    model: whose it should be, for the error.

  Returns:
    The shape.

  Raises:
    ValueError: there is no such tensor.
  """
  if name not in shapes:
    raise ValueError(f"The checkpoint lacks {name}: {model} has it.")
  if not shapes[name]:
    raise ValueError(f"{name} in the checkpoint is a single number.")
  return shapes[name]


def multiple_of(divisor: int, n: float, least: float = 0.9) -> int:
  """Rounds a number of channels, as timm and transformers do.

  Args:
    divisor: of the result.
    n: the number.
    least: what part of it the result is at least.

  Returns:
    The nearest multiple, or the next if that is too small.
  """
  rounded = max(divisor, int(n + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < least * n else rounded


def check_strides(depth: Sequence[int], output_stride: int = 32) -> None:
  """Checks that each stage but the first halves the resolution.

  Args:
    depth: number of blocks of each stage.
    output_stride: at which the libraries stop to do so.

  Raises:
    ValueError: they stop before the last stage.
  """
  if 2 ** (1 + len(depth)) > output_stride:
    raise ValueError(
      f"config.json: output_stride = {output_stride} is not supported with "
      f"{len(depth)} stages, only {2 ** (1 + len(depth))}."
    )


def find_ratio(
  name: str,
  widths: Sequence[int],
  outputs: Sequence[int],
  divisors: Sequence[int] = (8,),
  least: float = 0.9,
) -> tuple[float, int]:
  """Finds the ratio from which a library computes widths of layers.

  Args:
    name: of the field with the widths.
    widths: of each stage.
    outputs: channels of the output of each stage.
    divisors: for `multiple_of`, of which the first that fits is taken.
    least: for `multiple_of`.

  Returns:
    (ratio, divisor).

  Raises:
    ValueError: there is none.
  """
  exact = [m / n for m, n in zip(widths, outputs, strict=True)]
  for divisor in divisors:
    for ratio in (0.25, 0.5, 1.0, *exact, *(i / 64 for i in range(1, 129))):
      if all(
        multiple_of(divisor, n * ratio, least) == m
        for m, n in zip(widths, outputs, strict=True)
      ):
        return ratio, divisor
  raise ValueError(
    f"{name} = {list(widths)} should be the same part of the outputs, "
    f"{list(outputs)}, rounded to a multiple of {divisors[-1]}."
  )


def check_fixed(model: Any, fixed: Mapping[str, Any], library: str) -> None:
  """Checks that a library computes what a model does.

  Args:
    model: to be written.
    fixed: field -> the value that stands for what the library does.
    library: for the error.

  Raises:
    ValueError: the model has another value.
  """
  for key, value in fixed.items():
    if getattr(model, key) != value:
      raise ValueError(
        f"{library} has {key} = {value}, but the model {getattr(model, key)}: "
        f"write config.model.{key} = {value} if that difference does not matter."
      )


def written(
  architecture: str,
  found: Found,
  args: Mapping[str, Any],
  *,
  num_features: int,
  first_conv: str,
  classifier: str,
  **pretrained: Any,
) -> dict[str, Any]:
  """Writes config.json of a model, which averages over positions by default.

  Args:
    architecture: its name.
    found: the model.
    args: arguments that differ from those of the architecture.
    num_features: channels before the head.
    first_conv: name of the first layer.
    classifier: name of the head.
    **pretrained: further settings of `pretrained_cfg`.

  Returns:
    Its content.
  """
  num_classes = found.num_classes or 0
  return dict(
    architecture=architecture,
    num_classes=num_classes,
    num_features=num_features,
    global_pool=args.get("global_pool", "avg"),
    model_args=dict(args),
    pretrained_cfg=dict(
      input_size=[3, *found.image_size],
      num_classes=num_classes,
      first_conv=first_conv,
      classifier=classifier,
      **pretrained,
    ),
  )
