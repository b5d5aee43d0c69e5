"""Subjects that a kit must survive: each class is one, for `check tests/_hostile.py:NAME`."""

import os
import random
import signal
import sys
import time

import numpy as np
from _ports import Port


class Raises:
    def roundtrip(self, x, bits, seed):
        raise RuntimeError("no\x00such\nthing")


class Exits:
    def roundtrip(self, x, bits, seed):
        sys.exit(0)


class Vanishes:
    def roundtrip(self, x, bits, seed):
        os._exit(3)


class Killed:
    def roundtrip(self, x, bits, seed):
        print("I am about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs:
    def roundtrip(self, x, bits, seed):
        time.sleep(3600)


class HangsDeaf:
    def roundtrip(self, x, bits, seed):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass


class HangsAtThree(Port):
    """Right, but for 3 bits."""

    inner_product = rotation = codebook = stored_bytes = None

    def roundtrip(self, x, bits, seed):
        if bits == 3:
            time.sleep(3600)
        return super().roundtrip(x, bits, seed)


class WrongShape:
    def roundtrip(self, x, bits, seed):
        return x[:, :-1]


class Text:
    def roundtrip(self, x, bits, seed):
        return "vectors"


class Nothing:
    def roundtrip(self, x, bits, seed):
        return None


class Complex:
    def roundtrip(self, x, bits, seed):
        return x + 0j


class NotNumbers:
    def roundtrip(self, x, bits, seed):
        return np.full(x.shape, np.nan)


class Noisy(Port):
    """Right, but it prints, closes its output, and leaves warnings."""

    inner_product = rotation = codebook = stored_bytes = None

    def roundtrip(self, x, bits, seed):
        os.write(1, b"noise on standard output " * 10)
        os.write(2, b"noise on standard error ")
        if not sys.stdout.closed:
            print("more noise")
            sys.stdout.close()
        return super().roundtrip(x, bits, seed)


class Global(Port):
    """Right, but it reseeds both global generators."""

    inner_product = rotation = codebook = stored_bytes = None

    def roundtrip(self, x, bits, seed):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        return super().roundtrip(x, bits, seed)


class Refuses:
    def roundtrip(self, x, bits, seed):
        raise NotImplementedError("not yet")


class Empty:
    """Offers nothing."""


class OnlyEven(Port):
    """Right, with 2 and 4 bits, and multiples of 8, only."""

    inner_product = rotation = codebook = stored_bytes = None

    def roundtrip(self, x, bits, seed):
        if bits not in (2, 4):
            raise NotImplementedError("2 or 4 bits")
        if x.shape[1] % 8:
            raise ValueError("d must be a multiple of 8")
        return super().roundtrip(x, bits, seed)


class BadClaims(Port):
    claims = "no such variant"


class Orthogonal(Port):
    """Algorithm 2 with an orthogonal S and its own constant: the other default claim."""

    roundtrip = rotation = codebook = stored_bytes = None
    claims = {"inner_product": "prod-orthogonal"}  # noqa: RUF012

    def sketch(self, d, seed):
        return np.sqrt(d) * self.matrix(d, seed + 2**30)

    def constant(self, d):
        from turboquant_ref import theory

        return super().constant(d) / theory.kappa(d)


class Claimless(Orthogonal):
    claims = None
