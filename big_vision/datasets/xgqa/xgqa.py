"""xGQA: the balanced test questions of GQA in eight languages.

TFDS dataset `xgqa`, see `big_vision.datasets.building`. Splits per language
`<l>`: `test_zs_<l>`, all questions; and, of the division for training with few
examples, `test_fs_<l>`, `dev_fs_<l>` and `train_fs<n>_<l>` with the questions
about n images.

The source folder has the folder `data` of the repository, and GQA's `images`.

References:
  Pfeiffer et al. 2022, xGQA: Cross-lingual visual question answering.
"""

from __future__ import annotations

from big_vision.datasets import building
from big_vision.datasets.gqa import gqa

LANGUAGES = ("bn", "de", "en", "id", "ko", "pt", "ru", "zh")
NUM_SHOTS = (1, 5, 10, 20, 25, 48)
_URL = "https://github.com/adapter-hub/xGQA"


def _files(language):
  """Split -> path of its questions."""
  few = f"data/few_shot/{language}"
  return {
    f"test_zs_{language}": (
      f"data/zero_shot/testdev_balanced_questions_{language}.json"
    ),
    f"test_fs_{language}": f"{few}/test.json",
    f"dev_fs_{language}": f"{few}/dev.json",
    **{f"train_fs{n}_{language}": f"{few}/train_{n}.json" for n in NUM_SHOTS},
  }


SPLITS = {k: v for language in LANGUAGES for k, v in _files(language).items()}


class Xgqa(building.Builder):
  """Builds `xgqa`."""

  name = "xgqa"
  DESCRIPTION = "Questions about images in eight languages."
  HOMEPAGE = _URL
  DOWNLOADS = (
    *(
      building.Download(
        f"{_URL}/archive/refs/heads/master.zip",
        file,
        also=(f"xGQA-master/{file}", f"xGQA/{file}"),
        splits=(split,),
      )
      for split, file in SPLITS.items()
    ),
    gqa.IMAGES,
  )

  def features(self):
    return gqa.features()

  def splits(self):
    return {s: gqa.examples(self, [file]) for s, file in SPLITS.items()}
