"""The golden vectors made: ``python -m turboquant_ref.conformance.generate [--check]``.

Every stage is what `trace` says, with Pi, S and codebook as the file gives them. Without --check the files, their
schemas and the manifest are written. With it nothing is: the files must be canonical, fit their schemas' manifest, ask
what `cases` asks, and hold what the reference answers, by the contract that judges everybody: exact, rounding or code.
For another machine's quadrature or LAPACK may differ in a last bit; the committed file is the truth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import angle, attention, codes, generator, mse, packing, polar, prod, qjl, rabitq
from .. import codebook as codebooks
from .. import rotation as rotations
from ..vectors import norm_and_unit
from . import cases, given, golden, schemas, sibling_cases, siblings
from .golden import Case, reals, rows, texts
from .judge import judge
from .notes import HEADER, NOTES
from .stages import CODEBOOK, stages

__all__ = ["GROUPS", "answer", "differences", "document", "write"]

GROUPS = {**cases.GROUPS, **sibling_cases.GROUPS}
"""The groups of each file, their tests without tcId and outputs."""


def _row(values: Any) -> Any:
    return texts(np.asarray(values))


def _hex(data: Any) -> str:
    return bytes(np.asarray(data, dtype=np.uint8)).hex()


def _dot(a: Any, b: Any) -> Any:
    """<a, b> in their dtype, the terms added one by one."""
    return given.ordered_product(a, np.asarray(b, dtype=np.float64)[None])[..., 0]


def _packed(module: Any, Q: Any, code: Any, scalars: str) -> dict[str, str]:
    try:
        return {"packed": _hex(module.pack(Q, code, scalars).data)}
    except ValueError:  # a denormal norm, say: it has no stored form
        return {}


def _mse(g: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    Q = mse.Quantizer(given.rotation(g["rotation"], g["d"]), given.codebook(g), g["scale"])
    steps = mse.trace(Q, x)
    out = {k: _row(steps[k]) for k in ("norm", "unit", "rotated")}
    out |= {"indices": steps["indices"].tolist(), "scale": _row(steps["scale"]), "decoded": _row(steps["decoded"])}
    out |= _packed(mse, Q, mse.MSECode(steps["indices"], steps["scale"], Q.fingerprint), g["scalars"])
    query_norm, query = norm_and_unit(y)
    unit = _dot(Q.rotation.apply(query), steps["centroids"])
    return {**out, "estimate": _row(codes.times_norms(unit, query_norm, steps["scale"]))}


def _qjl(g: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    Q = qjl.Quantizer(given.sketch(g))
    steps = qjl.trace(Q, x)
    out = {k: _row(steps[k]) for k in ("norm", "unit", "projection")}
    out |= {"signs": steps["signs"].tolist(), "decoded": _row(steps["decoded"])}
    out |= _packed(qjl, Q, qjl.QJLCode(steps["signs"], steps["norm"], Q.fingerprint), g["scalars"])
    query_norm, query = norm_and_unit(y)
    z = qjl.pm_one(steps["signs"], x.dtype)
    unit = _dot(Q.sketch.apply(query), z) * x.dtype.type(Q.sketch.constant)
    return {**out, "estimate": _row(codes.times_norms(unit, query_norm, steps["norm"]))}


def _prod(g: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    Q = prod.Quantizer(given.rotation(g["rotation"], g["d"]), given.codebook(g), given.sketch(g), g["residual"])
    steps = prod.trace(Q, x)
    out = {k: _row(steps[k]) for k in ("norm", "unit")}
    if Q.codebook.bits:
        out |= {"rotated": _row(steps["rotated"]), "indices": steps["indices"].tolist()}
    out |= {k: _row(steps[k]) for k in ("residual", "residual_norm", "projection")}
    out |= {"signs": steps["signs"].tolist(), "decoded": _row(steps["decoded"])}
    code = prod.ProdCode(steps["indices"], steps["signs"], steps["norm"], steps["residual_norm"], Q.fingerprint)
    out |= _packed(prod, Q, code, g["scalars"])
    query_norm, query = norm_and_unit(y)
    first = _dot(Q.rotation.apply(query), steps["centroids"])
    second = _dot(Q.sketch.apply(query), qjl.pm_one(steps["signs"], x.dtype))
    unit = first + second * (steps["residual_norm"] * x.dtype.type(Q.sketch.constant))
    return {**out, "estimate": _row(codes.times_norms(unit, query_norm, steps["norm"]))}


def _polar(g: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    books = tuple(angle.codebook(level, bits) for level, bits in enumerate(g["bits"], 1))
    Q = polar.Quantizer(g["d"], books, given.rotation(g["rotation"], g["d"]), g["scale"])
    steps = polar.trace(Q, x)
    out = {k: _row(steps[k]) for k in ("norm", "unit", "rotated")}
    out["angles"] = _row(np.concatenate([steps[f"angles_{level}"] for level in range(1, Q.levels + 1)]))
    out |= {"radii": _row(steps["radii"]), "indices": steps["indices"].tolist(), "decoded": _row(steps["decoded"])}
    code = polar.PolarCode(steps["indices"], steps["radii"], Q.fingerprint)
    out |= _packed(polar, Q, code, g["scalars"])
    query_norm, query = norm_and_unit(y)
    length = np.ones((), dtype=x.dtype)
    assert Q.rotation is not None
    unit = _dot(Q.rotation.apply(query), steps["cartesian"])
    return {**out, "estimate": _row(codes.times_norms(unit, query_norm, length))}


def _rabitq(g: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    rescale = "fast" if "t" in g else "exact"
    Q = rabitq.Quantizer(given.rotation(g["rotation"], g["d"]), g["bits"], g["scale"], rescale, bool(g["bound"]))
    steps = rabitq.trace(Q, x)
    out = {k: _row(steps[k]) for k in ("norm", "unit", "rotated")}
    out |= {"indices": steps["indices"].tolist(), "scale": _row(steps["scale"])}
    out |= {"tangent": _row(steps["tangent"])} if Q.bound else {}
    out |= {"decoded": _row(steps["decoded"])}
    tangent = steps["tangent"] if Q.bound else None
    code = rabitq.RaBitQCode(steps["indices"], steps["scale"], tangent, Q.fingerprint)
    out |= _packed(rabitq, Q, code, g["scalars"])
    query_norm, query = norm_and_unit(y)
    unit = _dot(Q.rotation.apply(query), steps["grid"])
    return {**out, "estimate": _row(codes.times_norms(unit, query_norm, steps["scale"]))}


def _attention(g: Mapping[str, Any], inputs: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    def part(name: str) -> tuple[Any, Any]:
        book = given.codebook({**g[name], "d": g["d"]})
        Q = given.OrderedQuantizer(given.rotation(g[name]["rotation"], g["d"]), book, "norm")
        indices = np.asarray(g[name]["indices"], dtype=np.uint8)
        return Q, mse.MSECode(indices, rows(g[name]["scales"], dtype), Q.fingerprint)

    (Qk, keys), (Qv, values) = part("keys"), part("values")
    q, n_keys = rows(inputs["q"], dtype), keys.indices.shape[1]
    scale, softcap, bias = inputs["scale"], inputs.get("softcap"), inputs.get("bias")
    mask = np.asarray(inputs.get("mask", 1), dtype=bool)
    seen = attention.visible(q.shape[1], n_keys, bool(inputs["causal"]), inputs.get("window")) & mask
    scores = attention.logits(Qk, q, keys, scale=1.0)
    logits = attention.logits(Qk, q, keys, scale=scale, softcap=softcap, mask=bias)
    both = np.where(seen, 0.0 if bias is None else reals(bias), -np.inf)
    output = attention.attend(Qk, Qv, q, keys, values, scale=scale, softcap=softcap, mask=both)
    weights = attention.softmax(np.where(seen, logits, np.asarray(-np.inf, dtype=logits.dtype)))
    floats = {"scores": _row(scores), "logits": _row(logits), "visible": seen.astype(int).tolist()}
    return {**floats, "weights": _row(weights), "output": _row(output)}


def _primitive(g: Mapping[str, Any], inputs: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    kind = g["type"]
    if kind == "Bits":
        return {"packed": _hex(packing.pack_bits(np.asarray(inputs["numbers"], dtype=np.uint8), g["bits"]))}
    if kind == "Unpack":
        data = np.frombuffer(bytes.fromhex(inputs["packed"]), dtype=np.uint8)
        return {"numbers": packing.unpack_bits(data, g["bits"], g["n"]).tolist()}
    if kind == "Scalars":
        values = reals(inputs["values"])
        record = packing.Record((), (packing.Scalar("values", len(values)),))
        packed = record.pack([], [values], g["scalars"], b"") if np.all(np.isfinite(values)) else None
        if packed is None:
            raise ValueError("values must be finite")
        return {"packed": _hex(packed.data)}
    if kind == "Table":
        book = codebooks.lloyd_max(g["d"], inputs["bits"])
        return {"centroids": _row(book.centroids), "boundaries": _row(book.boundaries), "distortion": book.distortion}
    if kind == "Index":
        edges = given.codebook(g)
        return {"indices": codebooks.nearest(edges, rows(inputs["coordinates"], dtype)).tolist()}
    if kind == "Fwht":
        return {"y": _row(rotations.fwht(rows(inputs["x"], dtype)))}
    if kind == "Structured":
        pi, x = given.rotation({**g, "kind": "structured"}, g["d"]), rows(inputs["x"], dtype)
        return {"rotated": _row(pi.apply(x)), "inverse": _row(pi.inverse(x))}
    if kind == "Rescale":
        return {"t": rabitq.fast_rescale(g["d"], inputs["bits"])}
    seed, stream = int(inputs["seed"], 16), inputs["stream"]
    if kind == "Haar":
        return {"matrix": _row(rotations.haar(g["d"], seed, stream).matrix())}
    n = inputs["n"]
    if kind == "Words":
        return {"words": [f"{int(w):016x}" for w in generator.words(seed, stream, n)]}
    if kind == "Signs":
        return {"signs": generator.signs(seed, stream, n).tolist()}
    if kind == "Angles":
        cosines, sines = generator.angles(seed, stream, n)
        return {"cosines": _row(cosines), "sines": _row(sines)}
    return {"gaussians": _row(generator.gaussians(seed, stream, n))}


def answer(case: Case) -> dict[str, Any]:
    """What the reference answers, by `trace`; ValueError where it refuses."""
    inputs, g = case.test["inputs"], case.group
    if case.level == 0:
        return _primitive(g, inputs, case.dtype)
    if g["type"] == "Attention":
        return _attention(g, inputs, case.dtype)
    x = rows(inputs["x"], case.dtype)
    y = rows(inputs.get("query", [0.0] * g["d"]), case.dtype)
    with np.errstate(under="ignore"):
        algorithms = {"Mse": _mse, "Qjl": _qjl, "Prod": _prod, "Polar": _polar, "Rabitq": _rabitq}
        return algorithms[g["type"]](g, x, y)


def _ambiguous(case: Case, out: Mapping[str, Any]) -> bool:
    """Whether an index or a sign is within its bound of a boundary, so that another answer is right too."""
    probe = Case(case.file, case.number, case.group, {**case.test, "outputs": out})
    for stage, rule in stages(probe, {}, own_codebook=False):
        if stage not in ("indices", "signs"):
            continue
        value = np.asarray(out[stage])
        for i in range(value.size):
            beside = (1 - value[i],) if stage == "signs" else (value[i] - 1, value[i] + 1)
            if case.group["type"] == "Polar":  # on a circle the first cell is beside the last
                beside = (*beside, 0, 2 ** case.group["bits"][0] - 1)
            for other in {*beside} - {value[i]}:
                if rule(np.where(np.arange(value.size) == i, other, value)) is None:
                    return True
        if case.group["type"] == "Rabitq":
            others = siblings.rivals(probe, out)
            return any(rule(other) is None for other in others if not np.array_equal(other, value))
    return False


def _tests(name: str) -> Iterator[dict[str, Any]]:
    for number, group in enumerate(GROUPS[name]()):
        yield {
            "number": number,
            "parameters": {k: v for k, v in group.items() if k != "tests"},
            "tests": group["tests"],
        }


def document(name: str) -> dict[str, Any]:
    """The file of an algorithm, made anew."""
    groups, count = [], 0
    for made in _tests(name):
        tests = []
        for test in made["tests"]:
            count += 1
            case = Case(name, made["number"], made["parameters"], {"tcId": count, **test, "outputs": {}})
            out: dict[str, Any] = {}
            result = test["result"]
            try:
                out = answer(case)
            except ValueError:
                if case.valid:
                    raise
            else:
                if not case.valid:
                    raise AssertionError(f"{case.id} ({test['comment']}) is to be refused, and was not")
            if case.valid and case.level == 1 and _ambiguous(case, out):
                result = "acceptable"
            front = {k: test[k] for k in ("comment", "flags", "inputs")}
            tests.append({"tcId": count, **front, "outputs": out, "result": result})
        groups.append({**made["parameters"], "tests": tests})
    used = {flag for group in groups for test in group["tests"] for flag in test["flags"]}
    return {
        "algorithm": name,
        "schema": f"{name}.schema.json",
        "formatVersion": golden.FORMAT,
        "numberOfTests": count,
        "header": HEADER[name],
        "notes": {flag: note for flag, note in NOTES.items() if flag in used},
        "testGroups": groups,
    }


def write() -> None:
    """Write files, schemas and manifest."""
    golden.DIRECTORY.mkdir(exist_ok=True)
    golden.SCHEMA.mkdir(exist_ok=True)
    for name in golden.NAMES:
        (golden.DIRECTORY / f"{name}.json").write_text(golden.text(document(name)) + "\n", encoding="utf-8")
        (golden.SCHEMA / f"{name}.schema.json").write_text(golden.text(schemas.schema(name)) + "\n", encoding="utf-8")
    (golden.DIRECTORY / "MANIFEST.json").write_text(golden.text(golden.manifest()) + "\n", encoding="utf-8")
    golden.read.cache_clear()


def _unlike(made: Any, kept: Any, place: str) -> Iterator[str]:
    """Where two questions differ: floats are equal within the accuracy of a codebook, all else exactly."""
    if isinstance(made, dict) and isinstance(kept, dict):
        if list(made) != list(kept):
            yield f"{place}: keys {list(kept)}, made anew {list(made)}"
        for key in made.keys() & kept.keys():
            yield from _unlike(made[key], kept[key], f"{place}.{key}")
    elif isinstance(made, list) and isinstance(kept, list):
        if len(made) != len(kept):
            yield f"{place}: {len(kept)} entries, made anew {len(made)}"
        for i, (a, b) in enumerate(zip(made, kept, strict=False)):
            yield from _unlike(a, b, f"{place}[{i}]")
    elif type(made) is not type(kept) or (
        made != kept and not (isinstance(made, float) and abs(made - kept) <= CODEBOOK * abs(kept))
    ):
        yield f"{place}: {kept!r}, made anew {made!r}"


def _question(whole: Mapping[str, Any]) -> dict[str, Any]:
    groups = [
        {**group, "tests": [{k: v for k, v in test.items() if k != "outputs"} for test in group["tests"]]}
        for group in whole["testGroups"]
    ]
    return {**whole, "testGroups": groups}


def differences(name: str) -> Iterator[str]:
    """What is wrong with the file of an algorithm, and with its schema: nothing, if the generator reproduces them."""
    path = golden.DIRECTORY / f"{name}.json"
    kept_text = path.read_text(encoding="utf-8")
    kept = json.loads(kept_text)
    if golden.text(kept) + "\n" != kept_text:
        yield f"{name}.json is not canonical"
    kept_schema = (golden.SCHEMA / f"{name}.schema.json").read_text(encoding="utf-8")
    if golden.text(schemas.schema(name)) + "\n" != kept_schema:
        yield f"{name}.schema.json is not what the generator writes"
    made = document(name)
    if golden.text(made) + "\n" == kept_text:
        return
    yield from _unlike(_question(made), _question(kept), name)
    for case in golden.of_document(kept):
        try:
            answered: dict[str, Any] | str = answer(case)
        except ValueError as error:
            answered = str(error)
        if case.valid and list(answered) != list(case.test["outputs"]):
            yield f"{case.id}: stages {', '.join(case.test['outputs'])}, made anew {', '.join(answered)}"
        elif not (found := judge(case, answered)).passed:
            yield f"{case.id}: {found.detail}"


def main(arguments: list[str]) -> int:
    """Write, or with --check compare; 0 if all is as it should be."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m turboquant_ref.conformance.generate [--check]", file=sys.stderr)
        return 2
    if not arguments:
        write()
        return 0
    wrong = [line for name in golden.NAMES for line in differences(name)]
    if json.loads((golden.DIRECTORY / "MANIFEST.json").read_text(encoding="utf-8")) != golden.manifest():
        wrong.append("MANIFEST.json does not have the hashes of the files")
    print("\n".join(wrong) or f"{len(golden.NAMES)} files: reproduced")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
