"""Maps between classes: what has the same synset has the same name."""

import pathlib

import numpy as np
import pytest

from big_vision.datasets.imagenet import class_names, label_maps


def test_synsets():
  """A checksum of the order of ImageNet-1k, which is alphabetical."""
  synsets = class_names.IMAGENET_SYNSETS
  assert len(set(synsets)) == 1000 and synsets == sorted(synsets)
  assert synsets[0] == "n01440764" and synsets[-1] == "n15075141"
  assert len(class_names.IMAGENET21k_SYNSETS) == 21843


@pytest.mark.tf
def test_synsets_are_those_of_tfds():
  tfds = pytest.importorskip("tensorflow_datasets")
  folder = pathlib.Path(tfds.__file__).parent / "datasets/imagenet2012"
  text = (folder / "labels.txt").read_text()
  assert text.split() == class_names.IMAGENET_SYNSETS


def test_all_but_one_class_have_an_output():
  mapping = label_maps.get("i1k_i21k")
  assert mapping.shape == (1000,)
  (missing,) = np.flatnonzero(mapping < 0)
  assert class_names.CLIP_IMAGENET_CLASS_NAMES[missing] == "teddy bear"
  found = mapping[mapping >= 0]
  assert len(set(found)) == 999 and found.max() < 21843
  # Independent of the synsets: many classes have the same name in both lists.
  names = class_names.IMAGENET21k_CLASS_NAMES
  clip = class_names.CLIP_IMAGENET_CLASS_NAMES
  same = [clip[i] == names[o] for i, o in enumerate(mapping) if o >= 0]
  assert sum(same) > 300
  for i in (clip.index("tench"), clip.index("zebra"), clip.index("acorn")):
    assert names[mapping[i]] == clip[i]


@pytest.mark.parametrize(
  "name, labels",
  [("i1ka_i21k", "IMAGENET_A_LABELSET"), ("i1kr_i21k", "IMAGENET_R_LABELSET")],
)
def test_subsets(name, labels):
  labels = getattr(class_names, labels)
  mapping, full = label_maps.get(name), label_maps.get("i1k_i21k")
  np.testing.assert_array_equal(mapping[labels], full[labels])
  assert (np.delete(mapping, labels) == -1).all()


def test_bad_input():
  with pytest.raises(ValueError, match="'i1k_21k'.*mean 'i1k_i21k'"):
    label_maps.get("i1k_21k")
  with pytest.raises(ValueError, match="read-only"):
    label_maps.get("i1k_i21k")[0] = 1
