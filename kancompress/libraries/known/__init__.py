"""One module for each library whose layers are recognised."""
