"""The one training loop and its stages; needs jax only."""
