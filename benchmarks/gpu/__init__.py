"""What the GPU kernels reach, beside the limits of the machine and the kernels of others: one run, one table.

    python -m benchmarks.gpu --sections ceilings logits attention quantize --out results.json
"""
