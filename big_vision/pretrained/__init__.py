"""Trained models for use outside of training.

  from big_vision import pretrained

  m = pretrained.load("workdirs/pets")
  m.predict(["cat.jpg"], topk=5)
  m = pretrained.load("hf://facebook/dinov2-base")
  m.features(["cat.jpg"])
  pretrained.list("dino*")

docs/predict.md and docs/weights.md have more.
"""

from big_vision.models.weights.catalog import names as list
from big_vision.pretrained.backbone import Backbone
from big_vision.pretrained.classifier import Classifier, Prediction
from big_vision.pretrained.image_text import ImageText
from big_vision.pretrained.loading import load
from big_vision.pretrained.regressor import Regressor
from big_vision.pretrained.text_encoder import TextEncoder
from big_vision.pretrained.uvim import UViM, UViMOracle
from big_vision.pretrained.vision_language import Answer, VisionLanguage

__all__ = [
  "Answer",
  "Backbone",
  "Classifier",
  "ImageText",
  "Prediction",
  "Regressor",
  "TextEncoder",
  "UViM",
  "UViMOracle",
  "VisionLanguage",
  "list",
  "load",
]
