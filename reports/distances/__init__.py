"""`bench distance`: how each distance was measured, as a table and a map of sources and targets.

measures: what a store has, comparable. maps: what is shown of it.
"""

from reports.distances.maps import FOOTER, UNDER, Map, number, of, of_store, show, table_of
from reports.distances.measures import Measure, measured

__all__ = [
    "FOOTER",
    "UNDER",
    "Map",
    "Measure",
    "measured",
    "number",
    "of",
    "of_store",
    "show",
    "table_of",
]
