"""Inputs of extreme size: every statement is judged, and memory stays in proportion to the text.

Each runs in a process of its own, whose largest resident memory the kernel knows; run as a script, this module is that
process. The package is the one that ships where the models take part, a fake scorer where only the number counts.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from monitor.factory import build_screening
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.policy import gravest
from monitor.screening import Screening
from monitor.segmentation import MAX_STATEMENT_CHARS, segment
from monitor.settings import DEFAULT_MODEL, Settings
from monitor.types import Message, MessageVerdict, Verdict
from tests.monitor.fakes import SAFE, UNSAFE, FakeScorer, make_assessment, make_package

#: The process may grow by this many bytes for each byte of text, and by what the libraries claim once.
_PER_BYTE, _ONCE = 150, 200_000_000
_CHECKOUT = Path(__file__).resolve().parents[2]
#: What is said again and again in the long text: harmless, wrong, and about nothing.
_SAYINGS = (
    "Remdesivir is given as a 200 mg loading dose on day 1.",
    "Remdesivir is given as a 900 mg loading dose on day 1.",
    "Wash the cut with clean water and cover it.",
)
_NUMBERED = "The {word}remdesivir loading dose number {i} is 400 mg."
_STATEMENTS = 100_000


def _long() -> str:
    """Return ten megabytes."""
    unit = " ".join(_SAYINGS) + "\n"
    return unit * (10_000_000 // len(unit) + 1)


def _many() -> str:
    return "\n".join(_NUMBERED.format(word="wrong " if i % 2 else "", i=i) for i in range(_STATEMENTS))


#: Text of each case, and whether the shipped models judge it.
_CASES = {
    "ten-megabytes": (_long, True),
    "no-end-of-sentence": (lambda: "remdesivir 200 mg " * (1_000_000 // 18), True),
    "many-statements": (_many, False),
    "only-whitespace": (lambda: " \n\t\u00a0\u3000" * 2_000_000, False),
}


def _screening(shipped: bool) -> Screening:
    if shipped:
        return build_screening(Settings(scorer="onnx"), ModelPackage.load(DEFAULT_MODEL), MemoryStore())
    return Screening(make_package(), assessment=make_assessment(FakeScorer()), store=MemoryStore())


def _resident() -> int:
    """Return the largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _summary(verdict: MessageVerdict, grown: int, alone: list[MessageVerdict]) -> dict[str, object]:
    text = verdict.message.text
    return {
        "bytes": len(text.encode()),
        "grown": grown,
        "statements": len(verdict.statements),
        "verdicts": Counter(s.verdict.value for s in verdict.statements),
        "verdict": verdict.verdict.value,
        "gravest": gravest(verdict.statements)[0].value,
        "in place": all(text[s.statement.start : s.statement.end] == s.statement.text for s in verdict.statements),
        "letters outside": sum(map(str.isalnum, text))
        - sum(sum(map(str.isalnum, s.statement.text)) for s in verdict.statements),
        "longest": max((len(s.statement.text) for s in verdict.statements), default=0),
        "alone": [v.verdict.value for v in alone],
    }


async def _screened(case: str) -> dict[str, object]:
    make, shipped = _CASES[case]
    screening = _screening(shipped)
    short = await screening.screen([Message(id=str(i), text=text) for i, text in enumerate(_SAYINGS)])
    message = Message(id="extreme", text=make())
    before = _resident()
    (verdict,) = await screening.screen([message])
    grown = _resident() - before
    await screening.close()
    return _summary(verdict, grown, short)


def screened(case: str) -> dict:
    """Return what a process of its own found."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.monitor.test_extremes", case],
        cwd=_CHECKOUT, capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict = json.loads(ran.stdout.splitlines()[-1])
    assert found["grown"] <= _PER_BYTE * found["bytes"] + _ONCE
    assert found["letters outside"] == 0  # every word lies in a statement, and every statement has a verdict
    assert found["in place"]
    assert found["longest"] <= MAX_STATEMENT_CHARS
    assert found["verdict"] == found["gravest"]
    return found


@pytest.mark.model
def test_ten_megabytes_are_judged_as_each_sentence_is() -> None:
    found = screened("ten-megabytes")
    units = found["statements"] // len(_SAYINGS)
    assert found["statements"] == len(_SAYINGS) * units
    assert found["bytes"] >= 10_000_000
    assert found["verdicts"] == {verdict: n * units for verdict, n in Counter(found["alone"]).items()}
    assert found["verdict"] == Verdict.UNSAFE.value


@pytest.mark.model
def test_a_megabyte_without_end_of_sentence_is_judged_in_pieces() -> None:
    found = screened("no-end-of-sentence")
    assert found["statements"] >= found["bytes"] / MAX_STATEMENT_CHARS
    assert sum(found["verdicts"].values()) == found["statements"]


def test_a_hundred_thousand_statements_of_one_message_are_judged_one_by_one() -> None:
    found = screened("many-statements")
    half = _STATEMENTS // 2
    assert found["verdicts"] == {Verdict.SAFE.value: half, Verdict.UNSAFE.value: half}


def test_only_whitespace_holds_no_statement() -> None:
    found = screened("only-whitespace")
    assert (found["statements"], found["verdict"]) == (0, Verdict.OUT_OF_SCOPE.value)


async def test_an_empty_batch_is_an_empty_answer() -> None:
    assert await _screening(shipped=False).screen([]) == []


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\u200b\ufeff", "...", "- \n* \n"])
async def test_a_message_of_nothing_among_others_changes_nothing(text: str) -> None:
    messages = [Message(id=str(i), text=t) for i, t in enumerate([SAFE, text, UNSAFE])]
    verdicts = await _screening(shipped=False).screen(messages)
    assert [v.verdict for v in verdicts] == [Verdict.SAFE, Verdict.OUT_OF_SCOPE, Verdict.UNSAFE]
    assert verdicts[1].statements == ()
    assert segment(text) == []


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_screened(sys.argv[1]))))
