"""What a training step costs, told from shapes alone; see `tools/plan.py`."""
