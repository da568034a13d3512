"""Boards: arms of one target under one protocol, ranked or told why not.

table: every board of a store. arms: cells gathered. departs: what is unusual of them. rows: arms
pooled. noise: the draws that tell them apart. board: rows ranked. gains: over scratch or random
features. curve: rows by the size of the training part. subgroups: rows by value of a column.
across, by_class: what the record adds, class by class.
"""
