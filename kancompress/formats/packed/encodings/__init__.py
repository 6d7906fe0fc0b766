"""The ways to write indices and codebooks."""
