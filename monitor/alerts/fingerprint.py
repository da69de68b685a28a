"""Which flags are one storm: those of the same tenant, verdict, recommendation, category and message template.

The template is the statement without what differs from patient to patient: numbers, times, addresses, identifiers and
names. Names are known by their capitals, or by a greeting or title before them; a name that begins a sentence without
either looks like any other word and keeps two templates apart, which costs an alert and hides nothing. Where the policy
withholds the statement there is no template: all flags of that recommendation and category are one group.
"""

from __future__ import annotations

import hashlib
import re

from monitor.records import FlagRecord, event_id

#: Latin only: other scripts are other languages, which the monitor abstains from. "IV" and "COVID" are no names.
_UPPER, _LOWER = "[A-ZÀ-ÖØ-Þ]", "[a-zß-öø-ÿ]"
_NAME = rf"(?:{_UPPER}{_LOWER}+|{_UPPER}{_LOWER}*(?=['’-]{_UPPER}))(?:['’-]{_UPPER}{_LOWER}+)*\b"
#: In this order: what holds digits or capitals of its own goes before numbers and names.
_VARIABLE = (
    (re.compile(r"\S+@\S+\.\w+|https?://\S+"), "@"),
    (re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[0-9A-Fa-f-]{8,}\b"), "#"),
    (re.compile(rf"\b(?i:dear|hi|hello|mr|mrs|ms|mx|dr|prof)\b\.?\s+{_NAME}(?:\s+{_NAME})*"), "@"),
    (re.compile(rf"^\W*{_NAME}(?=,)"), "@"),
    (re.compile(rf"(?<=\w\s){_NAME}(?:\s+{_NAME})*"), "@"),
    (re.compile(r"\d+(?:[.,:/]\d+)*"), "#"),
)
_REST = re.compile(r"[^\w#@%]+")


def template(statement: str) -> str:
    """Return the statement with `#` for numbers and `@` for names, in lower case, without punctuation."""
    statement = " ".join(statement.split())
    for pattern, mark in _VARIABLE:
        statement = pattern.sub(mark, statement)
    return _REST.sub(" ", statement).strip().lower()


def fingerprint(flag: FlagRecord) -> str:
    """Return the group of a flag, 32 hex digits. Says nothing of the statement: only its digest goes in."""
    text = "" if flag.statement is None else template(flag.statement)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    evidence = flag.evidence
    return event_id(flag.tenant or "", flag.verdict, evidence.guideline, evidence.recommendation, flag.category, digest)
