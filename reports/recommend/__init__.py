"""Which source to run next.

advice: `bench recommend`. matrix: what is known. prior: what other targets say. belief: what the
runs on this one change of it. evaluate: the advice held against plain rules.
"""
