"""`python -m benchmark.cli`, which is how a command starts another."""

from benchmark.cli import process

process()
