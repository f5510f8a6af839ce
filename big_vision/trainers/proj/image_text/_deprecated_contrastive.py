"""The other name of `contrastive.py`."""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from absl import app

from big_vision.trainers.proj.image_text.contrastive import (
  build,  # noqa: F401
  main,
)

if __name__ == "__main__":
  app.run(main)
