"""Pictures of a file: its edge vectors in the plane, and its centroids as functions on the grid.

They need matplotlib (`pip install 'kancompress[plot]'`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kancompress.clustering.progress import Progress, TellShare
from kancompress.config import PlotConfig, Projection, RunOptions
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
    on_share: TellShare | None = None,
) -> int:
    """Draw the edge vectors of every layer, coloured by centroid; returns the picture's bytes.

    source  : dense, meta, packed, or a checkpoint of another KAN library. What is not packed is
              clustered with k-means for its colours, as `cluster` does.
    state   : of a torch file with several state dicts, the one that is meant, as for `inspect`
    path    : a .png, .svg or .pdf file, written atomically
    layouts : as for `cluster`
    against : of a packed file, the dense one, whose edge vectors are then the points
    on_share : told what is at hand, the share of it that is done, and what of it was last
    Raises UsageError for another suffix or a file that exists (unless `force`), KancompressError
    without matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    record, where = _record(source, name, state), called(source, name)
    dense = _dense(against, state)
    drawing = _Drawing(record, where, config or PlotConfig(), dense, on_share)
    picture = drawing.edges(target, layouts)
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
    on_share: TellShare | None = None,
) -> int:
    """Draw each centroid's function over the grid, base branch included, and its edges.

    options : what the tensors of another library's file do not tell, as for `evaluate`
    source  : as for `plot_edges`
    state   : of a torch file with several state dicts, the one that is meant, as for `inspect`
    path    : a .png, .svg or .pdf file, written atomically
    against : of a packed file, the dense one, whose edges are then drawn in grey behind their
              centroids
    on_share : as for `plot_edges`
    Returns the picture's bytes. Raises UsageError for another suffix, for a file that exists
    (unless `force`), and where it is not known what the layers compute; KancompressError without
    matplotlib.
    """
    target = check_picture_target(path, force=force, inputs=inputs)
    record, where = _record(source, name, state), called(source, name)
    dense = _dense(against, state)
    drawing = _Drawing(record, where, config or PlotConfig(), dense, on_share)
    picture = drawing.functions(target, options)
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
    on_share: TellShare | None = None,
) -> tuple[int, int]:
    """Draw what `plot_edges` and `plot_functions` draw, and write both pictures or none.

    edges, functions : .png, .svg or .pdf files
    options          : what the tensors of another library's file do not tell; layouts serve both
    against          : of a packed file, the dense one, which stands behind the centroids
    state            : of a torch file with several state dicts, the one that is meant
    on_share         : as for `plot_edges`
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
    drawing = _Drawing(record, where, config, _dense(against, state), on_share)
    pictures = [
        (first, [drawing.edges(first, options.layouts if options else None)]),
        (second, [drawing.functions(second, options)]),
    ]
    sizes = files.write_together(pictures, force=force)
    return sizes[0], sizes[1]


# The share of a picture that finds the centroids, where t-SNE comes after that.
_FOUND = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class _Drawing:
    """What is drawn, what messages call it, and whom to tell of it; dense: as `against`."""

    record: Runnable
    where: str
    config: PlotConfig
    dense: Runnable | None
    tell: TellShare | None

    def edges(self, target: Path, layouts: Mapping[str, str] | None) -> bytes:
        """The picture of the edge vectors."""
        whole = Progress(tell=self.tell, work="picture of the edges")
        first = _FOUND if self.config.projection is Projection.TSNE else 1.0
        found = whole.part(0.0, first)
        clouds = list(edge_clouds(self.record, self.config, layouts, self.dense, found))
        figure = draw_clouds(clouds, self.config, self.where, whole.part(first, 1.0))
        return encode(figure, target.suffix.lower())

    def functions(self, target: Path, options: RunOptions | None) -> bytes:
        """The picture of the centroids' functions."""
        whole = Progress(tell=self.tell, work="picture of the functions")
        curves = centroid_curves(self.record, self.config, options, self.dense, whole)
        return encode(draw_curves(curves, self.where), target.suffix.lower())


def _dense(against: Input | None, state: str | None) -> Runnable | None:
    return None if against is None else _record(against, None, state)


def _record(source: Input, name: str | None, state: str | None) -> Runnable:
    source, name = once(recorded.source(source, "A picture"), name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        return read_foreign(source, name, state=state)
    return sized(source, name, stored=True)[1]
