"""Checkpoints clustered by what their layers put out: doors to `kancompress.cluster`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from kancompress.api import given
from kancompress.api.cluster import Clusterable, Rows, Work, cluster
from kancompress.clustering.network import Calibrated
from kancompress.config import CalibrationConfig, ClusterConfig, Machine, RunOptions, Target
from kancompress.errors import TooSmallError, UsageError
from kancompress.formats.storage import once
from kancompress.models.files import Input
from kancompress.packing.by_outputs import Hooks
from kancompress.packing.pack import Compression


def cluster_by_outputs(
    source: Input,
    rows: Rows,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    target: Target | None = None,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    name: str | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> Compression:
    """`kancompress.cluster` with rows: cluster a checkpoint by what its layers put out on them.

    source  : a dense or meta checkpoint of ours, or a file of another KAN library whose forward the
              tensors determine
    rows    : (n, in) inputs of the network, or where they lie, as for `cluster`; some thousands
              are enough
    target  : chooses the number of clusters of each layer instead of `config`
    options : what the tensors of another library's file do not tell
    model   : the module whose state dict the source is, to run another library's file in; it is
              left with the source's tensors. Rows then keep their shape (n, ...)
    machine : where to compute; `auto` is cuda where there is one, else the CPU. A module of the
              user's own is moved to a device that was asked for, else the work goes where it is
    name    : what messages call the source, its path when None
    hooks   : whom to tell of progress
    settings : as for `cluster`
    Raises InvalidFileError for a damaged file, UsageError for a packed one, for rows that do not
    fit and for all that is wrong with options, and KancompressError for a target out of reach.
    """
    return cluster(
        source,
        config,
        rows=rows,
        calibration=calibration,
        target=target,
        options=options,
        model=model,
        machine=machine,
        name=name,
        hooks=hooks,
        **settings,
    )


def choose_clusters(
    source: Clusterable,
    rows: Rows,
    target: Target,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    keep_scaler: bool = False,
    keep_extra: bool = False,
    state: str | None = None,
    drop: Sequence[str] = (),
    name: str | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> Calibrated:
    """The numbers of clusters that `kancompress.cluster` would choose for `target` on these rows.

    Nothing is packed, and nothing is solved but for a target that is an error, and for a price that
    is searched. The arguments are those of `kancompress.cluster`, the errors, too.
    """
    given.check(calibration=calibration, target=target)
    given.check(options=options, machine=machine, model=model)
    if target is None:
        raise UsageError(
            "`target` is None; a Target was expected, as in kancompress.Target(bytes=20_000).",
            fields=("target",),
        )
    work = Work(
        config=given.clustering("choose_clusters", config, settings),
        calibration=calibration,
        options=options or RunOptions(),
        machine=machine,
        hooks=hooks or Hooks(),
        keep_scaler=keep_scaler,
        keep_extra=keep_extra,
        state=state,
        drop=drop,
    )
    source, name = once(source, name)
    running = work.running(source, rows, model, name)
    try:
        return work.choose(running, target)
    except TooSmallError as error:
        found = work.instead(work.open(source, name), target, error).calibrated
        assert found is not None
        return found


def compress_by_outputs(
    model: nn.Module,
    rows: Rows,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    target: Target | None = None,
    options: RunOptions | None = None,
    machine: Machine | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> Compression:
    """`compress` by what the KAN layers of a live module put out on unlabelled rows.

    model : any architecture; hooks on its KAN layers see what they are called with. Its tensors
            are as before in the end
    rows  : (n, ...) inputs of the model, some thousands; they go in with the device and the
            floating point type of its first parameter
    The rest is as for `cluster_by_outputs`. Layers whose outputs cannot be had (a layout whose
    basis is not known, a module that computes something else or is called more than once) are
    clustered by plain k-means; `notes` says which and why.
    Raises UsageError where that holds for all of them.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"compress_by_outputs takes a torch.nn.Module and was given {type(model).__name__};"
            " files and checkpoints go to cluster_by_outputs."
        )
    return cluster(
        model,
        config,
        rows=rows,
        calibration=calibration,
        target=target,
        options=options,
        machine=machine,
        hooks=hooks,
        **settings,
    )


__all__ = ["choose_clusters", "cluster_by_outputs", "compress_by_outputs"]
