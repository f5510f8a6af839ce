"""Embeddings of images and texts by a trained model, for notebooks and demos.

  from big_vision import embedder

  model = embedder.load("workdirs/siglip")
  zimg = model.images([image])  # uint8 [H, W, 3], or the bytes of a JPEG, PNG...
  ztxt = model.texts(["a red circle", "a blue star"])
  model.probabilities(model.logits(zimg, ztxt))  # [1, 2]

This module only collects names, which live in `pretrained/`.
"""

from big_vision.pretrained.embedder import Embedder
from big_vision.pretrained.embedder_sources import (
  from_huggingface,
  from_workdir,
  load,
)
from big_vision.pretrained.examples import example_images
from big_vision.pretrained.images import decode
from big_vision.pretrained.preprocessing import preprocessing_of

__all__ = [
  "Embedder",
  "decode",
  "example_images",
  "from_huggingface",
  "from_workdir",
  "load",
  "preprocessing_of",
]
