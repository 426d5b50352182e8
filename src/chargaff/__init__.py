"""One toolkit for DNA foundation models."""

__version__ = "0.1.0"
