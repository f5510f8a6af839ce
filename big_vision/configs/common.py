"""Parts that most configs share: arguments in the config string, small edits.

A config file is loaded as `--config path/to/config.py:ARG`, which calls
`get_config("ARG")`. `parse_arg` turns that string into values.
"""

import string
from collections.abc import Callable
from typing import Any

import ml_collections as mlc

from big_vision import command_line, lookup


class Names(str):
  """Type of an argument that is several names: `a+b`, or `a,b`."""


def parse_arg(
  arg: str | None, lazy: bool = False, **spec: Any
) -> mlc.ConfigDict:
  """Parses the string after the colon of `--config file.py:ARG`.

  `ARG` is a list of `key=value`, separated by commas; `key` alone means
  `key=True`. If it is a single word that is not in the spec, it is the value of
  the first entry of the spec. Values cannot contain commas, but words that follow
  an entry of the type `Names` and are not in the spec belong to it.

  Args:
    arg: for example "runlocal,res=128".
    lazy: whether to accept keys that are not in the spec; the form of their
      values decides the type, see `autotype`.
    **spec: name=default or name=(default, type). The given type, or the type of
      the default, converts the string; `autotype` does if the default is None.

  Returns:
    ConfigDict (not type safe) with all names of the spec, then the others.

  Raises:
    ValueError: a key that is not in the spec, or a value of the wrong type.
    AssertionError: a default is a list, or a flag is neither true nor false.
  """
  entries = {k: get_type_with_default(v) for k, v in spec.items()}
  command_line.config_arguments.append(entries)
  arg = arg or ""
  if arg and spec and not set(arg) & set(",=") and arg not in spec:
    arg = f"{next(iter(spec))}={arg}"  # The shorthand.

  given, last = {}, ""
  for item in filter(None, arg.split(",")):
    key, equals, value = item.partition("=")
    if not equals and key not in entries and _has_names(entries.get(last)):
      given[last] += f"+{key}"
      continue
    given[key] = value if equals else "True"
    last = key

  result = mlc.ConfigDict(type_safe=False)
  for name, (default, convert) in entries.items():
    if name not in given:
      result[name] = default
      continue
    value = given.pop(name)
    try:
      result[name] = convert(value)
    except (TypeError, ValueError) as e:
      raise ValueError(
        f"Config arg {name}={value!r:.200} is not of type {convert.__name__}."
      ) from e

  if given and not lazy:
    hints = [
      f"{k!r:.200}{lookup.did_you_mean(k, spec)}" for k in list(given)[:5]
    ]
    raise ValueError(
      f"Unhandled config args remain: {given!s:.500}. Not known: "
      f"{' '.join(hints)}"
    )
  for name, value in given.items():
    result[name] = autotype(value)
  return result


def _has_names(entry: tuple[Any, Callable[[str], Any]] | None) -> bool:
  """Tells whether an entry of a spec takes several names."""
  return entry is not None and entry[1] is Names


def get_type_with_default(v: Any) -> tuple[Any, Callable[[str], Any]]:
  """Returns the default of an entry of a spec, and what converts a string.

  Args:
    v: a default, or (default, type).

  Returns:
    (default, converter).

  Raises:
    AssertionError: `v` is another tuple or list.
  """
  if isinstance(v, (tuple, list)):
    if len(v) != 2 or not isinstance(v[1], type):
      raise AssertionError(
        f"List and tuple types are not supported, got {v!r}: the comma "
        "separates the args. Use a string instead and evaluate it in the "
        "config."
      )
    default, convert = v
  else:
    default, convert = v, (autotype if v is None else type(v))
  # bool("False") is True.
  return default, (_parse_bool if convert is bool else convert)


def _parse_bool(x: str) -> bool:
  """Converts true or false, in any case; an empty string means false."""
  if x.lower() not in ("true", "false", ""):
    # Of this very type, which callers compare by name.
    raise AssertionError(
      f"A flag in the config arg must be true or false, not {x!r}."
    )
  return x.lower() == "true"


def autotype(x: str) -> bool | int | float | str:
  """Converts a string to a bool, int or float if it has that form.

  Args:
    x: the string.

  Returns:
    The value; `x` itself if it has none of these forms.
  """
  if not isinstance(x, str):
    raise AssertionError(f"{x!r} is not a string.")
  if x.lower() in ("true", "false"):
    return x.lower() == "true"
  for convert in (int, float):
    try:
      return convert(x)
    except ValueError:
      continue
  return x


def pack_arg(**kw: Any) -> str:
  """Packs values into a string that `parse_arg` reads.

  Args:
    **kw: the values.

  Returns:
    "key=value,...".

  Raises:
    AssertionError: a value contains a comma.
  """
  for key, value in kw.items():
    if "," in f"{value}":
      raise AssertionError(f"The value of {key} has a comma: {value}")
  return ",".join(f"{key}={value}" for key, value in kw.items())


def arg(**kw: Any) -> dict[str, Any]:
  """Makes a point of a sweep.

  Args:
    **kw: the args of the config.

  Returns:
    The args, and as `config_arg` the config string that sets them.
  """
  return {"config_arg": pack_arg(**kw), **kw}


def format_str(format_string: str, config: mlc.ConfigDict) -> Any:
  """Fills in fields of the config; the result follows their later changes.

  Args:
    format_string: str with `{field}` and `{sub.field}`, for example
      "decode|resize({res})".
    config: ConfigDict that has these fields.

  Returns:
    A reference to the string, to be assigned to a field of the config; a plain
    string if there are no fields in it.

  Raises:
    AssertionError: the string has a format (`{res:03d}`) or a conversion
      (`{res!r}`).
  """
  result = ""
  for text, field, spec, conversion in string.Formatter().parse(format_string):
    result = result + text
    if field is None:
      continue
    if not field or spec or conversion:
      raise AssertionError(
        f"Only plain fields like {{res}} are supported: {format_string!r}"
      )
    *path, last = field.split(".")
    node = config
    for name in path:
      node = node[name]
    result = result + node.get_ref(last).to_str()
  return result


def input_for_quicktest(config_input: mlc.ConfigDict, quicktest: bool) -> None:
  """Makes `config.input` small and quick to start.

  Args:
    config_input: changed in place.
    quicktest: whether to change anything.
  """
  if quicktest:
    config_input.batch_size = 8
    config_input.shuffle_buffer_size = 10
    config_input.cache_raw = False


def pp_modules(*extra: str) -> list[str]:
  """Returns the modules with the usual preprocessing ops, and further ones.

  Args:
    *extra: modules to append.

  Returns:
    Value of `config.pp_modules`.
  """
  return ["ops_general", "ops_image", "ops_text", *extra]


def pp_labels(num_classes: int, key: str = "label") -> str:
  """Returns the end of a preprocessing string, with one-hot labels.

  Args:
    num_classes: length of the one-hot vectors.
    key: feature with the label.

  Returns:
    Ops with a leading `|`; they keep `image` and `labels` only.
  """
  return (
    f'|onehot({num_classes}, key="{key}", key_result="labels")'
    '|keep("image", "labels")'
  )


# The usual evaluation on ImageNet-1k; `{label}` is the key of the label.
PP_EVAL_I1K = (
  "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
  + pp_labels(1000, "{label}")
)


def imagenet_evals(
  pp_label: str = PP_EVAL_I1K, runlocal: bool = False, **kw: Any
) -> dict[str, Any]:
  """Makes the five usual evaluations of an ImageNet-1k classifier.

  Args:
    pp_label: preprocessing with `{label}` in place of the key of the label.
    runlocal: whether to use 16 images of each split.
    **kw: settings that all five share.

  Returns:
    Dict of evaluators: `train`, `minival` (the 1% of the training set that is
    held out), `val`, `v2` (ImageNetV2) and `real` (ReaL labels).
  """

  def evaluator(name, split, short, label="label"):
    pp = pp_label.format(label=label)
    return classification(name, short if runlocal else split, pp, **kw)

  return dict(
    train=evaluator("imagenet2012", "train[:2%]", "train[:16]"),
    minival=evaluator("imagenet2012", "train[99%:]", "train[:16]"),
    val=evaluator("imagenet2012", "validation", "validation[:16]"),
    v2=evaluator("imagenet_v2", "test", "test[:16]"),
    real=evaluator(
      "imagenet2012_real", "validation", "validation[:16]", "real_label"
    ),
  )


def imagenet21k_evals(
  pp_fn: str, runlocal: bool = False, **kw: Any
) -> dict[str, Any]:
  """Makes evaluations for training on `full[51200:]` of ImageNet-21k.

  Args:
    pp_fn: preprocessing.
    runlocal: whether to use 16 images.
    **kw: settings that all share.

  Returns:
    Dict of evaluators: `test`, `val` (both held out) and `train`.
  """
  splits = dict(
    test="full[:25_600]", val="full[25_600:51_200]", train="full[51_200:76_800]"
  )
  return {
    name: classification(
      "imagenet21k", "full[:16]" if runlocal else split, pp_fn, **kw
    )
    for name, split in splits.items()
  }


def classification(
  name: str, split: str, pp_fn: str, **kw: Any
) -> dict[str, Any]:
  """Makes an evaluator `classification` on a split of a TFDS dataset.

  Args:
    name: TFDS name.
    split: TFDS split.
    pp_fn: preprocessing.
    **kw: further settings of the evaluator.

  Returns:
    Dict of settings.
  """
  return dict(
    type="classification", data=dict(name=name, split=split), pp_fn=pp_fn, **kw
  )
