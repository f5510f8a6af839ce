"""Trained models for use outside of training.

  from big_vision import pretrained

  m = pretrained.load("workdirs/pets")
  m.predict(["cat.jpg"], topk=5)
  m.features(["cat.jpg"])

docs/predict.md has more.
"""

from big_vision.pretrained.classifier import (
  Backbone,
  Classifier,
  Prediction,
)
from big_vision.pretrained.image_text import ImageText
from big_vision.pretrained.loading import load
from big_vision.pretrained.regressor import Regressor

__all__ = [
  "Backbone",
  "Classifier",
  "ImageText",
  "Prediction",
  "Regressor",
  "load",
]
