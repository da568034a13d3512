"""Boards: arms of one target under one protocol, ranked or told why not.

table: every board of a store. arms: cells gathered. board: rows, pooled and ranked. gains: over
scratch or random features. curve: rows by the size of the training part. across, by_class: what
the record adds, class by class.
"""
