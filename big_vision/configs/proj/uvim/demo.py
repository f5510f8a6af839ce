"""Placeholder."""


def apply(config, task, stage):
  """Placeholder."""
  del config, task, stage
