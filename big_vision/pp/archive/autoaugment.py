"""Old name of `big_vision.pp.autoaugment`."""

from big_vision.pp.autoaugment import *  # noqa: F403 The names of `__all__`.
