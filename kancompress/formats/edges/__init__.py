"""How edge vectors lie in the tensors of a file."""
