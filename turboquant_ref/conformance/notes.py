"""What the golden vectors are there to catch: the flags, with the mistake behind each and what it does to a user."""

from __future__ import annotations

__all__ = ["HEADER", "NOTES"]

_TABLE = {
    "Typical": ("BASIC", "An ordinary input.", "Wrong results everywhere."),
    # layout
    "BitOrder": (
        "LAYOUT",
        "Bits are written most significant first, within a byte or within a number.",
        "Bytes that no other implementation reads; decoded vectors are noise.",
    ),
    "ByteBoundary": (
        "LAYOUT",
        "Numbers are kept inside bytes (3 bits stored as 4) or split wrongly where they straddle two bytes.",
        "A third more memory than claimed, or unreadable bytes.",
    ),
    "Padding": ("LAYOUT", "Bits after the last number are not zero, or not checked.", "Corrupt rows go unnoticed."),
    "ScalarRange": (
        "EDGE_CASE",
        "A side scalar outside the normal range of its stored dtype becomes 0 or infinity: float16 norms over 65504.",
        "Whole vectors decode to infinity, or vanish.",
    ),
    "ScalarRounding": (
        "ROUNDING",
        "A side scalar is cut, or rounded twice, not to nearest even once.",
        "A biased scale.",
    ),
    "Malformed": ("MISSING_STEP", "Impossible input is not refused.", "Garbage is decoded without a word."),
    # codebook
    "GaussianLimit": (
        "WRONG_CONSTANT",
        "The N(0, 1) codebook divided by sqrt(d) stands in for that of the dimension.",
        "1.5 to 1.9 % of the 4-bit indices differ at d = 128; at d = 8 the distortion is 24 % too high.",
    ),
    "OwnDimension": (
        "WRONG_CONSTANT",
        "One dimension's table serves every d, or Beta(d/2, d/2), the law of dimension d + 1, stands in.",
        "Distortion is too high at every other d.",
    ),
    "Uniform": (
        "BASIC",
        "d = 3, where a coordinate is uniform: centroids (2k + 1)/n - 1 and D = 4^-b, exactly.",
        "A codebook wrong here is wrong by derivation, not by rounding.",
    ),
    "ManyLevels": (
        "CONVERGENCE",
        "Lloyd's iteration stopped early, or was cut at three standard deviations.",
        "4-bit distortion up to 16 % too high, half of all indices different.",
    ),
    "Tie": (
        "EDGE_CASE",
        "A coordinate on a boundary takes the lower index, or the nearest centroid by a rounded distance.",
        "Codes differ between languages for structured inputs, where ties are common.",
    ),
    "BoundaryCast": (
        "ROUNDING",
        "float32 coordinates are compared with float64 boundaries instead of boundaries cast to float32.",
        "Ties fall to either side at random.",
    ),
    "Outermost": ("EDGE_CASE", "Coordinates beyond the outermost centroids.", "An index out of range."),
    # numbers
    "NegativeZero": (
        "EDGE_CASE",
        "-0 is taken for a negative number: sign(-0) = +1 and -0 is on the boundary 0.",
        "Codes differ between languages.",
    ),
    "SignOfZero": ("EDGE_CASE", "sign(0) is 0 or -1, not +1.", "A sketch with zeros in it decodes too short."),
    "ZeroVector": (
        "EDGE_CASE",
        "0/0, or the zero vector is coded like any other: norm and scale must be 0, and it decodes to exactly 0.",
        "NaN, or a decoded norm of 0.24.",
    ),
    "Denormal": (
        "EDGE_CASE",
        "The norm of a denormal vector: its squares vanish.",
        "The zero vector, or an error of 10^58.",
    ),
    "TinyNorm": (
        "EDGE_CASE",
        "Squares underflow although the numbers are normal.",
        "The zero vector, or an error of 10^42.",
    ),
    "HugeNorm": ("EDGE_CASE", "Squares overflow although the norm does not.", "Infinity or NaN."),
    "NonUnitNorm": (
        "MISSING_STEP",
        "Unit vectors are taken for granted: the norm is not divided out, or not multiplied back.",
        "A relative error near 1.",
    ),
    "NotFinite": ("MISSING_STEP", "NaN and infinities must be refused.", "They become finite garbage."),
    "NormOverflow": (
        "MISSING_STEP",
        "A norm beyond the largest number of the compute dtype must be refused.",
        "Infinite scales.",
    ),
    "MixedMagnitude": (
        "EDGE_CASE",
        "Coordinates of very different size in one vector.",
        "Overflow, or small ones lost.",
    ),
    # inputs that a bad rotation shows on
    "OneHot": (
        "WEAK_ROTATION",
        "A single Hadamard round, signs after the transform only, or no rotation.",
        "Distortion 2.15 times the optimum at 2 bits, above the bound of Theorem 1.",
    ),
    "TwoHot": ("WEAK_ROTATION", "As OneHot, for two equal coordinates.", "Distortion above the bound of Theorem 1."),
    "Constant": (
        "WEAK_ROTATION",
        "A Hadamard transform without random signs before it sends the constant vector to e_1.",
        "23 times the optimal distortion at 3 bits.",
    ),
    "OddDimension": (
        "EDGE_CASE",
        "An odd d: half-planes, chunks of one coordinate, a last partial byte.",
        "A crash, or a coordinate left out.",
    ),
    "NotPowerOfTwo": (
        "EDGE_CASE",
        "A d that is no power of two: padded, or a sliced Hadamard matrix, which is not orthogonal.",
        "More bits than claimed, or a biased decoder.",
    ),
    "MinimalDimension": (
        "EDGE_CASE",
        "d = 2, where the density of a coordinate is infinite at the ends.",
        "A crash, or a bad table.",
    ),
    "Transposed": (
        "WRONG_STEP",
        "Pi and its transpose are confused, or its inverse applies the signs twice.",
        "Error near 2, worse than decoding 0.",
    ),
    # the generator
    "Words": (
        "WRONG_STEP",
        "64-bit arithmetic: signed shifts, 53-bit numbers, the first output skipped.",
        "Another rotation: no code can be shared.",
    ),
    "Streams": (
        "WRONG_STEP",
        "Stream t starts at the (t+1)-th output of SplitMix64(seed), it is not seed + t.",
        "Pi and S are not independent.",
    ),
    "SignBits": (
        "WRONG_STEP",
        "Sign i is bit i mod 64 of word i div 64, least significant first; 1 is +1.",
        "Another rotation.",
    ),
    "Rejection": (
        "WRONG_STEP",
        "A word whose point is outside the circle is skipped, not clipped.",
        "Angles that are not uniform.",
    ),
    "QRSigns": (
        "MISSING_STEP",
        "Q is not multiplied by sign(diag R).",
        "Not Haar: P(Q_11 < 0) = 1, axis-aligned inputs get one-signed coordinates.",
    ),
    "ButterflyOrder": (
        "WRONG_STEP",
        "Another order of the butterflies: sequency order, or last stage first.",
        "Not the same to the bit.",
    ),
    # the algorithms
    "ScaleRule": (
        "WRONG_CONSTANT",
        "Which of the four scales is stored.",
        "A slope of 1 - D, sqrt(1 - D) or 1 where another is claimed.",
    ),
    "DoubleScaling": (
        "WRONG_CONSTANT",
        "sqrt(pi/2)/m is applied to an S that is already divided by sqrt(m), or orthonormal.",
        "Slope 1 - D (1 - 1/sqrt(d)): the correction is 11 times too small at d = 128.",
    ),
    "OrthogonalConstant": (
        "WRONG_CONSTANT",
        "sqrt(pi/2), the constant of a Gaussian S, for an orthogonal one.",
        "A bias of 1/(4d): 0.2 % at d = 128, 3 % at d = 8.",
    ),
    "SketchSize": (
        "WRONG_CONSTANT",
        "1/d where the number of signs m is meant, or blocks of S of the wrong stream.",
        "Estimates off by m/d.",
    ),
    "ResidualBasis": (
        "WRONG_STEP",
        "The residual is taken in the rotated basis, or before the look-up.",
        "Correct on average, but no other decoder reads it.",
    ),
    "RelativeResidual": (
        "WRONG_STEP",
        "The residual norm is stored relative to ||x||, not absolutely.",
        "Counted twice, or not at all, once norms are not 1.",
    ),
    "ExpectedResidual": (
        "WRONG_CONSTANT",
        "sqrt(D_mse(d, b-1)) for ||r||, of b - 1 bits and of this d.",
        "A biased second stage.",
    ),
    "TotalBits": (
        "WRONG_STEP",
        "b counts the sign bit: the first stage has b - 1.",
        "One bit more than claimed, or b = 1 running two bits.",
    ),
    # PolarQuant
    "PolarPairs": (
        "WRONG_STEP",
        "Coordinate j is paired with j + d/2, as rotary embeddings do, not with its neighbour.",
        "Blocks hold other coordinates: no other decoder reads it.",
    ),
    "LevelOrder": (
        "LAYOUT",
        "The indices of a block are stored together, or the last level first; each level is a stream of its own.",
        "Angles of one level are looked up in the table of another.",
    ),
    "AngleWrap": (
        "EDGE_CASE",
        "atan2's negative half is not turned into [0, 2 pi), or an angle that rounds up to 2 pi has no cell.",
        "Half of the first level in the wrong cells, or an index out of range.",
    ),
    "ZeroBlock": (
        "EDGE_CASE",
        "The angle of a block that is zero is 0, whatever the signs of its zeros: atan2(0, -0) is pi.",
        "Codes differ between languages.",
    ),
    "Radii": (
        "WRONG_STEP",
        "The radii are those of x, not of the unit vector, and are stored as float16 unless otherwise named.",
        "Norms are lost.",
    ),
    "PolarGain": (
        "WRONG_CONSTANT",
        "The unbiased scale divides by s, the product over levels of E cos(psi - theta); no code holds it.",
        "Inner products 1.6 % too small.",
    ),
    # RaBitQ
    "GridOffset": (
        "WRONG_STEP",
        "The grid is half-integers, index - (2^B - 1)/2: not integers, not a sign beside an upright magnitude.",
        "Negative coordinates decode in reversed order.",
    ),
    "ExactSearch": (
        "WRONG_STEP",
        "t is not searched over all breakpoints k/|z_i| up to k = 2^(B-1) - 1, or ||g||, <g, z> is what is optimised.",
        "A smaller cosine: a larger error at the same bits.",
    ),
    "ParallelGrid": (
        "EDGE_CASE",
        "Grid points of one direction have equal cosines: the one of the smallest t is taken, another is right too.",
        "None, if the scale is that of the point that was taken.",
    ),
    "FastRescale": (
        "WRONG_CONSTANT",
        "The constant t of the fast quantizer, another for each d and B; the search goes on for each vector.",
        "Other codes; above 4 bits a much larger error.",
    ),
    "Tangent": (
        "WRONG_CONSTANT",
        "The second scalar is tan = sqrt(1 - cos^2)/cos, at least 2^-14, and only there if a bound is kept.",
        "An error bound that does not hold.",
    ),
    # attention
    "LogitScale": (
        "WRONG_CONSTANT",
        "The scale is a parameter, 1/sqrt(d) by default, applied once and before the soft cap.",
        "Weights too flat or too sharp.",
    ),
    "SoftCap": (
        "WRONG_STEP",
        "c tanh(logit / c) comes after the scale and before any mask.",
        "Hidden keys become visible at -c.",
    ),
    "CausalOffset": (
        "WRONG_STEP",
        "The queries are the last positions of the sequence, not the first.",
        "A decoding step sees one key.",
    ),
    "Window": (
        "WRONG_STEP",
        "A window of w counts the query's own position: distances 0 to w - 1, and as many ahead if not causal.",
        "One key too many or too few.",
    ),
    "Mask": ("WRONG_STEP", "A boolean mask hides where it is 0, an additive one is added.", "The wrong keys."),
    "HeadOrder": (
        "WRONG_STEP",
        "Query head h reads key head h div (heads / kvHeads), not h mod kvHeads.",
        "Heads attend to another head's cache.",
    ),
    "NoVisibleKey": ("EDGE_CASE", "A query that sees no key has weights 0 and output 0.", "NaN."),
    "SoftmaxOverflow": ("EDGE_CASE", "The largest logit is not subtracted before exp.", "Infinity or NaN."),
    "TwoRotations": (
        "WRONG_STEP",
        "Keys and values have rotations, codebooks and bits of their own.",
        "Noise.",
    ),
}

NOTES = {
    flag: {"bugType": bug, "description": description, "effect": effect}
    for flag, (bug, description, effect) in _TABLE.items()
}
"""{flag: {"bugType", "description", "effect"}}."""

HEADER = {
    "packing": "Indices, signs and side scalars to bytes: SPEC.md, section 6.",
    "codebook": "The Lloyd-Max codebook, and the index of a given coordinate: SPEC.md, sections 3 and 4.",
    "rotation": "The generator, the Walsh-Hadamard transform, structured and Haar rotations: SPEC.md, section 2.",
    "mse": "Algorithm 1 with Pi given, every stage: SPEC.md, section 5.",
    "qjl": "The one-bit sketch with S given, every stage: SPEC.md, section 5.",
    "prod": "Algorithm 2 with Pi and S given, every stage: SPEC.md, section 5.",
    "polar": "PolarQuant with Pi and codebooks given, every stage: SPEC.md, section 5.",
    "rabitq": "RaBitQ with Pi given, every stage: SPEC.md, section 5.",
    "attention": "Attention from codes of Algorithm 1, every stage: SPEC.md, section 5.",
}
"""The header of each file."""
