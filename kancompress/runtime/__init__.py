"""Packed networks run with numpy alone: `load(path).run(x)`, no torch."""
