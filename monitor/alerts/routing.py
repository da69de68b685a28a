"""Which routes a flag takes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from monitor.alerts.config import AlertsConfig, Match, Route
from monitor.canary.identity import TENANT, is_canary
from monitor.records import FlagRecord

#: Stands for "no tenant" in patterns.
NO_TENANT = "-"


def _one_of(patterns: Sequence[str] | None, value: str) -> bool:
    return patterns is None or any(fnmatchcase(value, pattern) for pattern in patterns)


def matches(match: Match, flag: FlagRecord) -> bool:
    """Tell whether a flag meets every condition. Canaries page nobody: they match only where their tenant is named."""
    if is_canary(flag.tenant, flag.message_id) and TENANT not in (match.tenants or ()):
        return False
    return (
        (match.verdicts is None or flag.verdict in match.verdicts)
        and match.score_at_least <= flag.score
        and (match.score_below is None or flag.score < match.score_below)
        and _one_of(match.tenants, flag.tenant or NO_TENANT)
        and _one_of(match.categories, flag.category)
        and _one_of(match.recommendations, flag.evidence.recommendation)
    )


def routes_of(config: AlertsConfig, flag: FlagRecord) -> list[Route]:
    """Return the routes of a flag in the file's order: the first that matches, or all where the file says so."""
    found = [route for route in config.routes if matches(route.match, flag)]
    return found if config.matching == "all" else found[:1]
