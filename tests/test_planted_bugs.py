"""The tests are tested: bugs seen in the field, planted one at a time, and the check that must fail for each."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable

import _checks
import numpy as np
import pytest

from turboquant_ref import codebook, generator, mse, packing, prod, qjl, rotation

Plant = Callable[[pytest.MonkeyPatch], None]


def scaled_codebook(monkeypatch):
    """Every codebook 2 % too wide."""
    honest = codebook.lloyd_max

    def wide(d, bits):
        book = honest(d, bits)
        return dataclasses.replace(book, centroids=1.02 * book.centroids, boundaries=1.02 * book.boundaries)

    monkeypatch.setattr(codebook, "lloyd_max", wide)


def qr_without_sign_fix(monkeypatch):
    """Pi is the Q of LAPACK's QR, as in the authors' code."""

    def unfixed(d, rng, stream=0):
        seed = generator.seed_of(rng)
        return rotation.Dense(np.linalg.qr(generator.gaussians(seed, stream, d * d).reshape(d, d))[0], seed, stream)

    monkeypatch.setattr(rotation, "haar", unfixed)


def signs_after_hadamard(monkeypatch):
    """D H in each round, not H D: then the first signs flip coordinates and mix nothing (d a power of two)."""

    def apply(self, x):
        y = np.asarray(x)
        for r in range(self.rounds):
            if r:
                c, s, h = self.cosines[r - 1], self.sines[r - 1], self.d // 2
                y = np.concatenate((c * y[..., :h] - s * y[..., h:], s * y[..., :h] + c * y[..., h:]), axis=-1)
            y = rotation.fwht(y) / np.sqrt(self.d) * self.signs[r]
        return y

    def inverse(self, y):
        return np.asarray(y) @ self.matrix()

    monkeypatch.setattr(rotation.Structured, "apply", apply)
    monkeypatch.setattr(rotation.Structured, "inverse", inverse)


def qjl_divided_twice(monkeypatch):
    """S already normalised, and the constant too: six code bases in the field."""
    honest = qjl.Sketch.constant.fget
    monkeypatch.setattr(qjl.Sketch, "constant", property(lambda self: honest(self) / np.sqrt(self.d)))


def kappa_left_in(monkeypatch):
    """The Gaussian constant for an orthogonal S."""
    monkeypatch.setattr(qjl.Sketch, "mu", property(lambda self: np.sqrt(2 / np.pi)))


def residual_norm_dropped(monkeypatch):
    """The sketch is added with weight 1 instead of ||r||."""
    monkeypatch.setattr(prod, "_sketch_scale", lambda Q, code: np.full_like(code.norms, Q.sketch.constant))


def float16_norms(monkeypatch):
    """Norms narrowed to half precision."""
    honest = mse.norm_and_unit

    def narrow(x, name="x"):
        norms, unit = honest(x, name)
        with np.errstate(over="ignore", under="ignore"):
            return norms.astype(np.float16).astype(norms.dtype), unit

    monkeypatch.setattr(mse, "norm_and_unit", narrow)


def all_bits_in_the_first_stage(monkeypatch):
    """b instead of b - 1 bits of Algorithm 1 inside Algorithm 2."""
    one_more = types.SimpleNamespace(**vars(codebook))
    one_more.lloyd_max = lambda d, bits: codebook.lloyd_max(d, bits + 1)
    monkeypatch.setattr(prod, "codebooks", one_more)


def tie_goes_down(monkeypatch):
    """Index = number of boundaries < t."""

    def nearest(book, t):
        return np.searchsorted(book.boundaries.astype(t.dtype), t, side="left").astype(np.uint8)

    monkeypatch.setattr(codebook, "nearest", nearest)


def most_significant_bit_first(monkeypatch):
    """Packed the other way round, and unpacked so: no round trip can tell."""

    def pack(numbers, bits):
        a = np.asarray(numbers)
        stream = np.unpackbits(a[..., None], axis=-1)[..., 8 - bits :]
        return np.packbits(stream.reshape(*a.shape[:-1], a.shape[-1] * bits), axis=-1)

    def unpack(data, bits, n):
        stream = np.unpackbits(data, axis=-1)[..., : n * bits].reshape(*data.shape[:-1], n, bits)
        return (stream @ (1 << np.arange(bits - 1, -1, -1))).astype(np.uint8)

    monkeypatch.setattr(packing, "pack_bits", pack)
    monkeypatch.setattr(packing, "unpack_bits", unpack)


def not_transposed(monkeypatch):
    """Decoded with Pi instead of Pi^T."""
    monkeypatch.setattr(rotation.Dense, "inverse", rotation.Dense.apply)


BUGS: list[tuple[Plant, Callable[[], None]]] = [
    (scaled_codebook, _checks.codebook_is_optimal),
    (qr_without_sign_fix, _checks.haar_signs),
    (signs_after_hadamard, _checks.hadamard_row),
    (qjl_divided_twice, _checks.qjl_slope),
    (kappa_left_in, _checks.qjl_slope),
    (residual_norm_dropped, _checks.prod_slope),
    (residual_norm_dropped, _checks.prod_variance),
    (float16_norms, _checks.matched_norm),
    (all_bits_in_the_first_stage, _checks.prod_size),
    (all_bits_in_the_first_stage, _checks.prod_variance),
    (tie_goes_down, _checks.ties),
    (most_significant_bit_first, _checks.known_bytes),
    (not_transposed, _checks.distortion),
]


@pytest.mark.parametrize(("plant", "check"), BUGS, ids=lambda f: f.__name__)
def test_the_planted_bug_is_caught(plant, check, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(
    "check", sorted({check for _, check in BUGS}, key=lambda f: f.__name__), ids=lambda f: f.__name__
)
def test_without_a_bug_the_check_passes(check):
    check()


def test_every_check_has_a_bug_that_it_catches():
    checks = {
        f for f in vars(_checks).values() if callable(f) and f.__module__ == "_checks" and not f.__code__.co_argcount
    }
    assert checks == {check for _, check in BUGS}
