"""How to train and to fine-tune: the hyper-parameters of Tables 4 to 7 of the MetaCluster paper.

Where the paper is silent: weight decay 0.01, and in fully connected meta networks the norms and
recurrence weights learn at the meta-learner's rate (plain networks have one rate). Convolutions
have torch-conv-kan's schedule, in meta networks for all rates: Table 7 says that embeddings and
meta-learner have one. An MLP, of which the paper gives no recipe, learns as FastKAN does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum

from kancompress.errors import UsageError
from kancompress.forward import MAX_SPLINE_ORDER as MAX_SPLINE_ORDER
from kancompress.forward import RUN_FIELDS as RUN_FIELDS
from kancompress.forward import Activation as Activation
from kancompress.forward import RunOptions as RunOptions
from kancompress.frozen import dataclass
from kancompress.specs import FAMILIES, MAX_CLUSTERS, ModelName
from kancompress.specs import HeaderForm as HeaderForm
from kancompress.values import (
    Rule,
    by_layer,
    chosen,
    each,
    flag,
    maybe,
    named,
    number,
    settle,
    text,
    whole,
    word,
)

HIDDEN = (32,)
CLUSTERS = 16
# Channels of convolutions, centroids of their layers, and the factor of their rates every epoch.
CHANNELS = (32, 64, 128, 256)
CONV_CLUSTERS = 256
# Bytes that clustering takes for a layer beside its file, where nothing else is asked for.
MEMORY = 6 << 30
CONV_DECAY = 0.975
# Seeds are those of torch; batches those whose rows an int32 counts.
_SEED = whole(0, 2**63 - 1)
_BATCH = whole(1, 2**31 - 1)
_MOST_WORKERS = 1024
# Most edges of a layer that a picture draws.
_MOST_DRAWN = 1_000_000


class StoredDtype(StrEnum):
    """Type of stored numbers; `source` is the type that they have in the source.

    `int8` is a byte for every number, and a float16 scale for each coefficient of a codebook, for
    a layer's biases, and for each row of a normalisation. Other sides, and normalisations with
    running statistics, whose small variances a byte would lose, are float16 then.
    """

    SOURCE = "source"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Device(StrEnum):
    """Where to compute; `auto` is cuda, else mps, else cpu, whichever there is."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Runtime(StrEnum):
    """What runs a network: torch, or numpy alone, which starts sooner, and takes packed files and
    dense ones of kancompress's own."""

    TORCH = "torch"
    NUMPY = "numpy"


def runtime_of(name: Runtime | str) -> Runtime:
    """The runtime of a name. Raises UsageError."""
    return chosen("runtime", name, Runtime)


class RowFormat(StrEnum):
    """How arrays of rows are written: `csv` has a header line and a line for each row."""

    NPZ = "npz"
    SAFETENSORS = "safetensors"
    CSV = "csv"


class Precision(StrEnum):
    """Number format of training passes; parameters and what is measured stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run computes; it changes a result by no more than rounding.

    workers : processes that prepare augmented rows; 0 leaves it to the run's own
    """

    device: Device = Device.AUTO
    workers: int = 0

    def __post_init__(self) -> None:
        settle(self, device=word(Device), workers=whole(0, _MOST_WORKERS))


def _learning() -> dict[str, Rule]:
    """Rules of what training and fine-tuning have in common."""
    return {
        "epochs": whole(0),
        "batch_size": _BATCH,
        "weight_decay": number(),
        "seed": _SEED,
        "compile": flag,
        "precision": word(Precision),
        "augment": maybe(flag),
    }


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of one training run.

    lr           : learning rate; for meta networks that of the meta-learner
    lr_embedding : learning rate of the embeddings of a meta network, else unused
    lr_rest      : learning rate of all else in a meta network: norms, betas, the head; None is `lr`
    decay        : factor of all learning rates after every epoch (torch's ExponentialLR)
    patience     : epochs without a better validation score before training stops
    augment      : whether to augment images; None: where convolutions learn from an image data set
    """

    lr: float
    lr_embedding: float | None = None
    lr_rest: float | None = None
    decay: float = 1.0
    epochs: int = 50
    patience: int = 10
    batch_size: int = 128
    weight_decay: float = 0.01
    seed: int = 0
    compile: bool = False
    precision: Precision = Precision.FLOAT32
    augment: bool | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            lr=number(),
            lr_embedding=maybe(number()),
            lr_rest=maybe(number()),
            decay=number(),
            patience=whole(1),
            **_learning(),
        )


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """Options of one fine-tuning run.

    lr      : learning rate; None is 1e-4, for convolutions 1e-5 (Tables 4 to 7)
    also    : further groups that learn beside the codebooks: norms, biases, head
    augment : as for `TrainConfig`
    """

    lr: float | None = None
    epochs: int = 5
    patience: int = 3
    batch_size: int = 128
    weight_decay: float = 0.01
    seed: int = 0
    also: tuple[str, ...] = field(default=())
    compile: bool = False
    precision: Precision = Precision.FLOAT32
    augment: bool | None = None

    def __post_init__(self) -> None:
        also = each(text, "a tuple of names of groups, such as ('norms',),")
        settle(self, lr=maybe(number()), also=also, patience=whole(1), **_learning())


class Metric(StrEnum):
    """What k-means without rows measures: distance of coefficients (the paper's eq. 7), or of the
    edges' functions with inputs uniform on the grid.

    With rows, `GRID` is one more start of the solutions. `Method.METRIC` is something else: a
    metric of each input, measured on rows.
    """

    COEFFICIENTS = "coefficients"
    GRID = "grid"


class KMeans(StrEnum):
    """Whose Lloyd iterations run: kancompress's own, or those of scikit-learn's class `KMeans`.

    This is a choice between the two, no estimator. The start, greedy k-means++ on a seeded sample,
    is the same.
    """

    OWN = "own"
    SCIKIT_LEARN = "scikit-learn"


class IndexCoding(StrEnum):
    """How indices are written: `bits`, all of one width; `rans`, entropy-coded, where a codebook
    has at most 1,024 centroids; or, for each layer, whichever of them is smaller."""

    BITS = "bits"
    RANS = "rans"
    AUTO = "auto"


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Options of clustering.

    clusters     : centroids of every layer, 1 to 65,536; None is 16, for convolutions of
                   kancompress's own 256 (Tables 4 to 7)
    layers       : layer name to its own number of centroids
    parts        : vectors that the coefficients of an edge are cut into, each with its own index
                   into a codebook of vectors that are so much shorter; divides the number of
                   coefficients. None is 1, and chosen where numbers of clusters are chosen by
                   outputs
    layer_parts  : layer name to its own number of parts
    side_dtype   : of biases, normalisations and recurrence weights of kancompress's own networks
    force_pack   : pack layers that would grow exactly as they were asked for; without it they are
                   packed without loss, in the way with which the file is smallest
    target_bytes : take the largest number of clusters with which the whole file has at most so many
                   bytes; `clusters` is then not used
    price        : what a bit of an index costs, in mean squared errors of an edge: fewer bytes for
                   more error. None is searched where numbers of clusters are chosen for a target,
                   else 0, which counts no bits
    indices      : how indices are written; None is `auto` where a price of bits was paid or edges
                   are masked, else `bits`. Other sizes than those of `bits` are known only once all
                   is clustered; before that they are bounds
    keep_masked  : keep the coefficients of edges behind a mask of 0 (pruned ones), which compute
                   nothing; without it they come back as zeros
    header       : how the header of the file is written
    memory       : bytes for a layer's coefficients as k-means compares them, in float32. A larger
                   layer is read anew in each iteration; with 64 clusters and more every edge is
                   then compared with all centroids, which takes longer and gives other clusters.
                   scikit-learn's k-means refuses it
    """

    clusters: int | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    parts: int | None = None
    layer_parts: Mapping[str, int] = field(default_factory=dict)
    codebook_dtype: StoredDtype = StoredDtype.SOURCE
    side_dtype: StoredDtype = StoredDtype.SOURCE
    seed: int = 0
    max_iterations: int = 100
    force_pack: bool = False
    target_bytes: int | None = None
    metric: Metric = Metric.COEFFICIENTS
    kmeans: KMeans = KMeans.OWN
    price: float | None = None
    indices: IndexCoding | None = None
    keep_masked: bool = False
    header: HeaderForm = HeaderForm.AUTO
    memory: int = MEMORY

    def __post_init__(self) -> None:
        clusters = whole(1, MAX_CLUSTERS)
        settle(
            self,
            clusters=maybe(clusters),
            layers=by_layer(
                clusters, f"a mapping from names of layers to numbers from 1 to {MAX_CLUSTERS}"
            ),
            parts=maybe(whole(1)),
            # What a layer cannot be cut into is told with the numbers that it can.
            layer_parts=by_layer(whole(0), "a mapping from names of layers to numbers"),
            codebook_dtype=word(StoredDtype),
            side_dtype=word(StoredDtype),
            seed=_SEED,
            max_iterations=whole(1),
            force_pack=flag,
            target_bytes=maybe(whole(1)),
            metric=word(Metric),
            kmeans=word(KMeans),
            price=maybe(number()),
            indices=maybe(word(IndexCoding)),
            keep_masked=flag,
            header=word(HeaderForm),
            memory=whole(1),
        )

    @property
    def common(self) -> int:
        """Centroids of the layers that have no number of their own."""
        return CLUSTERS if self.clusters is None else self.clusters

    @property
    def coding(self) -> IndexCoding:
        """How indices are written."""
        return self.indices or (IndexCoding.AUTO if self.price else IndexCoding.BITS)

    @property
    def header_form(self) -> HeaderForm:
        """How the header is written: where indices may be entropy-coded the file is not the plain
        one of the paper anyway."""
        plain = self.coding is IndexCoding.BITS
        return HeaderForm.SHORT if self.header is HeaderForm.AUTO and not plain else self.header

    @property
    def searches_price(self) -> bool:
        """Whether a price is searched where numbers of clusters are chosen."""
        return self.price is None and self.indices is not IndexCoding.BITS

    def of(self, layer: str) -> int:
        """Centroids of the layer of this name."""
        return self.layers.get(layer, self.common)

    def given_parts(self, layer: str) -> int | None:
        """Parts that edges of the layer of this name should have; None where nothing is said."""
        return self.layer_parts.get(layer, self.parts)

    def parts_of(self, layer: str) -> int:
        """The same, whole edges where nothing is said."""
        return self.given_parts(layer) or 1

    def settled(self, *, conv: bool) -> ClusterConfig:
        """The same with the default number of clusters of our own networks filled in."""
        if self.clusters is not None:
            return self
        return replace(self, clusters=CONV_CLUSTERS if conv else CLUSTERS)


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class RepackConfig:
    """Options of repacking: how a packed file is written anew.

    header, indices : as of `ClusterConfig`
    codebook_dtype, side_dtype : as there; numbers whose type is no wider stay as they are
    """

    header: HeaderForm = HeaderForm.SHORT
    indices: IndexCoding = IndexCoding.AUTO
    codebook_dtype: StoredDtype = StoredDtype.SOURCE
    side_dtype: StoredDtype = StoredDtype.SOURCE

    def __post_init__(self) -> None:
        settle(
            self,
            header=word(HeaderForm),
            indices=word(IndexCoding),
            codebook_dtype=word(StoredDtype),
            side_dtype=word(StoredDtype),
        )


def default_training(model: ModelName) -> TrainConfig:
    """The paper's recipe for `model`."""
    rates = FAMILIES[model.family].rates
    lr, lr_embedding, lr_rest = rates.of(meta=model.is_meta, conv=model.is_conv)
    config = TrainConfig(lr=lr, lr_embedding=lr_embedding, lr_rest=lr_rest)
    return replace(config, epochs=150, decay=CONV_DECAY) if model.is_conv else config


def default_rate(*, conv: bool = False) -> float:
    """The paper's learning rate for fine-tuning."""
    return 1e-5 if conv else 1e-4


class Method(StrEnum):
    """How far clustering by outputs goes, each on top of the one before.

    `METRIC` compares edges in the metric of their input, measured on rows; `Metric.GRID` needs none
    and takes inputs to be uniform.
    """

    KMEANS = "kmeans"
    METRIC = "metric"
    CENTRED = "centred"
    FEEDBACK = "feedback"
    SWEEPS = "sweeps"


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """How `cluster --calibrate` works.

    samples : rows to calibrate on, beside those that are held out
    rounds  : of feedback and refit; sweeps : of coordinate descent, each with a refit; None: as
              long as each lowers the error by 1 %, at most eight. With a price so many sweeps pay
              it, four when None, behind eight that pay four times as much
    starts  : most starts of a layer, of which the least error is kept; larger layers have fewer,
              and those that take long have one
    damping : share of the mean diagonal added to the second moments; None: 1 %, 5 % where the
              rows do not outnumber the dimensions twice
    memory  : bytes for second moments and factor of a layer; larger layers are cut into groups.
              And for its coefficients as k-means compares them, as of `ClusterConfig`.
              Outputs of a module of the user's own are compared within half of it
    batch_size : rows that run through a module of the user's own at a time
    """

    method: Method = Method.SWEEPS
    samples: int = 16_384
    rounds: int | None = None
    sweeps: int | None = None
    starts: int = 16
    damping: float | None = None
    memory: int = MEMORY
    batch_size: int = 256
    max_iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        settle(
            self,
            method=word(Method),
            samples=whole(1),
            rounds=maybe(whole(0)),
            sweeps=maybe(whole(0)),
            starts=whole(1),
            damping=maybe(number()),
            memory=whole(1),
            batch_size=_BATCH,
            max_iterations=whole(1),
            seed=_SEED,
        )


@named
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

    def __post_init__(self) -> None:
        settle(
            self,
            bytes=maybe(whole(1)),
            ratio=maybe(number(1.0)),
            error=maybe(number()),
        )
        given = [one for one in (self.bytes, self.ratio, self.error) if one is not None]
        if len(given) != 1:
            raise UsageError(
                f"A Target has {len(given) or 'none'} of bytes, ratio and error; one was expected,"
                " as in Target(bytes=20_000)."
            )

    def bytes_of(self, source: int) -> int:
        """Most bytes of the packed file of a source of so many.

        Raises ValueError where the target is an error.
        """
        if self.bytes is not None:
            return self.bytes
        if self.ratio is None:
            raise ValueError("This target is an error, not a size.")
        return max(1, int(source / self.ratio))


class Projection(StrEnum):
    """How pictures bring edge vectors into the plane: first two principal components, or t-SNE."""

    PCA = "pca"
    TSNE = "tsne"


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class PlotConfig:
    """Options of pictures.

    clusters : centroids of each layer of a file that is not packed, as of `ClusterConfig`
    sample   : most edges of a layer that are drawn as points
    seed     : of the sample, of k-means and of t-SNE
    """

    projection: Projection = Projection.PCA
    clusters: int | None = None
    sample: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        settle(
            self,
            projection=word(Projection),
            clusters=maybe(whole(1, MAX_CLUSTERS)),
            sample=whole(1, _MOST_DRAWN),
            seed=_SEED,
        )


class Weights(StrEnum):
    """How an ONNX graph has the weights of packed layers.

    `dense` gathers them from the codebook: onnxruntime does so once, when it loads the model, and
    then has them dense in memory. `table` multiplies features and centroids and picks a product for
    each edge: no dense weights at any time, for one row at a time.
    """

    DENSE = "dense"
    TABLE = "table"


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    """Options of ONNX models.

    with_normalisation : the model takes rows as the data set has them, images as numbers from 0 to
                         1, and normalises them itself
    with_softmax       : it puts out shares of the classes
    weights            : how it has the weights of packed layers
    """

    with_normalisation: bool = False
    with_softmax: bool = False
    weights: Weights = Weights.DENSE

    def __post_init__(self) -> None:
        """Raises UsageError for a value of another type."""
        settle(
            self,
            with_normalisation=flag,
            with_softmax=flag,
            weights=word(Weights),
        )


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class COptions:
    """Options of C headers.

    with_normalisation : the header takes images as numbers from 0 to 1, and normalises them as the
                         data set's record says
    with_softmax       : it gives shares of the classes in place of the outputs
    with_main          : it is a program, too, which reads rows from standard input
    prefix             : what all of its names begin with, a C identifier; None: the name of the
                         file without its suffix, `kan` where there is none
    indices            : how it has the indices of edges; None: as the packed file has them
    image              : rows and columns of the images that convolutions take; None: those of the
                         data set
    """

    with_normalisation: bool = False
    with_softmax: bool = False
    with_main: bool = False
    prefix: str | None = None
    indices: IndexCoding | None = None
    image: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a value of another type."""
        settle(
            self,
            with_normalisation=flag,
            with_softmax=flag,
            with_main=flag,
            prefix=maybe(text),
            indices=maybe(word(IndexCoding)),
            image=maybe(each(whole(0), "a tuple of two whole numbers", length=2)),
        )


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlOptions:
    """Options of pages.

    title  : heading of the page; None says what the network is for
    labels : names of the outputs, one for each; () are those of a data set that has names, else
             numbers
    """

    title: str | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for a value of another type."""
        settle(self, title=maybe(text), labels=each(text, "a tuple of texts"))
