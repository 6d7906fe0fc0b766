"""The library's front door: one typed function for each command."""
