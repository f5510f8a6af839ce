"""The class names are the ones that everybody uses, by their checksums."""

import hashlib

import pytest

from big_vision.datasets.imagenet import class_names


@pytest.mark.parametrize(
  "name, num, sha256",
  [
    (
      "CLIP_IMAGENET_CLASS_NAMES",
      1000,
      "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60",
    ),
    (
      "IMAGENET_A_LABELSET",
      200,
      "c956c2f04f2a0ba30587c4bf245a23598ffd1021e43d986ddf43c92f5d1b3990",
    ),
    (
      "IMAGENET_R_LABELSET",
      200,
      "66d45f31879983bdc7345489dd0b373067601d056d8106da431bd713c21478d7",
    ),
    (
      "IMAGENET21k_CLASS_NAMES",
      21843,
      "a5f38d676decd8de62cd94e75bdbfa75b5d9bcba9a94a8f3edc54dd261facf95",
    ),
  ],
)
def test_checksums(name, num, sha256):
  entries = getattr(class_names, name)
  assert len(entries) == num
  text = "\n".join(map(str, entries))
  assert hashlib.sha256(text.encode()).hexdigest() == sha256


def test_some_entries():
  clip = class_names.CLIP_IMAGENET_CLASS_NAMES
  assert clip[0] == "tench" and clip[-1] == "toilet paper"
  assert not any("," in name for name in clip)
  assert clip.count("sunglasses") == clip.count("missile") == 2
  big = class_names.IMAGENET21k_CLASS_NAMES
  assert big[:2] == ["organism", "benthos"] and big[-1] == "knothole"
  assert len(set(big)) == 20070
  assert class_names.IMAGENET_A_LABELSET[:3] == [6, 11, 13]
  assert class_names.IMAGENET_R_LABELSET[:3] == [1, 2, 4]
  assert "IMAGENET_A_LABELSET" in dir(class_names)
  with pytest.raises(AttributeError, match="NOPE"):
    _ = class_names.NOPE
