"""From what is asked to what is run.

request: flags or YAML become a typed request. expand: the runs it comes to, distances: the
distances; record: the columns of a patient's record, parts: what else a cell names. plan: which
are done, to run, failed or skipped. pace: how long they will take. run: carries a plan out.
progress: says how it goes.
"""
