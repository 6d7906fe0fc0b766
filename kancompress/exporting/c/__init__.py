"""A network as one C99 header: no allocation, constant data in flash, scratch from the caller."""
