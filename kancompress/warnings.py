"""Warnings that kancompress raises on purpose; the command line prints them as lines."""


class KancompressWarning(UserWarning):
    """Something is done otherwise than was asked, and how."""


class CompileFallbackWarning(KancompressWarning):
    """torch.compile was asked for and cannot be had; training goes on without it."""
