"""Autoregressive decoding, free of any model."""
