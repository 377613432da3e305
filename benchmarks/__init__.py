"""Benchmarks: `python -m benchmarks.layer`, `python -m benchmarks.training`. README.md says what each figure is."""
