"""kancompress makes Kolmogorov-Arnold networks small.

>>> import kancompress
>>> trained = kancompress.train("metafastkan")                       # doctest: +SKIP
>>> packed = kancompress.cluster(trained.checkpoint)                 # doctest: +SKIP
>>> tuned = kancompress.finetune(packed.model)                       # doctest: +SKIP
>>> kancompress.save(tuned.model, "model.kc.safetensors")            # doctest: +SKIP
>>> kancompress.evaluate("model.kc.safetensors").score.accuracy      # doctest: +SKIP

Names are loaded when they are first used, so that the import itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kancompress.api.commands import (
        Compression,
        cluster,
        evaluate,
        expand,
        finetune,
        train,
    )
    from kancompress.api.inspect import inspect, print_layouts, read_layouts
    from kancompress.api.modules import Compressed, compress
    from kancompress.api.outputs import choose_clusters, cluster_by_outputs, compress_by_outputs
    from kancompress.api.predictions import check_predictions_target, save_predictions
    from kancompress.clustering.network import Calibrated
    from kancompress.config import (
        Activation,
        CalibrationConfig,
        ClusterConfig,
        Device,
        FinetuneConfig,
        KMeans,
        Machine,
        Method,
        Metric,
        PlotConfig,
        Precision,
        Projection,
        RunOptions,
        StoredDtype,
        Target,
        TrainConfig,
    )
    from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
    from kancompress.models.files import encode, load, save
    from kancompress.models.parametrization import Parametrization, parametrize
    from kancompress.models.records import Checkpoint, PackedLayer, PackedModel
    from kancompress.models.user_module import build_module
    from kancompress.packing.by_outputs import Hooks
    from kancompress.reporting.plotting import (
        check_picture_target,
        plot_edges,
        plot_functions,
        plot_pictures,
    )
    from kancompress.specs import (
        BasisSpec,
        ConvSpec,
        DataOptions,
        DataSpec,
        MetaSpec,
        ModelName,
        ModelSpec,
    )
    from kancompress.system.devices import use_threads
    from kancompress.system.distributed import joined
    from kancompress.training.evaluation import Evaluation
    from kancompress.training.finetune import Finetuning
    from kancompress.training.state import StateFile
    from kancompress.training.train import Training

from kancompress.version import __version__

_HOMES = {
    "kancompress.api.commands": (
        "Compression", "cluster", "evaluate", "expand", "finetune", "train",
    ),
    "kancompress.api.inspect": ("inspect", "print_layouts", "read_layouts"),
    "kancompress.packing.by_outputs": ("Hooks",),
    "kancompress.clustering.network": ("Calibrated",),
    "kancompress.system.devices": ("use_threads",),
    "kancompress.system.distributed": ("joined",),
    "kancompress.errors": ("Flaw", "InvalidFileError", "KancompressError", "UsageError"),
    "kancompress.training.evaluation": ("Evaluation",),
    "kancompress.training.finetune": ("Finetuning",),
    "kancompress.api.modules": ("Compressed", "compress"),
    "kancompress.models.user_module": ("build_module",),
    "kancompress.api.outputs": ("choose_clusters", "cluster_by_outputs", "compress_by_outputs"),
    "kancompress.models.records": ("Checkpoint", "PackedLayer", "PackedModel"),
    "kancompress.models.parametrization": ("Parametrization", "parametrize"),
    "kancompress.reporting.plotting": (
        "check_picture_target", "plot_edges", "plot_functions", "plot_pictures",
    ),
    "kancompress.api.predictions": ("check_predictions_target", "save_predictions"),
    "kancompress.config": (
        "Activation", "CalibrationConfig", "ClusterConfig", "Device", "FinetuneConfig", "KMeans",
        "Machine", "Method", "Metric", "PlotConfig", "Precision", "Projection", "RunOptions",
        "StoredDtype", "Target", "TrainConfig",
    ),
    "kancompress.specs": (
        "BasisSpec", "ConvSpec", "DataOptions", "DataSpec", "MetaSpec", "ModelName", "ModelSpec",
    ),
    "kancompress.training.state": ("StateFile",),
    "kancompress.models.files": ("encode", "load", "save"),
    "kancompress.training.train": ("Training",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Activation",
    "BasisSpec",
    "Calibrated",
    "CalibrationConfig",
    "Checkpoint",
    "ClusterConfig",
    "Compressed",
    "Compression",
    "ConvSpec",
    "DataOptions",
    "DataSpec",
    "Device",
    "Evaluation",
    "FinetuneConfig",
    "Finetuning",
    "Flaw",
    "Hooks",
    "InvalidFileError",
    "KMeans",
    "KancompressError",
    "Machine",
    "MetaSpec",
    "Method",
    "Metric",
    "ModelName",
    "ModelSpec",
    "PackedLayer",
    "PackedModel",
    "Parametrization",
    "PlotConfig",
    "Precision",
    "Projection",
    "RunOptions",
    "StateFile",
    "StoredDtype",
    "Target",
    "TrainConfig",
    "Training",
    "UsageError",
    "__version__",
    "build_module",
    "check_picture_target",
    "check_predictions_target",
    "choose_clusters",
    "cluster",
    "cluster_by_outputs",
    "compress",
    "compress_by_outputs",
    "encode",
    "evaluate",
    "expand",
    "finetune",
    "inspect",
    "joined",
    "load",
    "parametrize",
    "plot_edges",
    "plot_functions",
    "plot_pictures",
    "print_layouts",
    "read_layouts",
    "save",
    "save_predictions",
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
