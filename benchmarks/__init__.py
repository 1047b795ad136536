"""Benchmarks: each one is `python -m benchmarks.NAME --json FILE`, prints a table and says which targets hold."""
