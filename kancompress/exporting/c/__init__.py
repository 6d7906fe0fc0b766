"""A network as one C99 header: no allocation, constant data in flash, scratch from the caller."""

from kancompress.exporting.c.header import Options, Sizes, encode, prefix_of, written

__all__ = ["Options", "Sizes", "encode", "prefix_of", "written"]
