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
    from kancompress.api import (
        Compression,
        cluster,
        evaluate,
        expand,
        finetune,
        inspect,
        print_layouts,
        read_layouts,
        train,
    )
    from kancompress.calibrating import Hooks
    from kancompress.calibration.run import Calibrated
    from kancompress.checkpoint import Checkpoint
    from kancompress.devices import use_threads
    from kancompress.distributed import joined
    from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
    from kancompress.evaluation import Evaluation
    from kancompress.finetuning import Finetuning
    from kancompress.live import Compressed, compress
    from kancompress.modules import build_module
    from kancompress.outputs import choose_clusters, cluster_by_outputs, compress_by_outputs
    from kancompress.packed import PackedLayer, PackedModel
    from kancompress.parametrization import Parametrization, parametrize
    from kancompress.plotting import (
        check_picture_target,
        plot_edges,
        plot_functions,
        plot_pictures,
    )
    from kancompress.predictions import check_predictions_target, save_predictions
    from kancompress.recipes import (
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
    from kancompress.specs import (
        BasisSpec,
        ConvSpec,
        DataOptions,
        DataSpec,
        MetaSpec,
        ModelName,
        ModelSpec,
    )
    from kancompress.states import StateFile
    from kancompress.storage import encode, load, save
    from kancompress.training import Training

from kancompress.version import __version__

_HOMES = {
    "kancompress.api": (
        "Compression", "cluster", "evaluate", "expand", "finetune", "inspect", "print_layouts",
        "read_layouts", "train",
    ),
    "kancompress.calibrating": ("Hooks",),
    "kancompress.calibration.run": ("Calibrated",),
    "kancompress.checkpoint": ("Checkpoint",),
    "kancompress.devices": ("use_threads",),
    "kancompress.distributed": ("joined",),
    "kancompress.errors": ("Flaw", "InvalidFileError", "KancompressError", "UsageError"),
    "kancompress.evaluation": ("Evaluation",),
    "kancompress.finetuning": ("Finetuning",),
    "kancompress.live": ("Compressed", "compress"),
    "kancompress.modules": ("build_module",),
    "kancompress.outputs": ("choose_clusters", "cluster_by_outputs", "compress_by_outputs"),
    "kancompress.packed": ("PackedLayer", "PackedModel"),
    "kancompress.parametrization": ("Parametrization", "parametrize"),
    "kancompress.plotting": (
        "check_picture_target", "plot_edges", "plot_functions", "plot_pictures",
    ),
    "kancompress.predictions": ("check_predictions_target", "save_predictions"),
    "kancompress.recipes": (
        "Activation", "CalibrationConfig", "ClusterConfig", "Device", "FinetuneConfig", "KMeans",
        "Machine", "Method", "Metric", "PlotConfig", "Precision", "Projection", "RunOptions",
        "StoredDtype", "Target", "TrainConfig",
    ),
    "kancompress.specs": (
        "BasisSpec", "ConvSpec", "DataOptions", "DataSpec", "MetaSpec", "ModelName", "ModelSpec",
    ),
    "kancompress.states": ("StateFile",),
    "kancompress.storage": ("encode", "load", "save"),
    "kancompress.training": ("Training",),
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
