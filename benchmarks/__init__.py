"""Benchmarks beside other implementations: `make bench` runs all; figures are in README.md."""
