"""ONNX models of our own making: indices below a byte, codebooks gathered in the graph."""
