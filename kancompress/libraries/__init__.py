"""KAN layers inside other libraries' state dicts: which they are, and where their edges lie."""

from __future__ import annotations

from kancompress.libraries.catalogue import LAYOUTS
from kancompress.libraries.layout_files import format_layouts, parse_layouts
from kancompress.libraries.notation import describe, parse_layout
from kancompress.libraries.proposals import way_on
from kancompress.libraries.recognition import recognise
from kancompress.libraries.records import Layout, Recognition

__all__ = [
    "LAYOUTS",
    "Layout",
    "Recognition",
    "describe",
    "format_layouts",
    "parse_layout",
    "parse_layouts",
    "recognise",
    "way_on",
]
