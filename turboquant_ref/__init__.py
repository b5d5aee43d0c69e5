"""The executable specification of the TurboQuant family of vector quantizers.

The paper is Zandieh, Daliri, Hadian, Mirrokni, "TurboQuant: Online Vector Quantization with Near-optimal Distortion
Rate" (arXiv 2504.19874, ICLR 2026); its ancestors QJL (arXiv 2406.03482) and PolarQuant (arXiv 2502.02617) are here
too.

The map, from the paper to the code:

mathematics
    `vectors`   what a vector is: input checks, norms, unit vectors (section 1.3)
    `sphere`    the law of one coordinate of a random unit vector (Lemma 1) and its Gaussian limit
    `codebook`  Lloyd-Max: the optimal scalar quantizer of that law (Eq 4), or of any law
    `generator` the seeded generator behind all randomness, specified for every language
    `rotation`  Haar and structured rotations (Algorithm 1, line 2); the Walsh-Hadamard transform
    `angle`     the angle laws of PolarQuant, their codebooks, and its exact theory (arXiv 2502.02617, Lemmas 1 to 3)
    `alignment` the joint law of a vector and its quantized form on the sphere, beyond single coordinates
    `bounds`    Theorems 1 to 3; the rate-distortion function of the sphere; entropies
    `theory`    exact distortion, slope and variance of every estimator
algorithms, each with setup, quantize, dequantize, inner_product, trace, pack, unpack
    `mse`       TurboQuant_mse, Algorithm 1
    `qjl`       the 1-bit quantized Johnson-Lindenstrauss sketch (Definition 1)
    `prod`      TurboQuant_prod, Algorithm 2
    `polar`     PolarQuant: the recursive polar transform (arXiv 2502.02617)
    `rabitq`    RaBitQ: a grid code with its own scale for every vector, unbiased, with an error bound
    `minmax`    asymmetric integer codes per token or per channel: the KIVI baseline
    `channels`  several bit widths in one vector: outlier and regular channels, 2.5 and 3.5 bits (section 4.3)
    `codes`     what they share: whose a code is, slices of it, the Prepared form of a backend
storage
    `packing`   indices, signs and side scalars <-> bytes; ``conformance/SPEC.md`` is its normative description
    `entropy`   indices stored at their entropy, in blocks of rows (the remark at the end of section 3.1)
    `container` a file of named arrays and metadata, checked and written atomically: a saved cache or index
    `description` quantizers as plain data, and back
evidence
    `measure`   the measured counterparts of `theory`, over independent draws, with intervals
    `signature` the few numbers that tell one quantizer from another, exact and measured
    `variants`  the named variants, this house's and the wild ones: ``turboquant-ref variants``
uses
    `attention` logits and attention output straight from codes
    `cache`     a KV cache of codes that grows token by token, its memory counted, and named recipes for one
    `search`    an exhaustive vector index over codes: add, remove, search, save, load
    `scoring`   scores of queries against codes, and the best of them: what a backend's search replaces
    `data`      the bundled GloVe sample; readers of .npy, .npz and .fvecs files
    `export`    a codebook as text, JSON, CSV, C or Rust: ``turboquant-ref codebook``
    `report`    what TurboQuant does to your vectors, measured beside exact: ``turboquant-ref report``

>>> import numpy as np, turboquant_ref as tq
>>> x = tq.data.glove()[1]
>>> Q = tq.mse.setup(d=50, bits=3, rng=0)
>>> code = tq.mse.quantize(Q, x)
>>> float(tq.measure.distortion("mse", x, bits=3, draws=8).value / tq.theory.mse(50, 3)).__round__(1)
1.0
"""

from . import (
    angle,
    attention,
    cache,
    channels,
    codebook,
    data,
    entropy,
    generator,
    measure,
    minmax,
    mse,
    packing,
    polar,
    prod,
    qjl,
    rabitq,
    rotation,
    search,
    signature,
    sphere,
    theory,
    variants,
    vectors,
)

__version__ = "0.1.0"

__all__ = [
    "angle",
    "attention",
    "cache",
    "channels",
    "codebook",
    "data",
    "entropy",
    "generator",
    "measure",
    "minmax",
    "mse",
    "packing",
    "polar",
    "prod",
    "qjl",
    "rabitq",
    "rotation",
    "search",
    "signature",
    "sphere",
    "theory",
    "variants",
    "vectors",
]
