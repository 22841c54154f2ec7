"""gradflow: optimizers for JAX as values."""

__version__ = "0.1.0"
