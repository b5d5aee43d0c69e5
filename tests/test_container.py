"""The file format of indexes and caches: round trips, an independent reader, damage, hostile headers, a crash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turboquant_ref import channels, codebook, container, description, mse, polar, prod, qjl, rabitq, rotation, sphere

METADATA = {"name": "é", "n": 2**64 - 1, "x": 0.1, "flag": True, "none": None, "list": [1, [2, "3"]], "map": {"a": {}}}
ARRAYS = {
    "codes": np.arange(15 * 7, dtype=np.uint8).reshape(15, 7),
    "ids": np.arange(15, dtype=np.int64) * 2**58,
    "norms": np.linspace(0, 1, 15, dtype=np.float32),
    "half": np.float16([[1.5, -0.0]]),
    "nothing": np.empty((0, 3)),
    "number": np.float64(2.5),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.tq"
    container.write(path, "test", METADATA, ARRAYS)
    return path


def refused(path, *words, kind="test", limit=2**23, **options) -> str:
    """`read` raises a ValueError that names the file and holds all words, and allocates less than `limit` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            container.read(path, kind, **options)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def same(a, b) -> None:
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], strict=True)


def sealed(content: bytes) -> bytes:
    """The file with the right length and the right checksum: damage that only the structure betrays."""
    body = bytearray(content[:-32])
    struct.pack_into("<Q", body, 16, len(body) + 32)
    return bytes(body) + hashlib.sha256(body).digest()


def with_document(content: bytes, change) -> bytes:
    """The file with its JSON changed, and its first array where it then must be."""
    n_text, n_sections = struct.unpack_from("<QI", content, 24)
    start = 40 + 16 * n_sections
    text = change(content[start : start + n_text])
    head = bytearray(content[:start])
    struct.pack_into("<Q", head, 24, len(text))
    first = -(-(start + n_text) // 64) * 64
    moved = -(-(start + len(text)) // 64) * 64
    for i in range(n_sections):
        (offset,) = struct.unpack_from("<Q", head, 40 + 16 * i)
        struct.pack_into("<Q", head, 40 + 16 * i, offset + moved - first)
    return sealed(bytes(head) + text + bytes(moved - start - len(text)) + content[first:])


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("verify", [False, True])
def test_round_trip(path, mmap, verify) -> None:
    metadata, arrays = container.read(path, "test", mmap=mmap, verify=verify)
    assert metadata == METADATA
    same(arrays, {name: np.asarray(a) for name, a in ARRAYS.items()})
    for a in arrays.values():
        assert not a.flags.writeable
        assert a.ctypes.data % 16 == 0


ANY_ARRAY = st.sampled_from(container.DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5))
)


@given(arrays=st.dictionaries(st.text(max_size=5), ANY_ARRAY, max_size=4), swap=st.booleans(), mmap=st.booleans())
@settings(max_examples=60)
def test_any_arrays(tmp_path_factory, arrays, swap, mmap) -> None:
    path = tmp_path_factory.mktemp("any") / "a"
    given_ = {k: a.astype(a.dtype.newbyteorder(">")).T if swap else a for k, a in arrays.items()}
    container.write(path, "any", {}, given_)
    read = container.read(path, "any", mmap=mmap)[1]
    same(read, {k: a.T if swap else a for k, a in arrays.items()})
    assert {k: a.tobytes() for k, a in read.items()} == {k: (a.T if swap else a).tobytes() for k, a in arrays.items()}


def test_layout_by_hand(path) -> None:
    """The docstring's table, read with struct alone."""
    content = path.read_bytes()
    assert content[:16].hex() == "93545552424f510a" + "04030201" + "01000000"
    length, n_text, n, zero = struct.unpack_from("<QQII", content, 16)
    assert (length, n, zero) == (len(content), len(ARRAYS), 0)
    document = json.loads(content[40 + 16 * n : 40 + 16 * n + n_text])
    assert document["kind"] == "test"
    assert document["metadata"] == METADATA
    for i, entry in enumerate(document["arrays"]):
        offset, nbytes = struct.unpack_from("<QQ", content, 40 + 16 * i)
        assert offset % 64 == 0
        a = np.frombuffer(content[offset : offset + nbytes], entry["dtype"]).reshape(entry["shape"])
        np.testing.assert_array_equal(a, ARRAYS[entry["name"]])
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()


def test_every_truncation_is_refused(path) -> None:
    content = path.read_bytes()
    for part in range(64):
        cut = path.with_name("cut")
        cut.write_bytes(content[: len(content) * part // 64])
        for mmap in (False, True):
            message = refused(cut, mmap=mmap, verify=False)
            assert str(len(content) * part // 64) in message or "empty" in message
    path.write_bytes(content + b"\0")
    refused(path, "longer than it says", str(len(content)), str(len(content) + 1), verify=False)


def test_every_flipped_byte_is_refused(path) -> None:
    """200 random places and the whole header; checked by SHA-256, so what is not refused has odds of 2^-256."""
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for at in [*range(40), *rng.integers(len(content), size=200)]:
        damaged = bytearray(content)
        damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        refused(path, mmap=bool(at % 2))


def test_foreign_files(tmp_path) -> None:
    path = tmp_path / "foreign"
    np.save(tmp_path / "a.npy", np.zeros(100))
    path.write_bytes((tmp_path / "a.npy").read_bytes())
    refused(path, "no file of turboquant_ref", "93 4e 55 4d 50 59")
    path.write_bytes(b"")
    refused(path, "it is empty")
    path.write_bytes(b"\x93TURB")
    refused(path, "truncated", "5 bytes")
    path.write_bytes(b"PK\x03\x04")
    refused(path, "50 4b 03 04", "4 bytes")
    with pytest.raises(FileNotFoundError):
        container.read(tmp_path / "none", "test")


def test_version_endianness_and_kind(path) -> None:
    content = path.read_bytes()
    refused(path, "'test'", "'index'", kind="index")
    path.write_bytes(sealed(content[:12] + struct.pack("<I", 2) + content[16:]))
    refused(path, "version 2", "version 1")
    path.write_bytes(sealed(content[:8] + struct.pack(">I", 0x01020304) + content[12:]))
    refused(path, "0x04030201", "big-endian")
    path.write_bytes(sealed(content[:8] + b"abcd" + content[12:]))
    refused(path, "endianness mark 0x64636261")


@pytest.mark.parametrize("size", [2**24 + 1, 2**31, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["length", "text", "sections", "section offset", "section length"])
def test_hostile_sizes(path, field, size) -> None:
    """Announced sizes of gigabytes: refused with the checksum right, and next to nothing allocated."""
    content = bytearray(path.read_bytes())
    layout, at = {
        "length": ("<Q", 16),
        "text": ("<Q", 24),
        "sections": ("<I", 32),
        "section offset": ("<Q", 40),
        "section length": ("<Q", 48),
    }[field]
    struct.pack_into(layout, content, at, min(size, 2**32 - 1) if layout == "<I" else size)
    body = bytes(content[:-32])
    path.write_bytes(body + hashlib.sha256(body).digest())
    for verify in (False, True):
        refused(path, verify=verify)


def test_hostile_text(path) -> None:
    content = path.read_bytes()

    def refused_with(change) -> str:
        path.write_bytes(with_document(content, change))
        return refused(path)

    path.write_bytes(with_document(content, lambda text: text))
    same(container.read(path, "test")[1], {name: np.asarray(a) for name, a in ARRAYS.items()})  # the tool itself works
    for text in (b"{}", b"[]", b"7", b"", b"\xff\xfe", b'{"kind":NaN}', b"[" * 10**6, b"9" * 5000, b'{"kind":'):
        assert "metadata" in refused_with(lambda _, text=text: text)
    for old, new in (
        (b'"shape":[15,7]', b'"shape":[15,8]'),
        (b'"shape":[15,7]', b'"shape":[-15,-7]'),
        (b'"shape":[15,7]', b'"shape":[1e1,7]'),
        (b'"shape":[15,7]', b'"shape":[true,105]'),
        (b'"shape":[15,7]', b'"shape":[4294967296,4294967296]'),
        (b'"shape":[15,7]', b'"shape":[' + b"1," * 70 + b"105]"),
        (b'"dtype":"|u1"', b'"dtype":"|O"'),
        (b'"dtype":"|u1"', b'"dtype":[["a","|O"]]'),
        (b'"dtype":"|u1"', b'"dtype":">f4"'),
        (b'"name":"codes"', b'"name":"ids"'),
        (b'"name":"codes"', b'"name":7'),
        (b'"metadata":{', b'"metadata":[],"x":{'),
    ):
        assert old in content
        refused_with(lambda text, old=old, new=new: text.replace(old, new, 1))


def test_sections_may_not_overlap(path) -> None:
    content = bytearray(path.read_bytes())
    first = content[40:48]
    content[56:64] = first  # the second section at the offset of the first
    path.write_bytes(sealed(bytes(content)))
    refused(path, "bad section table")


def test_what_does_not_fit_is_refused_before_the_file_is_touched(path, tmp_path) -> None:
    before = path.read_bytes()
    for metadata, arrays in (
        ({}, {"a": np.array(["text"])}),
        ({}, {"a": np.array([None])}),
        ({}, {"a": np.zeros(3, bool)}),
        ({}, {"a": np.zeros(3, complex)}),
        ({"x": float("nan")}, {}),
        ({"x": object()}, {}),
        ({"x": "a" * 2**24}, {}),
    ):
        with pytest.raises((TypeError, ValueError)):
            container.write(path, "test", metadata, arrays)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


KILLED = """
import os, sys, numpy as np
from turboquant_ref import container
how, path = sys.argv[1:]
if how == "before replace":
    os.replace = lambda *names: os._exit(9)
elif how == "in the middle":
    fsync, os.fsync = os.fsync, lambda fd: os._exit(9)
elif how == "first part":
    import hashlib
    class Digest:
        def update(self, part): os._exit(9)
    hashlib.sha256 = Digest
elif how == "error":
    def fail(*names): raise OSError("no space left")
    os.replace = fail
container.write(path, "test", {}, {"codes": np.ones(10**6, np.uint8)})
"""


@pytest.mark.parametrize("how", ["before replace", "in the middle", "first part", "error"])
def test_a_crash_in_mid_save_leaves_the_old_file_whole(path, how) -> None:
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, how, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if how == "error" else 9), done.stderr
    assert path.read_bytes() == before
    assert container.read(path, "test")[0] == METADATA
    left = sorted(set(os.listdir(path.parent)) - {path.name})
    assert len(left) == (how != "error")  # an error cleans up after itself; after a kill nobody can
    assert all(re.fullmatch(r"\.turboquant-[0-9a-f]{16}\.tmp", name) for name in left)


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_mode_and_links_are_kept(path, tmp_path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    container.write(link, "test", {}, {})
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert container.read(path, "test") == ({}, {})
    old = os.umask(0o027)
    try:
        container.write(tmp_path / "new", "test", {}, {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_mapped_file_can_be_replaced(path) -> None:
    arrays = container.read(path, "test", mmap=True)[1]
    container.write(path, "test", {}, {})
    np.testing.assert_array_equal(arrays["codes"], ARRAYS["codes"])


MATRIX = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
LAW = sphere.law(6)
QUANTIZERS = {
    "mse": mse.setup(6, 3, 2**64 - 1),
    "mse structured": mse.setup(6, 8, 5, "structured", "unbiased"),
    "mse of a generator": mse.setup(6, 1, np.random.default_rng(3)),
    "mse, 5 rounds of stream 7": mse.Quantizer(rotation.Structured(6, 1, stream=7, rounds=5), codebook.lloyd_max(6, 2)),
    "mse by hand": mse.Quantizer(rotation.Dense(MATRIX), codebook.of_centroids(LAW, np.array([-0.5, 0.1, 0.7]))),
    "mse, float32 matrix": mse.Quantizer(rotation.Dense(MATRIX.astype(np.float32)), codebook.lloyd_max(6, 2)),
    "mse, Gaussian codebook": mse.Quantizer(rotation.haar(6, 1), codebook.lloyd_max(None, 2), "matched"),
    "mse, boundaries": mse.Quantizer(rotation.haar(6, 1), codebook.of_boundaries(LAW, [-0.1, 0.3])),
    "prod": prod.setup(6, 3, 4),
    "prod, 1 bit": prod.setup(6, 1, 4),
    "prod as released": prod.setup(6, 4, 4, "structured", "orthogonal", "expected", m=20),
    "prod by hand": prod.Quantizer(rotation.Dense(MATRIX), codebook.lloyd_max(6, 1), qjl.of_matrix(MATRIX[:4])),
    "qjl": qjl.setup(6, 11, 1),
    "qjl orthogonal": qjl.setup(6, 12, 1, "orthogonal"),
    "polar (codebooks)": polar.setup(8, (4, 2), 3, "structured", "unbiased"),
    "polar, fitted codebooks": polar.setup_online(np.random.default_rng(0).standard_normal((40, 8)), (3, 2), 1, None),
    "rabitq": rabitq.setup(6, 3, 1, bound=True),
    "channels by hand": channels.setup(6, (3, 2), 5, np.arange(6) < 2),
    "channels of rabitq by hand": channels.setup(6, (4, 1), 5, np.arange(6) < 2, module=rabitq, rotation="structured"),
    "qjl by hand": qjl.Quantizer(qjl.of_matrix(MATRIX * 6**0.5, "orthogonal")),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_described_quantizer_is_rebuilt(name, tmp_path) -> None:
    """Through a file: the same fingerprint, and the same bytes of the same vectors."""
    Q = QUANTIZERS[name]
    module = sys.modules[type(Q).__module__]
    node, arrays = description.describe(Q)
    assert bool(arrays) == ("hand" in name or "matrix" in name or "codebook" in name or "boundaries" in name)
    container.write(tmp_path / "q", "quantizer", node, arrays)
    rebuilt = description.rebuild(*container.read(tmp_path / "q", "quantizer"))
    x = np.random.default_rng(1).standard_normal((50, Q.d))
    assert rebuilt.fingerprint == Q.fingerprint
    assert getattr(rebuilt, "options", None) == getattr(Q, "options", None)
    np.testing.assert_array_equal(module.encode(rebuilt, x).data, module.encode(Q, x).data)
    np.testing.assert_array_equal(
        module.dequantize(rebuilt, module.quantize(rebuilt, x)), module.dequantize(Q, module.quantize(Q, x))
    )
    assert description.rebuild(node, {}, Q) is Q
    with pytest.raises(ValueError, match=rf"fingerprint {Q.fingerprint.hex()}, Q is"):
        description.rebuild(node, {}, mse.setup(6, 3, 0))


def test_descriptions_that_are_none() -> None:
    node, arrays = description.describe(QUANTIZERS["mse"])
    by_hand, tables = description.describe(QUANTIZERS["mse by hand"])
    with pytest.raises(TypeError, match=r"expected a quantizer of mse, .*, got int"):
        description.describe(7)
    for bad in (
        None,
        7,
        [],
        {},
        {**node, "algorithm": "os"},
        {**node, "algorithm": []},
        {**node, "fingerprint": "zz"},
        {**node, "fingerprint": "00" * 8},
        {**node, "rotation": 5},
        {**node, "rotation": {}},
        {**node, "rotation": {"system": {"d": 1}}},
        {**node, "rotation": {"haar": {"d": 6.5, "seed": 0, "stream": 0}}},
        {**node, "rotation": {"haar": {"d": "6", "seed": 0, "stream": 0}}},
        {**node, "rotation": {"haar": {"d": 2**40, "seed": 0, "stream": 0}}},
        {**node, "rotation": {"haar": {"d": 20000, "seed": 0, "stream": 0}}},
        {**node, "rotation": {"structured": {"d": 64, "seed": 0, "stream": 0, "rounds": 2**40}}},
        {**node, "rotation": {"structured": {"d": 2**63, "seed": 0, "stream": 0, "rounds": 2}}},
        {**node, "codebook": {"lloyd_max": {"d": 6, "bits": 2**40}}},
        {**node, "scale": "other"},
        {**node, "scale": {"float": "x"}},
        {**node, "extra": 1},
        {**description.describe(QUANTIZERS["qjl"])[0], "sketch": {"gaussian": {"d": 64, "m": 2**50, "seed": 1}}},
    ):
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"^quantizer: "):
            description.rebuild(bad, arrays)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        description.rebuild(by_hand, {})
    moved = {**tables, "quantizer.rotation.values": np.eye(6)}
    with pytest.raises(ValueError, match="its description gives"):
        description.rebuild(by_hand, moved)
    with pytest.raises(ValueError, match="not orthogonal"):
        description.rebuild(by_hand, {**tables, "quantizer.rotation.values": np.ones((6, 6))})
