"""Benchmarks: wherry beside the real peers on one machine, in one run. `python -m bench --help`; `make bench` runs them all."""
