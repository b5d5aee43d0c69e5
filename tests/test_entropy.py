"""The entropy-coded form of indices: lossless, as small as the entropy, by block, and never half decoded."""

from __future__ import annotations

import math
import struct
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from _stats import expect
from hypothesis import given, settings
from hypothesis import strategies as st

from turboquant_ref import codebook, entropy, mse, sphere
from turboquant_ref.entropy import EntropyCoded, decode, encode, model

pytest.importorskip("constriction", reason="the extra 'entropy' is not installed")

TOTAL = 2**24
# rANS keeps x >= 2^8 m before it codes a symbol of frequency m, so rounding x / m down costs at most log2(1 + 2^-8)
ROUNDING = math.log2(1 + 2.0**-8)


def information(coded: EntropyCoded, indices) -> float:
    """Bits of these indices under the integer model."""
    return float(np.sum(24 - np.log2(coded.table[indices].astype(float))))


def by_the_specification(coded: EntropyCoded) -> np.ndarray:
    """The module's docstring, line by line, in Python integers; no constriction."""
    table = [int(m) for m in coded.table]
    first = [sum(table[:s]) for s in range(len(table))]
    rows = []
    for i in range(coded.blocks):
        stack = [int(w) for w in coded.words_of(i)]
        x = 0
        while x < 2**32 and stack:
            x = 2**32 * x + stack.pop()
        for _ in range(coded.rows_of(i) * coded.d):
            q = x % TOTAL
            s = next(s for s in range(len(table)) if first[s] <= q < first[s] + table[s])
            x = (x // TOTAL) * table[s] + q - first[s]
            if x < 2**32 and stack:
                x = 2**32 * x + stack.pop()
            rows.append(s)
        assert (x, stack) == (0, [])
    return np.array(rows, np.uint8).reshape(coded.n, coded.d)


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, codebook.Codebook]:
    c = codebook.lloyd_max(24, 3)
    return codebook.nearest(c, sphere.uniform(101, 24, 0)), c


# --- the model


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=256).filter(lambda p: max(p) > 0))
@settings(max_examples=200, deadline=None)
def test_model_sums_exactly_and_costs_no_more_than_stated(p):
    table = model(p)
    assert table.dtype == np.uint32
    assert int(table.sum(dtype=np.uint64)) == TOTAL
    scaled = np.array(p) / max(p)
    np.testing.assert_array_equal(table > 0, scaled > 0)
    true, coded = scaled / scaled.sum(), table / TOTAL
    some = true > 0
    cost = float(np.sum(true[some] * np.log2(true[some] / coded[some])))
    # KL <= log2(e) sum (p - q)^2 / q; |p - q| <= 2^-24 <= q but at the largest, where it is at most n 2^-24 <= q
    assert -1e-12 <= cost <= 1.45 * len(p) / TOTAL + 1e-12


def test_model_by_hand():
    assert model([1, 1]).tolist() == [TOTAL // 2] * 2
    assert model([3, 0, 1]).tolist() == [3 * TOTAL // 4, 0, TOTAL // 4]
    assert model([1, 1, 1]).tolist() == [TOTAL // 3 + 1, TOTAL // 3, TOTAL // 3]
    assert model([1.0, 1e-30]).tolist() == [TOTAL - 1, 1]
    assert model([7]).tolist() == [TOTAL]
    assert model(np.full(256, 5)).tolist() == [TOTAL // 256] * 256


def test_model_is_symmetric_for_a_symmetric_codebook_but_for_its_largest_entry():
    table = model(codebook.uniform(128, 3.0)).astype(int)
    middle = len(table) // 2
    np.testing.assert_array_equal(np.delete(table, middle), np.delete(table, middle)[::-1])


@pytest.mark.parametrize(
    "bad", [[], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1], [[1.0]], ["a"], [True], np.ones(257), 1.0, None]
)
def test_bad_probabilities(bad):
    with pytest.raises(ValueError, match="probabilities must be"):
        model(bad)


# --- lossless


@st.composite
def cases(draw):
    symbols = draw(st.integers(1, 256))
    n, d, block = draw(st.integers(0, 40)), draw(st.integers(1, 20)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p = rng.random(symbols) ** draw(st.sampled_from([0.0, 1.0, 8.0, 60.0]))
    p[rng.random(symbols) < draw(st.sampled_from([0.0, 0.5]))] = 0
    p[rng.integers(symbols)] = 1
    data = p if draw(st.booleans()) else (p > 0).astype(float)  # coded by its own law, or by a wrong one
    return rng.choice(symbols, size=(n, d), p=data / data.sum()).astype(np.uint8), p, block


@given(cases())
@settings(max_examples=150, deadline=None)
def test_lossless_and_bounded(case):
    indices, p, block = case
    coded = encode(indices, p, block)
    np.testing.assert_array_equal(decode(coded), indices)
    data = coded.to_bytes()
    assert len(data) == coded.nbytes
    again = EntropyCoded.from_bytes(data)
    assert again.to_bytes() == data
    np.testing.assert_array_equal(decode(again), indices)
    # a block's last state takes at most 64 bits more than its information
    assert 32 * len(coded.words) <= information(coded, indices) + ROUNDING * indices.size + 64 * coded.blocks


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_random_access(case, data):
    indices, p, block = case
    coded = encode(indices, p, block)
    n = len(indices)
    bound = st.none() | st.integers(-n - 3, n + 3)
    rows = slice(data.draw(bound), data.draw(bound), data.draw(st.none() | st.sampled_from([-7, -2, -1, 1, 2, 9])))
    np.testing.assert_array_equal(decode(coded, rows), indices[rows])
    if n:
        some = data.draw(st.lists(st.integers(-n, n - 1), max_size=30))
        np.testing.assert_array_equal(decode(coded, some), indices[np.array(some, int)])


def test_the_specification_is_the_format(sample):
    indices, c = sample
    coded = encode(indices, c, block=30)
    np.testing.assert_array_equal(by_the_specification(coded), indices)
    rng = np.random.default_rng(1)
    for p in ([1, 0, 3], [1.0, 1e-9, 1e-9], [0, 5], rng.random(256), [1, 1]):
        indices = rng.choice(len(p), size=(9, 7), p=np.array(p) / np.sum(p)).astype(np.uint8)
        coded = encode(indices, p, block=4)
        np.testing.assert_array_equal(by_the_specification(coded), indices)


def test_the_bytes_are_these():
    """Golden: what any machine must write, and read."""
    indices = np.array([[0, 1, 2], [3, 1, 1], [2, 2, 0]], np.uint8)
    coded = encode(indices, [1, 4, 2, 1], block=2, fingerprint=b"golden!!")
    front = struct.pack("<4sHHQII8s", b"TQEC", 1, 4, 3, 3, 2, b"golden!!")
    front += struct.pack("<4I", TOTAL // 8, TOTAL // 2, TOTAL // 4, TOTAL // 8)
    seed = struct.pack("<QQ", 3, 4) + front[-24:]
    words = [list(map(int, coded.words_of(i))) for i in range(2)]
    for i, rows in enumerate((2, 1)):
        block = struct.pack(f"<{len(words[i])}I", *words[i])
        front += struct.pack("<2I", len(words[i]), zlib.crc32(seed + struct.pack("<QQ", i, rows) + block))
    assert words == [[3137339392], [46137344]]
    np.testing.assert_array_equal(by_the_specification(coded), indices)
    data = front + struct.pack("<I", zlib.crc32(front)) + struct.pack(f"<{sum(map(len, words))}I", *words[0], *words[1])
    assert coded.to_bytes() == data
    np.testing.assert_array_equal(decode(EntropyCoded.from_bytes(data)), indices)


def test_degenerate():
    for n in (0, 1, 5):
        coded = encode(np.full((n, 3), 2, np.uint8), [0, 0, 1], block=2)
        assert len(coded.words) == 0
        assert coded.n == n
        np.testing.assert_array_equal(decode(coded), np.full((n, 3), 2))
    empty = encode(np.zeros((0, 8), np.uint8), [1, 1])
    assert (empty.blocks, decode(empty).shape, math.isnan(empty.bits_per_index)) == (0, (0, 8), True)
    assert decode(EntropyCoded.from_bytes(empty.to_bytes())).shape == (0, 8)
    assert decode(encode(np.zeros((4, 8), np.uint8), [1, 1]), []).shape == (0, 8)


# --- size


@pytest.mark.parametrize(
    "c", [codebook.lloyd_max(128, b) for b in (2, 3, 4)] + [codebook.uniform(128, r) for r in (2, 3, 4)]
)
def test_size_is_the_entropy_and_indices_follow_the_law(c):
    """Everything counted, within 1 % of the exact entropy; and indices carry just that entropy.

    Vectors are independent, so a figure a vector is a draw; the false-alarm rate is that of `_stats`.
    """
    indices = codebook.nearest(c, sphere.uniform(4000, 128, 3))
    coded = encode(indices, c)
    assert abs(coded.bits_per_index / c.entropy - 1) < 0.01
    overhead = 8 * coded.nbytes - information(coded, indices)
    assert 0 < overhead < 0.003 * information(coded, indices)
    expect(-np.log2(c.probabilities)[indices].mean(1), c.entropy, f"bits an index of {c.identity}", 0.03)
    inner = np.abs(np.arange(len(c.centroids)) - (len(c.centroids) - 1) / 2) < len(c.centroids) / 6
    expect(inner[indices].mean(1), c.probabilities[inner].sum(), f"share of inner cells of {c.identity}", 0.01)


def test_a_wrong_model_costs_its_relative_entropy():
    c = codebook.lloyd_max(64, 3)
    indices = codebook.nearest(c, sphere.uniform(2000, 64, 0))
    right, wrong = encode(indices, c), encode(indices, np.ones(8))
    assert wrong.bits_per_index > 3 > right.bits_per_index
    np.testing.assert_array_equal(decode(wrong), indices)


def test_round_trip_of_algorithm_1():
    Q = mse.Quantizer(mse.setup(32, 1, 0, rotation="structured").rotation, codebook.uniform(32, 2.2))
    code = mse.quantize(Q, sphere.uniform(70, 32, 0))
    coded = EntropyCoded.from_bytes(encode(code.indices, Q.codebook, 16, code.fingerprint).to_bytes())
    again = mse.MSECode(decode(coded, slice(20, 40)), code.scales[20:40], coded.fingerprint)
    np.testing.assert_array_equal(mse.dequantize(Q, again), mse.dequantize(Q, code)[20:40])


# --- corruption


def blocks_hit(coded: EntropyCoded, position: int) -> int:
    """The block whose words hold this byte."""
    start = coded.nbytes - 4 * len(coded.words)
    return int(np.searchsorted(4 * coded.offsets, position - start, side="right")) - 1


def test_every_flipped_bit_is_found(sample):
    indices, c = sample
    coded = encode(indices, c, block=40)
    data = coded.to_bytes()
    body = coded.nbytes - 4 * len(coded.words)
    bits = [*range(8 * body), *range(8 * body, 8 * len(data), 13)]
    for bit in bits:
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        if bit < 8 * body:
            with pytest.raises(ValueError, match=r"data: "):
                EntropyCoded.from_bytes(broken)
            continue
        i = blocks_hit(coded, bit // 8)
        damaged = EntropyCoded.from_bytes(broken)
        with pytest.raises(ValueError, match=f"block {i} of {coded.blocks} is corrupt"):
            decode(damaged)
        for k in range(coded.blocks):  # the other blocks decode
            if k != i:
                rows = slice(k * 40, (k + 1) * 40)
                np.testing.assert_array_equal(decode(damaged, rows), indices[rows])


def test_every_truncation_is_found(sample):
    indices, c = sample
    coded = encode(indices, c, block=40)
    data = coded.to_bytes()
    body = len(data) - 4 * len(coded.words)
    for size in range(len(data)):
        with pytest.raises(ValueError, match="data: ") as error:
            EntropyCoded.from_bytes(data[:size])
        if size >= body:
            assert f"block {blocks_hit(coded, size)} of 3 is cut off" in str(error.value)
    for more in (b"\0", bytes(4), data):
        with pytest.raises(ValueError, match="bytes after the last block"):
            EntropyCoded.from_bytes(data + more)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_random_damage(sample, data):
    """Any bytes at all: the original, a ValueError, or (1 in 2^32) a collision of checksums; never anything else."""
    indices, c = sample
    good = encode(indices, c, block=40).to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    bad = good[:at] + junk + good[at + data.draw(st.integers(0, 64)) :]
    try:
        found = decode(EntropyCoded.from_bytes(bad))
    except ValueError:
        return
    assert bad == good
    np.testing.assert_array_equal(found, indices)


def test_a_forged_header_allocates_nothing():
    huge = struct.pack("<4sHHQII8s", b"TQEC", 1, 2, 2**62, 2**27, 1, bytes(8)) + struct.pack(
        "<2I", TOTAL // 2, TOTAL // 2
    )
    with pytest.raises(ValueError, match="cut off or damaged"):
        EntropyCoded.from_bytes(huge + bytes(100))
    forged = struct.pack("<4sHHQII8s", b"TQEC", 1, 1, 2**31, 2**27, 2**31, bytes(8)) + struct.pack("<3I", TOTAL, 0, 0)
    with pytest.raises(ValueError, match="block must be an integer from 1 to 2"):
        EntropyCoded.from_bytes(forged + struct.pack("<I", zlib.crc32(forged)))
    zero = struct.pack("<4sHHQII8s", b"TQEC", 1, 1, 0, 1, 0, bytes(8)) + struct.pack("<I", TOTAL)
    with pytest.raises(ValueError, match="block must be"):
        EntropyCoded.from_bytes(zero + struct.pack("<I", zlib.crc32(zero)))


def test_blocks_out_of_place(sample):
    """A block in another place, or of another quantizer or model, is not taken for this one."""
    indices, c = sample
    a = encode(indices[:80], c, block=40)
    words = np.concatenate([a.words_of(1), a.words_of(0)])
    swapped = replace(a, words=words, counts=a.counts[::-1].copy(), checksums=a.checksums[::-1].copy())
    with pytest.raises(ValueError, match="block 0 of 2 is corrupt"):
        decode(swapped)
    with pytest.raises(ValueError, match="block 0 of 2 is corrupt"):
        decode(replace(a, fingerprint=b"somebody"))
    with pytest.raises(ValueError, match="block 1 of 2 is corrupt"):
        decode(replace(a, table=model(codebook.lloyd_max(24, 3).probabilities[::-1] + np.arange(8))), [50])


def test_words_of_another_length_with_a_right_checksum(sample):
    indices, c = sample
    a = encode(indices[:40], c, block=40)
    for words in (a.words[1:], a.words[:-1], np.concatenate([[7], a.words]), np.concatenate([a.words, [0]])):
        b = replace(a, words=words.astype(np.uint32), counts=np.array([len(words)], np.uint32))
        b = replace(b, checksums=np.array([b.checksum(0)], np.uint32))
        # a wrong word count goes unseen only where x ends at 0 by chance
        with pytest.raises(ValueError, match="block 0 of 1 holds other than 960 indices"):
            decode(b)
    one = encode(np.zeros((2, 2), np.uint8), [1])
    one = replace(one, words=np.ones(1, np.uint32), counts=np.ones(1, np.uint32))
    with pytest.raises(ValueError, match="holds other than 4 indices"):
        decode(replace(one, checksums=np.array([one.checksum(0)], np.uint32)))


def test_parts_that_do_not_fit(sample):
    a = encode(*sample, block=40)
    with pytest.raises(ValueError, match="counts and checksums: expected one a block, 3, got 2 and 3"):
        replace(a, counts=a.counts[:2])
    with pytest.raises(ValueError, match="words: expected"):
        replace(a, words=a.words[:-1])
    with pytest.raises(ValueError, match="table must have"):
        replace(a, table=a.table + np.uint32(1))
    with pytest.raises(ValueError, match="fingerprint must have 8 bytes"):
        replace(a, fingerprint=b"")


# --- bad input


def test_symbols_of_probability_zero():
    indices = np.zeros((5, 4), np.uint8)
    indices[3, 2] = 1
    with pytest.raises(ValueError, match=r"1 in row 3, coordinate 2 has probability 0 under this model of 3 symbols"):
        encode(indices, [1, 0, 1])
    indices[3, 2] = 200
    with pytest.raises(ValueError, match="200 in row 3, coordinate 2"):
        encode(indices, [1, 1])


@pytest.mark.parametrize("bad", [[[0, 1]], np.zeros((2, 2)), np.zeros((2, 2), np.int64), None])
def test_indices_of_another_type(bad):
    with pytest.raises(TypeError, match="indices must be an array of uint8"):
        encode(bad, [1, 1])


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2), (3, 0)])
def test_indices_of_another_shape(shape):
    with pytest.raises(ValueError, match="indices must have shape"):
        encode(np.zeros(shape, np.uint8), [1, 1])


def test_other_bad_arguments(sample):
    indices, c = sample
    for block in (0, -1, 2**28):
        with pytest.raises(ValueError, match="block must be"):
            encode(indices, c, block)
    with pytest.raises(TypeError, match="block must be"):
        encode(indices, c, 2.0)
    for fingerprint in (b"", "12345678", b"123456789"):
        with pytest.raises(ValueError, match="fingerprint must be 8 bytes"):
            encode(indices, c, 4, fingerprint)
    coded = encode(indices, c)
    for rows in ([101], [-102], [0, 2**63 - 1]):
        with pytest.raises(ValueError, match="outside the 101 rows"):
            decode(coded, rows)
    for rows in ([0.0], [[1]], 3, [True], "a"):
        with pytest.raises(TypeError, match="rows must be"):
            decode(coded, rows)
    with pytest.raises(TypeError, match="coded must be an EntropyCoded"):
        decode(coded.to_bytes())
    with pytest.raises(ValueError, match="they begin b'PK'"):
        EntropyCoded.from_bytes(b"PK")
    with pytest.raises(ValueError, match="version 2"):
        EntropyCoded.from_bytes(b"TQEC\2" + coded.to_bytes()[5:])


def test_without_the_extra(monkeypatch, sample):
    indices, c = sample
    coded = encode(indices, c)
    monkeypatch.setitem(sys.modules, "constriction", None)
    for call in (lambda: encode(indices, c), lambda: decode(coded)):
        with pytest.raises(ImportError, match=r"pip install 'turboquant-ref\[entropy\]'"):
            call()
    EntropyCoded.from_bytes(coded.to_bytes())  # the container needs no coder
    assert entropy.model(c).sum() == TOTAL
