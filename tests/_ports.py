"""A right port of TurboQuant, and wrong ones: each differs from it in one line, as ports in the field do.

`PLANTED` maps each wrong port to the name that the diagnosis must give it; "" if it need only be caught.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np

from turboquant_ref import codebook as codebooks
from turboquant_ref import sphere
from turboquant_ref.conformance import tables
from turboquant_ref.rotation import fwht


@lru_cache(maxsize=4096)
def gaussian(d, seed, stream=0):
    return np.random.default_rng([seed, stream]).standard_normal((d, d))


@lru_cache(maxsize=4096)
def qr(d, seed, stream=0):
    return np.linalg.qr(gaussian(d, seed, stream))


def haar(d, seed, stream=0):
    q, r = qr(d, seed, stream)
    return q * np.sign(np.diagonal(r))


def signs(d, seed):
    return np.random.default_rng([seed, 5]).choice([-1.0, 1.0], d)


class Port:
    """Right."""

    table_of = staticmethod(lambda d, bits: codebooks.lloyd_max(d, bits).centroids)

    def matrix(self, d, seed):
        return haar(d, seed)

    def sketch(self, d, seed):
        return gaussian(d, seed, 1)

    def inverse(self, z, pi):
        return z @ pi

    def norm(self, x):
        big = np.abs(x).max(-1, initial=0, keepdims=True)
        with np.errstate(invalid="ignore"):
            return big * np.linalg.norm(x / np.where(big > 0, big, 1), axis=-1, keepdims=True)

    def unit(self, x, norm):
        return x / np.where(norm > 0, norm, 1)

    def nearest(self, z, c):
        return np.searchsorted((c[1:] + c[:-1]) / 2, z, side="right")

    def look_up(self, k, c):
        return c[k]

    def first_bits(self, bits):
        return bits - 1

    def constant(self, d):
        return math.sqrt(math.pi / 2) / d

    def residual_norm(self, r):
        return np.linalg.norm(r, axis=-1, keepdims=True)

    def sketched(self, u, r):
        return r

    def first_stage(self, u, bits, pi):
        c = self.table_of(u.shape[1], bits)
        return self.inverse(self.look_up(self.nearest(u @ pi.T, c), c), pi)

    def roundtrip(self, x, bits, seed):
        x = np.asarray(x, dtype=np.float64)
        norm = self.norm(x)
        return norm * self.first_stage(self.unit(x, norm), bits, self.matrix(x.shape[1], seed))

    def inner_product(self, x, y, bits, seed):
        x, d = np.asarray(x, dtype=np.float64), x.shape[1]
        norm, pi, S = self.norm(x), self.matrix(d, seed), self.sketch(d, seed)
        u = self.unit(x, norm)
        q = self.first_stage(u, self.first_bits(bits), pi) if self.first_bits(bits) else np.zeros_like(u)
        s = np.where(self.sketched(u, u - q) @ S.T >= 0, 1.0, -1.0)
        decoded = q + self.constant(d) * self.residual_norm(u - q) * (s @ S)
        return (norm * decoded * y).sum(-1)

    def rotation(self, d, seed):
        return self.matrix(d, seed)

    def codebook(self, d, bits):
        return self.table_of(d, bits)

    def stored_bytes(self, d, bits):
        return -(-d * bits // 8) + 4


def _mutant(name, only="", **methods):
    """A port that differs in these methods; `only` are the functions that it offers, for speed."""
    hidden = {
        f: None
        for f in ("roundtrip", "inner_product", "rotation", "codebook", "stored_bytes")
        if only and f not in only.split()
    }
    return type(name, (Port,), {**hidden, **methods})


def _scalar(f):
    return lambda self, *arguments: f(*arguments)


def _hadamard(d, before, after):
    return after[:, None] * fwht(np.eye(d)) * before / math.sqrt(d)


def _state(port, x, bits, seed):
    port.calls = getattr(port, "calls", 0) + 1
    return Port.roundtrip(port, x, bits, seed + 1000 * port.calls)


def _written(self, x, bits, seed):
    found = Port.roundtrip(self, x, bits, seed)
    x /= 2
    return found


def _reseeds(self, x, bits, seed):
    np.random.seed(seed)  # noqa: NPY002
    return Port.roundtrip(self, x, bits, seed)


def _draws(self, x, bits, seed):
    random.random()
    return Port.roundtrip(self, x, bits, seed)


def _float16_norm(self, x):
    with np.errstate(over="ignore", under="ignore"):
        return Port.norm(self, x).astype(np.float16).astype(np.float64)


def _float32_norm(self, x):
    with np.errstate(over="ignore", under="ignore"):
        return np.sqrt((x.astype(np.float32) ** 2).sum(-1, keepdims=True)).astype(np.float64)


def _table(f):
    return staticmethod(lambda d, bits: np.asarray(f(d, bits)))


def _asymmetric(d, bits):
    c = codebooks.lloyd_max(d, bits).centroids.copy()
    c[-1] *= 1.2
    return c


def _table_named(name):
    return _table(lambda d, bits: tables.TABLES[name][0](d, bits)[1])


B, I = "roundtrip", "inner_product"

PLANTED = [
    # the failure modes found in the wild, the most frequent first
    (
        _mutant("qjl_scaled_twice", I, constant=_scalar(lambda d: math.sqrt(math.pi / 2) / d / math.sqrt(d))),
        "QJL term divided by √d once too often",
    ),
    (
        _mutant("orthonormal_sketch", I, sketch=_scalar(lambda d, seed: haar(d, seed, 1))),
        "QJL term divided by √d once too often",
    ),
    (
        _mutant(
            "one_table_for_every_d", "roundtrip codebook", table_of=_table_named("codebook of d = 128 for every d")
        ),
        "codebook of d = 128 for every d",
    ),
    (_mutant("half_of_a_table_wrong", "codebook", table_of=_table(_asymmetric)), "codebook not symmetric"),
    (
        _mutant("equal_probability", B, table_of=_table_named("equal-probability codebook")),
        "equal-probability codebook",
    ),
    (
        _mutant("lloyd_stopped_early", "roundtrip codebook", table_of=_table_named("Lloyd's iteration stopped early")),
        "Lloyd's iteration stopped early",
    ),
    (
        _mutant("truncated_at_3_sigma", "codebook", table_of=_table_named("codebook truncated at ±3σ")),
        "codebook truncated at ±3σ",
    ),
    (_mutant("wrong_support", B, table_of=_table_named("codebook truncated at ±1σ")), "codebook truncated at ±1σ"),
    (
        _mutant("beta_of_half_d", "codebook", table_of=_table_named("codebook of dimension d + 1")),
        "codebook of dimension d + 1",
    ),
    (_mutant("gaussian_codebook", "codebook", table_of=_table_named("Gaussian codebook")), "Gaussian codebook"),
    (
        _mutant("not_divided_by_root_d", "roundtrip codebook", table_of=_table_named("codebook not divided by √d")),
        "codebook not divided by √d",
    ),
    (
        _mutant("indices_as_int64", "stored_bytes", stored_bytes=_scalar(lambda d, bits: 8 * d + 4)),
        "codes stored as int64",
    ),
    (_mutant("a_byte_an_index", "stored_bytes", stored_bytes=_scalar(lambda d, bits: d + 4)), "a byte a code"),
    (_mutant("sign_bit_not_counted", I, first_bits=_scalar(lambda bits: bits)), "one bit too many"),
    (
        _mutant("one_bit_more", B, table_of=_table(lambda d, bits: codebooks.lloyd_max(d, bits + 1).centroids)),
        "one bit too many",
    ),
    (
        _mutant("one_bit_fewer", B, table_of=_table(lambda d, bits: codebooks.lloyd_max(d, bits - 1).centroids)),
        "one bit too few",
    ),
    (_mutant("qr_without_sign_fix", "rotation", matrix=_scalar(lambda d, seed: qr(d, seed)[0])), "QR without sign fix"),
    (
        _mutant("signs_twice_in_the_inverse", B, inverse=_scalar(lambda z, pi: z @ pi * np.sign(pi[0]))),
        "signs wrong in the inverse rotation",
    ),
    (
        _mutant("single_hadamard", B, matrix=_scalar(lambda d, seed: _hadamard(d, signs(d, seed), np.ones(d)))),
        "single Hadamard round",
    ),
    (
        _mutant("signs_after_hadamard", B, matrix=_scalar(lambda d, seed: _hadamard(d, np.ones(d), signs(d, seed)))),
        "Hadamard transform without signs before it",
    ),
    (
        _mutant(
            "single_hadamard_shown",
            "rotation",
            matrix=_scalar(lambda d, seed: _hadamard(d, signs(d, seed), np.ones(d))),
        ),
        "single Hadamard round",
    ),
    (
        _mutant("not_orthogonal", "roundtrip rotation", matrix=_scalar(lambda d, seed: haar(d + 1, seed)[:d, :d])),
        "rotation not orthogonal",
    ),
    (_mutant("float16_norm", B, norm=_float16_norm), "float16 norms"),
    (_mutant("float32_squares", B, norm=_float32_norm), "float32 squares"),
    (
        _mutant(
            "norm_not_stored",
            B,
            roundtrip=lambda self, x, bits, seed: Port.first_stage(
                self, x / Port.norm(self, x + (x == 0) * 1e-30), bits, haar(x.shape[1], seed)
            ),
        ),
        "norm lost",
    ),
    (_mutant("unit_vectors_only", B, norm=_scalar(lambda x: np.ones((len(x), 1)))), "not scaled to unit norm"),
    (
        _mutant(
            "zero_over_zero", B, norm=_scalar(lambda x: np.where(x.any(-1, keepdims=True), Port().norm(x), np.nan))
        ),
        "zero over zero",
    ),
    (
        _mutant(
            "nan_swallowed",
            B,
            unit=_scalar(lambda x, norm: np.nan_to_num(x / np.where(norm > 0, norm, 1))),
            norm=_scalar(lambda x: np.nan_to_num(Port().norm(x), posinf=1.0)),
        ),
        "NaN swallowed",
    ),
    (_mutant("global_numpy_reseeded", B, roundtrip=_reseeds), "global written to"),
    (_mutant("global_random_advanced", B, roundtrip=_draws), "global written to"),
    # and others
    (_mutant("argument_written_to", B, roundtrip=_written), "argument written to"),
    (_mutant("seed_ignored", B, matrix=_scalar(lambda d, seed: haar(d, 1))), "seed ignored"),
    (_mutant("state_kept", B, roundtrip=_state), "state kept"),
    (
        _mutant("norm_of_the_batch", B, norm=_scalar(lambda x: np.full((len(x), 1), Port().norm(x).max(initial=0)))),
        "norms in a batch",
    ),
    (_mutant("epsilon_in_the_norm", B, norm=_scalar(lambda x: np.maximum(Port().norm(x), 1e-12))), ""),
    (_mutant("transposed_inverse", B, inverse=_scalar(lambda z, pi: z @ pi.T)), "inverse rotation not transposed"),
    (_mutant("no_inverse", B, inverse=_scalar(lambda z, pi: z)), "inverse rotation wrong"),
    (
        _mutant(
            "no_rotation",
            B,
            matrix=_scalar(lambda d, seed: np.diag(signs(d, seed))[np.random.default_rng(seed).permutation(d)]),
        ),
        "no rotation",
    ),
    (
        _mutant("matched_norm", B, look_up=_scalar(lambda k, c: c[k] / np.linalg.norm(c[k], axis=1, keepdims=True))),
        "it is mse-matched",
    ),
    (
        _mutant("indices_one_too_high", B, look_up=_scalar(lambda k, c: c[np.minimum(k + 1, len(c) - 1)])),
        "indices off by one",
    ),
    (_mutant("indices_cyclic", B, look_up=_scalar(lambda k, c: c[(k + 1) % len(c)])), "indices one off, cyclic"),
    (_mutant("reversed_codebook", B, look_up=_scalar(lambda k, c: c[::-1][k])), "order of indices reversed"),
    (
        _mutant(
            "index_bits_reversed",
            B,
            look_up=_scalar(lambda k, c: c[tables._bits_reversed(np.arange(len(c)), len(c).bit_length() - 1)][k]),
        ),
        "bits of an index reversed",
    ),
    (
        _mutant("rounded_down", B, nearest=_scalar(lambda z, c: np.searchsorted(c[1:], z, side="right"))),
        "rounded down, not to the nearest",
    ),
    (_mutant("uniform_grid", B, table_of=_table_named("uniform codebook, ±3σ")), "uniform codebook, ±3σ"),
    (
        _mutant(
            "wide_codebook", "codebook", table_of=_table(lambda d, bits: 1.05 * codebooks.lloyd_max(d, bits).centroids)
        ),
        "codebook of the wrong scale",
    ),
    (
        _mutant(
            "trained_on_few_samples",
            "codebook",
            table_of=_table(lambda d, bits: np.sort(sphere.uniform(1, 2**bits + 1, bits)[0, : 2**bits])),
        ),
        "",
    ),
    (_mutant("no_residual_norm", I, residual_norm=_scalar(lambda r: np.ones((len(r), 1)))), "residual norm left out"),
    (
        _mutant("residual_norm_squared", I, residual_norm=_scalar(lambda r: (r**2).sum(-1, keepdims=True))),
        "residual norm multiplied twice",
    ),
    (_mutant("pi_over_2", I, constant=_scalar(lambda d: math.pi / 2 / d)), "π/2 instead of √(π/2)"),
    (_mutant("no_root_pi_over_2", I, constant=_scalar(lambda d: 1 / d)), "√(π/2) left out"),
    (
        _mutant("inverted_constant", I, constant=_scalar(lambda d: math.sqrt(2 / math.pi) / d)),
        "√(2/π) instead of √(π/2)",
    ),
    (_mutant("no_qjl", I, constant=_scalar(lambda d: 0.0)), "QJL term missing"),
    (
        _mutant("inverted_signs", I, constant=_scalar(lambda d: -math.sqrt(math.pi / 2) / d)),
        "QJL term with the wrong sign",
    ),
    (_mutant("sketch_of_x", I, sketched=_scalar(lambda u, r: u)), "sketch of x, not of the residual"),
    (
        _mutant("mse_sold_as_prod", I, first_bits=_scalar(lambda bits: bits), constant=_scalar(lambda d: 0.0)),
        "Algorithm 1 instead of Algorithm 2",
    ),
]
"""(port, the name that its diagnosis must have; "": any will do)."""
