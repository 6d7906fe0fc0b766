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
from kancompress.reporting.plotting.drawing import draw_clouds, draw_curves, draw_map, encode
from kancompress.reporting.plotting.maps import input_map
from kancompress.reporting.targets import check_picture_target
from kancompress.system import files


def plot_edges(
    source: Input,
    path: str | os.PathLike[str],
    config: PlotConfig | None = None,
    *,
    layouts: Mapping[str, str] | None = None,
    against: Input | None = None,
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
    against : of a packed file, the dense one, whose edge vectors are then the points
    Raises UsageError for another suffix or a file that exists (unless `force`), KancompressError
    without matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    record, where = _record(source, name, state), called(source, name)
    dense = _dense(against, state)
    picture = _edges(record, where, target, config or PlotConfig(), layouts, dense)
    return files.write(target, [picture], force=force)


def plot_functions(
    source: Input,
    path: str | os.PathLike[str],
    config: PlotConfig | None = None,
    *,
    options: RunOptions | None = None,
    against: Input | None = None,
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
    against : of a packed file, the dense one, whose edges are then drawn in grey behind their
              centroids
    Returns the picture's bytes. Raises UsageError for another suffix, for a file that exists
    (unless `force`), and where it is not known what the layers compute; KancompressError without
    matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    record, where = _record(source, name, state), called(source, name)
    dense = _dense(against, state)
    picture = _functions(record, where, target, config or PlotConfig(), options, dense)
    return files.write(target, [picture], force=force)


def plot_map(
    source: Input,
    path: str | os.PathLike[str],
    *,
    state: str | None = None,
    name: str | None = None,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> int:
    """Draw the inputs of a packed network of images as an image: the centroid that most edges of
    each pixel use, and the bits of its indices; returns the picture's bytes.

    source : a packed file whose first layer sees the pixels of square images
    path   : a .png, .svg or .pdf file, written atomically
    state  : of a torch file with several state dicts, the one that is meant, as for `inspect`
    Raises UsageError for other networks, another suffix or a file that exists (unless `force`),
    KancompressError without matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    where = called(source, name)
    figure = draw_map(input_map(_record(source, name, state), where), where)
    return files.write(target, [encode(figure, target.suffix.lower())], force=force)


def plot_pictures(
    source: Input,
    edges: str | os.PathLike[str],
    functions: str | os.PathLike[str],
    config: PlotConfig | None = None,
    *,
    options: RunOptions | None = None,
    against: Input | None = None,
    state: str | None = None,
    name: str | None = None,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> tuple[int, int]:
    """Draw what `plot_edges` and `plot_functions` draw, and write both pictures or none.

    edges, functions : .png, .svg or .pdf files
    options          : what the tensors of another library's file do not tell; layouts serve both
    against          : of a packed file, the dense one, which stands behind the centroids
    state            : of a torch file with several state dicts, the one that is meant
    Returns the bytes of both. Raises UsageError for another suffix, one name for both, a file that
    exists (unless `force`), and where it is not known what the layers compute; KancompressError
    without matplotlib.
    """
    config = config or PlotConfig()
    kept = list(inputs)
    first = check_picture_target(edges, force=force, inputs=kept)
    second = check_picture_target(functions, force=force, inputs=kept)
    if files.is_same(first, second):
        raise UsageError(f"{first} is to hold both pictures; give two names.")
    record, where = _record(source, name, state), called(source, name)
    layouts, dense = options.layouts if options else None, _dense(against, state)
    pictures = [
        (first, [_edges(record, where, first, config, layouts, dense)]),
        (second, [_functions(record, where, second, config, options, dense)]),
    ]
    sizes = files.write_together(pictures, force=force)
    return sizes[0], sizes[1]


def _edges(
    record: Runnable,
    where: str,
    target: Path,
    config: PlotConfig,
    layouts: Mapping[str, str] | None,
    dense: Runnable | None,
) -> bytes:
    clouds = list(edge_clouds(record, config, layouts, dense))
    return encode(draw_clouds(clouds, config, where), target.suffix.lower())


def _functions(
    record: Runnable,
    where: str,
    target: Path,
    config: PlotConfig,
    options: RunOptions | None,
    dense: Runnable | None,
) -> bytes:
    curves = centroid_curves(record, config, options, dense)
    return encode(draw_curves(curves, where), target.suffix.lower())


def _dense(against: Input | None, state: str | None) -> Runnable | None:
    return None if against is None else _record(against, None, state)


def _record(source: Input, name: str | None, state: str | None) -> Runnable:
    source, name = once(recorded.source(source, "A picture"), name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        return read_foreign(source, name, state=state)
    return sized(source, name, stored=True)[1]
