"""Timings on the CPU: ours, the peers and the machine's limits, in one process: ``python -m benchmarks.cpu``."""
