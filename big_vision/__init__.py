"""Research code for large vision models in JAX and Flax."""

__version__ = "0.1.0"
