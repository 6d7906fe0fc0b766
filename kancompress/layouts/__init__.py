"""KAN layers inside other libraries' state dicts: which they are, and where their edges lie."""

from __future__ import annotations

from kancompress.layouts.catalogue import LAYOUTS
from kancompress.layouts.edges import gather, packable, scatter
from kancompress.layouts.layout_files import format_layouts, parse_layouts
from kancompress.layouts.notation import describe, parse_layout
from kancompress.layouts.recognition import recognise
from kancompress.layouts.records import (
    FoundLayer,
    Gain,
    Layout,
    Part,
    Recognition,
)

__all__ = [
    "LAYOUTS",
    "FoundLayer",
    "Gain",
    "Layout",
    "Part",
    "Recognition",
    "describe",
    "format_layouts",
    "gather",
    "packable",
    "parse_layout",
    "parse_layouts",
    "recognise",
    "scatter",
]
