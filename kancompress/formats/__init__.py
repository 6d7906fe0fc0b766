"""Bytes to records and back. Nothing is computed here, and torch is not needed to read a header."""
