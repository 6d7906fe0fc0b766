"""What a user should know of another library's checkpoint before it is packed."""

from __future__ import annotations

from kancompress.errors import shortened
from kancompress.libraries import Recognition
from kancompress.libraries.known.pykan import UNTOLD
from kancompress.models.records import ForeignCheckpoint


def source_notes(
    source: ForeignCheckpoint, found: Recognition, *, kept: bool = False
) -> tuple[str, ...]:
    """What the user should know of a foreign source: layouts, what was dropped (or kept, where
    that was asked for), what was not recognised. Each note has at most 500 characters."""
    by_layout: dict[str, int] = {}
    for layer in found.layers:
        by_layout[layer.layout] = by_layout.get(layer.layout, 0) + 1
    known = ", ".join(f"{count} x {layout}" for layout, count in by_layout.items())
    notes = [f"recognised {known}"]
    told = UNTOLD if source.settings else ()
    notes += dict.fromkeys(n for layer in found.layers for n in layer.notes if n not in told)
    notes += source.notes
    fate = "kept beside the model" if kept else "left out"
    notes += [f"{fate}: {what}" for what in source.dropped]
    return tuple(shortened(note) for note in (*notes, *found.problems))
