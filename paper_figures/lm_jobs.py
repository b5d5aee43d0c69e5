"""The language-model experiments as jobs, most important first, on as many processes as there are cores.

    python -m paper_figures.lm_jobs --model FILE --out runs/ --time-limit 480 --processes 28

One line of JSON a job is appended to OUT/lm.jsonl as soon as it is done, so what is cut off loses nothing; jobs that
are there already, or in a file given by --done, are not done again.  `lm_tables` reads these lines.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from turboquant_ref import attention

from . import lm, lm_cache, lm_configs, lm_text
from ._track import track

LENGTH = 2048
SHORT = 512  # of texts that several seeds are compared on
LATE = 1024  # "late" is from here on
FIDELITY_LAYERS = range(0, 30, 3)
FIDELITY_QUERIES = 64

Job = dict[str, Any]
_shared: dict[str, Any] = {}  # what processes inherit: the model, the texts and their full-precision passes


def text_jobs(configs: Iterable[str], seeds: Iterable[int], **more: Any) -> list[Job]:
    """A job for every seed, config and text; those without randomness have one seed."""
    made = []
    for seed in seeds:
        for config in configs:
            fixed = config.split()[0] in ("kivi", "minmax")
            for text in lm_text.TEXTS:
                if not (fixed and seed):
                    made.append({"job": "text", "config": config, "text": text, "seed": seed, **more})
    return made


def needle_jobs(configs: Iterable[str], lengths: Iterable[int], seeds: Iterable[int]) -> list[Job]:
    """A haystack for every seed, length and config."""
    return [
        {"job": "needles", "config": config, "length": length, "seed": seed}
        for seed in seeds
        for length in lengths
        for config in configs
    ]


def fidelity_jobs(seeds: Iterable[int]) -> list[Job]:
    """Attention logits of every codec, seed and text."""
    return [
        {"job": "fidelity", "config": config, "text": text, "seed": seed}
        for seed in seeds
        for config in lm_configs.FIDELITY
        for text in lm_text.TEXTS
    ]


def plan(name: str) -> list[Job]:
    """The jobs of a run, most important first."""
    if name == "small":  # a minute or two on two cores
        core = ("mse 3", "unb 3", "prodO 3", "prodG 3", "mse 3 W128", "unb K3pre V2 W128 s4", "kivi 2 W128")
        return text_jobs(core, [0], length=SHORT) + needle_jobs(("full", "mse 3", "mse 2"), (SHORT,), [0])
    if name == "layers":
        one = (text_jobs(lm_configs.ONE_LAYER, [0], length=SHORT, only=l) for l in range(30))
        return [job for jobs in one for job in jobs if job["text"] == "alice"]
    c, short, shorter = lm_configs, (512, 1024), {"length": SHORT}
    return [
        *text_jobs(c.CORE, [0]),
        *fidelity_jobs([0, 1, 2]),
        *needle_jobs(c.HEAT, (4096, 2048, *short), [0]),
        *text_jobs(c.MORE, [0]),
        *text_jobs(c.PAIRED, [0, 1, 2], **shorter),
        *text_jobs((*c.SEARCH, *c.MIXED), [0]),
        *text_jobs(c.VALUE_MEANS, [0], value_mean=True, **shorter),
        *text_jobs(c.STRUCTURED, [0], rotation="structured", **shorter),
        *needle_jobs(c.HEAT, (*short, 2048), [1]),
        *text_jobs(c.PAIRED, [3], **shorter),
    ]


def key(job: Job) -> str:
    """What makes a job this one."""
    return json.dumps({name: job[name] for name in sorted(job) if name in _KEYS})


_KEYS = {"job", "config", "text", "seed", "length", "rotation", "value_mean", "only"}


# ------------------------------------------------------------------------------------------------ one job


def run(job: Job) -> Job:
    """The job with its results."""
    started = time.perf_counter()
    done = {"text": run_text, "needles": run_needles, "fidelity": run_fidelity}[job["job"]](job)
    return {**job, **done, "seconds": round(time.perf_counter() - started, 1)}


def _attention(job: Job, text: str, **options: Any) -> lm_cache.CodedAttention:
    """A cache by the job's recipe, calibrated on the text that it is not judged on."""
    mixed = lm_configs.by_layer(job["config"])
    if mixed is not None:
        every = {config: _attention({**job, "config": config}, text, **options) for config in dict.fromkeys(mixed)}
        coded = every[mixed[0]]
        coded.layers = [every[config].layers[l] for l, config in enumerate(mixed)]
        return coded
    model, recipe = _shared["model"], lm_configs.recipe(job["config"])
    other = next(name for name in lm_text.TEXTS if name != text)
    about = lm_cache.calibrations(recipe, _shared["seen", other], model.rope)
    if job.get("value_mean"):
        options["value_means"] = [v[:, recipe.sinks :].mean(axis=1) for _, _, v in _shared["seen", other]]
    if "only" in job:
        options["only"] = frozenset([job["only"]])
    return lm_cache.CodedAttention(model, recipe, job["seed"], about, job.get("rotation", "haar"), **options)


def run_text(job: Job) -> Job:
    """KL of the next token's law against full precision, perplexity and top-1 agreement, over a text."""
    model, n = _shared["model"], job.get("length", LENGTH)
    ids, base = _shared["ids", job["text"]][:n], _shared["base", job["text"]]
    coded = _attention(job, job["text"])
    hidden = model.forward(ids, coded)
    kl, same, nll, full = (np.empty(n) for _ in range(4))
    answer = np.append(ids[1:], 0)
    for rows, found in model.log_probabilities(hidden):
        truth, at = base[rows], np.arange(rows.stop - rows.start)
        kl[rows] = (np.exp(truth) * (truth - found)).sum(axis=-1, dtype=np.float64)
        same[rows] = truth.argmax(axis=-1) == found.argmax(axis=-1)
        nll[rows], full[rows] = -found[at, answer[rows]], -truth[at, answer[rows]]
    change = (nll - full)[:-1]
    return {
        "kl": float(kl.mean()),
        "kl_late": float(kl[LATE:].mean()) if n > LATE else None,
        "kl_99": float(np.quantile(kl, 0.99)),
        "log_ratio": float(change.mean()),
        "log_ratio_se": float(change.std() / np.sqrt(len(change))),
        "top1": float(same.mean()),
        "perplexity": float(np.exp(full[:-1].mean())),
        "error_k": float(np.mean(coded.errors["k"])) if coded.errors["k"] else 0.0,
        "error_v": float(np.mean(coded.errors["v"])) if coded.errors["v"] else 0.0,
    }


def run_needles(job: Job) -> Job:
    """Six needles in one haystack: right digits of each, and the mean surprise of its digits in nats."""
    model = _shared["model"]
    hay = lm_text.haystack(_shared["tokenizer"], job["length"], job["seed"])
    right, surprise = score_needles(model, hay, lambda **options: _attention(job, "alice", **options))
    return {"right": right, "surprise": [round(s, 4) for s in surprise]}


def score_needles(model: lm.Model, hay: lm_text.Haystack, make: Any) -> tuple[list[int], list[float]]:
    """Digits right, and their mean surprise, for each needle; `make(prefix=, branches=)` is the cache."""
    lengths = [len(q) - 1 for q in hay.questions]  # the last digit is not fed
    tokens = np.concatenate([hay.tokens, *(q[:-1] for q in hay.questions)])
    n = len(hay.tokens)
    positions = np.concatenate([np.arange(n), *(np.arange(n, n + length) for length in lengths)])
    hidden = model.forward(tokens, make(prefix=n, branches=lengths), positions)
    right, surprise, at = [], [], n
    for question, length in zip(hay.questions, lengths, strict=True):
        at += length
        ((_, found),) = model.log_probabilities(hidden[at - lm_text.DIGITS : at])
        digits = question[-lm_text.DIGITS :]
        right.append(int((found.argmax(axis=-1) == digits).sum()))
        surprise.append(float(-found[np.arange(lm_text.DIGITS), digits].mean()))
    return right, surprise


def run_fidelity(job: Job) -> Job:
    """Slope and noise of the attention logits of a text's last queries, some layers, beside theory's."""
    layers = _attention(job, job["text"]).layers
    rows = []
    for l in FIDELITY_LAYERS:
        q, k, v = _shared["seen", job["text"]][l]
        Qk, Qv = layers[l].quantizers[0]
        found = attention.fidelity(Qk, Qv, q[:, -FIDELITY_QUERIES:], k, v, causal=True)
        rows.append([found.slope, found.expected_slope, found.noise, found.expected_noise, found.kl])
    names = ("slope", "expected_slope", "noise", "expected_noise", "attention_kl")
    columns = ([None if r is None else round(r, 5) for r in row] for row in zip(*rows, strict=True))
    return dict(zip(names, columns, strict=True))


# ------------------------------------------------------------------------------------------------ all jobs


def full_pass(args: tuple[str, int, str]) -> str:
    """A text in full precision: its log-probabilities, and the queries, keys and values of every layer, in files."""
    text, length, folder = args
    model = _shared["model"]
    hidden, seen = lm_cache.recorded(model, _shared["ids", text][:length])
    path = Path(folder) / text
    base = np.lib.format.open_memmap(f"{path}.npy", "w+", np.float32, (len(hidden), len(model.embedding)))
    for rows, logp in model.log_probabilities(hidden):
        base[rows] = logp
    base.flush()
    arrays = {f"{name}{l}": a for l, qkv in enumerate(seen) for name, a in zip("qkv", qkv, strict=True)}
    np.savez(f"{path}.npz", **arrays)
    return text


def results(jobs: list[Job], model: Any, processes: int, time_limit: float, length: int = LENGTH) -> Iterator[Job]:
    """The jobs with their results, as they get ready; those not ready in time are left.  Calibration is on `length`."""
    deadline = time.monotonic() + min(time_limit, 3e6)
    context = multiprocessing.get_context("fork")
    _shared["model"], _shared["tokenizer"] = lm.load(model)
    for text in lm_text.TEXTS:
        _shared["ids", text] = _shared["tokenizer"].encode(lm_text.read(text))
    with tempfile.TemporaryDirectory() as folder:
        with context.Pool(min(processes, len(lm_text.TEXTS))) as pool:
            pool.map(full_pass, [(text, length, folder) for text in lm_text.TEXTS])
        for text in lm_text.TEXTS:
            _shared["base", text] = np.load(Path(folder) / f"{text}.npy", mmap_mode="r")
            with np.load(Path(folder) / f"{text}.npz") as seen:
                every = range(len(seen.files) // 3)
                _shared["seen", text] = [tuple(seen[f"{name}{l}"][:, :LENGTH] for name in "qkv") for l in every]
        with context.Pool(processes) as pool:
            ready = pool.imap_unordered(_safe, jobs)
            for _ in jobs:
                try:
                    yield ready.next(timeout=max(deadline - time.monotonic(), 0.01))
                except multiprocessing.TimeoutError:
                    pool.terminate()
                    return


def _safe(job: Job) -> Job:
    try:
        return run(job)
    except Exception as error:
        return {**job, "error": f"{type(error).__name__}: {error}"}


def read(*paths: str | os.PathLike[str]) -> list[Job]:
    """The finished jobs in files of lines, each once."""
    found: dict[str, Job] = {}
    for path in paths:
        if Path(path).is_file():
            for line in Path(path).read_text(encoding="utf-8").splitlines():
                try:
                    job = json.loads(line)
                except ValueError:  # cut off
                    continue
                if "error" not in job:
                    found[key(job)] = job
    return list(found.values())


def gather(plan_name: str, kinds: set[str], lines: str | None = None) -> list[Job]:
    """The plan's jobs of these kinds with their results: from a file of lines, and what it lacks by the model.

    Parameters
    ----------
    plan_name : str
    kinds : set of str
        "text", "fidelity", "needles".
    lines : str, optional
        The file; new results are appended to it.

    Raises
    ------
    FileNotFoundError
        If there is something to compute, and no model.
    """
    jobs = [job for job in plan(plan_name) if job["job"] in kinds]
    found = {key(job): job for job in (read(lines) if lines else [])}
    missing = [job for job in jobs if key(job) not in found]
    if missing:
        file = lm.find_file()
        processes = os.cpu_count() or 1
        for job in track(
            _limited(missing, file, processes, _calibrated(plan_name)), f"{len(missing)} runs of the model"
        ):
            if "error" in job:
                raise RuntimeError(f"{job['config']}: {job['error']}")
            found[key(job)] = job
            if lines:
                with Path(lines).open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(job) + "\n")
    return [found[key(job)] for job in jobs]


def _calibrated(plan_name: str) -> int:
    return LENGTH if plan_name == "all" else SHORT


def _limited(jobs: list[Job], file: Path, processes: int, length: int) -> Iterator[Job]:
    """`results`, with BLAS of one thread in every process."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield from results(jobs, file, processes, math.inf, length)
        return
    with threadpool_limits(1):
        yield from results(jobs, file, processes, math.inf, length)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m paper_figures.lm_jobs", description=__doc__)
    parser.add_argument("--model", help=f"GGUF file or wheel; {lm.VARIABLE} in the environment if left out")
    parser.add_argument("--plan", default="all", help='"all", "small" or "layers"')
    parser.add_argument("--out", default="runs", type=Path)
    parser.add_argument("--done", nargs="*", default=[], type=Path)
    parser.add_argument("--processes", type=int, default=max((os.cpu_count() or 2) - 4, 2))
    parser.add_argument("--time-limit", type=float, default=3e6, metavar="SECONDS")
    given = parser.parse_args(argv)
    started = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "lm.jsonl"
    finished = {key(job) for job in read(file, *given.done)}
    jobs = [job for job in plan(given.plan) if key(job) not in finished]
    print(f"{len(jobs)} jobs, {len(finished)} done before", flush=True)
    count = 0
    with file.open("a", encoding="utf-8") as lines:
        left = given.time_limit - (time.monotonic() - started)
        for job in results(jobs, given.model, given.processes, left, _calibrated(given.plan)):
            lines.write(json.dumps(job) + "\n")
            lines.flush()
            count += 1
            if count % 20 == 0 or "error" in job:
                print(f"{count}/{len(jobs)} {time.monotonic() - started:.0f} s {job.get('error', '')}", flush=True)
    print(f"{count} of {len(jobs)} jobs in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
