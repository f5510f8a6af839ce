"""Predicts the costs of a training step from shapes; see `tools/plan.py`."""
