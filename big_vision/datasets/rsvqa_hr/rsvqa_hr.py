"""RSVQA HR: questions about aerial pictures of high resolution.

TFDS dataset `rsvqa_hr`, configs `all` and `nonum`, which has no questions about
areas and counts. Every question has a copy of its image: that takes hundreds of
GB, fewer if the images in `Data` are converted to JPEG, with the same names,
before the dataset is built.

Reference: see `big_vision/datasets/rsvqa.py`.
"""

from big_vision.datasets import rsvqa


class RsvqaHr(rsvqa.Rsvqa):
  """TFDS builder of `rsvqa_hr`: a question about an image, and its answer."""

  name = "rsvqa_hr"
  DESCRIPTION = "Questions about aerial pictures of 15 cm a pixel."
  PARTS = {
    "train": "train",
    "val": "val",
    "test": "test",
    "test_2": "test_phili",
  }
  FILE = "USGS_split_{part}_{kind}.json"
  IMAGES = "Data"
  NUMERIC = ("area", "count")
  DOWNLOADS = rsvqa.downloads(6344367, "Images.tar", IMAGES, FILE, PARTS)
