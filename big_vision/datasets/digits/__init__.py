"""The 1,797 real handwritten digits that come with scikit-learn.

8x8 gray images of ten classes: small enough to train on within a minute on a
laptop, real enough for accuracy to mean something. Nothing is downloaded.

References:
  Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits,
  https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import embedded

# Images are taken in the order of scikit-learn: first train, the rest test.
NUM_TRAIN, NUM_TEST = 1500, 297


def load_arrays() -> tuple[np.ndarray, np.ndarray]:
  """Loads all digits in the order of scikit-learn.

  Returns:
    images: [1797, 8, 8, 1] uint8 in [0, 255], 0 is background.
    labels: [1797] int64 in [0, 9].

  Raises:
    ImportError: scikit-learn is missing; says how to install it.
  """
  try:
    from sklearn import datasets as sklearn_datasets
  except ImportError as e:
    raise ImportError(
      "The dataset 'digits' is read from scikit-learn, which is not installed. "
      "Install it with: pip install scikit-learn, or 'big_vision[data]'."
    ) from e
  digits = sklearn_datasets.load_digits()
  # Stored as ink counts 0..16.
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  return images[..., None], digits.target.astype(np.int64)


class Digits(embedded.Builder, skip_registration=True):
  """TFDS builder of `digits`: image, label and id of each digit."""

  name = "digits"
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First 1500 images for training, 297 for testing."}

  def _info(self):
    image = tfds.features.Image(
      shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description="Handwritten digits of 8x8 pixels, from scikit-learn.",
      features=tfds.features.FeaturesDict(
        {
          "image": image,
          "label": tfds.features.ClassLabel(num_classes=10),
          "id": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    images, labels = load_arrays()
    total = NUM_TRAIN + NUM_TEST
    if len(images) != total:
      raise ValueError(
        f"scikit-learn has {len(images)} digits, expected {total}: install "
        "an official release with: pip install scikit-learn"
      )
    ranges = {"train": range(NUM_TRAIN), "test": range(NUM_TRAIN, total)}
    return {
      split: self._generate_examples(split, indices, images, labels)
      for split, indices in ranges.items()
    }

  def _generate_examples(self, split, indices, images, labels):
    for i in indices:
      # TFDS orders examples by a hash of this key.
      key = f"{split}_{i:04d}"
      yield key, {"image": images[i], "label": int(labels[i]), "id": key}


Builder = Digits


def prepare(data_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Writes the dataset below `data_dir` unless it is there already.

  Args:
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, and without that
      ~/tensorflow_datasets.

  Returns:
    The TFDS builder, ready for `as_dataset`.

  Raises:
    ImportError: scikit-learn is missing and the dataset is not prepared yet.
  """
  data_dir = embedded.default_data_dir(data_dir)
  return embedded.prepare(lambda: Digits(data_dir=data_dir), num_shards=1)
