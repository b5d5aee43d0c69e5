"""Named checks: each is called by a test of its module, and by `test_planted_bugs.py`, which shows that it can fail.

Expected values are literals of the papers' tables (recomputed in `test_theory.py`), never computed by what is judged.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from _boxes import gamma, rotation_error
from _stats import FALSE_ALARM, expect
from scipy import linalg, stats

from turboquant_ref import codebook, measure, mse, packing, prod, qjl, rotation
from turboquant_ref.vectors import norm_and_unit

D_MSE = {16: (0.343185, 0.105847, 0.0300841, 0.00809366), 64: (0.358387, 0.114526, 0.0333908, 0.00913152)}
"""D_mse(d, b), b = 1..4, to the digits printed."""

D_PROD = {16: {2: (0.5242, 0.4196), 3: (0.1605, 0.1470), 4: (0.04555, 0.04273)}}
"""d D_prod of Algorithm 2 with Gaussian S at <x, y> = 0 and 1."""


def normal_rows(n: int, d: int, seed: int = 1, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def distortion() -> None:
    """E ||x - x~||^2 / ||x||^2 is the D_mse of the table."""
    for bits, expected in enumerate(D_MSE[64], 1):
        found = measure.distortion("mse", normal_rows(64, 64), bits, draws=240)
        expect(found, expected, f"D_mse, d = 64, b = {bits}", detects=0.03 * expected)


def codebook_is_optimal() -> None:
    """No centroid of Eq 4 can be moved to advantage: every one is the mean of its cell, here by 1e6 midpoints."""
    for d, bits in ((3, 4), (64, 3), (64, 8)):
        book = codebook.lloyd_max(d, bits)
        t = (np.arange(10**6) + 0.5) / 10**6 * 2 - 1
        weight = np.exp((d - 3) / 2 * np.log1p(-t * t))
        cell = np.searchsorted(book.boundaries, t)
        means = np.bincount(cell, weight * t) / np.bincount(cell, weight)
        # the midpoint rule in a cell that holds n >= 20 points moves its mean by less than its width / n
        width = np.diff(np.concatenate([[-1], book.boundaries, [1]]))
        heavy = np.bincount(cell) >= 20
        assert np.all(np.abs(means - book.centroids)[heavy] <= (width / np.bincount(cell))[heavy]), (d, bits)


def haar_signs() -> None:
    """Pi_11 of a Haar matrix is positive as often as not."""
    positive = sum(rotation.haar(5, seed).matrix()[0, 0] > 0 for seed in range(64))
    assert stats.binomtest(positive, 64).pvalue > FALSE_ALARM, f"Pi_11 > 0 in {positive} of 64 draws"


def hadamard_row() -> None:
    """A row of H is quantized as well as any vector by the structured rotation, for its signs come before its H.

    One bit sees the absolute moment of the image; 5 % are allowed, as the law of this Pi is only close to Haar's.
    """
    x = linalg.hadamard(64)[37].astype(np.float64)
    found = measure.distortion("mse", x, 1, draws=256, rotation="structured")
    assert abs(found.value - D_MSE[64][0]) <= 0.05 * D_MSE[64][0], f"D = {found}, Haar's is {D_MSE[64][0]}"


def qjl_slope() -> None:
    """QJL is unbiased: its estimates regress on <y, x> with slope 1, for both laws of S."""
    for sketch in qjl.SKETCHES:
        found = measure.slope("qjl", normal_rows(64, 8), 1, draws=600, sketch=sketch)
        expect(found, 1.0, f"slope of QJL, {sketch}, d = 8", detects=0.05)


def prod_slope() -> None:
    """Algorithm 2 is unbiased."""
    for sketch in qjl.SKETCHES:
        found = measure.slope("prod", normal_rows(64, 8), 2, draws=300, sketch=sketch)
        expect(found, 1.0, f"slope of prod, {sketch}, d = 8, b = 2", detects=0.04)


def prod_variance() -> None:
    """d Var <y, x~> of Algorithm 2 is the table's at <x, y> = 0 and at 1."""
    for bits, expected in D_PROD[16].items():
        for rho, value in zip((0.0, 1.0), expected, strict=True):
            found = measure.variance("prod", normal_rows(48, 16), bits, rho, draws=240)
            found = dataclasses.replace(found, values=16 * found.values)
            expect(found, value, f"d Var of prod, d = 16, b = {bits}, rho = {rho:g}", detects=0.3 * value)


def prod_size() -> None:
    """b bits a coordinate in total: b d / 8 bytes and two float32 norms."""
    for bits in range(1, 9):
        Q = prod.setup(16, bits, 3)
        assert Q.bits == bits
        assert Q.bytes_per_vector() == 2 * bits + (8 if bits > 1 else 4)
        assert prod.pack(Q, prod.quantize(Q, normal_rows(2, 16))).data.shape == (2, Q.bytes_per_vector())
        assert Q.codebook.centroids.size == 2 ** (bits - 1)


def matched_norm() -> None:
    """The scale "matched" is defined by ||x~|| = ||x||, at every magnitude."""
    for dtype in (np.float32, np.float64):
        Q = mse.setup(16, 2, 5, scale="matched")
        for decades in (1, 30):
            x = normal_rows(7, 16, dtype=dtype) * np.logspace(-decades, decades, 7).astype(dtype)[:, None]
            ratio = norm_and_unit(mse.dequantize(Q, mse.quantize(Q, x)))[0] / norm_and_unit(x)[0]
            # ||q|| and the norms are right to d + 13 roundings; Pi^T q to sqrt(d) times a coordinate's error
            bound = gamma(16 + 13, dtype) + 4 * rotation_error(Q.rotation, dtype)
            np.testing.assert_array_less(np.abs(ratio - 1), bound)


def on_boundary(boundary: float, dtype: type) -> np.ndarray:
    """A float vector (8,) whose unit vector has exactly `boundary` as its first coordinate and 0 in its last five."""
    b = dtype(boundary)
    rest = math.sqrt((1 - float(b)) * (1 + float(b)))
    for angle in np.linspace(0.1, 1.4, 4000):
        x = np.array([b, rest * math.cos(angle), rest * math.sin(angle), 0, 0, -0.0, 0, -0.0], dtype=dtype)
        if norm_and_unit(x)[1][0] == b:
            return x
    raise AssertionError(f"no vector found for {boundary}")


def ties() -> None:
    """A coordinate that is exactly a boundary, cast to the compute dtype, takes the upper index; 0 and -0 alike."""
    identity = rotation.Dense(np.eye(8))
    for dtype in (np.float32, np.float64):
        for bits in (1, 2, 3, 5):
            Q = mse.Quantizer(identity, codebook.lloyd_max(8, bits))
            x = np.stack([on_boundary(b, dtype) for b in Q.codebook.boundaries])
            steps = mse.trace(Q, x)
            np.testing.assert_array_equal(steps["rotated"][:, 0], Q.codebook.boundaries.astype(dtype))
            np.testing.assert_array_equal(steps["indices"][:, 0], np.arange(1, 2**bits))
            np.testing.assert_array_equal(steps["indices"][:, 3:], 2 ** (bits - 1))


def known_bytes() -> None:
    """Least significant bit first: 1, 2, 3 in three bits each are 1 + 2 * 8 + 3 * 64 = 209; a record by hand."""
    assert packing.pack_bits(np.array([1, 2, 3], np.uint8), 3).tolist() == [209, 0]
    assert packing.unpack_bits(np.array([209, 0], np.uint8), 3, 3).tolist() == [1, 2, 3]
    Q = mse.setup(2, 3, 0)
    packed = mse.pack(Q, mse.MSECode(np.array([6, 3], np.uint8), np.asarray(np.float32(1.5)), Q.fingerprint))
    assert packed.data.tolist() == [6 + 3 * 8, 0x00, 0x00, 0xC0, 0x3F]
