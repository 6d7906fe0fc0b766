"""Ideas beyond the rungs of docs/clustering.md."""
