"""The random rotation Pi of Algorithms 1 and 2: Haar, or structured in O(d log d) for every d.

This docstring is the specification: a port in any language follows from it and from that of `generator`, whose words,
signs, Gaussians and angles it uses.  Floats are IEEE 754, and no multiplication is fused with an addition.

**Haar.** G is d x d, filled row by row with Gaussians. Pi is Q diag(sign(R_jj)), where G = Q R: the one Q whose R
has a positive diagonal. It is reproducible to rounding, not to the bit (a QR's rounding is its library's own).

**Structured.** d = m 2^k with m odd; a vector is m chunks of L = 2^k consecutive coordinates. With R rounds, words
0 .. R W - 1, W = ceil(d / 64), are signs: round r uses the first d of those in words r W .. r W + W - 1. The words
after them are angles, h = floor(d / 2) accepted ones for the first plane layer, the next h for the second, and so
on, R - 1 layers in all. Then Pi = B_R P_{R-1} B_{R-1} ... P_1 B_1: rounds B with a plane layer P between each
two. All of it is done in the compute dtype, to which cos, sin, 2^(-k/2) and 2^(-1/2) are rounded first.

    B, a round:  x_i <- x_i * (2^(-k/2) sign_i)                                                        every i
                 in each chunk, for s = 1, 2, 4, .., L/2:  (x_i, x_{i+s}) <- (x_i + x_{i+s}, x_i - x_{i+s})
                                                           every i of the chunk with bit s of i clear
                 across chunks, mix(first chunk 0, n = m):
                     if n < 2 return;  f = floor(n/2);  q = n - f
                     chunks first + i and first + q + i, i < f:  (a, b) <- ((a + b) 2^(-1/2), (a - b) 2^(-1/2))
                     mix(first, q);  mix(first + q, f)
    P, a layer:  (x_i, x_{d-h+i}) <- (cos_i x_i - sin_i x_{d-h+i}, sin_i x_i + cos_i x_{d-h+i})        every i < h

Why it is orthogonal for every d: each step multiplies by +-1, or turns or reflects disjoint pairs of coordinates
by an orthogonal 2 x 2 matrix (with 2^(-k/2) shared out over the k Hadamard stages); what has no partner stays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .generator import angles, gaussians, seed_of, signs
from .vectors import Rows, as_rows, check_dimension, check_integer

Kind = Literal["haar", "structured"]
Number = TypeVar("Number", np.int64, np.float32, np.float64, np.floating[Any])

ROUNDS = 2
"""The default number of rounds of a structured rotation; see `Structured` for the measurement."""


class Rotation(Protocol):
    """The rotation Pi of the paper, as the algorithms see it: `Dense` or `Structured`."""

    @property
    def d(self) -> int:
        """The dimension."""

    @property
    def name(self) -> str:
        """What kind it is: "haar", "structured", "dense"."""

    @property
    def identity(self) -> str:
        """What names it in a fingerprint."""

    @property
    def seed(self) -> int | None:
        """What it was drawn from; None for a matrix that was given."""

    def apply(self, x: ArrayLike) -> Rows:
        """Pi x for each row."""

    def inverse(self, y: ArrayLike) -> Rows:
        """Pi^T y for each row."""

    def matrix(self) -> NDArray[np.float64]:
        """Pi, shape (d, d)."""


def fwht(x: NDArray[Number]) -> NDArray[Number]:
    """The Walsh-Hadamard transform H x along the last axis: unnormalised, in the natural (Hadamard) order.

    Stages s = 1, 2, 4, .. of (x_i, x_{i+s}) <- (x_i + x_{i+s}, x_i - x_{i+s}): n log2 n additions, in this order,
    so the result is exact in integers and the same to the bit everywhere in floats.

    Parameters
    ----------
    x : ndarray, shape (..., n), int64, float32 or float64
        n a power of two, 1 included. Not modified.

    Returns
    -------
    ndarray, shape (..., n), of the dtype of `x`
        fwht(fwht(x)) = n x.

    Raises
    ------
    TypeError
        Another dtype, or not an array.
    ValueError
        n is not a power of two.
    """
    if not isinstance(x, np.ndarray) or x.dtype not in (np.int64, np.float32, np.float64):
        found = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise TypeError(f"x must be an array of int64, float32 or float64, got {found}")
    n = x.shape[-1] if x.ndim else 0
    if n == 0 or n & (n - 1):
        raise ValueError(f"x must have a power of two as its last axis, got shape {x.shape}")
    y = x
    s = 1
    while s < n:
        pairs = y.reshape(*x.shape[:-1], n // (2 * s), 2, s)
        y = np.stack((pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]), axis=-2)
        s *= 2
    return y.reshape(x.shape) if s > 1 else x.copy()


@dataclass(frozen=True, eq=False)
class Dense:
    """The rotation Pi as a matrix: any orthogonal one, such as `haar` draws.

    Parameters
    ----------
    values : array_like, shape (d, d), float32, float64 or integers
        Orthogonal: no entry of M M^T - I above 8 d eps, eps that of the dtype it is given in. Rounding an orthogonal
        matrix to that dtype moves those entries by eps, each of the d reflections of its QR by a few eps at most, and
        the product that checks it by d eps / 2; of 100,000 QRs the worst was off by 2.7 d eps. float32 is accepted
        because ports hold Pi so: x~ is then off by some 1e-7, far below D.
    seed, stream, name : int or None, int, str
        How it was drawn, where it was: a fingerprint then names that and not the entries.

    Raises
    ------
    TypeError, ValueError
        Not a finite real (d, d) matrix with d >= 2, or not orthogonal.
    """

    values: NDArray[np.float64] = field(repr=False)
    seed: int | None = None
    stream: int = 0
    name: str = "dense"

    def __post_init__(self) -> None:
        given = as_rows(self.values, name="matrix")
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise ValueError(f"matrix has shape {given.shape}, expected (d, d)")
        matrix = given.astype(np.float64)
        allowed = 8 * len(matrix) * float(np.finfo(given.dtype).eps)
        off = float(np.max(np.abs(matrix @ matrix.T - np.eye(len(matrix)))))
        if off > allowed:
            raise ValueError(f"matrix is not orthogonal: max |M M^T - I| is {off:.3g}, allowed is {allowed:.3g}")
        matrix.flags.writeable = False
        object.__setattr__(self, "values", matrix)

    @property
    def d(self) -> int:
        """The dimension."""
        return len(self.values)

    @property
    def identity(self) -> str:
        """What names it in a fingerprint: how it was drawn, or a digest of a matrix given by hand."""
        if self.seed is not None:
            return f"{self.name}({self.d}, seed={self.seed}, stream={self.stream})"
        return f"matrix({digest(self.values)})"

    def apply(self, x: ArrayLike) -> Rows:
        """Pi x for each row of x (..., d), in the compute dtype; a row's last bits may depend on its batch."""
        rows = as_rows(x, self.d)
        return np.asarray(rows @ self.values.T.astype(rows.dtype, copy=False))

    def inverse(self, y: ArrayLike) -> Rows:
        """Pi^T y for each row of y (..., d), in the compute dtype."""
        rows = as_rows(y, self.d, "y")
        return np.asarray(rows @ self.values.astype(rows.dtype, copy=False))

    def matrix(self) -> NDArray[np.float64]:
        """Pi, shape (d, d), float64, read-only."""
        return self.values


@dataclass(frozen=True, eq=False)
class Structured:
    """A structured random rotation, O(d log d) for every d >= 2, in the place of the paper's dense Pi.

    Rounds of random signs, Walsh-Hadamard butterflies in chunks of 2^k coordinates (d = m 2^k, m odd) and the same
    butterflies, uneven where they must be, across the m chunks; between two rounds a layer of plane rotations by
    uniform random angles. The module docstring has it to the bit, and says why it is orthogonal. There is no
    padding, no permutation and no table but signs, cosines and sines; every step is elementwise, so a row's result
    is the same to the bit whatever batch it is in.

    Where code and paper differ: the theorems are for Haar's Pi, whose every image is uniform on the sphere. No
    O(d) random numbers give that (at d = 2 this one does, exactly); what is left is measured, not proved. By
    `python -m benchmarks.rounds`, at d = 2 to 1536, b = 1 to 8, on one-hot, two-hot, 4-, 8- and 16-sparse and constant
    vectors, 2 rounds keep the bound of Theorem 1: D / bound, minus 3 standard errors, is at worst 0.265 (d = 2),
    0.943 (128), 0.968 (1536); and averaged over these inputs D is that of Haar within 1 % from d = 50 up (below, at
    most 6 % above it, but 8 % at d = 3 and 18 % at d = 4). One round breaks the bound (2.1 at d = 128), and without
    the plane layers 3 rounds do too: 1.29 at d = 16, 1.05 at 64, 1.15 at 128. The images of a sparse vector are then
    points of a lattice, which a fine codebook resolves; the random angles take the lattice away, and make a third
    round needless. E<x, x~> = 1 - D, exact for Haar, is off by at most 0.2 % from d = 50 up, less 3 standard errors
    (7 % at d = 8, 11 % at d = 4); 3 rounds bring that to 0.03 % from d = 16 up.

    Parameters
    ----------
    d : int
        At least 2.
    seed, stream : int
        What it is drawn from.
    rounds : int
        At least 1.

    Attributes
    ----------
    signs : int8, shape (rounds, d)
    cosines, sines : float64, shape (rounds - 1, d // 2)
    levels : tuple of pairs of index arrays
        The chunks that the stages across chunks pair, level by level.
    """

    d: int
    seed: int
    stream: int = 0
    rounds: int = ROUNDS
    signs: NDArray[np.int8] = field(init=False, repr=False)
    cosines: NDArray[np.float64] = field(init=False, repr=False)
    sines: NDArray[np.float64] = field(init=False, repr=False)
    levels: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...] = field(init=False, repr=False)
    name: ClassVar[str] = "structured"

    def __post_init__(self) -> None:
        d, rounds = check_dimension(self.d), check_integer(self.rounds, "rounds", 1)
        seed = check_integer(self.seed, "seed", 0, 2**64 - 1)
        stream = check_integer(self.stream, "stream", 0, 2**64 - 1)
        for name, value in {"d": d, "seed": seed, "stream": stream, "rounds": rounds}.items():
            object.__setattr__(self, name, value)
        width, h = -(-d // 64), d // 2
        drawn = [signs(seed, stream, d, start=r * width) for r in range(rounds)]
        cosines, sines = angles(seed, stream, (rounds - 1) * h, start=rounds * width)
        tables: dict[str, NDArray[Any]] = {
            "signs": np.stack(drawn),
            "cosines": cosines.reshape(rounds - 1, h),
            "sines": sines.reshape(rounds - 1, h),
        }
        for name, table in tables.items():
            table.flags.writeable = False
            object.__setattr__(self, name, table)
        object.__setattr__(self, "levels", _uneven_butterfly(d // self.chunk))

    @property
    def identity(self) -> str:
        """What names it in a fingerprint: how it was drawn."""
        return f"structured({self.d}, seed={self.seed}, stream={self.stream}, rounds={self.rounds})"

    @property
    def chunk(self) -> int:
        """The length 2^k of a chunk, the largest power of two that divides d."""
        return self.d & -self.d

    def apply(self, x: ArrayLike) -> Rows:
        """Pi x for each row of x (..., d), in the compute dtype, bit-reproducible."""
        y = as_rows(x, self.d)
        for r in range(self.rounds):
            if r > 0:
                y = self._planes(y, self.cosines[r - 1], self.sines[r - 1])
            y = fwht(self._chunks(y * self._factors(r, y)))
            for first, second in self.levels:
                y = _reflect(y, first, second)
            y = y.reshape(*y.shape[:-2], self.d)
        return y

    def inverse(self, y: ArrayLike) -> Rows:
        """Pi^T y for each row of y (..., d): the steps of `apply`, transposed, last first."""
        x = as_rows(y, self.d, "y")
        for r in reversed(range(self.rounds)):
            x = self._chunks(x)
            for first, second in reversed(self.levels):
                x = _reflect(x, first, second)
            x = fwht(x).reshape(*x.shape[:-2], self.d)
            x = x * self._factors(r, x)
            if r > 0:
                x = self._planes(x, self.cosines[r - 1], -self.sines[r - 1])
        return x

    def matrix(self) -> NDArray[np.float64]:
        """Pi, shape (d, d), float64."""
        return np.ascontiguousarray(self.apply(np.eye(self.d)).T)

    def _chunks(self, x: Rows) -> Rows:
        return x.reshape(*x.shape[:-1], self.d // self.chunk, self.chunk)

    def _factors(self, r: int, x: Rows) -> Rows:
        return np.asarray(self.signs[r].astype(x.dtype) * np.sqrt(1 / self.chunk).astype(x.dtype))

    def _planes(self, x: Rows, cosines: NDArray[np.float64], sines: NDArray[np.float64]) -> Rows:
        c, s, h = cosines.astype(x.dtype), sines.astype(x.dtype), self.d // 2
        front, back = x[..., :h], x[..., self.d - h :]
        return np.concatenate((c * front - s * back, x[..., h : self.d - h], s * front + c * back), axis=-1)


def _uneven_butterfly(m: int) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]:
    """The pairs of mix(0, m) of the module docstring, its calls of equal depth gathered into one level."""
    levels = []
    calls = [(0, m)]
    while any(n > 1 for _, n in calls):
        starts = [(first + i, first + n - n // 2 + i) for first, n in calls for i in range(n // 2)]
        pairs = np.asarray(starts, dtype=np.intp)
        levels.append((pairs[:, 0], pairs[:, 1]))
        calls = [half for f, n in calls for half in ((f, n - n // 2), (f + n - n // 2, n // 2))]
    return tuple(levels)


def _reflect(x: Rows, first: NDArray[np.intp], second: NDArray[np.intp]) -> Rows:
    """(a, b) <- ((a + b) / sqrt 2, (a - b) / sqrt 2) for chunks first[i] and second[i] of x (..., m, 2^k)."""
    root = np.sqrt(0.5).astype(x.dtype)
    y = x.copy()
    a, b = x[..., first, :], x[..., second, :]
    y[..., first, :] = (a + b) * root
    y[..., second, :] = (a - b) * root
    return y


def digest(matrix: NDArray[np.float64]) -> str:
    """SHA-256 of a matrix's little-endian float64 entries, row by row: what names a matrix that nobody drew here."""
    return hashlib.sha256(np.ascontiguousarray(matrix, dtype="<f8").tobytes()).hexdigest()


def haar(d: int, rng: int | np.random.Generator, stream: int = 0) -> Dense:
    """The random rotation Pi of Algorithm 1, line 2: uniform (Haar) on the orthogonal matrices of order d.

    QR of a Gaussian matrix G, with the columns of Q multiplied by sign(diag R). Why: U G has the law of G for every
    orthogonal U. If R has a positive diagonal, which makes Q and R unique, the Q of U G is U Q; so U Q has the law of
    Q, which is to be Haar. Without it Q R = (Q S)(S R) for any signs S, and the library chooses S by the entries of
    G: LAPACK's reflections make Q_11 = -|G_11| / ||G_1||, never positive. The paper does not say so, and the
    authors' code leaves the signs as they come.

    Parameters
    ----------
    d : int
        At least 2. O(d^3) to draw and O(d^2) a vector.
    rng : int or numpy.random.Generator
        See `seed_of`.
    stream : int
        Of the seed; 0 is that of Pi.

    Raises
    ------
    TypeError, ValueError
        `d`, `rng` or `stream` is not as above.
    """
    d, seed = check_dimension(d), seed_of(rng)
    q, r = np.linalg.qr(gaussians(seed, stream, d * d).reshape(d, d))
    return Dense(q * np.where(np.diagonal(r) < 0, -1.0, 1.0), seed, stream, "haar")


def structured(d: int, rng: int | np.random.Generator, stream: int = 0) -> Structured:
    """The structured rotation of seed `seed_of(rng)`, with the default number of rounds; see `Structured`."""
    return Structured(d, seed_of(rng), stream)


def setup(d: int, rng: int | np.random.Generator, kind: Kind = "haar", stream: int = 0) -> Dense | Structured:
    """The rotation Pi of Algorithms 1 and 2, by name: "haar" (the paper's) or "structured".

    Raises
    ------
    TypeError, ValueError
        As `haar`; ValueError where `kind` is neither name.
    """
    if kind == "haar":
        return haar(d, rng, stream)
    if kind == "structured":
        return structured(d, rng, stream)
    raise ValueError(f"kind must be 'haar' or 'structured', got {kind!r}")
