"""The accounting finds what it is there to find: no broker, a ledger of five inputs and what came of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.faults.ledger import Account, Bounds, Findings, Input, Ledger, Output, Sort, read_output
from tests.monitor.fakes import make_record

CLEAN, FLAGGED, UNREADABLE = Sort.CLEAN, Sort.FLAGGED, Sort.UNREADABLE
INPUTS = [
    Input((0, 0), "a", CLEAN),
    Input((0, 1), "b", FLAGGED),
    Input((0, 2), None, UNREADABLE),
    Input((1, 0), "c", CLEAN),
    Input((1, 1), "d", FLAGGED),
]
COMMITTED = {0: 3, 1: 2}
CLEAR = Findings(5, 0, 0, 0, 0, 0, 0, 0, 0)


def audit(item: Input, verdict: str, digest: bytes = b"1") -> Output:
    return Output("verdicts", f"audit {item.position}", digest, 1.0, item.position, item.id, verdict)


def outputs_of(item: Input) -> list[Output]:
    """What comes of an input when all is well."""
    if item.sort is UNREADABLE:
        letter = Output("deadletter", f"letter {item.position}", b"3", 1.0, item.position, outcome="unreadable_json")
        return [audit(item, "invalid"), letter]
    if item.sort is FLAGGED:
        return [audit(item, "unsafe"), Output("flags", f"flag {item.id}", b"2", 1.0, message=item.id)]
    return [audit(item, "safe")]


RIGHT = [output for item in INPUTS for output in outputs_of(item)]


def judged(outputs: list[Output], committed: dict[int, int] | None = None, *, refused: bool = False) -> Findings:
    account = Account()
    for output in outputs:
        account.add(output)
    return account.judge(Ledger(INPUTS), COMMITTED if committed is None else committed, refused=refused)


def without(role: str, item: Input) -> list[Output]:
    gone = next(output for output in outputs_of(item) if output.role == role)
    return [output for output in RIGHT if output != gone]


def test_nothing_is_found_where_all_is_well() -> None:
    assert judged(RIGHT) == judged(RIGHT[::-1]) == CLEAR
    assert CLEAR.problems(0) == []


@pytest.mark.parametrize(
    ("role", "item"),
    [("verdicts", INPUTS[0]), ("verdicts", INPUTS[1]), ("verdicts", INPUTS[2]), ("deadletter", INPUTS[2])],
    ids=str,
)
def test_a_dropped_record_is_a_loss(role: str, item: Input) -> None:
    assert judged(without(role, item)) == replace(CLEAR, lost=1)


def test_a_dropped_flag_is_a_loss_and_a_missing_flag() -> None:
    assert judged(without("flags", INPUTS[1])) == replace(CLEAR, lost=1, flags_missing=1)


def test_what_was_not_committed_is_unfinished_rather_than_lost() -> None:
    found = judged(without("verdicts", INPUTS[3]), {0: 3, 1: 0})
    assert found == replace(CLEAR, unfinished=1)
    assert found.problems(0) == ["unfinished 1"]


@pytest.mark.parametrize("index", range(len(RIGHT)))
def test_a_changed_byte_under_the_same_id_is_found(index: int) -> None:
    repeat = replace(RIGHT[index], digest=b"other")
    found = judged([*RIGHT, repeat])
    assert found.different_bytes == 1
    assert found == replace(CLEAR, different_bytes=1, duplicates=int(repeat.role == "verdicts"))


def test_an_identical_repeat_is_a_duplicate_and_nothing_else() -> None:
    found = judged([*RIGHT, *RIGHT])
    assert found == replace(CLEAR, duplicates=len(INPUTS))
    assert found.problems(len(INPUTS)) == []
    assert found.problems(len(INPUTS) - 1) == [f"duplicates {len(INPUTS)} > {len(INPUTS) - 1}"]


def test_a_second_verdict_is_a_second_class() -> None:
    second = replace(audit(INPUTS[0], "out_of_scope"), event="of another model")
    assert judged([*RIGHT, second]) == replace(CLEAR, two_classes=1, duplicates=1)


def test_a_dead_letter_beside_a_verdict_is_a_second_class() -> None:
    letter = Output("deadletter", "letter", b"3", 1.0, INPUTS[0].position, outcome="processing_error")
    found = judged([*RIGHT, letter])
    assert (found.two_classes, found.wrong_class) == (1, 1)


def test_a_verdict_that_is_not_the_input_s_is_found() -> None:
    outputs = [output for output in RIGHT if output.position != INPUTS[0].position]
    assert judged([*outputs, audit(INPUTS[0], "unsafe")]) == replace(CLEAR, wrong_class=1)


def test_a_flag_for_a_clean_input_is_found() -> None:
    stray = Output("flags", "stray", b"2", 1.0, message=INPUTS[0].id)
    assert judged([*RIGHT, stray]) == replace(CLEAR, wrong_class=1)


def test_a_readable_input_among_the_dead_letters_is_found() -> None:
    outputs = [output for output in RIGHT if output.position != INPUTS[0].position]
    letter = Output("deadletter", "letter", b"3", 1.0, INPUTS[0].position, outcome="processing_error")
    assert judged([*outputs, audit(INPUTS[0], "invalid"), letter]) == replace(CLEAR, wrong_class=1)


def test_a_refused_flag_is_made_good_by_a_dead_letter_only_where_the_fault_says_so() -> None:
    letter = Output("deadletter", "letter", b"3", 1.0, INPUTS[1].position, outcome="output_too_large")
    outputs = [*without("flags", INPUTS[1]), letter]
    assert judged(outputs, refused=True) == CLEAR
    assert judged(outputs) == replace(CLEAR, wrong_class=1)


def test_a_commit_ahead_of_the_outputs_is_found_even_when_they_come_later() -> None:
    account, ledger = Account(), Ledger(INPUTS)
    account.add(RIGHT[0])
    account.check(ledger, {0: 1, 1: 0})
    assert account.judge(ledger, COMMITTED).early == 0
    account.check(ledger, {0: 2, 1: 0})
    for output in RIGHT[1:]:
        account.add(output)
    account.check(ledger, COMMITTED)
    assert account.judge(ledger, COMMITTED) == replace(CLEAR, early=1)


def test_the_bound_on_duplicates_is_what_is_in_flight_and_what_no_commit_tells_of_yet() -> None:
    bounds = Bounds(redeliveries=2, commit_intervals=1.5)
    assert bounds.duplicates(in_flight=64, commit_interval=2.0, rate=100.0) == 2 * (64 + 300)
    assert bounds.duplicates(in_flight=64, commit_interval=2.0, rate=100.0, refused_s=5.0) == 2 * (64 + 800)
    assert Bounds().duplicates(in_flight=64, commit_interval=2.0, rate=100.0) == 0


def test_the_rate_is_that_of_the_busiest_second_before_the_cause_was_gone() -> None:
    account = Account(times=[0.0, 5.0, 5.2, 5.9, 6.5, 20.0, 20.1, 20.2, 20.3, 20.4])
    assert account.peak_rate(until=10.0) == 3.0
    assert account.peak_rate(until=30.0) == 5.0


def test_two_inputs_at_one_place_are_refused() -> None:
    ledger = Ledger(INPUTS)
    with pytest.raises(ValueError, match="two inputs"):
        ledger.add(INPUTS[0])


def test_outputs_are_read_as_they_are_published() -> None:
    body = json.dumps({"partition": 3, "offset": 7, "message_id": "m", "verdict": "safe"}).encode()
    found = read_output("verdicts", make_record(body, headers=[("ce_id", b"x")]))
    assert (found.event, found.position, found.message, found.outcome) == ("x", (3, 7), "m", "safe")
    headers = {"__connect.errors.partition": b"3", "__connect.errors.offset": b"7", "guardline.reason": b"null_value"}
    letter = make_record(None, headers=list(headers.items()))
    found = read_output("deadletter", letter)
    assert (found.position, found.outcome) == ((3, 7), "null_value")
    assert read_output("deadletter", make_record(b"", headers=list(headers.items()))).digest != found.digest
