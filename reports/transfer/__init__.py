"""`bench transfer`: does a distance foretell what a source gains, and better than plain baselines?

correlations: each distance, and plain baselines, with the gains. texts: what is said of them.
"""

from reports.transfer.correlations import (
    SETS,
    Analysis,
    Line,
    analyse,
    correlated,
    plain,
)
from reports.transfer.texts import FOOTER, panels_of, show, table_of, verdict

__all__ = [
    "FOOTER",
    "SETS",
    "Analysis",
    "Line",
    "analyse",
    "correlated",
    "panels_of",
    "plain",
    "show",
    "table_of",
    "verdict",
]
