"""What a KAN layer computes: bases, windows, and the sources of its coefficients."""
