"""Checkpoints clustered by what their layers put out: the library's functions."""

from __future__ import annotations

from torch import Tensor

from kancompress import datasets
from kancompress.api import Compression
from kancompress.calibrating import Hooks, Subject, choose, native_subject, pack_calibrated
from kancompress.calibration.run import Calibrated
from kancompress.errors import UsageError
from kancompress.packed import PackedModel
from kancompress.recipes import CalibrationConfig, ClusterConfig, Target
from kancompress.specs import DataOptions, DataSpec
from kancompress.storage import Input, called, sized


def cluster_by_outputs(
    source: Input,
    rows: Tensor | DataOptions,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    target: Target | None = None,
    name: str | None = None,
    hooks: Hooks | None = None,
) -> Compression:
    """Cluster a checkpoint by what its layers put out on unlabelled rows, and pack it.

    source : a dense or meta checkpoint of ours
    rows   : (n, in) inputs of the network, or where they lie; some thousands are enough
    target : chooses the number of clusters of each layer instead of `config`
    name   : what messages call the source, its path when None
    hooks  : whom to tell of progress
    Raises as `cluster`, UsageError for rows that do not fit, and KancompressError for a target out
    of reach.
    """
    config, hooks = config or ClusterConfig(), hooks or Hooks()
    subject, spec = _subject(source, config, name, hooks)
    calibration = calibration or CalibrationConfig(seed=config.seed)
    x = _inputs(rows, spec)
    packed, found = pack_calibrated(subject, x, config, calibration, target=target, hooks=hooks)
    return Compression(model=packed[0], layers=packed[1], calibrated=found)


def choose_clusters(
    source: Input,
    rows: Tensor | DataOptions,
    target: Target,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    name: str | None = None,
    hooks: Hooks | None = None,
) -> Calibrated:
    """The numbers of clusters that `cluster_by_outputs` would choose; packs nothing."""
    config, hooks = config or ClusterConfig(), hooks or Hooks()
    subject, spec = _subject(source, config, name, hooks)
    calibration = calibration or CalibrationConfig(seed=config.seed)
    return choose(subject, _inputs(rows, spec), config, calibration, target=target, hooks=hooks)


def _inputs(rows: Tensor | DataOptions, spec: DataSpec | None) -> Tensor:
    return datasets.load_inputs(spec, rows) if isinstance(rows, DataOptions) else rows


def _subject(
    source: Input, config: ClusterConfig, name: str | None, hooks: Hooks
) -> tuple[Subject, DataSpec | None]:
    """What is to be clustered, and the data that it was trained on if the file says."""
    size, record = sized(source, name)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{called(source, name)} is packed already. To cluster it anew:"
            " kancompress expand FILE -o DENSE"
        )
    subject = native_subject(record, config, source_file_bytes=size, hooks=hooks)
    return subject, record.data


__all__ = ["choose_clusters", "cluster_by_outputs"]
