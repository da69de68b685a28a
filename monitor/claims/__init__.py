"""A structured reading of what a statement claims, compared with what a recommendation says: exact and explainable.

`read` turns a text into a `Claim`; `compare` holds the claim of a statement against that of a recommendation and
returns counts of agreement and conflict by kind, for a classifier to weigh, and the mismatches that are sure enough to
be shown as the reason of a flag ("400 mg stated, 200 mg recommended"). Rules that name no treatment.
"""

from monitor.claims.comparison import FEATURES, Comparison, Mismatch, compare
from monitor.claims.reading import Claim, read

__all__ = ["FEATURES", "Claim", "Comparison", "Mismatch", "compare", "read"]
