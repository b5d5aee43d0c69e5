"""Subjects in a process of their own: a Python one, which stays, and a command in any language, run for each call."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from .subject import Answer, CallFailed, Subject, invoke, load, offered_by, plain

__all__ = ["Command", "Worker", "serve"]

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
"""Matrices are small here, and threads that wait for each other only cost; the environment may say otherwise."""

_LENGTH = struct.Struct("<Q")


def _send(stream: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message; EOFError if there is none."""
    head = stream.read(_LENGTH.size)
    data = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not data:
        raise EOFError
    return pickle.loads(data)


def serve(spec: str) -> None:
    """The worker: calls come on its standard input, answers go to its standard output; the subject sees neither."""
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what it prints goes where its errors go
    try:
        found = load(spec)
        claims = getattr(found, "claims", None)
        claims = dict(claims) if isinstance(claims, Mapping) else claims
        _send(outbox, ("ready", offered_by(found), claims))
    except BaseException as error:
        _send(outbox, ("failed", f"{type(error).__name__}: {error}", None))
        return
    while True:
        try:
            function, arguments = _receive(inbox)
        except EOFError:
            return
        try:
            answer = invoke(getattr(found, function), arguments)
            _send(outbox, ("answer", answer.value, answer.notes, answer.seconds))
        except CallFailed as error:
            _send(outbox, ("failed", error.kind, str(error), error.exception))


LOADING = 60.0
"""Seconds that loading a subject may take, if calls may not take longer: frameworks are slow to import."""


class Worker(Subject):
    """A Python subject in a process of its own, which is started again after it hung or died.

    Parameters
    ----------
    spec : str
        MODULE_OR_FILE[:NAME].
    limit : float
        Seconds a call may take; loading it may take `LOADING`.

    Raises
    ------
    CallFailed
        If it cannot be loaded.
    """

    def __init__(self, spec: str, limit: float = 60.0) -> None:
        self.name, self.spec, self.limit = spec, spec, limit
        self.process: subprocess.Popen[bytes] | None = None
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the subject)
        self._start()

    def _start(self) -> None:
        own = str(Path(__file__).parents[2])  # where turboquant_ref is
        path = os.pathsep.join([own, *filter(None, sys.path)])
        code = "import sys; from turboquant_ref.conformance import worker; worker.serve(sys.argv[1])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, self.spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            env={**_ONE_THREAD, **os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self.replies: queue.Queue[Any] = queue.Queue()
        self.listener = threading.Thread(target=self._listen, args=(self.process, self.replies), daemon=True)
        self.listener.start()
        try:
            status, *content = self._reply("loading", max(self.limit, LOADING))
        except CallFailed as error:
            self.close()
            raise CallFailed(error.kind, f"cannot be loaded: {error}") from None
        if status == "failed":
            self.close()
            raise CallFailed("raised", f"cannot be loaded: {content[0]}")
        self.offered, self.claims = content

    @staticmethod
    def _listen(process: subprocess.Popen[bytes], replies: queue.Queue[Any]) -> None:
        assert process.stdout is not None
        try:
            while True:
                replies.put(_receive(process.stdout))
        except Exception:  # the pipe was closed, or what came was no message
            replies.put(None)
        finally:
            process.stdout.close()

    def _reply(self, what: str, limit: float) -> Any:
        try:
            reply = self.replies.get(timeout=limit)
        except queue.Empty:
            self._stop()
            raise CallFailed("time limit", f"no answer within {limit:g} s; its process was ended ({what})") from None
        if reply is None:
            code = self._stop()
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            said = self._last_words()
            raise CallFailed("died", f"its process ended {how} ({what})" + (f"; it said: {said}" if said else ""))
        return reply

    def _last_words(self) -> str:
        self.words.seek(0, os.SEEK_END)
        self.words.seek(max(self.words.tell() - 400, 0))
        return " ".join(self.words.read().decode(errors="replace").split())[-200:]

    def _stop(self) -> int:
        """End the process and what it started; its exit status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.5)
        _kill(process)
        self.listener.join(timeout=5)
        return process.wait() if code is None else code

    def call(self, function: str, *arguments: Any) -> Answer:
        """Call one of `FUNCTIONS` in the worker; it is started again if it had to be ended."""
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # then it has died, which the reply tells
            _send(self.process.stdin, (function, arguments))
        status, *content = self._reply(function, self.limit)
        if status == "failed":
            raise CallFailed(*content)
        return Answer(*content)

    def close(self) -> None:
        """End its process."""
        self._stop()
        self.words.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and whatever it started, by force."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


class Command(Subject):
    """A subject in any language: a command that is called as ``… roundtrip IN.npy OUT.npy BITS SEED`` (``CHECK.md``).

    Parameters
    ----------
    command : str
        Split as a shell would; no shell runs it.
    limit : float
        Seconds a call may take.
    """

    offered = frozenset({"roundtrip", "inner_product", "search", "attend"})

    def __init__(self, command: str, limit: float = 60.0) -> None:
        self.name, self.command, self.limit = command, shlex.split(command), limit
        if not self.command:
            raise CallFailed("raised", "the command is empty")

    def call(self, function: str, *arguments: Any) -> Answer:
        """Write the arrays, run the command, read what it wrote."""
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder, f"in{i}.npy")) for i in range(len(arrays))]
            for file, array in zip(files, arrays, strict=True):
                with open(file, "wb") as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(array, dtype="<f8"), version=(1, 0))
            out = Path(folder, "out.npy")
            numbers = [str(a) for a in arguments if not isinstance(a, np.ndarray)]
            start = time.perf_counter()
            status, words = self._run([*self.command, function, *files, str(out), *numbers])
            seconds = time.perf_counter() - start
            if status == 64:
                raise CallFailed("not offered", "exit status 64: not offered")
            if status != 0:
                raise CallFailed("raised", f"exit status {status}" + (f": {words}" if words else ""))
            try:
                return Answer(plain(np.load(out, allow_pickle=False)), (), seconds)
            except Exception as error:
                raise CallFailed("answer", f"no .npy array in OUT.npy: {error}") from None

    def _run(self, line: list[str]) -> tuple[int, str]:
        with tempfile.TemporaryFile() as words:
            try:
                process = subprocess.Popen(
                    line, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
                )
            except OSError as error:
                raise CallFailed("died", f"cannot be run: {error}") from None
            try:
                status = process.wait(timeout=self.limit)
            except subprocess.TimeoutExpired:
                _kill(process)
                process.wait()
                raise CallFailed("time limit", f"no answer within {self.limit:g} s; it was ended") from None
            words.seek(0)
            return status, " ".join(words.read().decode(errors="replace").split())[-200:]
