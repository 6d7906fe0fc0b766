"""What the layers of other libraries compute, as records."""
