"""Entries of the audit log, linked by their hashes: pure, no I/O.

An entry is one line of canonical JSON (RFC 8785: keys sorted, no spaces, one form of every number and string):

    seq         0 for the first entry, one more for each
    at          when it was appended, RFC 3339 in UTC
    kind        genesis, segment, flag, review, decision, unreadable, gap, repair, or the kind of an action
    subject     the id of what it is about
    actor       who decided or acted; null where the monitor did
    details     by kind, see `monitor.audit.entries`; no text of messages
    previous    the hash of the entry before; 64 zeros in the first
    hash        SHA-256, in hex, of the canonical JSON of all fields above

`previous` is hashed with the rest, so an entry's hash stands for everything before it: who keeps one hash elsewhere can
tell later that no entry up to it was changed, removed, inserted or moved. Without such a hash kept elsewhere two things
cannot be told: entries cut off the end, and a log rewritten as a whole by someone who may write to it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import rfc8785

from monitor.errors import GuardlineError

#: What the first entry of a log follows.
NOTHING = "0" * 64
GENESIS, SEGMENT = "genesis", "segment"
_FIELDS = frozenset({"seq", "at", "kind", "subject", "actor", "details", "previous", "hash"})


class ChainBroken(GuardlineError):
    """An entry is not what was appended, or does not follow the one before it; the message says why."""


class NotCanonical(ValueError):
    """A value has no canonical JSON: a number beyond 2**53, NaN or infinity."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that has no place in the chain yet; see the module for the fields."""

    kind: str
    subject: str
    details: Mapping[str, Any]
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain: `seq` is -1 before the first."""

    seq: int = -1
    hash: str = NOTHING


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of an object (RFC 8785).

    Raises:
        NotCanonical: it has none.
    """
    try:
        return rfc8785.dumps(dict(value))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise NotCanonical(str(error)) from error


def link(draft: Draft, head: Head, at: datetime) -> tuple[bytes, Head]:
    """Return the line of the entry that follows `head`, without a line feed, and the head that it makes.

    Raises:
        NotCanonical: its details have no canonical JSON.
    """
    entry = {
        "seq": head.seq + 1,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": draft.kind,
        "subject": draft.subject,
        "actor": draft.actor,
        "details": dict(draft.details),
        "previous": head.hash,
    }
    digest = hashlib.sha256(canonical(entry)).hexdigest()
    return canonical(entry | {"hash": digest}), Head(head.seq + 1, digest)


def read_entry(line: bytes) -> dict[str, Any]:
    """Return the entry of a line, whose own hash is right.

    Raises:
        ChainBroken: the line is not such an entry.
    """
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ChainBroken("it is no JSON") from None
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise ChainBroken(f"it has other fields than {', '.join(sorted(_FIELDS))}")
    content = {name: value for name, value in entry.items() if name != "hash"}
    try:
        same, digest = canonical(entry) == line, hashlib.sha256(canonical(content)).hexdigest()
    except NotCanonical:
        same = False
    if not same:
        raise ChainBroken("it is not in canonical form: it was changed")
    if not isinstance(entry["hash"], str) or not hmac.compare_digest(entry["hash"], digest):
        raise ChainBroken("its hash is not that of its content: it was changed")
    if type(entry["seq"]) is not int or not isinstance(entry["details"], dict):
        raise ChainBroken("seq is no whole number, or details are no object: this log was not written by Guardline")
    return entry


class Follower:
    """Follows a chain entry by entry from its beginning."""

    def __init__(self, *, after: str | None = None, begin_with_segment: bool = False) -> None:
        """Expect the first entry of a log, or one that follows the hash `after`.

        With `begin_with_segment` the log may begin with any segment: those before it were moved elsewhere.
        """
        self._after = after
        self._begin_with_segment = begin_with_segment
        self.head = Head()

    def follow(self, line: bytes) -> dict[str, Any]:
        """Return the entry of the next line.

        Raises:
            ChainBroken: it is not the entry that follows; `head` stays at the one before.
        """
        entry = read_entry(line)
        if self.head.seq < 0:
            self._begin(entry)
        else:
            self._continue(entry)
        self.head = Head(entry["seq"], entry["hash"])
        return entry

    def _begin(self, entry: Mapping[str, Any]) -> None:
        if self._after is not None:
            if entry["previous"] != self._after:
                raise ChainBroken(f"the log begins with entry {entry['seq']}, which does not follow {self._after}")
        elif not (self._begin_with_segment and entry["kind"] == SEGMENT) and (
            (entry["seq"], entry["previous"], entry["kind"]) != (0, NOTHING, GENESIS)
        ):
            raise ChainBroken(
                f"the log begins with entry {entry['seq']}: those before it are missing. If they were moved elsewhere, "
                "give the hash of the last of them with --after"
            )

    def _continue(self, entry: Mapping[str, Any]) -> None:
        expected, found = self.head.seq + 1, entry["seq"]
        if found > expected:
            gap = f"entry {expected}" if found == expected + 1 else f"entries {expected} to {found - 1}"
            raise ChainBroken(f"entry {found} stands where entry {expected} should: {gap} missing or moved")
        if found < expected:
            raise ChainBroken(f"entry {found} stands where entry {expected} should: it is repeated, inserted or moved")
        if entry["previous"] != self.head.hash:
            raise ChainBroken(f"entry {found} does not follow from the one before it: one of the two was replaced")
