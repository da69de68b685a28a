from __future__ import annotations

from typing import Any

import pytest

from monitor.alerts.fingerprint import fingerprint, template
from tests.alerts.flags import make_flag


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Give 400 mg on day 1.", "Give 1,200 mg on day 10!"),
        ("Dear Maria, you may take 400 mg.", "Dear John O'Brien, you may take 200 mg."),
        ("Maria, take it twice.", "John, take it twice."),
        ("As Mr. Smith weighs 80 kg, give 5 mg.", "As Dr Jones-Miller weighs 75.5 kg, give 6 mg."),
        ("For patient Anna it is 10:30.", "For patient  Émile   it is 9:15."),
        ("Case 3f2a9c81-77aa says so.", "Case 9911ab02-12cd says so."),
        ("Write to a@example.org for more.", "Write to someone.else@example.com for more."),
    ],
)
def test_numbers_names_and_addresses_do_not_matter(one: str, other: str) -> None:
    assert template(one) == template(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Give 400 mg on day 1.", "Do not give 400 mg on day 1."),
        ("Give it to adults.", "Give it to children."),
        ("Give 5 mg.", "Give 5 ml."),
        ("Give it IV.", "Give it PO."),
    ],
)
def test_other_words_are_another_template(one: str, other: str) -> None:
    assert template(one) != template(other)


@pytest.mark.parametrize(
    "change", [{"tenant": "south"}, {"recommendation": "rem-9"}, {"category": "age"}, {"verdict": "review"}]
)
def test_a_group_is_of_one_tenant_verdict_recommendation_and_category(change: dict[str, Any]) -> None:
    assert fingerprint(make_flag(1)) == fingerprint(make_flag(2, score=0.99))
    assert fingerprint(make_flag(1)) != fingerprint(make_flag(1, **change))


def test_without_text_all_of_one_recommendation_and_category_are_a_group() -> None:
    one, other = (make_flag(n, statement=None, statement_sha256=str(n) * 64) for n in (1, 2))
    assert fingerprint(one) == fingerprint(other) != fingerprint(make_flag(1))
