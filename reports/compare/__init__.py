"""`bench compare A B`: two names of a kind (sources, fusions, modes, …), paired by patient.

partners: which arms belong together. pairs: their numbers. verdict: what is said of them.
table: as text for stdout.
"""

from reports.compare.pairs import compare
from reports.compare.table import show
from reports.compare.verdict import Pair, Verdict, sentence

__all__ = ["Pair", "Verdict", "compare", "sentence", "show"]
