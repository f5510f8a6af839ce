"""Writes the card of a model, README.md of a repository on the hub."""

import json
import os
from typing import Any

from big_vision import __version__
from big_vision.models.weights.family import GEMMA, PALIGEMMA
from big_vision.publishing.source import Source

_LIBRARY = dict(hf="transformers", timm="timm", open_clip="open_clip")
_USE = {
  "hf": """from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{path}")
model = AutoModel.from_pretrained("{path}")""",
  "timm": """import timm

model = timm.create_model("local-dir:{path}", pretrained=True)""",
  "open_clip": """import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:{path}")""",
  "orbax": """from big_vision import pretrained

model = pretrained.load("{path}")""",
}
# Models of texts -> (what the hub calls their task, how transformers loads them).
_LANGUAGE = {
  GEMMA: (
    "text-generation",
    """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = AutoModelForCausalLM.from_pretrained("{path}")""",
  ),
  PALIGEMMA: (
    "image-text-to-text",
    """from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{path}")
model = AutoModelForImageTextToText.from_pretrained("{path}")""",
  ),
}
# Of the many numbers of a run, those that say how good it is.
_SKIPPED = (
  "chrono/",
  "img/sec",
  "lr",
  "mfu",
  "l2_",
  "core_hours",
  "examples_",
  "z/",
)
_MAX_METRICS = 40


def make(
  source: Source,
  form: str,
  target: str,
  settings: dict[str, Any] | None = None,
) -> str:
  """Writes the card.

  Args:
    source: the model.
    form: one of `formats.FORMATS`.
    target: folder of the model.
    settings: config.json of the other library.

  Returns:
    Markdown, with the header that the hub reads.
  """
  name = os.path.basename(target.rstrip("/"))
  found = source.found
  towers = bool(found.text_length)
  task = "zero-shot-image-classification" if towers else "image-classification"
  if not towers and not found.num_classes:
    task = "image-feature-extraction"
  use = _USE[form]
  if found.model_name in _LANGUAGE:
    task, own = _LANGUAGE[found.model_name]
    use = own if form == "hf" else use
  header = ["---", f"library_name: {_LIBRARY.get(form, 'big_vision')}"]
  header += [f"pipeline_tag: {task}", "tags:", "- big_vision", "---"]
  out = [*header, "", f"# {name}", ""]
  out.append(
    f"A model `{found.model_name}`, written by big_vision {__version__}."
  )
  use = use.format(path=name)
  out += ["", "## Use", "", "```python", use, "```", ""]
  if found.model_name != GEMMA:
    out += [f"Images: {found.image_size[0]} x {found.image_size[1]} pixels, "]
    out[-1] += f"preprocessed by `{source.pp}`."
  if source.pp_txt:
    out += ["", f"Texts: preprocessed by `{source.pp_txt}`."]
  if source.class_names:
    names = ", ".join(map(str, source.class_names[:20]))
    more = len(source.class_names) - 20
    out += [
      "",
      f"Classes: {names}" + (f" and {more} more." if more > 0 else "."),
    ]
  if source.metrics:
    out += ["", "## Metrics at the end of training", "", "| name | value |"]
    out += ["| --- | ---: |"]
    shown = {
      k: v for k, v in source.metrics.items() if not k.startswith(_SKIPPED)
    }
    out += [f"| {k} | {v:.6g} |" for k, v in list(shown.items())[:_MAX_METRICS]]
  config = source.config.to_dict() if source.config else found.model
  out += ["", "## Configuration", "", "```json"]
  out += [json.dumps(config, indent=2, default=str), "```", ""]
  del settings
  return "\n".join(out)
