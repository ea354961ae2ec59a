"""The parts of ``benchmarks/streams.py``."""
