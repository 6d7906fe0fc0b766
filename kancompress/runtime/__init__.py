"""Packed networks run with numpy alone: `load(path).run(x)`, no torch."""

from kancompress.runtime.network import Network, load

__all__ = ["Network", "load"]
