"""Pictures of a file: its edge vectors in the plane, and its centroids as functions on the grid.

They need matplotlib (`pip install 'kancompress[plot]'`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from kancompress.config import PlotConfig, RunOptions
from kancompress.errors import UsageError
from kancompress.formats import recorded
from kancompress.formats.storage import called, is_native, once
from kancompress.models.files import Input, read_foreign, sized
from kancompress.models.runnable import Runnable
from kancompress.reporting.plotting.clouds import edge_clouds
from kancompress.reporting.plotting.curves import centroid_curves
from kancompress.reporting.plotting.drawing import draw_clouds, draw_curves, encode
from kancompress.reporting.targets import check_picture_target
from kancompress.system import files


def plot_edges(
    source: Input,
    path: str | os.PathLike[str],
    config: PlotConfig | None = None,
    *,
    layouts: Mapping[str, str] | None = None,
    state: str | None = None,
    name: str | None = None,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> int:
    """Draw the edge vectors of every layer, coloured by centroid; returns the picture's bytes.

    source  : dense, meta, packed, or a checkpoint of another KAN library. What is not packed is
              clustered with k-means for its colours, as `cluster` does.
    state   : of a torch file with several state dicts, the one that is meant, as for `inspect`
    path    : a .png, .svg or .pdf file, written atomically
    layouts : as for `cluster`
    Raises UsageError for another suffix or a file that exists (unless `force`), KancompressError
    without matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    record, where = _record(source, name, state), called(source, name)
    picture = _edges(record, where, target, config or PlotConfig(), layouts)
    return files.write(target, [picture], force=force)


def plot_functions(
    source: Input,
    path: str | os.PathLike[str],
    config: PlotConfig | None = None,
    *,
    options: RunOptions | None = None,
    state: str | None = None,
    name: str | None = None,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> int:
    """Draw each centroid's function over the grid, base branch included, and its edges.

    options : what the tensors of another library's file do not tell, as for `evaluate`
    source  : as for `plot_edges`
    state   : of a torch file with several state dicts, the one that is meant, as for `inspect`
    path    : a .png, .svg or .pdf file, written atomically
    Returns the picture's bytes. Raises UsageError for another suffix, for a file that exists
    (unless `force`), and where it is not known what the layers compute; KancompressError without
    matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    record, where = _record(source, name, state), called(source, name)
    picture = _functions(record, where, target, config or PlotConfig(), options)
    return files.write(target, [picture], force=force)


def plot_pictures(
    source: Input,
    edges: str | os.PathLike[str],
    functions: str | os.PathLike[str],
    config: PlotConfig | None = None,
    *,
    options: RunOptions | None = None,
    state: str | None = None,
    name: str | None = None,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> tuple[int, int]:
    """Draw what `plot_edges` and `plot_functions` draw, and write both pictures or none.

    edges, functions : .png, .svg or .pdf files
    options          : what the tensors of another library's file do not tell; layouts serve both
    state            : of a torch file with several state dicts, the one that is meant
    Returns the bytes of both. Raises UsageError for another suffix, one name for both, a file that
    exists (unless `force`), and where it is not known what the layers compute; KancompressError
    without matplotlib.
    """
    config = config or PlotConfig()
    kept = list(inputs)
    first = check_picture_target(edges, force=force, inputs=kept)
    second = check_picture_target(functions, force=force, inputs=kept)
    if first.resolve() == second.resolve():
        raise UsageError(f"{first} is to hold both pictures; give two names.")
    record, where = _record(source, name, state), called(source, name)
    layouts = options.layouts if options else None
    pictures = [
        (first, [_edges(record, where, first, config, layouts)]),
        (second, [_functions(record, where, second, config, options)]),
    ]
    sizes = files.write_together(pictures, force=force)
    return sizes[0], sizes[1]


def _edges(
    record: Runnable,
    where: str,
    target: Path,
    config: PlotConfig,
    layouts: Mapping[str, str] | None,
) -> bytes:
    clouds = list(edge_clouds(record, config, layouts))
    return encode(draw_clouds(clouds, config, where), target.suffix.lower())


def _functions(
    record: Runnable, where: str, target: Path, config: PlotConfig, options: RunOptions | None
) -> bytes:
    curves = centroid_curves(record, config, options)
    return encode(draw_curves(curves, where), target.suffix.lower())


def _record(source: Input, name: str | None, state: str | None) -> Runnable:
    source, name = once(recorded.source(source, "A picture"), name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        return read_foreign(source, name, state=state)
    return sized(source, name, stored=True)[1]
