"""Checkpoints clustered by what their layers put out: the library's functions."""

from __future__ import annotations

import os

from torch import Tensor

from kancompress import datasets
from kancompress.api import Compression
from kancompress.calibrating import (
    Hooks,
    Subject,
    choose,
    foreign_subject,
    native_subject,
    pack_calibrated,
)
from kancompress.calibration.run import Calibrated
from kancompress.errors import UsageError
from kancompress.foreign import read_foreign
from kancompress.forms import dense_network
from kancompress.layouts import recognise
from kancompress.notes import source_notes
from kancompress.packed import PackedModel
from kancompress.recipes import CalibrationConfig, ClusterConfig, RunOptions, Target
from kancompress.repacking import check_all
from kancompress.specs import DataOptions, DataSpec
from kancompress.storage import Input, called, is_native, sized


def cluster_by_outputs(
    source: Input,
    rows: Tensor | DataOptions,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    target: Target | None = None,
    options: RunOptions | None = None,
    name: str | None = None,
    hooks: Hooks | None = None,
) -> Compression:
    """Cluster a checkpoint by what its layers put out on unlabelled rows, and pack it.

    source  : a dense or meta checkpoint of ours, or a file of another KAN library whose forward the
              tensors determine
    rows    : (n, in) inputs of the network, or where they lie; some thousands are enough
    target  : chooses the number of clusters of each layer instead of `config`
    options : what the tensors of another library's file do not tell
    name    : what messages call the source, its path when None
    hooks   : whom to tell of progress
    Raises as `cluster`, UsageError for rows that do not fit, and KancompressError for a target out
    of reach.
    """
    config, hooks = config or ClusterConfig(), hooks or Hooks()
    subject, spec, notes = _subject(source, config, options, name, hooks)
    calibration = calibration or CalibrationConfig(seed=config.seed)
    x = _inputs(rows, spec)
    packed, found = pack_calibrated(subject, x, config, calibration, target=target, hooks=hooks)
    return Compression(model=packed[0], layers=packed[1], notes=notes, calibrated=found)


def choose_clusters(
    source: Input,
    rows: Tensor | DataOptions,
    target: Target,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    options: RunOptions | None = None,
    name: str | None = None,
    hooks: Hooks | None = None,
) -> Calibrated:
    """The numbers of clusters that `cluster_by_outputs` would choose; packs nothing."""
    config, hooks = config or ClusterConfig(), hooks or Hooks()
    subject, spec, _ = _subject(source, config, options, name, hooks)
    calibration = calibration or CalibrationConfig(seed=config.seed)
    return choose(subject, _inputs(rows, spec), config, calibration, target=target, hooks=hooks)


def _inputs(rows: Tensor | DataOptions, spec: DataSpec | None) -> Tensor:
    # images become rows of features, as for training
    return datasets.load_inputs(spec, rows).flatten(1) if isinstance(rows, DataOptions) else rows


def _subject(
    source: Input,
    config: ClusterConfig,
    options: RunOptions | None,
    name: str | None,
    hooks: Hooks,
) -> tuple[Subject, DataSpec | None, tuple[str, ...]]:
    """What is to be clustered, the data it was trained on if the file says, and notes."""
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        foreign = read_foreign(source, name)
        found = recognise(foreign.tensors, options.layouts if options else None)
        check_all(foreign, found, config)
        network = dense_network(foreign, options)
        network.eval()
        subject = foreign_subject(foreign, found, network, config, hooks=hooks)
        notes = (*source_notes(foreign, found), *(f"assumed {note}" for note in network.notes))
        return subject, None, (*notes, *_unbiased(subject))
    size, record = sized(source, name)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{called(source, name)} is packed already. To cluster it anew:"
            " kancompress expand FILE -o DENSE"
        )
    subject = native_subject(record, config, source_file_bytes=size, hooks=hooks)
    return subject, record.data, ()


def _unbiased(subject: Subject) -> list[str]:
    """What is to be said of layers that have no place for a bias, and of those left apart."""
    without = [name for name, place in subject.places.items() if not place.biased]
    notes = []
    if without:
        notes.append(
            f"{len(without)} of {len(subject.places)} layers have no bias, so there the mean error"
            " is not taken up"
        )
    if subject.apart:
        notes.append(f"clustered by plain k-means: {', '.join(sorted(subject.apart))}")
    return notes


__all__ = ["choose_clusters", "cluster_by_outputs"]
