import pytest

from monitor.scope import ScopeGate, compile_terms, foreign_language

TERMS = ["remdesivir", "veklury", "antiviral*", "GS-5734", "c. difficile", "covid 19"]
GATE = ScopeGate(TERMS, "en")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give remdesivir.", True),
        ("REMDESIVIR", True),
        ("(Veklury)", True),
        ("two antivirals", True),
        ("antiviral", True),
        ("pre-antiviral", True),
        ("take GS-5734 now", True),
        ("covid  19", True),
        ("C. difficile", True),
        ("", False),
        ("Wash your hands.", False),
        ("remdesivirs", False),
        ("xremdesivir", False),
        ("proantiviral", False),
        ("GS5734", False),
        ("Cx difficile", False),
        ("covid19", False),
    ],
)
def test_concerns(text: str, expected: bool) -> None:
    assert GATE.concerns(text) is expected


def test_the_longest_term_wins() -> None:
    found = compile_terms(["covid", "covid 19"]).search("covid 19")
    assert found is not None
    assert found.group() == "covid 19"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Remdesivir is given by vein to adults in hospital who need oxygen.", None),
        ("RDV 200 mg IV", None),
        ("Hola", None),
        ("Remdesivir wird Erwachsenen im Krankenhaus als Infusion in die Vene gegeben.", "de"),
        ("El remdesivir se administra por v\u00eda intravenosa a los adultos hospitalizados.", "es"),
        (
            "\u745e\u5fb7\u897f\u97e6\u5e94\u5728\u533b\u9662\u4e2d\u9759\u8109\u7ed9\u836f\uff0c\u7b2c\u4e00\u5929\u4e24\u767e\u6beb\u514b\uff0c\u4e4b\u540e\u6bcf\u5929\u4e00\u767e\u6beb\u514b\u3002",
            "zh",
        ),
    ],
)
def test_foreign_language(text: str, expected: str | None) -> None:
    assert foreign_language(text, "en") == expected
    assert GATE.foreign(text) is (expected is not None)


def test_the_expected_language_is_never_foreign() -> None:
    german = "Remdesivir wird Erwachsenen im Krankenhaus als Infusion in die Vene gegeben."
    assert foreign_language(german, "de") is None
    assert foreign_language(german, "fr") == "de"


@pytest.mark.parametrize("text", ["Take care.", "Hello!", "My view:", "Ask your doctor."])
def test_a_few_words_without_term_and_number_claim_nothing(text: str) -> None:
    assert ScopeGate(["remdesivir", "dose*"], "en").is_fragment(text)


@pytest.mark.parametrize(
    "text", ["Double the dose.", "Never with REMDESIVIR.", "Stop on day 3.", "It must not be given."]
)
def test_a_term_a_number_or_a_fifth_word_may_claim_something(text: str) -> None:
    assert not ScopeGate(["remdesivir", "dose*"], "en").is_fragment(text)
