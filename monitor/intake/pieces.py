"""One text of the pieces that an answer comes in; the rule is stated in `monitor.intake`, for consumers of offsets."""

from __future__ import annotations

from collections.abc import Iterable

_ENDS = (".", "!", "?", ":")


def join_parts(parts: Iterable[str]) -> str:
    """Return the text of one choice.

    Providers cut an answer into parts in the middle of sentences (around a citation, say), where anything put between
    them would cut a dose in two, and between sentences, where nothing would make one statement of two.
    """
    joined: list[str] = []
    last = ""
    for part in parts:
        if not part:
            continue
        if last.endswith(_ENDS) and part[0].isupper():
            joined.append("\n")
        joined.append(part)
        last = part
    return "".join(joined)


def join_choices(choices: Iterable[str]) -> str:
    """Return the text of an answer: its choices as paragraphs of their own."""
    return "\n\n".join(choice for choice in choices if choice)
