from __future__ import annotations

import pytest

from monitor.medicines import Medicines, Topic
from monitor.package import ModelPackage
from monitor.segmentation import segment
from monitor.settings import DEFAULT_MODEL


@pytest.fixture(scope="module")
def topic() -> Topic:
    own = ModelPackage.load(DEFAULT_MODEL).manifest
    guideline = [*(r.text for r in own.recommendations), *own.scope.terms]
    return Topic(own.guideline.treatment, own.scope.names, own.scope.language, guideline)


def elsewhere(topic: Topic, message: str) -> bool:
    return topic.elsewhere([statement.normalised for statement in segment(message)])


@pytest.mark.parametrize(
    "message",
    [
        "Paxlovid is taken by mouth. In renal impairment the dose is lower. Swallow the tablets whole.",
        "For flu the usual oseltamivir course is 75 mg twice daily for 5 days.",
        "Paracetamol is fine. No more than 4 g in 24 hours. In frail patients, 500 mg a dose.",
        "Tylenol every 6 hours for the fever.",
    ],
)
def test_answers_about_other_medicines_are_not_about_the_treatment(topic: Topic, message: str) -> None:
    assert elsewhere(topic, message)


@pytest.mark.parametrize(
    "message",
    [
        "Paxlovid is the first choice. If it cannot be used, remdesivir for 3 days comes next.",
        "He takes apixaban. Vekluri is given for 3 days.",  # misspelt names are names
        "On warfarin? The infusions carry on.",
        "Nothing about the antiviral stands against taking ibuprofen.",
        "Baricitinib joins dexamethasone on high-flow oxygen.",  # the guideline speaks of both
        "200 mg on day 1, then 100 mg daily.",
        "",
    ],
)
def test_where_the_treatment_may_be_meant_the_message_is_judged(topic: Topic, message: str) -> None:
    assert not elsewhere(topic, message)


def test_medicines_are_found_by_their_endings() -> None:
    found = Medicines("remdesivir", ["Veklury"]).mentions("Veklury, not molnupiravir, in April")
    assert [(m.written, m.identity) for m in found] == [("Veklury", "remdesivir"), ("molnupiravir", "molnupiravir")]
