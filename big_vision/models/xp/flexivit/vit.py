"""Old name of FlexiViT, which configs still use."""

from big_vision.models.proj.flexi.vit import Model, load  # noqa: F401
