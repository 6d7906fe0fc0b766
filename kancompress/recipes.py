"""How to train and to fine-tune: the hyper-parameters of Tables 4 and 5 of the MetaCluster paper.

Where the paper is silent: weight decay 0.01, no schedule, and the norms and recurrence weights
learn at the meta-learner's rate (plain networks have one rate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kancompress.specs import ModelName

HIDDEN = (32,)
CLUSTERS = 16


class CodebookDtype(StrEnum):
    """Type of the stored centroids; `source` is the type that the source's coefficients have."""

    SOURCE = "source"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Device(StrEnum):
    """Where to compute; `auto` is cuda, else mps, else cpu, whichever there is."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """Number format of training passes; parameters and what is measured stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run computes; it changes a result by no more than rounding.

    workers : processes that prepare augmented rows; 0 leaves it to the run's own
    """

    device: Device = Device.AUTO
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of one training run.

    lr           : learning rate; for meta networks that of the meta-learner, the norms and betas
    lr_embedding : learning rate of the embeddings of a meta network, else unused
    decay        : factor of all learning rates after every epoch (torch's ExponentialLR)
    patience     : epochs without a better validation score before training stops
    """

    lr: float
    lr_embedding: float | None = None
    decay: float = 1.0
    epochs: int = 50
    patience: int = 10
    batch_size: int = 128
    weight_decay: float = 0.01
    seed: int = 0
    compile: bool = False
    precision: Precision = Precision.FLOAT32


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """Options of one fine-tuning run; `also` names further groups that learn (norms, biases)."""

    lr: float = 1e-4
    epochs: int = 5
    patience: int = 3
    batch_size: int = 128
    weight_decay: float = 0.01
    seed: int = 0
    also: tuple[str, ...] = field(default=())
    compile: bool = False
    precision: Precision = Precision.FLOAT32


class Metric(StrEnum):
    """What plain k-means measures: distance of coefficients (the paper's eq. 7), or of the edges'
    functions with inputs uniform on the grid."""

    COEFFICIENTS = "coefficients"
    GRID = "grid"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Options of clustering.

    clusters     : centroids of every layer, 1 to 65,536
    layers       : layer name to its own number of centroids
    force_pack   : pack layers that would grow, too
    target_bytes : take the largest number of clusters with which the whole file has at most so many
                   bytes; `clusters` is then not used
    """

    clusters: int = CLUSTERS
    layers: Mapping[str, int] = field(default_factory=dict)
    codebook_dtype: CodebookDtype = CodebookDtype.SOURCE
    seed: int = 0
    max_iterations: int = 100
    force_pack: bool = False
    target_bytes: int | None = None
    metric: Metric = Metric.COEFFICIENTS


# (lr or lr_h, lr_e) of Tables 4 and 5
_RATES: dict[ModelName, tuple[float, float | None]] = {
    ModelName.KAN: (1e-4, None),
    ModelName.FASTKAN: (1e-3, None),
    ModelName.GRAMKAN: (1e-3, None),
    ModelName.METAKAN: (5e-4, 5e-3),
    ModelName.METAFASTKAN: (1e-3, 1e-2),
    ModelName.METAGRAMKAN: (1e-4, 1e-3),
}


def default_training(model: ModelName) -> TrainConfig:
    """The paper's recipe for `model`."""
    lr, lr_embedding = _RATES[model]
    return TrainConfig(lr=lr, lr_embedding=lr_embedding)


class Activation(StrEnum):
    """Activations of a base branch."""

    SILU = "silu"
    GELU = "gelu"
    RELU = "relu"
    ELU = "elu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"
    ZERO = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the tensors of another library's checkpoint do not tell of its forward.

    layouts         : layer name or stem ("" for all) to the name of a layout
    base_activation : of the base branch; the library's own default when None
    rbf_denominator : width of the radial functions; the distance of the centres when None
    grid_range      : low and high of a grid that is not saved; -1 and 1 when None
    spline_order    : degree of splines whose grid is not saved; 3 when None
    """

    layouts: Mapping[str, str] = field(default_factory=dict)
    base_activation: Activation | None = None
    rbf_denominator: float | None = None
    grid_range: tuple[float, float] | None = None
    spline_order: int | None = None


class Method(StrEnum):
    """How layers are clustered, each on top of the one before (docs/clustering.md)."""

    KMEANS = "kmeans"
    METRIC = "metric"
    CENTRED = "centred"
    FEEDBACK = "feedback"
    SWEEPS = "sweeps"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """How `cluster --calibrate` works.

    samples : rows to calibrate on, beside those that are held out
    rounds  : of feedback and refit; sweeps : of coordinate descent, each with a refit
    damping : share of the mean diagonal added to the second moments; None: 1 %, 5 % where the
              rows do not outnumber the dimensions twice
    memory  : bytes for second moments and factor of a layer; larger layers are cut into groups
    """

    method: Method = Method.SWEEPS
    samples: int = 16_384
    rounds: int = 4
    sweeps: int = 2
    damping: float | None = None
    memory: int = 6 << 30
    max_iterations: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the numbers of clusters are chosen for; one of the three is given.

    bytes : most bytes of the packed file, header included
    ratio : the same as the source file's bytes over the packed file's
    error : most squared error of the network's outputs on held-out rows, relative to the spread of
            the dense network's outputs
    """

    bytes: int | None = None
    ratio: float | None = None
    error: float | None = None


class Projection(StrEnum):
    """How pictures bring edge vectors into the plane: first two principal components, or t-SNE."""

    PCA = "pca"
    TSNE = "tsne"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotConfig:
    """Options of pictures.

    clusters : centroids of each layer of a file that is not packed, for the colours
    sample   : most edges of a layer that are drawn as points
    seed     : of the sample, of k-means and of t-SNE
    """

    projection: Projection = Projection.PCA
    clusters: int = CLUSTERS
    sample: int = 2000
    seed: int = 0
