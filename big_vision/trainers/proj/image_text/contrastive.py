"""Contrastive training with the softmax loss by default: CLIP and CLIPPO.

  python -m big_vision.trainers.proj.image_text.contrastive --config CONFIG \
      --workdir DIR

All of it is `siglip.py`.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from absl import app

from big_vision.trainers.proj.image_text.siglip import (
  build_softmax as build,  # noqa: F401
)
from big_vision.trainers.proj.image_text.siglip import main_softmax as main

if __name__ == "__main__":
  app.run(main)
