"""From what is asked to what is run.

request: flags or YAML. expand: the cells of a request. plan: which are done, to run, failed or
skipped. pace: how long they will take. run: carries a plan out and says how it goes.
"""
