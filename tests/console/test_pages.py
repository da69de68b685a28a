"""Queue, flag, decision and trends, as a browser without JavaScript gets them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import orjson
import pytest

from monitor.console.messages import Missing
from monitor.console.store import Problem
from monitor.errors import GuardlineError, StoreUnavailable
from monitor.publisher import Event
from monitor.records import Decision, FeedbackRecord, Origin
from tests.console.site import Site, ids
from tests.console.stage import NOW, TEXT, decided, item


def flag_of(number: int) -> str:
    return item(number).flag.id


async def test_the_queue_never_shows_text() -> None:
    site = Site(reveal="always")
    await site.put_message()
    page = await (await site.visitor("anna")).get("/")
    assert ids(page) == [flag_of(0)]
    assert "400 mg" not in page.text
    assert site.reader.read_places == []


async def test_the_queue_is_sorted_and_filtered_by_its_address() -> None:
    site = Site()
    await site.put(
        item(0, score=0.81, category="efficacy"),
        item(1, score=0.99, category="dose", tenant="south"),
        item(2, score=0.6, category="dose", verdict="review"),
        item(3, score=0.9, category="dose", recommendation="rem-1.3"),
        item(4, score=0.97, category="efficacy", tenant=None),
    )
    visitor = await site.visitor("anna")

    async def listed(query: str) -> list[int]:
        by_id = {flag_of(n): n for n in range(5)}
        return [by_id[id_] for id_ in ids(await visitor.get(f"/?{query}"))]

    assert await listed("") == [1, 3, 4, 0, 2]  # unsafe first, then score by category
    assert await listed("sort=uncertainty") == [0, 3, 4, 1, 2]
    assert await listed("sort=oldest") == [0, 1, 2, 3, 4]
    assert await listed("sort=newest") == [4, 3, 2, 1, 0]
    assert await listed("category=dose") == [1, 3, 2]
    assert await listed("category=dose&verdict=unsafe") == [1, 3]
    assert await listed("tenant=south") == [1]
    assert await listed("tenant=%28none%29") == [4]
    assert await listed("recommendation=rem-1.3") == [3]
    assert await listed("model=tiny%401&sort=oldest") == [0, 1, 2, 3, 4]
    assert await listed("q=MESSAGE-3") == [3]
    assert await listed(f"q={flag_of(2)[:8]}") == [2]
    assert await listed("q=nothing") == []
    assert await listed("sort=none&view=none&page=-1&tenant=") == [1, 3, 4, 0, 2]


async def test_long_lists_come_in_pages() -> None:
    site = Site()
    await site.put(*(item(n) for n in range(120)))
    visitor = await site.visitor("anna")
    pages = [ids(await visitor.get(f"/?sort=oldest&page={n}")) for n in (1, 2, 3)]
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [id_ for page in pages for id_ in page] == [flag_of(n) for n in range(120)]
    assert ids(await visitor.get("/?sort=oldest&page=99")) == pages[2]


async def test_what_waits_for_me_is_what_i_have_not_decided() -> None:
    site = Site()
    flags = [item(n).flag for n in range(4)]
    await site.put(
        item(0),
        item(1, decisions=[decided(flags[1], "anna", Decision.ACCEPT)]),
        item(2, decisions=[decided(flags[2], "ben", Decision.ACCEPT)]),
        item(3, decisions=[decided(flags[3], name, Decision.REJECT) for name in ("ben", "cara")]),
    )
    visitor = await site.visitor("anna")
    assert set(ids(await visitor.get("/"))) == {flag_of(0), flag_of(2)}
    assert ids(await visitor.get("/?view=open")) == [flag_of(0)]
    assert set(ids(await visitor.get("/?view=second"))) == {flag_of(1), flag_of(2)}
    assert ids(await visitor.get("/?view=settled")) == [flag_of(3)]
    assert len(ids(await visitor.get("/?view=all"))) == 4


async def test_text_is_shown_when_it_is_asked_for_and_that_is_noted_first() -> None:
    site = Site()
    found = await site.put_message()
    visitor = await site.visitor("anna")
    hidden = await visitor.get(f"/flags/{found.flag.id}")
    assert "400 mg" not in hidden.text
    assert site.reader.read_places == []
    shown = await visitor.post(f"/flags/{found.flag.id}/reveal")
    assert '<mark id="statement">Give 400 mg on day 1.</mark>' in shown.text
    assert TEXT[:29] in shown.text
    assert "400 mg stated" in shown.text
    note = site.trail.actions[-1]
    assert (note.kind, note.actor, note.subject) == ("reveal", "anna", found.flag.id)
    assert "400 mg" not in (await visitor.get(f"/flags/{found.flag.id}")).text


async def test_what_cannot_be_noted_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    found = await site.put_message()
    visitor = await site.visitor("anna")

    async def away(*_: object, **__: object) -> None:
        raise GuardlineError("Kafka does not answer")

    monkeypatch.setattr(site.trail, "record", away)
    answer = await visitor.post(f"/flags/{found.flag.id}/reveal")
    assert answer.status_code == 503
    assert "400 mg" not in answer.text
    assert "audit trail" in answer.text
    assert site.reader.read_places == []


async def test_text_is_shown_at_once_where_the_policy_says_so() -> None:
    site = Site(reveal="always")
    found = await site.put_message()
    visitor = await site.visitor("anna")
    assert "Give 400 mg" in (await visitor.get(f"/flags/{found.flag.id}")).text
    assert site.trail.actions[-1].kind == "reveal"


async def test_text_is_escaped() -> None:
    site = Site()
    text = "For adults <script>alert(1)</script> give 400 mg & more."
    found = await site.put_message(text=text, span=(11, 36), tenant="<b>")
    visitor = await site.visitor("anna")
    page = await visitor.post(f"/flags/{found.flag.id}/reveal")
    assert "<script>alert" not in page.text
    assert '<td class="c-tenant">&lt;b&gt;</td>' in (await visitor.get("/")).text


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("gone", Missing.GONE),
        ("elsewhere", Missing.ELSEWHERE),
        ("unknown", Missing.UNKNOWN),
        ("unreadable", Missing.UNREADABLE),
        ("changed", Missing.CHANGED),
    ],
)
async def test_a_message_that_is_gone_is_said_to_be_and_the_flags_own_copy_shown(change: str, missing: Missing) -> None:
    site = Site()
    found = await site.put_message()
    assert found.origin is not None
    if change == "gone":
        del site.reader.records[found.origin]
    elif change == "unreadable":
        site.reader.keep(found.origin, b"{")
    elif change == "changed":
        site.reader.keep(found.origin, orjson.dumps({"id": "m", "text": "Something else altogether, and long enough."}))
    elif change == "elsewhere":
        other = Origin(topic="payroll", partition=0, offset=0)
        site.reader.keep(other, orjson.dumps({"id": "m", "text": TEXT}))
        site.store._items[found.flag.id] = type(found)(found.flag, other, found.place)
    else:
        site.store._items[found.flag.id] = type(found)(found.flag, None, found.place)
    page = await (await site.visitor("anna")).post(f"/flags/{found.flag.id}/reveal")
    assert missing.value in page.text.replace("&#39;", "'")
    assert '<mark id="statement">Give 400 mg on day 1.</mark>' in page.text
    assert "For adults" not in page.text
    assert Origin(topic="payroll", partition=0, offset=0) not in site.reader.read_places


async def test_all_flags_of_a_message_are_beside_each_other() -> None:
    site = Site()
    same = item(0).flag.message_id
    await site.put(item(0), item(1, message_id=same, id="f" * 32), item(2))
    page = await (await site.visitor("anna")).get(f"/flags/{flag_of(0)}")
    beside = page.text.split('id="beside"')[1].split("</section>")[0]
    assert "All 2 flags" in beside
    assert f"/flags/{'f' * 32}" in beside
    assert flag_of(2) not in beside


async def test_a_decision_is_published_as_it_was_made() -> None:
    site = Site()
    found = await site.put_message()
    visitor = await site.visitor("anna")
    answer = await visitor.post(f"/flags/{found.flag.id}/decision", decision="reject", note="  The dose is right. ")
    assert answer.status_code == 303
    (event,) = site.publisher.events
    assert (event.topic, event.key) == ("safety.feedback", found.flag.id.encode())
    headers = dict(event.headers)
    assert (headers["ce_type"], headers["ce_source"]) == (b"guardline.flag.feedback", b"guardline/console")
    assert event.value is not None
    record = FeedbackRecord.model_validate_json(event.value)
    assert headers["ce_id"].decode() == record.id
    assert (record.reviewer, record.decision, record.note) == ("anna", Decision.REJECT, "The dose is right.")
    assert record.origin == found.origin
    assert record.flag.statement == "Give 400 mg on day 1."  # as the flag was published
    kept = (await site.store.get([found.flag.id]))[0]
    assert kept.decisions[0].flag.statement is None
    page = await visitor.get(answer.headers["location"])
    assert 'id="decided" data-decision="reject"' in page.text
    assert 'data-status="second"' in page.text


async def test_a_flag_without_text_is_decided_on_without_text() -> None:
    site = Site()
    await site.put(item())
    await (await site.visitor("anna")).post(f"/flags/{flag_of(0)}/decision", decision="accept")
    value = site.publisher.events[0].value
    assert value is not None
    assert FeedbackRecord.model_validate_json(value).flag.statement is None


@pytest.mark.parametrize("failure", ["away", "silent", "refused"])
async def test_what_kafka_did_not_take_was_not_decided(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    site = Site(timeout=0.05)
    await site.put(item())

    async def publish(events: Sequence[Event]) -> list[Event]:
        if failure == "away":
            raise GuardlineError("denied")
        if failure == "silent":
            await asyncio.sleep(60)
        return list(events)

    monkeypatch.setattr(site.publisher, "publish", publish)
    visitor = await site.visitor("anna")
    answer = await visitor.post(f"/flags/{flag_of(0)}/decision", decision="reject", note="my words")
    assert answer.status_code == 503
    assert 'id="decision-problem"' in answer.text
    assert 'id="decided"' not in answer.text
    assert "my words" in answer.text
    assert re.search(r'id="choose-reject"[^>]* checked', answer.text)
    assert (await site.store.get([flag_of(0)]))[0].decisions == ()


async def test_a_decision_counts_even_when_the_store_fails_after_kafka_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    await site.put(item())
    visitor = await site.visitor("anna")

    async def away(_: object) -> None:
        raise StoreUnavailable("Redis does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(site.store, "put", away)
        answer = await visitor.post(f"/flags/{flag_of(0)}/decision", decision="reject")
    assert answer.status_code == 303
    assert len(site.publisher.events) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "Choose accept"),
        ({"decision": "maybe"}, "Choose accept"),
        ({"decision": "wrong_recommendation"}, "Name the recommendation"),
        ({"decision": "wrong_recommendation", "recommendation": "rem-9"}, "no recommendation of that id"),
        ({"decision": "wrong_recommendation", "recommendation": "rem-1.2"}, "accept it instead"),
        ({"decision": "accept", "note": "x" * 4001}, "4001 characters"),
    ],
)
async def test_a_form_that_is_not_filled_in_is_given_back(fields: dict[str, str], says: str) -> None:
    site = Site()
    await site.put(item())
    answer = await (await site.visitor("anna")).post(f"/flags/{flag_of(0)}/decision", **fields)
    assert answer.status_code == 422
    assert says in answer.text
    assert site.publisher.events == []


async def test_the_right_recommendation_goes_with_the_decision() -> None:
    site = Site()
    await site.put(item())
    visitor = await site.visitor("anna")
    await visitor.post(f"/flags/{flag_of(0)}/decision", decision="wrong_recommendation", recommendation="rem-1.3")
    await visitor.post(f"/flags/{flag_of(0)}/decision", decision="accept", recommendation="rem-1.3")
    published = [FeedbackRecord.model_validate_json(e.value or b"") for e in site.publisher.events]
    assert [(r.decision, r.recommendation) for r in published] == [
        (Decision.WRONG_RECOMMENDATION, "rem-1.3"),
        (Decision.ACCEPT, None),
    ]


async def test_two_reviewers_settle_and_neither_sees_the_other_before() -> None:
    site = Site()
    await site.put(item())
    path = f"/flags/{flag_of(0)}"
    anna, ben, cara = [await site.visitor(name) for name in ("anna", "ben", "cara")]
    await anna.post(f"{path}/decision", decision="reject", note="anna's reason")
    for viewer in (ben, await site.visitor("vera")):
        page = await viewer.get(path)
        assert "anna&#39;s reason" not in page.text
        assert 'id="blind"' in page.text
        assert 'data-status="second"' in page.text
    again = await anna.get(path)
    assert "anna&#39;s reason" in again.text
    assert 'id="decision"' in again.text  # nobody else has decided: it may be changed
    site.now = site.now.replace(minute=30)
    await ben.post(f"{path}/decision", decision="accept")
    assert 'data-status="disputed"' in (await ben.get(path)).text
    assert "anna&#39;s reason" in (await ben.get(path)).text
    refused = await anna.post(f"{path}/decision", decision="accept")
    assert refused.status_code == 422  # she has seen by now what ben said
    assert "anna&#39;s reason" not in (await cara.get(path)).text
    await cara.post(f"{path}/decision", decision="accept")
    for visitor in (anna, ben, cara, await site.visitor("vera")):
        page = await visitor.get(path)
        assert 'data-status="settled"' in page.text
        assert "anna&#39;s reason" in page.text
        assert 'id="decision"' not in page.text
    assert len(site.publisher.events) == 3


async def test_one_reviewer_is_never_two() -> None:
    site = Site()
    await site.put(item())
    anna = await site.visitor("anna")
    for minute in (1, 2):
        site.now = site.now.replace(minute=minute)
        await anna.post(f"/flags/{flag_of(0)}/decision", decision="reject")
    assert len(site.publisher.events) == 2
    assert 'data-status="second"' in (await anna.get(f"/flags/{flag_of(0)}")).text


async def test_after_a_decision_the_next_of_the_list_follows() -> None:
    site = Site()
    await site.put(*(item(n) for n in range(3)))
    visitor = await site.visitor("anna")
    answer = await visitor.post(f"/flags/{flag_of(0)}/decision?sort=oldest", decision="accept")
    page = await visitor.get(answer.headers["location"])
    assert f'id="go-on" href="/flags/{flag_of(1)}?sort=oldest"' in page.text
    answer = await visitor.post(f"/flags/{flag_of(2)}/decision?sort=oldest", decision="accept")
    page = await visitor.get(answer.headers["location"])  # the last of the list: back to its first
    assert f'id="go-on" href="/flags/{flag_of(1)}?sort=oldest"' in page.text
    answer = await visitor.post(f"/flags/{flag_of(1)}/decision?sort=oldest", decision="accept")
    assert 'id="go-on"' not in (await visitor.get(answer.headers["location"])).text


async def test_problems_are_shown() -> None:
    site = Site()
    visitor = await site.visitor("anna")
    assert 'id="problems-link" hidden' in (await visitor.get("/")).text
    await site.desk.report(
        [Problem(Origin(topic="safety.flags", partition=3, offset=41), "wrong_type", "score: x", NOW)]
    )
    assert 'id="problems-link" hidden' not in (await visitor.get("/")).text
    page = await visitor.get("/problems")
    assert "wrong_type" in page.text
    assert "41" in page.text


async def test_trends_of_nothing_and_of_something() -> None:
    site = Site()
    visitor = await site.visitor("anna")
    assert (await visitor.get("/trends")).status_code == 200
    flag = item(0).flag
    both = [decided(flag, "anna", Decision.REJECT), decided(flag, "ben", Decision.REJECT)]
    await site.put(item(0, decisions=both), item(1, score=0.6, verdict="review"), item(2, score=0.85))
    page = await visitor.get("/trends?threshold=0.9&by=tenant&days=7")
    assert 'data-would="1" data-threshold="0.90"' in page.text
    assert "anna, ben" in page.text
    assert "style=" not in page.text
    for nonsense in ("threshold=nan", "threshold=7", "by=x&days=1e9&model=none"):
        assert (await visitor.get(f"/trends?{nonsense}")).status_code == 200


async def test_a_store_that_is_away_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    visitor = await site.visitor("anna")

    async def away(*_: object) -> None:
        raise StoreUnavailable("Redis does not answer")

    monkeypatch.setattr(site.store, "get", away)
    answer = await visitor.get(f"/flags/{flag_of(0)}")
    assert answer.status_code == 503
    assert "Nothing is lost" in answer.text


async def test_a_fault_of_our_own_shows_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    visitor = await site.visitor("anna")
    monkeypatch.setattr(site.store, "get", lambda _: 1 / 0)
    answer = await visitor.get(f"/flags/{flag_of(0)}")
    assert answer.status_code == 500
    assert "division" not in answer.text


async def test_there_is_no_such_flag() -> None:
    visitor = await Site().visitor("anna")
    assert (await visitor.get("/flags/none")).status_code == 404
    assert (await visitor.post("/flags/none/decision", decision="accept")).status_code == 404


async def test_the_theme_is_remembered_and_leads_nowhere_else() -> None:
    visitor = await Site().visitor("anna")
    answer = await visitor.post("/theme", theme="dark", back="//evil.example")
    assert answer.headers["location"] == "/"
    assert 'data-theme="dark"' in (await visitor.get("/")).text
    await visitor.post("/theme", theme="system", back="/trends")
    assert "data-theme" not in (await visitor.get("/")).text
