"""Facts about COCO, https://cocodataset.org."""
