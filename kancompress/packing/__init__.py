"""From a checkpoint to a packed model."""
