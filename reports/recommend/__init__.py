"""Which source to run next.

advice: `bench recommend`. matrix: what is known. learning, belief: what is believed. evaluate: the
advice held against plain rules.
"""
