"""FlexiViT under its name of before the release, which configs still use."""

from big_vision.models.proj.flexi.vit import Model, load  # noqa: F401
