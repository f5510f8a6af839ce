import numpy as np
import pytest
from pp.augment_images import noise, run

from big_vision.pp import augment_bits

pytestmark = pytest.mark.tf

# All values in all places of a word, and sizes that words do not divide.
IMAGES = [noise(32, 24), noise(7, 5), noise(1, 1), noise(3, 0)]
IMAGES[0].reshape(-1)[: 8 * 256] = np.repeat(np.arange(256), 8)


@pytest.mark.parametrize("image", IMAGES, ids=lambda x: str(x.shape))
def test_invert(image):
  np.testing.assert_array_equal(run(augment_bits.invert, image), 255 - image)


@pytest.mark.parametrize(
  "bits, mask, corrected_mask",
  [
    (-1, 0x80, 0x80),
    (0, 0x80, 0x80),
    (1, 0x80, 0x80),
    (4, 0xF0, 0xF0),
    (7, 0xFE, 0xFE),
    (8, 0xFF, 0xFF),
    (9, 0x80, 0xFF),
  ],
)
def test_posterize(bits, mask, corrected_mask):
  for image in IMAGES:
    got = augment_bits.posterize(image, bits)
    np.testing.assert_array_equal(got, image & np.uint8(mask))
    got = augment_bits.posterize(image, bits, corrected=True)
    np.testing.assert_array_equal(got, image & np.uint8(corrected_mask))


@pytest.mark.parametrize("threshold", [0, 1, 77, 127, 128, 129, 255])
def test_solarize(threshold):
  for image in IMAGES:
    want = np.where(image < threshold, image, 255 - image)
    for corrected in (False, True):
      got = augment_bits.solarize(image, threshold, corrected=corrected)
      np.testing.assert_array_equal(got, want)


def test_solarize_in_graphs():
  for image in IMAGES:
    got = run(lambda x: augment_bits.solarize(x, 77), image)
    np.testing.assert_array_equal(got, augment_bits.solarize(image, 77))


def test_solarize_overflow():
  image = IMAGES[0]
  inverted, half = 255 - image, np.where(image < 128, image, 255 - image)
  got = augment_bits.solarize(image, 256)
  np.testing.assert_array_equal(got, inverted)
  got = augment_bits.solarize(image, 384)
  np.testing.assert_array_equal(got, half)
  for threshold in (256, 384):
    got = augment_bits.solarize(image, threshold, corrected=True)
    np.testing.assert_array_equal(got, image)
  np.testing.assert_array_equal(augment_bits.solarize(image), half)


@pytest.mark.parametrize("threshold", [0, 1, 100, 128, 200, 255, 256])
@pytest.mark.parametrize("addition", [-300, -40, 0, 56, 110, 128, 220, 300])
def test_solarize_add(addition, threshold):
  image = IMAGES[0]
  got = augment_bits.solarize_add(image, addition, threshold)
  added = np.clip(image.astype(int) + addition, 0, 255)
  want = np.where(image < threshold, added, image)
  np.testing.assert_array_equal(got, want)


def test_solarize_add_odd_sizes():
  for image in IMAGES:
    got = run(lambda x: augment_bits.solarize_add(x, 110), image)
    want = np.where(image < 128, image + np.uint8(110), image)
    np.testing.assert_array_equal(got, want)
