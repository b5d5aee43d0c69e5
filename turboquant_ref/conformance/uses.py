"""Level 2, what codes are used for: `search` and `attend` as black boxes, against theory and against themselves.

**Search.**  The scores of all vectors (k = n), put in the order of their ids, are estimates of inner products: their
slope and variances are those of the claim.  Scores descend, ids are a permutation, a smaller k is a prefix of it.

**Attention** on one head, not causal, with logits <q, k>/√d.  Where all keys are equal all weights are, whatever the
key codes do, and the output is the mean of the decoded values: its slope is the claim's.  With two tokens k = ±u,
v = ±w the weights differ by tanh(<q, k~>/√d) exactly, so that with q = √d u the output is tanh(t) w~, t = <u, k~>.
Its mean is s tanh(s) for the claim's slope s, to within 0.385 s Var t (a Taylor remainder, max |tanh''| / 2 = 0.385)
and √(Var t Var <w, w~>), for both may be coded with one Π.  A wrong softmax scale is far outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..measure import Estimate
from .edges import NEAR, STRAY
from .finding import Finding
from .statistics import Claim, Plan, claims_of, finite_of, judge
from .statistics import columns as columns_of
from .stimuli import queries, unit
from .subject import CallFailed, Subject

__all__ = ["check"]

Floats = NDArray[np.float64]

BITS = 3
TOKENS = 24
TAYLOR = 0.385


def check(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """The findings of `search` and `attend`, whichever is offered, at the main dimension and 3 bits."""
    bits = min((b for d, b in plan.grid if d == plan.main), key=lambda b: abs(b - BITS))
    parts = (("search", _search, SEARCH, "ranking"), ("attend", _attend, ATTEND, "tokens mixed"))
    for function, measure, probes, cause in parts:
        if not subject.offers(function):
            continue
        claims = claims_of(subject)[function]
        label = f"{function} d={plan.main} b={bits}"
        try:
            yield from measure(subject, plan, bits, claims)
            for name, probe in probes.items():
                passed, detail = probe(subject, plan, bits)
                yield Finding(2, f"{label}: {name}", passed, detail, (cause,) * (passed is False))
        except CallFailed as error:
            yield Finding(2, label, None if error.kind == "not offered" else False, str(error))


def _search(subject: Subject, plan: Plan, bits: int, claims: tuple[Claim, ...]) -> Iterator[Finding]:
    """Slope and variances of the scores."""
    d, n = plan.main, plan.rows // 4
    rng = np.random.default_rng([plan.seed, 21])
    values = []
    for seed in rng.permutation(2**20)[: plan.draws].tolist():
        x = unit(6 * n, d, rng)
        rho = np.concatenate([rng.uniform(-1, 1, n), np.zeros(4 * n), np.ones(n)])
        scores, _ = _in_order(*_found(subject, x, queries(x, rho, rng), len(x), bits, seed))
        own = np.diagonal(scores)
        values.append(
            [
                float((own * rho).sum() / (rho**2).sum()),
                float(d * (own[n : 5 * n] ** 2).mean()),
                float((own[5 * n :] ** 2).mean()),
                float(own[5 * n :].mean()),
            ]
        )
    estimates = [Estimate(c, plan.confidence) for c in columns_of(np.array(values), "search", d)]
    yield from judge("search", claims, {(d, bits): estimates})


def _attend(subject: Subject, plan: Plan, bits: int, claims: tuple[Claim, ...]) -> Iterator[Finding]:
    """The mean of values under equal weights, and the scale of the softmax."""
    d, claim = plan.main, claims[0]
    rng = np.random.default_rng([plan.seed, 22])
    slopes, tanhs = [], []
    for seed in rng.permutation(2**20)[: plan.draws].tolist():
        v = unit(TOKENS, d, rng)
        mean = v.mean(0)
        q, k = unit(1, d, rng), np.tile(unit(1, d, rng), (TOKENS, 1))
        out = finite_of(subject.call("attend", q, k, v, bits, seed).value, (1, d))
        slopes.append(float(out[0] @ mean / (mean @ mean)))
        u, w = unit(1, d, rng), unit(1, d, rng)
        two = subject.call("attend", math.sqrt(d) * u, np.concatenate([u, -u]), np.concatenate([w, -w]), bits, seed)
        tanhs.append(float(finite_of(two.value, (1, d))[0] @ w[0]))
    yield from judge("attend", claims, {(d, bits): [Estimate(np.array(slopes), plan.confidence)]})
    moments, name = claim.moments(d, bits), f"attend d={d} b={bits}: scale of the softmax"
    if moments is None:
        yield Finding(2, name, None, f"no exact value is known for {claim.name}")
        return
    s, variance = float(moments.slope), float(moments.along) / d
    estimate, exact = Estimate(np.array(tanhs), plan.confidence), s * math.tanh(s)
    allowed = estimate.half_width + TAYLOR * variance * s + variance
    implied = math.atanh(min(max(estimate.value / s, -1 + 1e-9), 1 - 1e-9)) / s
    detail = f"{estimate.value:.4g} ± {allowed:.2g}, claimed {exact:.4g} ({claim.name}): a scale of {implied:.3g}/√d"
    passed = abs(estimate.value - exact) <= allowed
    yield Finding(2, name, passed, detail, ("softmax scale",) * (not passed))


# ------------------------------------------------------------------------------------------------------- behaviour

Outcome = tuple[bool | None, str]
Probe = Callable[[Subject, Plan, int], Outcome]


def _found(
    subject: Subject, x: Floats, y: Floats, k: int, bits: int, seed: int = 12345
) -> tuple[Floats, NDArray[np.int64]]:
    """Scores and ids, (m, k) each."""
    return _of(subject.call("search", x, y, k, bits, seed).value, x, y, k)


def _of(value: object, x: Floats, y: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    """An answer taken apart; ids must be whole numbers of -1 to n - 1, -1 only where there is nothing more."""
    scores, ids = np.asarray(_shaped(value, (2, len(y), k)), dtype=np.float64)
    held = ids[:, : len(x)]
    if (ids != np.floor(ids)).any() or (held < 0).any() or (held >= len(x)).any() or (ids[:, len(x) :] != -1).any():
        raise CallFailed("answer", f"returned ids that are not of 0 to {len(x) - 1}, and -1 beyond")
    if not np.isfinite(scores[:, : len(x)]).all():
        raise CallFailed("answer", "returned scores that are NaN or infinite")
    return scores, ids.astype(np.int64)


def _shaped(value: object, shape: tuple[int, ...]) -> NDArray[np.floating]:
    if not isinstance(value, np.ndarray) or value.shape != shape:
        found = f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise CallFailed("answer", f"returned {found}, expected scores and ids, {shape}")
    return value


def _in_order(scores: Floats, ids: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Scores in the order of ids, which must be all of them, once each."""
    order = np.argsort(ids, axis=1)
    if (np.take_along_axis(ids, order, axis=1) != np.arange(ids.shape[1])).any():
        raise CallFailed("answer", "returned an id twice, k = n")
    return np.take_along_axis(scores, order, axis=1), order


def _inputs(plan: Plan) -> tuple[Floats, Floats]:
    rng = np.random.default_rng([plan.seed, 23])
    return unit(60, plan.main, rng), unit(12, plan.main, rng)


def _descending(subject: Subject, plan: Plan, bits: int) -> Outcome:
    x, y = _inputs(plan)
    scores, _ = _found(subject, x, y, len(x), bits)
    rises = int((np.diff(scores, axis=1) > 0).sum())
    return rises == 0, "the best first" if not rises else f"{rises} scores are larger than the one before"


def _prefix(subject: Subject, plan: Plan, bits: int) -> Outcome:
    x, y = _inputs(plan)
    every, _ = _found(subject, x, y, len(x), bits)
    few, ids = _found(subject, x, y, 7, bits)
    inner, _ = _in_order(*_found(subject, x, y, len(x), bits))
    off = max(
        float(np.abs(few - every[:, :7]).max()), float(np.abs(few - np.take_along_axis(inner, ids, axis=1)).max())
    )
    return off <= NEAR, f"k = 7 beside the first 7 of k = n: scores differ by at most {off:.2g}, allowed {NEAR:.2g}"


def _beyond(subject: Subject, plan: Plan, bits: int) -> Outcome:
    """Ids -1 from n on, or no more than n columns, or a refusal."""
    x, y = _inputs(plan)
    try:
        found = np.asarray(subject.call("search", x[:5], y, 8, bits, 12345).value)
    except CallFailed as error:
        if error.refused:
            return None, f"refused: {error}"
        raise
    if found.shape == (2, len(y), 5):
        return True, "k = 8 of 5 vectors: 5 columns"
    _of(found, x[:5], y, 8)
    return True, "k = 8 of 5 vectors: ids of all 5, then -1"


def _query_norms(subject: Subject, plan: Plan, bits: int) -> Outcome:
    """Scores grow with the query, ids do not change."""
    x, y = _inputs(plan)
    one, _ = _in_order(*_found(subject, x, y, len(x), bits))
    many, _ = _in_order(*_found(subject, x, 1000 * y, len(x), bits))
    off = float(np.abs(many / 1000 - one).max())
    return off <= NEAR, f"scores of 1000 y, over 1000, differ by at most {off:.2g}, allowed {NEAR:.2g}"


def _attended(subject: Subject, q: Floats, k: Floats, v: Floats, bits: int) -> Floats:
    return finite_of(subject.call("attend", q, k, v, bits, 12345).value, q.shape)


def _tokens(plan: Plan) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng([plan.seed, 24])
    q = 3 * math.sqrt(plan.main) * unit(20, plan.main, rng)
    return q, unit(TOKENS, plan.main, rng), unit(TOKENS, plan.main, rng)


def _agree(a: Floats, b: Floats) -> Outcome:
    distance = np.linalg.norm(a - b, axis=1)
    wrong = int((distance > NEAR).sum())
    return wrong <= len(a) // STRAY, f"{wrong} of {len(a)} outputs differ by more than {NEAR:.2g}"


def _order(subject: Subject, plan: Plan, bits: int) -> Outcome:
    q, k, v = _tokens(plan)
    order = np.random.default_rng([plan.seed, 25]).permutation(TOKENS)
    return _agree(_attended(subject, q, k, v, bits), _attended(subject, q, k[order], v[order], bits))


def _twice(subject: Subject, plan: Plan, bits: int) -> Outcome:
    q, k, v = _tokens(plan)
    twice = np.concatenate([k, k]), np.concatenate([v, v])
    return _agree(_attended(subject, q, k, v, bits), _attended(subject, q, *twice, bits))


def _one_token(subject: Subject, plan: Plan, bits: int) -> Outcome:
    q, k, v = _tokens(plan)
    out = _attended(subject, q, k[:1], v[:1], bits)
    return _agree(out, np.tile(out[:1], (len(q), 1)))


def _large_logits(subject: Subject, plan: Plan, bits: int) -> Outcome:
    """A query 10^6 times as long looks at one token only."""
    q, k, v = _tokens(plan)
    out = _attended(subject, 1e6 * q, k, v, bits)
    each = np.concatenate([_attended(subject, q[:1], k[i : i + 1], v[i : i + 1], bits) for i in range(TOKENS)])
    nearest = np.linalg.norm(out[:, None] - each, axis=2).argmin(1)
    return _agree(out, each[nearest])


SEARCH: dict[str, Probe] = {
    "descending": _descending,
    "a smaller k": _prefix,
    "k beyond n": _beyond,
    "norms of queries": _query_norms,
}
ATTEND: dict[str, Probe] = {
    "order of tokens": _order,
    "every token twice": _twice,
    "one token": _one_token,
    "large logits": _large_logits,
}
