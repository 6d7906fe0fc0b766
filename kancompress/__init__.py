"""kancompress makes Kolmogorov-Arnold networks small.

>>> import kancompress
>>> trained = kancompress.train("metafastkan")                       # doctest: +SKIP
>>> packed = kancompress.cluster(trained, clusters=16)               # doctest: +SKIP
>>> tuned = kancompress.finetune(packed)                             # doctest: +SKIP
>>> kancompress.save(tuned, "model.kc.safetensors")                  # doctest: +SKIP
>>> kancompress.evaluate("model.kc.safetensors").score.accuracy      # doctest: +SKIP

Names are loaded when they are first used, so that the import itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kancompress.api.card import model_card
    from kancompress.api.cluster import cluster
    from kancompress.api.compare import Comparison, compare
    from kancompress.api.evaluate import evaluate, save_predictions
    from kancompress.api.expand import expand
    from kancompress.api.export import export
    from kancompress.api.finetune import finetune
    from kancompress.api.inspect import inspect
    from kancompress.api.layouts import print_layouts, read_layouts
    from kancompress.api.modules import Compressed, compress
    from kancompress.api.outputs import choose_clusters, cluster_by_outputs, compress_by_outputs
    from kancompress.api.pages import html_report, markdown_report
    from kancompress.api.predict import Prediction, predict
    from kancompress.api.repack import Repacked, repack
    from kancompress.api.sweep import Sweep, sweep
    from kancompress.api.sweep_folder import Asked, Point
    from kancompress.api.train import train
    from kancompress.clustering.allocation import Curve
    from kancompress.clustering.cuts import Cut
    from kancompress.clustering.layer import LayerSolution
    from kancompress.clustering.network import Calibrated, NetworkSolution
    from kancompress.config import (
        Activation,
        CalibrationConfig,
        ClusterConfig,
        COptions,
        Device,
        FinetuneConfig,
        HeaderForm,
        HtmlOptions,
        IndexCoding,
        KMeans,
        Machine,
        Method,
        Metric,
        OnnxOptions,
        PlotConfig,
        Precision,
        Projection,
        RepackConfig,
        RowFormat,
        RunOptions,
        Runtime,
        StoredDtype,
        Target,
        TrainConfig,
        Weights,
    )
    from kancompress.data.datasets import has_labels
    from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
    from kancompress.exporting.record import Exported
    from kancompress.formats.packed import FormRecord
    from kancompress.models.files import encode, load, save
    from kancompress.models.parametrization import Parametrization, parametrize
    from kancompress.models.records import Checkpoint, PackedLayer, PackedModel
    from kancompress.models.restoration import Restored
    from kancompress.models.user_module import build_module
    from kancompress.packing.by_outputs import Hooks
    from kancompress.packing.pack import Compression, LayerClustering
    from kancompress.packing.repack import PartBytes
    from kancompress.reporting.plotting import (
        plot_edges,
        plot_functions,
        plot_map,
        plot_pictures,
    )
    from kancompress.reporting.targets import check_picture_target, check_predictions_target
    from kancompress.specs import (
        BasisSpec,
        ConvSpec,
        DataOptions,
        DataSpec,
        MetaSpec,
        ModelName,
        ModelSpec,
        SourceSizes,
    )
    from kancompress.system.devices import use_threads
    from kancompress.system.distributed import joined
    from kancompress.training.evaluation import Evaluation
    from kancompress.training.finetune import Finetuning
    from kancompress.training.history import Epoch, Score
    from kancompress.training.state_file import StateFile
    from kancompress.training.train import Training

from kancompress.version import __version__

_HOMES = {
    "kancompress.api.card": ("model_card",),
    "kancompress.api.cluster": ("cluster",),
    "kancompress.api.compare": ("Comparison", "compare"),
    "kancompress.api.evaluate": ("evaluate", "save_predictions"),
    "kancompress.api.expand": ("expand",),
    "kancompress.api.export": ("export",),
    "kancompress.api.finetune": ("finetune",),
    "kancompress.api.inspect": ("inspect",),
    "kancompress.api.layouts": ("print_layouts", "read_layouts"),
    "kancompress.api.pages": ("html_report", "markdown_report"),
    "kancompress.api.predict": ("Prediction", "predict"),
    "kancompress.api.repack": ("Repacked", "repack"),
    "kancompress.api.sweep": ("Sweep", "sweep"),
    "kancompress.api.sweep_folder": ("Asked", "Point"),
    "kancompress.api.train": ("train",),
    "kancompress.packing.by_outputs": ("Hooks",),
    "kancompress.packing.pack": ("Compression", "LayerClustering"),
    "kancompress.packing.repack": ("PartBytes",),
    "kancompress.clustering.cuts": ("Cut",),
    "kancompress.clustering.layer": ("LayerSolution",),
    "kancompress.clustering.allocation": ("Curve",),
    "kancompress.clustering.network": ("Calibrated", "NetworkSolution"),
    "kancompress.system.devices": ("use_threads",),
    "kancompress.system.distributed": ("joined",),
    "kancompress.data.datasets": ("has_labels",),
    "kancompress.errors": ("Flaw", "InvalidFileError", "KancompressError", "UsageError"),
    "kancompress.training.evaluation": ("Evaluation",),
    "kancompress.training.finetune": ("Finetuning",),
    "kancompress.api.modules": ("Compressed", "compress"),
    "kancompress.models.user_module": ("build_module",),
    "kancompress.api.outputs": ("choose_clusters", "cluster_by_outputs", "compress_by_outputs"),
    "kancompress.exporting.record": ("Exported",),
    "kancompress.formats.packed": ("FormRecord",),
    "kancompress.models.records": ("Checkpoint", "PackedLayer", "PackedModel"),
    "kancompress.models.restoration": ("Restored",),
    "kancompress.training.history": ("Epoch", "Score"),
    "kancompress.models.parametrization": ("Parametrization", "parametrize"),
    "kancompress.reporting.plotting": ("plot_edges", "plot_functions", "plot_map", "plot_pictures"),
    "kancompress.reporting.targets": ("check_picture_target", "check_predictions_target"),
    "kancompress.config": (
        "Activation", "COptions", "CalibrationConfig", "ClusterConfig", "Device", "FinetuneConfig",
        "HeaderForm", "HtmlOptions", "IndexCoding", "KMeans", "Machine", "Method", "Metric",
        "OnnxOptions", "PlotConfig", "Precision", "Projection", "RepackConfig", "RowFormat",
        "RunOptions", "Runtime", "StoredDtype", "Target", "TrainConfig", "Weights",
    ),
    "kancompress.specs": (
        "BasisSpec", "ConvSpec", "DataOptions", "DataSpec", "MetaSpec", "ModelName", "ModelSpec",
        "SourceSizes",
    ),
    "kancompress.training.state_file": ("StateFile",),
    "kancompress.models.files": ("encode", "load", "save"),
    "kancompress.training.train": ("Training",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Activation",
    "Asked",
    "BasisSpec",
    "COptions",
    "Calibrated",
    "CalibrationConfig",
    "Checkpoint",
    "ClusterConfig",
    "Comparison",
    "Compressed",
    "Compression",
    "ConvSpec",
    "Curve",
    "Cut",
    "DataOptions",
    "DataSpec",
    "Device",
    "Epoch",
    "Evaluation",
    "Exported",
    "FinetuneConfig",
    "Finetuning",
    "Flaw",
    "FormRecord",
    "HeaderForm",
    "Hooks",
    "HtmlOptions",
    "IndexCoding",
    "InvalidFileError",
    "KMeans",
    "KancompressError",
    "LayerClustering",
    "LayerSolution",
    "Machine",
    "MetaSpec",
    "Method",
    "Metric",
    "ModelName",
    "ModelSpec",
    "NetworkSolution",
    "OnnxOptions",
    "PackedLayer",
    "PackedModel",
    "Parametrization",
    "PartBytes",
    "PlotConfig",
    "Point",
    "Precision",
    "Prediction",
    "Projection",
    "RepackConfig",
    "Repacked",
    "Restored",
    "RowFormat",
    "RunOptions",
    "Runtime",
    "Score",
    "SourceSizes",
    "StateFile",
    "StoredDtype",
    "Sweep",
    "Target",
    "TrainConfig",
    "Training",
    "UsageError",
    "Weights",
    "__version__",
    "build_module",
    "check_picture_target",
    "check_predictions_target",
    "choose_clusters",
    "cluster",
    "cluster_by_outputs",
    "compare",
    "compress",
    "compress_by_outputs",
    "encode",
    "evaluate",
    "expand",
    "export",
    "finetune",
    "has_labels",
    "html_report",
    "inspect",
    "joined",
    "load",
    "markdown_report",
    "model_card",
    "parametrize",
    "plot_edges",
    "plot_functions",
    "plot_map",
    "plot_pictures",
    "predict",
    "print_layouts",
    "read_layouts",
    "repack",
    "save",
    "save_predictions",
    "sweep",
    "train",
    "use_threads",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kancompress' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
