"""Bad input to the compiled algorithms: the bodies of `test_bad_input`."""

from __future__ import annotations

import pytest

numba_kernels = pytest.importorskip("numba_kernels", reason="numba is not installed", exc_type=ImportError)

from _shared import bodies  # noqa: E402

OF_THE_REFERENCE = ["test_options_that_are_refused", "test_the_reference_prepares_nothing"]
globals().update(bodies("test_bad_input", OF_THE_REFERENCE, tq=numba_kernels))
