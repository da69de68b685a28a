"""How canaries are told from messages of people, wherever they come by."""

from __future__ import annotations

#: Both are needed: a tenant of that name, should there be one, is not taken for canaries.
TENANT = "guardline-canary"
PREFIX = "guardline-canary-"


def is_canary(tenant: str | None, message_id: str | None) -> bool:
    """Tell whether a message, or an event about it, is of a canary."""
    return tenant == TENANT and message_id is not None and message_id.startswith(PREFIX)
