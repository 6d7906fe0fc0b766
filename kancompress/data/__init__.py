"""Data sets, their rows, and the batches that training takes."""
