"""Prepared, the device's form of codes: reversible to the byte, 48 bytes at 3 bits, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from _cuda import needs_kernels

import turboquant_ref as tq
from cuda_kernels import layout

SCALARS = ("float16", "bfloat16", "float32", "float64")
QUANTIZERS = [
    *(("mse", d, {"bits": b}) for d in (33, 64) for b in range(1, 9)),
    *(("prod", d, {"bits": b}) for d in (33, 64) for b in range(1, 6)),
    ("prod", 64, {"bits": 3, "m": 71}),
    ("prod", 33, {"bits": 1, "m": 40}),
    ("prod", 64, {"bits": 4, "residual": "expected"}),
    ("qjl", 33, {"m": 67}),
]


def setup(algorithm: str, d: int, options: dict[str, object]) -> object:
    return getattr(tq, algorithm).setup(d=d, rng=1, **options)


@needs_kernels
@pytest.mark.parametrize(("algorithm", "d", "options"), QUANTIZERS)
@pytest.mark.parametrize("scalars", SCALARS)
def test_prepare_is_exactly_reversible(algorithm: str, d: int, options: dict[str, object], scalars: str) -> None:
    Q = setup(algorithm, d, options)
    x = np.random.default_rng(0).standard_normal((3, 5, d))
    packed = getattr(tq, algorithm).encode(Q, x, scalars)
    prepared = layout.prepare(Q, packed)
    back = layout.to_packed(Q, prepared)
    np.testing.assert_array_equal(back.data, packed.data)
    assert (back.scalars, back.fingerprint) == (packed.scalars, packed.fingerprint)
    assert prepared.shape == (3, 5)
    wider = 15 * 2 * (1 + prepared.form.residuals) if scalars == "bfloat16" else 0  # lies as float32 on the device
    merged = 15 if prepared.form.merged else 0  # one padding instead of two
    assert packed.nbytes - merged <= prepared.nbytes <= packed.nbytes + wider


@pytest.mark.parametrize(("d", "bits", "size"), [(128, 4, 64), (128, 3, 48), (128, 2, 32), (256, 3, 96), (33, 3, 13)])
def test_bytes_of_a_row(d: int, bits: int, size: int) -> None:
    for Q in (tq.mse.setup(d, bits, 0), tq.prod.setup(d, bits, 0)):
        form = layout.form_of(Q)
        assert form.row + form.row_high == size


def test_two_planes_of_three_bits() -> None:
    """The module's sentence, number by number: bit 4 i + 2 j + p is the upper bit of number 16 j + 2 i + p."""
    form = layout.Form(64, 3, planes=True)
    numbers = np.random.default_rng(3).integers(0, 8, (4, 64), dtype=np.uint8)
    codes, high = layout.split(form, numbers)
    words = high.view("<u4")
    for n in range(64):
        group, within = divmod(n, 32)
        j, i, p = within // 16, within % 16 // 2, within % 2
        np.testing.assert_array_equal(words[:, group] >> (4 * i + 2 * j + p) & 1, numbers[:, n] >> 2)
        np.testing.assert_array_equal(codes[:, n // 4] >> (2 * (n % 4)) & 3, numbers[:, n] & 3)
    np.testing.assert_array_equal(layout.join(form, codes, high)[0], numbers)


def test_the_sign_lies_above_the_index() -> None:
    Q = tq.prod.setup(64, 4, 0)
    code = tq.prod.quantize(Q, np.random.default_rng(0).standard_normal((7, 64)))
    form = layout.form_of(Q)
    numbers, apart = layout._numbers(Q, code)
    assert form.merged
    assert apart is None
    codes, _ = layout.split(form, numbers)
    np.testing.assert_array_equal(codes[:, 0] & 15, code.indices[:, 0] + 8 * code.signs[:, 0])
    np.testing.assert_array_equal(codes[:, 0] >> 4, code.indices[:, 1] + 8 * code.signs[:, 1])


@needs_kernels
def test_what_is_refused() -> None:
    Q, other = tq.mse.setup(16, 4, 0), tq.mse.setup(16, 4, 1)
    packed = tq.mse.encode(Q, np.ones((6, 2, 16)))
    prepared = layout.prepare(Q, packed)
    with pytest.raises(ValueError, match="made by quantizer"):
        layout.prepare(other, packed)
    with pytest.raises(ValueError, match="made by quantizer"):
        layout.to_packed(other, prepared)
    with pytest.raises(TypeError, match="expected Packed"):
        layout.prepare(Q, prepared)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected cuda_kernels\.layout\.Prepared"):
        layout.to_packed(Q, packed)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="polar"):
        layout.form_of(tq.polar.setup(16, (4, 2), 0))
    one = layout.prepare(Q, tq.mse.encode(Q, np.ones((6, 2, 3, 16))))
    table, lengths = np.zeros((2, 2), np.int32), np.full(2, 6, np.int32)
    assert layout.paged(one, table, lengths).shape == (2, 2, 6)
    with pytest.raises(ValueError, match="prepared: expected pages"):
        layout.paged(prepared, table, lengths)
    with pytest.raises(ValueError, match="table: expected int32 of 2 axes"):
        layout.paged(one, table.astype(np.int64), lengths)
    with pytest.raises(ValueError, match="table: expected 0 to 5, got 0 to 6"):
        layout.paged(one, np.array([[0, 6], [0, 0]], np.int32), lengths)
    with pytest.raises(ValueError, match="lengths: expected 0 to 6, got 7 to 7"):
        layout.paged(one, table, lengths + 1)
    with pytest.raises(ValueError, match="lengths: expected 2"):
        layout.paged(one, table, lengths[:1])


@needs_kernels
def test_no_vectors() -> None:
    Q = tq.mse.setup(16, 3, 0)
    packed = tq.mse.encode(Q, np.ones((0, 16)))
    assert layout.prepare(Q, packed).shape == (0,)
