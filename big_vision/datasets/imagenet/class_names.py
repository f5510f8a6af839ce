"""Names and subsets of the ImageNet classes; read when first used.

  CLIP_IMAGENET_CLASS_NAMES  the 1000 names of "Prompt Engineering for ImageNet"
                             in OpenAI's CLIP
  IMAGENET21k_CLASS_NAMES    name of each of the 21843 classes, in the order of
                             ImageNet-21k: the first lemma of the WordNet synset,
                             in lower case, cut at the first "."
  IMAGENET_A_LABELSET        the 200 ImageNet-1k labels that occur in ImageNet-A
  IMAGENET_R_LABELSET        … and those in ImageNet-R
  IMAGENET_SYNSETS           WordNet synset of each of the 1000 classes
  IMAGENET21k_SYNSETS        … and of the 21843

The facts were taken from the Python packages open_clip_torch (CLIP's names) and
timm (lemmas, order of the synsets, labels), and checked against the checksums
that tests/datasets/test_class_names.py lists.
"""

import functools
import pathlib

_FILES = {
  "CLIP_IMAGENET_CLASS_NAMES": ("clip_class_names.txt", str),
  "IMAGENET21k_CLASS_NAMES": ("imagenet21k_class_names.txt", str),
  "IMAGENET_A_LABELSET": ("imagenet_a_labels.txt", int),
  "IMAGENET_R_LABELSET": ("imagenet_r_labels.txt", int),
  "IMAGENET_SYNSETS": ("imagenet_synsets.txt", str),
  "IMAGENET21k_SYNSETS": ("imagenet21k_synsets.txt", str),
}


def __getattr__(name):
  if name not in _FILES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return _read(*_FILES[name])


def __dir__():
  return sorted([*globals(), *_FILES])


@functools.cache
def _read(file, kind):
  text = (pathlib.Path(__file__).parent / file).read_text(encoding="utf-8")
  return [kind(line) for line in text.splitlines()]
