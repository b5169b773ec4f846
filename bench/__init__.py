"""Benchmarks beside the real peers, in one run on one machine: `make bench`. The promises are those of docs/SPECIFICATION.md.

`engines` starts what is measured, `work` is what they do, `promises` the table of rows, `report` prints it and writes docs/benchmarks.md.
"""
