"""One toolkit for DNA foundation models."""
