"""SciCap: figures of papers in computer science with their captions.

TFDS dataset `scicap` with the splits `train`, `test` and `val`. A config is one
of the authors' collections, with or without the figures that have parts.

References:
  Hsu et al. 2021, SciCap: generating captions for scientific figures,
  https://github.com/tingyaohsu/SciCap
"""

from __future__ import annotations

from typing import Any, cast

import tensorflow_datasets as tfds

from big_vision import lookup
from big_vision.datasets import building
from big_vision.datasets.building import Download

_ROOT = "scicap_data"
_LISTS = "List-of-Files-for-Each-Experiments"
_CAPTIONS = "SciCap-Caption-All"
# Names of configs begin so -> the folder with the lists of their figures.
_COLLECTIONS = {
  "single_sentence": "Single-Sentence-Caption",
  "first_sentence": "First-Sentence",
  "leq_100_tokens": "Caption-No-More-Than-100-Tokens",
}
_SUBFIGURES = {"yes": "Yes-Subfig", "no": "No-Subfig"}
# Feature -> path in the JSON file, by the numbers that keys begin with: the
# rest of one of them is misspelled in the dataset.
_TEXTS = {
  "caption/originally_extracted": ("0-",),
  "caption/lowercase_and_token_and_remove_figure_index": ("1-", "caption"),
  "caption/normalized/basic_num": ("2-", "2-1-", "caption"),
  "caption/normalized/advanced_equation_bracket": ("2-", "2-2-", "caption"),
}


class SciCap(building.Builder, skip_registration=True):
  """TFDS builder of `scicap`: image, image/id and four kinds of the caption."""

  name = "scicap"
  DESCRIPTION = "Figures of papers in computer science with their captions."
  HOMEPAGE = "https://github.com/tingyaohsu/SciCap"
  LICENSE = "CC BY-NC-SA 4.0"
  DOWNLOADS = tuple(
    Download(
      "https://www.dropbox.com/s/t1sjqesl0pynaxo/scicap_data.zip",
      f"{_ROOT}/{folder}",
      what,
      manual=True,
    )
    for folder, what in {
      _LISTS: "lists of figures",
      _CAPTIONS: "captions",
      **{f"SciCap-{s}-Img": "figures" for s in _SUBFIGURES.values()},
    }.items()
  )
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(
      name=f"{name}_subfig_{subfigures}",
      description=f"{folder}, {_SUBFIGURES[subfigures]}.",
    )
    for name, folder in _COLLECTIONS.items()
    for subfigures in _SUBFIGURES
  ]

  def features(self) -> dict[str, Any]:
    """See the base class; `image/id` is the figure's file name."""
    return {
      "image/id": tfds.features.Text(),
      "image": tfds.features.Image(encoding_format="png"),
      **{name: tfds.features.Text() for name in _TEXTS},
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {split: self._examples(split) for split in ("train", "test", "val")}

  def _examples(self, split):
    config = cast("tfds.core.BuilderConfig", self.builder_config).name
    collection, _, subfigures = config.rpartition("_subfig_")
    names = self._part(
      split, _LISTS, _COLLECTIONS[collection], _SUBFIGURES[subfigures]
    )
    captions = self._part(split, _CAPTIONS)
    for name in building.read_json(self.path(*names, "file_idx.json")):
      path = self.path(*captions, f"{name.removesuffix('.png')}.json")
      caption = building.read_json(path)
      has_parts = caption.get("contains-subfigure")
      kind = _SUBFIGURES["yes" if has_parts else "no"]
      yield (
        name,
        {
          "image/id": name,
          "image": self.image(*self._part(split, f"SciCap-{kind}-Img"), name),
          **{k: _find(caption, keys, path) for k, keys in _TEXTS.items()},
        },
      )

  def _part(self, split, *parts):
    """Path to a split; in the authors' description its name has a capital."""
    for name in (split.capitalize(), split):
      found = (_ROOT, *parts, name)
      if self.exists(*found):
        break
    return found


def _find(value, keys, path):
  """Value below keys that begin with `keys`."""
  for start in keys:
    found = [k for k in value if k.startswith(start)]
    if len(found) != 1:
      raise lookup.ConfigError(
        f"{path}: expected one key that begins with {start!r}, not "
        f"{len(found)}, among {', '.join(value)}."
      )
    value = value[found[0]]
  return value
