"""RSVQA LR: questions about satellite pictures of low resolution.

TFDS dataset `rsvqa_lr`, configs `all` and `nonum`, which has no questions about
counts. The images, which are TIFF, become PNG.

Reference: see `big_vision/datasets/rsvqa.py`.
"""

from big_vision.datasets import rsvqa


class RsvqaLr(rsvqa.Rsvqa):
  """TFDS builder of `rsvqa_lr`: a question about an image, and its answer."""

  name = "rsvqa_lr"
  DESCRIPTION = "Questions about satellite pictures of 10 m a pixel."
  PARTS = {"train": "train", "val": "val", "test": "test"}
  FILE = "LR_split_{part}_{kind}.json"
  IMAGES = "Images_LR"
  NUMERIC = ("count",)
  DOWNLOADS = rsvqa.downloads(6344334, "Images_LR.zip", IMAGES, FILE, PARTS)
