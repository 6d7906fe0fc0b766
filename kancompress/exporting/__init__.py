"""Packed networks written for other programs: ONNX, C, and a page for a browser."""
