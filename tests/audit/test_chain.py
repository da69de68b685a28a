"""Links of the chain: what `guardline audit verify` can find, and what it can only find with a hash kept elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.audit.chain import Draft, Head, NotCanonical, link, read_entry
from monitor.audit.entries import segment
from monitor.audit.file_log import FileLog
from monitor.audit.verification import Result, verify
from tests.audit.logs import START, chain, drafts, write

ENTRIES = 9
NEWLINE = b"\n"


@cache
def lines() -> tuple[bytes, ...]:
    return tuple(chain(drafts(ENTRIES)))


def hash_of(line: bytes) -> str:
    return str(json.loads(line)["hash"])


def check(folder: Path, **options: str) -> Result:
    return asyncio.run(verify(FileLog(folder, patience=0), advance=lambda _: None, **options))


def test_an_entry_can_be_checked_with_nothing_but_sha256_and_the_documented_form() -> None:
    head = lines()[3]
    entry = json.loads(lines()[4])
    digest = entry.pop("hash")
    assert entry["previous"] == hash_of(head)
    # Python's own JSON differs from RFC 8785 in numbers alone, and here only where one is whole or tiny.
    content = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert hashlib.sha256(content).hexdigest() == digest


def test_numbers_are_written_as_rfc_8785_says() -> None:
    line, _ = link(Draft("flag", "x", {"tiny": 1e-6, "tinier": 1e-7, "whole": 1.0, "large": 1e21}), Head(), START)
    assert b'{"large":1e+21,"tinier":1e-7,"tiny":0.000001,"whole":1}' in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1])
def test_what_has_no_canonical_form_is_refused(value: float) -> None:
    with pytest.raises(NotCanonical):
        link(Draft("flag", "x", {"value": value}), Head(), START)


def test_a_log_as_it_was_appended_is_intact(tmp_path: Path) -> None:
    write(tmp_path, lines())
    result = check(tmp_path, head=hash_of(lines()[4]))
    assert (result.entries, result.problem) == (ENTRIES, None)
    assert result.head == Head(ENTRIES - 1, hash_of(lines()[-1]))


@settings(deadline=None)
@given(data=st.data())
def test_any_single_byte_that_was_changed_is_found(data: st.DataObject) -> None:
    content = b"".join(line + b"\n" for line in lines())
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "audit-000000000000.jsonl")
        file.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
        problem = check(Path(folder)).problem
    assert problem is not None
    assert problem.place == f"audit-000000000000.jsonl:{content[:place].count(NEWLINE) + 1}"


@settings(deadline=None)
@given(data=st.data())
def test_any_line_that_was_removed_inserted_moved_or_repeated_is_found(data: st.DataObject) -> None:
    own = list(lines())
    what = data.draw(st.sampled_from(["remove", "repeat", "swap"]))
    first, second = sorted(data.draw(st.lists(st.integers(0, ENTRIES - 1), min_size=2, max_size=2, unique=True)))
    if what == "remove":
        del own[first]  # never the last one: that takes a hash kept elsewhere
    elif what == "repeat":
        own.insert(second, own[first])
    else:
        own[first], own[second] = own[second], own[first]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), own)
        problem = check(Path(folder)).problem
    assert problem is not None
    line = int(problem.place.rpartition(":")[2]) - 1
    # Up to the line that is named all is as it was appended.
    assert own[:line] == list(lines())[:line]
    assert own[line] != lines()[line] if line < ENTRIES else what == "repeat"


def forged() -> bytes:
    """An entry whose own hash is right, in the place of another."""
    entry = json.loads(lines()[5])
    return link(Draft("flag", "forged", {}), Head(entry["seq"] - 1, entry["previous"]), START)[0]


@pytest.mark.parametrize(
    ("change", "line", "why"),
    [
        (lambda own: [*own[:5], own[5].replace(b"n\xc3\xb6rth", b"south"), *own[6:]], 6, "changed"),
        (lambda own: [*own[:5], forged(), *own[6:]], 7, "does not follow from the one before it"),
        (lambda own: own[:5] + own[6:], 6, "entry 6 stands where entry 5 should: entry 5 missing"),
        (lambda own: own[:5] + own[7:], 6, "entries 5 to 6 missing"),
        (lambda own: [*own[:5], own[4], *own[5:]], 6, "entry 4 stands where entry 5 should: it is repeated"),
        (lambda own: own[1:], 1, "those before it are missing"),
        (lambda own: [*own, b""], ENTRIES + 1, "no JSON"),
        (lambda own: [*own, b"[]"], ENTRIES + 1, "other fields"),
        (lambda own: [*own, b'{"a":' * 900 + b"1" + b"}" * 900], ENTRIES + 1, "other fields"),
    ],
)
def test_the_first_bad_line_is_named_with_the_reason(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int, why: str
) -> None:
    write(tmp_path, change(list(lines())))
    result = check(tmp_path)
    assert result.problem is not None
    assert result.problem.place == f"audit-000000000000.jsonl:{line}"
    assert why in result.problem.why
    assert result.entries == line - 1


def test_nesting_that_would_exhaust_the_stack_is_a_changed_line() -> None:
    from monitor.audit.chain import ChainBroken

    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    line = lines()[1].replace(b'"n":0', b'"n":' + deep)
    with pytest.raises(ChainBroken, match="changed"):
        read_entry(line)


def test_a_tail_that_was_cut_off_is_found_by_a_hash_kept_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, lines()[:-2])
    assert check(tmp_path).problem is None  # nothing in it tells
    problem = check(tmp_path, head=hash_of(lines()[-1])).problem
    assert problem is not None
    assert "cut off the end" in problem.why


def test_a_log_without_entries_or_with_half_of_one_is_not_intact(tmp_path: Path) -> None:
    file = write(tmp_path, [])
    assert "empty" in str(check(tmp_path).problem)
    file.write_bytes(lines()[0] + b"\n" + lines()[1])
    assert "unfinished" in str(check(tmp_path).problem)


def test_segments_that_were_moved_elsewhere_are_followed_from_their_last_hash(tmp_path: Path) -> None:
    own = chain([*drafts(3), segment({}), *drafts(4)[1:]])
    write(tmp_path, own[:3])
    moved = write(tmp_path, own[3:], "audit-000000000003.jsonl")
    assert check(tmp_path).problem is None
    later = tmp_path / "later"
    later.mkdir()
    moved.rename(later / moved.name)
    assert "give the hash of the last of them with --after" in str(check(later).problem)
    assert check(later, after=hash_of(own[2])).problem is None
    assert "does not follow" in str(check(later, after=hash_of(own[1])).problem)
