"""Generated scenes of colored shapes: `from big_vision.datasets import shapes`.

`scene` draws what is there, `render` makes pixels from it, `text` makes
sentences, and `builder` makes a TFDS dataset of them. The public names of
`builder` are offered here; TFDS is imported when one of them is asked for.
"""

import importlib
from typing import Any

_NAMES = (
  "SHAPE_COLORS",
  "Builder",
  "Shapes",
  "ShapesConfig",
  "make_config",
  "make_example",
  "make_scene",
  "prepare",
)


def __getattr__(name: str) -> Any:
  if name not in _NAMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.builder"), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_NAMES])
