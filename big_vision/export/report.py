"""Says in words what has been exported, and how good it is."""

import os
from typing import Any

import flax.traverse_util

from big_vision.export import accuracy, quantize, saving
from big_vision.export.forward import Model


def text(info: dict[str, Any], folder: str) -> str:
  """Describes an export.

  Args:
    info: content of `export.json`.
    folder: of the export.

  Returns:
    A few lines.
  """
  lines = [f"{folder}: {info['format']}, {_megabytes(_size(folder))}"]
  for key in ("inputs", "outputs"):
    for spec in info[key]:
      sizes = ", ".join(map(str, spec["shape"]))
      lines.append(f"  {key[:-1]} {spec['name']}: {spec['dtype']} [{sizes}]")
  if not info["preprocessing_included"]:
    lines.append(f"  preprocessing of image, not included: {info['pp']}")
  return "\n".join(lines)


def measure(
  model: Model,
  folder: str,
  info: dict[str, Any],
  images: str | None = None,
) -> str:
  """Measures a quantized model, writes the result into `export.json`.

  Args:
    model: before quantization.
    folder: of the export.
    info: content of `export.json`, to which the result is added.
    images: folder of pictures; None: data of the run.

  Returns:
    What is to be shown.

  Raises:
    ValueError: there are no such pictures.
  """
  split = flax.traverse_util.flatten_dict(model.params, sep="/")
  quantized = quantize.dequantize(quantize.quantize(split))
  variants = {
    "float32": model.params,
    "int8": flax.traverse_util.unflatten_dict(quantized, sep="/"),
  }
  found = info["quantize"]
  sizes = [info["num_bytes_of_params"], found["num_bytes_of_params"]]
  lines = [f"  parameters: {' -> '.join(map(_megabytes, sizes))}"]
  if images:
    source, metrics = images, accuracy.of_pictures(model, variants, images)
  else:
    result = accuracy.of_run(model, variants)
    if result is None:
      lines.append(
        "  accuracy not measured: the data of the run is not there; give "
        "pictures, as --images=FOLDER."
      )
      return "\n".join(lines)
    source, metrics = f"evals.{result[0]}", result[1]
  found |= {"measured_with": source, "metrics": metrics}
  saving.write_info(folder, info)
  for name, value in metrics["float32"].items():
    new = metrics["int8"].get(name, float("nan"))
    lines.append(f"  {name}: {value:.4f} -> {new:.4f} ({source})")
  return "\n".join(lines)


def _size(folder):
  return sum(
    os.path.getsize(os.path.join(root, name))
    for root, _, names in os.walk(folder)
    for name in names
  )


def _megabytes(size):
  return f"{size / 1e6:.3g} MB"
