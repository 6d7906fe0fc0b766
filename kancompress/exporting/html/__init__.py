"""A page for a browser that runs a packed network from the file, with nothing beside it."""
