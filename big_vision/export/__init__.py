"""Trained models as files that other programs run.

  from big_vision import export, pretrained

  export.save(pretrained.load("workdirs/pets"), "pets_onnx", "onnx")

Each format has a module: `stablehlo.py`, `onnx_file.py`, `savedmodel.py`. What
they write is a `forward.Forward`. `big_vision.exported` loads the results.
docs/export.md has more.
"""

from big_vision.export.saving import save

__all__ = ["save"]
