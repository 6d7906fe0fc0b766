"""Ideas beyond the rungs of docs/guides/choose-a-method.md."""
