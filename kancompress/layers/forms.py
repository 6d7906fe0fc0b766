"""What a layer computes, as data: names and numbers, for any program that runs layers.

    y_j = after( sum_i ( sum_b w_b B_b(z_i) + w_base base(x_i) ) + bias_j ),    z = before(x)

A form names tensors of its layer by their roles; the tensors stand beside it. Networks of
kancompress's own and layers of other libraries have the same record.
"""

from __future__ import annotations

from enum import StrEnum

from kancompress.errors import UsageError
from kancompress.forward import Activation
from kancompress.frozen import dataclass

# --- steps: what is done to all inputs, or to all sums, of a layer --------------------------------


@dataclass(frozen=True, slots=True)
class Act:
    """An activation, number by number."""

    name: Activation


@dataclass(frozen=True, slots=True)
class Norm:
    """Normalisation by two rows in one tensor, scale and shift; over the features of each input, or
    with running statistics, mean and variance in two rows more, by the batch."""

    rows: str = "norm"
    running: str = "statistics"


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation with eps 1e-5; `bias` may be "" or a tensor that is not there."""

    weight: str
    bias: str


@dataclass(frozen=True, slots=True)
class Slope:
    """x where it is positive, else `weight` times x (PReLU)."""

    weight: str = "slope"


@dataclass(frozen=True, slots=True)
class Affine:
    """scale times x plus shift, each a tensor that may not be there."""

    scale: str
    shift: str


@dataclass(frozen=True, slots=True)
class MinMax:
    """The whole batch scaled to -1 ... 1 by its least and greatest number."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """A share of the channels of a map is dropped in training."""

    share: float


Step = Act | Norm | LayerNorm | Slope | Affine | MinMax | Dropout


# --- bases: the functions B_b of an edge ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoBasis:
    """None: an edge has its base weight alone."""

    span: tuple[float, float] = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class UniformSplines:
    """The B-splines of one degree on `size` equal intervals from low to high, for all inputs."""

    grid: tuple[float, float, int]
    degree: int

    @property
    def span(self) -> tuple[float, float]:
        """Ends of the grid."""
        return self.grid[:2]


@dataclass(frozen=True, slots=True)
class Splines:
    """The B-splines of one degree on the knots of each input, a tensor (in, t), extended."""

    degree: int
    knots: str = "knots"


@dataclass(frozen=True, slots=True)
class UniformGaussians:
    """exp(-((z - c) / s)^2) with `size` centres from low to high at the distance s."""

    grid: tuple[float, float, int]

    @property
    def span(self) -> tuple[float, float]:
        """Ends of the grid."""
        return self.grid[:2]


@dataclass(frozen=True, slots=True)
class Gaussians:
    """exp(-((z - c) / width)^2) with the centres of a tensor (K,)."""

    width: float
    span: tuple[float, float]
    centres: str = "centres"


@dataclass(frozen=True, slots=True)
class Switches:
    """1 - tanh((z - c) / s)^2 with the centres of a tensor (K,)."""

    span: tuple[float, float]
    centres: str = "centres"
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Sum:
    """Two bases that share their coefficients: their functions are added one by one."""

    one: Splines
    other: Gaussians


class Series(StrEnum):
    """Polynomials by their recurrences (`kancompress.layers.bases.polynomials`)."""

    CHEBYSHEV = "chebyshev"
    CHEBYSHEV2 = "chebyshev2"
    LEGENDRE = "legendre"
    HERMITE = "hermite"
    BESSEL = "bessel"
    JACOBI = "jacobi"
    BERNSTEIN = "bernstein"
    GOTTLIEB = "gottlieb"
    GRAM = "gram"


@dataclass(frozen=True, slots=True)
class Polynomials:
    """P_0 ... P_degree.

    learnt : tensor of the recurrence's weights, "" where it has none
    act    : what each polynomial goes through
    """

    series: Series
    degree: int
    learnt: str = ""
    act: Activation = Activation.IDENTITY
    span: tuple[float, float] = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Waves:
    """cos z ... cos(count z), then the sines."""

    count: int
    span: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bumps:
    """(relu(z - low) relu(high - z) factor)^2 with two tensors (in, K)."""

    factor: float
    low: str = "low"
    high: str = "high"
    span: tuple[float, float] = (0.0, 1.0)


Basis = (
    NoBasis | UniformSplines | Splines | UniformGaussians | Gaussians | Switches | Sum | Polynomials
    | Waves | Bumps
)  # fmt: skip


# --- layers ---------------------------------------------------------------------------------------


class Points(StrEnum):
    """Where functions are compared on the span of their basis, evenly."""

    ENDS = "ends"  # both ends among them
    INSIDE = "inside"  # as many, without the ends
    MIDDLES = "middles"  # of as many intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A convolution's kernel (rows, columns), and its stride and padding in both directions."""

    kernel: tuple[int, int]
    stride: int
    padding: int

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output map. Raises UsageError where the kernel finds no place."""
        rows, columns = (
            (size + 2 * self.padding - taps) // self.stride + 1
            for size, taps in zip((height, width), self.kernel, strict=True)
        )
        if rows < 1 or columns < 1:
            down, right = self.kernel
            raise UsageError(
                f"A convolution's kernel of {down} x {right} has no place in a map of {height} x"
                f" {width} with padding {self.padding}; give larger images."
            )
        return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerForm:
    """What a layer computes.

    before : what the basis sees of the input
    base   : activation of the base branch, or None; `inner`: whether it sees what the basis sees
    after  : what follows the sum
    window : how the edges of a convolution lie over a map; None where it is fully connected
    points : where its functions are compared
    """

    basis: Basis
    before: tuple[Step, ...] = ()
    base: Activation | None = Activation.SILU
    inner: bool = False
    after: tuple[Step, ...] = ()
    window: Window | None = None
    points: Points = Points.MIDDLES
