"""The other name of `contrastive.py`."""

from absl import app

from big_vision.trainers.proj.image_text.contrastive import (
  build,  # noqa: F401
  main,
)

if __name__ == "__main__":
  app.run(main)
