"""NLVR2: whether a sentence is true of two photographs.

TFDS dataset `nlvr2` with the splits `train`, `dev` and `test`, the authors'
public test set `test1`.

References:
  Suhr et al. 2019, A corpus for reasoning about natural language grounded in
  photographs, https://lil.nlp.cornell.edu/nlvr
"""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.building import Download

# Split -> the authors' name of it, and the folder of its images.
_SPLITS = {
  "train": ("train", "images/train"),
  "dev": ("dev", "dev"),
  "test": ("test1", "test1"),
}


class Nlvr2(building.Builder, skip_registration=True):
  """TFDS builder of `nlvr2`: two images, sentence, label and example_id."""

  name = "nlvr2"
  DESCRIPTION = "Sentences that are true or false of two photographs."
  HOMEPAGE = "https://lil.nlp.cornell.edu/nlvr"
  LICENSE = "CC BY 4.0 (sentences); images: see homepage"
  DOWNLOADS = (
    *(
      Download(
        "https://raw.githubusercontent.com/lil-lab/nlvr/HEAD/nlvr2/data/"
        f"{part}.json",
        f"{part}.json",
        "sentences",
        splits=(split,),
      )
      for split, (part, _) in _SPLITS.items()
    ),
    *(
      Download(
        "https://lil.nlp.cornell.edu/nlvr",
        folder,
        f"images of {part}, for which the homepage has a form",
        manual=True,
        splits=(split,),
      )
      for split, (part, folder) in _SPLITS.items()
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `label` is "True" or "False"."""
    image = lambda: tfds.features.Image(encoding_format="png")
    return {
      "example_id": tfds.features.Text(),
      "image_left": image(),
      "image_right": image(),
      "sentence": tfds.features.Text(),
      "label": tfds.features.Text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {k: self._examples(*v) for k, v in _SPLITS.items()}

  def _examples(self, part, images):
    for row in building.read_jsonl(self.path(f"{part}.json")):
      name = row["identifier"]
      # Images are shared by sentences, whose number ends the name.
      pair = name.rpartition("-")[0]
      folder = [images]
      if "directory" in row:  # Of `train` only.
        folder.append(str(row["directory"]))
      yield (
        name,
        {
          "example_id": name,
          "image_left": self.image(*folder, f"{pair}-img0.png"),
          "image_right": self.image(*folder, f"{pair}-img1.png"),
          "sentence": row["sentence"],
          "label": row["label"],
        },
      )
