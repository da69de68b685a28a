"""Vignettes: the truth of each is worked out again from its text alone, and words by themselves do not tell it."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from trainer.artifacts import read_rows, write_rows
from trainer.errors import CorpusError, PackError
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.statements import vignettes
from trainer.statements.vignettes import (
    Limit,
    Rule,
    explain,
    generate,
    generate_at_most,
    in_words,
    infer_rules,
    load_contrasts,
    load_rules,
)
from trainer.types import Difficulty, Example, Label

PACK = Pack.load(DEFAULT_PACK)
RECOMMENDATIONS = extract(PACK)
RULES = load_rules(PACK, RECOMMENDATIONS)
TWO_THOUSAND = generate(RULES, 2000, seed=5)


def rule_of(example: Example) -> str:
    return example.id.removeprefix("v-").rpartition("-")[0]


# The oracle: it reads numbers and verdicts from a text and knows the guideline; of the generator it knows nothing.

# fmt: off
WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}
# fmt: on
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}


def digits(text: str) -> str:
    """Return the text in lower case with its number words as digits."""
    text = text.lower().replace("one hundred", "100")
    tens, ones = "|".join(w for w, n in WORDS.items() if n >= 20), "|".join(w for w, n in WORDS.items() if 0 < n < 10)
    text = re.sub(rf"\b({tens})-({ones})\b", lambda m: str(WORDS[m[1]] + WORDS[m[2]]), text)
    return re.sub(rf"\b({'|'.join(WORDS)})\b", lambda m: str(WORDS[m[1]]), text)


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return float(found[1])


N = r"(\d+(?:\.\d+)?)"


def minutes(text: str) -> float:
    if found := re.search(rf"{N} (?:h|hours?)\b", text):
        return 60 * float(found[1])
    return number(rf"{N} (?:min|minutes?)\b", text)


def alt(text: str) -> float:
    if found := re.search(rf"{N} u/l \((?:upper limit of normal|uln) {N}", text):
        return float(found[1]) / float(found[2])
    return number(rf"{N} (?:times|x)", text)


#: Verdicts by what they say is so; a "not" in front of one of them turns it round.
GOOD = (
    "in time|early enough|within the window|keeps? to the time limit|acceptable|within the limits|long enough|"
    "sufficient|meets? the requirement|stays? below the level|below the stopping level|within the labelled use|"
    "covered by the label|calls? for a fixed dose|falls? into the band with fixed doses|calls? for 5 mg/kg|"
    "past the neonatal|right|follows? the schedule|allowed|"
    "within the limit|within the maximum|allows?|compatible|leaves? the dose as it is|permits? the full dose|"
    "goes with the usual|go with the usual|lets? the usual dose stand|admits? the standard dose|no difference|"
    "meets? the recommendation|needs? no correction|permitted|leaves? the course to be completed|"
    "calls? for completing|an option|recommended|supported|in order"
)
BAD = (
    "too late|outside the window|miss(?:es)? the time limit|outside the limits|breaks? the rule|too short|too long|"
    "falls? short|insufficient|a reason to consider stopping|reach(?:es)? the range|above the stopping level|"
    "outside the labelled use|falls? outside the label|outside the label|too low|"
    "calls? for (?:a dose|dosing) per kilogram|"
    "leads? to weight-based|calls? for the neonatal|falls? into the band with 2.5 mg/kg first|"
    "calls? for 2.5 mg/kg|wrong|"
    "departs? from the schedule|depart from the schedule|too often|too rare|too much|beyond the (?:limit|maximum)|"
    "exceeds? the (?:permitted|maximum)|rules? out|incompatible|forbids?|changes? the dose|calls? for a lower dose|"
    "alters? the dosing|requires? another dose|an obstacle|a difference|argues? for smaller|"
    "a mistake|needs? correction|breaks? the recommendation|ends? the course|a reason to stop|against the guideline|"
    "advised against"
)
VERDICT = re.compile(
    rf"(?P<no>\b(?:not|no reason|neither) (?:\w+ )?(?:to )?)?\b(?:(?P<good>{GOOD})|(?P<bad>{BAD}))(?=[ .;,]|$)"
)


def favourable(text: str) -> bool:
    """Tell whether the verdict of a text is in favour."""
    text = re.sub(r"(?:on|of|for) treatment is otherwise indicated", "", text)
    found = list(VERDICT.finditer(text))
    assert len(found) == 1, (text, [m[0] for m in found])
    return bool(found[0]["good"]) != bool(found[0]["no"])


def in_range(low: float, value: float, high: float = float("inf")) -> bool:
    return low <= value <= high


def due_dose(text: str, kg: float, day: int) -> float:
    """Return the dose in mg that the guideline gives."""
    if kg >= 40:
        return 200.0 if day == 1 else 100.0
    newborn = (age := re.search(r"(\d+)[- ](?:day|days)\b(?:-old)?", text)) is not None and int(age[1]) < 28
    assert kg >= (1.5 if newborn else 3.0)
    return kg * (2.5 if newborn else 5.0) / (1 if day == 1 else 2)


def dose_is_right(text: str) -> bool:
    kg = number(rf"(?<!per ){N} (?:kg|kilos?|kilograms?)\b", text)
    ordinal = re.search(rf"on the ({'|'.join(ORDINALS)}) day", text)
    on = re.search(r"(?:(?<!after )on (?:treatment )?day|dose number) (\d+)", text)
    day = ORDINALS[ordinal[1]] if ordinal else int(on[1]) if on else 0
    assert day
    said = [
        float(n) * (kg if per else 1)
        for n, per in re.findall(rf"{N} (?:mg|milligrams?)(/kg| per kg| per kilogram)?(?![\w/])", text)
    ]
    right = [abs(mg - due_dose(text, kg, day)) < 0.01 for mg in said]
    if len(said) == 2:
        assert right[0] != right[1]
        return right[0]
    denied = re.search(r"do not give|wrong dose|\? no\.|not correct|cannot|is an error|other than|is a mistake", text)
    return right[0] != bool(denied)


def course_is_right(text: str) -> bool:
    groups = {
        3: r"outpatient|not hospitalized|at home",
        5: r"in hospital|hospitalized (?:on|without)",
        10: r"ecmo|ventilation|intubated",
    }
    length = next(days for days, pattern in groups.items() if re.search(pattern, text))
    if " final dose on " in text or " last on " in text:
        found = re.findall(r"(?:on) (\d+ [a-z]+|[a-z]+ \d+)\b", text)
        days = []
        for when in found:
            for form in ("%d %B", "%B %d", "%d %b"):
                try:
                    days.append(datetime.strptime(f"{when} 2025", f"{form} %Y").replace(tzinfo=UTC))
                except ValueError:
                    continue
                else:
                    break
        assert len(days) == 2, (text, found)
        total = ((days[1] - days[0]).days % 365) + 1
    elif "been given" in text:
        total = number(rf"{N} (?:days?|doses?) of", text)
        left = re.search(r"been given and (?:(\d+)|none)", text)
        assert left
        total += float(left[1] or 0)
    else:
        said = [float(n) for n in re.findall(rf"{N} days?\b", text)]
        total = said[0]
        if len(said) == 2:
            assert (said[0] == length) != (said[1] == length)
            return said[0] == length
    denied = re.search(
        r"do not plan|is wrong|not given|\? no\.|that needs correcting|count is wrong|is not the right|"
        r"against the schedule",
        text,
    )
    return (total == length) != bool(denied)


def oxygen_allows(plan: str, text: str) -> bool:
    state = next(
        name
        for name, pattern in {
            "ventilated": r"invasive ventilation with|ecmo",
            "high flow": r"high-flow|bipap|non-invasive",
            "none": r"room air|% without oxygen",
            "minimal": r"minimal",
            "conventional": r"l/min",
        }.items()
        if re.search(pattern, text.replace("non-invasive ventilation", "non-invasive"))
    )
    return (
        state
        in {
            "without-dexamethasone": ("none", "minimal"),
            "adding-dexamethasone": ("conventional",),
            "new-start": ("none", "conventional"),
        }[plan]
    )


def oracle(rule: str, text: str) -> bool:
    """Tell whether a statement agrees with the guideline."""
    text = digits(text)
    if rule.endswith("-doses"):
        return dose_is_right(text)
    if rule == "course":
        return course_is_right(text)
    ok = {
        "symptom-window": lambda: number(rf"{N} days?\b", text) <= 7,
        "infusion-time": lambda: in_range(30, minutes(text), 120),
        "observation": lambda: minutes(text) >= 60,
        "alt-stop": lambda: alt(text) <= 10,
        "neonate-weight": lambda: number(rf"{N} (?:kg|kilo)", text) >= 1.5,
        "weight-band": lambda: number(rf"{N} (?:kg|kilo)", text) >= 40,
        "age-band": lambda: number(rf"{N} days", text) >= 28,
        "interval": lambda: number(rf"{N} (?:h|hours?)\b", text) == 24,
        "extension": lambda: number(rf"(?<!after )(?<!first ){N} days?\b", text) <= 5,
        "longest-course": lambda: number(rf"(?:for|to|of|total of) {N} days?\b", text) <= 10,
        "without-dexamethasone": lambda: oxygen_allows(rule, text),
        "adding-dexamethasone": lambda: oxygen_allows(rule, text),
        "new-start": lambda: oxygen_allows(rule, text),
        "child-weight": lambda: False,  # its verdicts speak of an adult's dose
    }.get(rule, lambda: True)()
    return ok == favourable(text)


def test_the_truth_of_two_thousand_vignettes_follows_from_their_text_alone() -> None:
    wrong = [(e.text, explain(e)) for e in TWO_THOUSAND if oracle(rule_of(e), e.text) is not (e.label is Label.SAFE)]
    assert len(TWO_THOUSAND) == 2000
    assert wrong == []


def test_the_oracle_can_disagree() -> None:
    assert oracle("symptom-window", "A first dose forty-five minutes late, 9 days after onset, is in time.") is False
    assert oracle("adult-doses", "A woman weighs 66 kg: give 400 mg of remdesivir on day 1.") is False
    assert oracle("adult-doses", "A woman weighs 66 kg: give 200 mg of remdesivir on day 1.") is True
    assert (
        oracle("course", "First remdesivir on 30 April, last on 3 May: that is the right course, not hospitalized.")
        is False
    )


def test_words_and_numbers_alone_do_not_tell_the_labels_apart_in_a_rule_left_out() -> None:
    # Two rules have the same verdicts with opposite truth, so that neither gives the words away: left out as one.
    groups = np.array([rule_of(e).replace("child-weight", "renal-level") for e in TWO_THOUSAND])
    unsafe = np.array([e.label is Label.UNSAFE for e in TWO_THOUSAND])
    words = CountVectorizer(token_pattern=r"[^\s,.;:?]+").fit_transform(e.text for e in TWO_THOUSAND)
    right = {}
    for group in sorted(set(groups)):
        held = groups == group
        model = LogisticRegression(solver="liblinear").fit(words[~held], unsafe[~held])
        right[group] = float(np.mean(model.predict(words[held]) == unsafe[held]))
    assert 0.45 <= np.mean(list(right.values())) <= 0.55, right
    assert all(0.3 <= share <= 0.7 for share in right.values()), right


def test_labels_are_balanced_in_length_negation_and_numbers() -> None:
    by_label = {label: [e.text for e in TWO_THOUSAND if e.label is label] for label in (Label.SAFE, Label.UNSAFE)}
    safe, unsafe = by_label.values()
    assert len(safe) == len(unsafe)
    length = [np.mean([len(t) for t in texts]) for texts in by_label.values()]
    assert abs(length[0] - length[1]) < 2
    negated = [np.mean([bool(re.search(r"\b(?:not|no|cannot)\b", t)) for t in texts]) for texts in by_label.values()]
    assert abs(negated[0] - negated[1]) < 0.05
    for rule in ("symptom-window", "infusion-time", "observation", "weight-band", "alt-stop", "interval"):
        values = {
            label: {
                n
                for e in TWO_THOUSAND
                if rule_of(e) == rule and e.label is label
                for n in re.findall(N, digits(e.text))
            }
            for label in by_label
        }
        shared = len(values[Label.SAFE] & values[Label.UNSAFE]) / len(values[Label.SAFE] | values[Label.UNSAFE])
        assert shared > 0.4, (rule, shared)


def test_a_pair_is_a_minimal_edit() -> None:
    families = defaultdict(list)
    for example in TWO_THOUSAND:
        families[example.family].append(example)
    changed = []
    for safe, unsafe in families.values():
        assert (safe.label, unsafe.label, safe.difficulty) == (Label.SAFE, Label.UNSAFE, None)
        assert safe.family == safe.id == unsafe.family
        before, after = Counter(safe.text.lower().split()), Counter(unsafe.text.lower().split())
        changed.append(max((before - after).total(), (after - before).total()))
        assert safe.text != unsafe.text
    assert np.median(changed) <= 2
    assert max(changed) <= 13  # a whole level of care


def test_every_rule_kind_has_many_surface_forms() -> None:
    forms = defaultdict(set)
    kinds = {r.id: r.kind for r in RULES}
    for example in TWO_THOUSAND:
        start = re.sub(r"\d+", "#", " ".join(example.text.split()[:2]))
        forms[kinds[rule_of(example)]].add(start)
    assert set(forms) == {"window", "threshold", "range", "dose", "course", "regardless", "level"}
    assert {kind: len(f) for kind, f in forms.items() if len(f) < 8} == {}


def test_a_value_next_to_the_limit_makes_a_hard_one() -> None:
    stops = [e for e in generate(RULES, 1500, 9) if rule_of(e) == "infusion-time" and e.label is Label.UNSAFE]
    near = [e for e in stops if 20 <= minutes(digits(e.text)) <= 40]
    far = [e for e in stops if minutes(digits(e.text)) >= 240]
    assert near
    assert far
    assert {e.difficulty for e in near} == {Difficulty.HARD}
    assert {e.difficulty for e in far} == {Difficulty.EASY}


@given(st.integers(1, 120), st.integers(0, 2**31))
def test_generation_is_deterministic_without_repeats_and_of_the_asked_length(n: int, seed: int) -> None:
    examples = generate(RULES, n, seed)
    assert len(examples) == n + n % 2
    assert examples == generate(RULES, n, seed)
    assert len({e.text for e in examples}) == len({e.id for e in examples}) == len(examples)


def test_statements_name_their_recommendation_and_read_as_sentences() -> None:
    known = {r.id for r in RECOMMENDATIONS}
    for example in TWO_THOUSAND:
        assert example.recommendation in known
        assert example.style == "vignette"
        assert not re.search(r"[{}]|  | [,.;:?]|,[.:;?]|\b(\w+) \1\b|\ba (?:8|11|18)\d?-", example.text), example.text
        assert example.text[0].isupper() or example.text[0].isdigit()
    assert len({e.recommendation for e in TWO_THOUSAND}) >= 24


def test_a_vignette_explains_itself_and_others_do_not(tmp_path: Path) -> None:
    example = next(e for e in TWO_THOUSAND if rule_of(e) == "adult-doses" and e.label is Label.UNSAFE)
    assert re.search(r"(?:asserted|denied) \d+ m.* on day \d, rule says \d+ m.* on day \d", explain(example))
    write_rows(tmp_path / "v.jsonl", [example])
    (back,) = read_rows(tmp_path / "v.jsonl", Example)
    assert (back.text, back.label, back.difficulty) == (example.text, example.label, example.difficulty)
    with pytest.raises(CorpusError, match="not a vignette"):
        explain(back)


def test_asking_for_more_than_the_rules_give_is_an_error(tmp_path: Path) -> None:
    small = load_rules(rules_file(tmp_path, values=[5, 6], patients="baby"))
    with pytest.raises(CorpusError, match="ask for fewer"):
        generate(small, 5_000, 1)
    with pytest.raises(CorpusError, match="no vignette rules"):
        generate([], 2, 1)
    assert generate([], 0, 1) == []


@pytest.mark.parametrize(
    ("number", "words"), [(0, "zero"), (21, "twenty-one"), (40, "forty"), (120, "one hundred and twenty")]
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


def test_only_numbers_below_a_thousand_are_spelt() -> None:
    with pytest.raises(ValueError, match="1000"):
        in_words(1000)


# Reading rules


def rules_file(folder: Path, **changes: object) -> Path:
    rule = {
        "id": "start", "kind": "window", "recommendation": "1.3-within-5-days", "category": "timing",
        "quote": "within 5 days of symptom onset", "unit": "days", "high": 5, "values": [1, 3, 5, 6, 8],
        "patients": "adult", "contexts": ["at high risk", "treated at home"],
        "nouns": ["a first tablet {x} after onset", "starting {drug} {x} after onset"],
        "cases": ["{drug} starts {x} after onset", "the first tablet is taken {x} after onset"],
        "verdicts": [
            {"allowed": "is in time", "other": "is too late"},
            {"allowed": "is not too late", "other": "is not in time"},
        ],
    } | changes  # fmt: skip
    path = folder / "other.vignettes.yaml"
    path.write_text(yaml.safe_dump({"names": ["zolamide"], "rules": [rule]}))
    return path


def test_another_guideline_needs_another_file_only(tmp_path: Path) -> None:
    rules = load_rules(rules_file(tmp_path))
    assert [(r.id, r.kind, r.recommendations) for r in rules] == [("start", "window", ("1.3-within-5-days",))]
    for example in generate(rules, 100, 1):
        assert "remdesivir" not in example.text.lower()
        late = number(rf"{N} days?", digits(example.text)) > 5
        assert (favourable(digits(example.text)) != late) is (example.label is Label.SAFE), example.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recommendation": "9-nothing"}, "unknown recommendation"),
        ({"quote": "within 9 days"}, "does not say"),
        ({"high": 6}, "6 does not stand in"),
        ({"low": 1}, "does not go with these bounds"),
        ({"values": [1, 2]}, "some within the bounds and some outside"),
        ({"kind": "guess"}, "does not match any of the expected tags"),
        ({"extra": 1}, "Extra inputs"),
        ({"otherwise": "9-nothing"}, "unknown recommendation"),
        (
            {
                "verdicts": [
                    {"allowed": "is right", "other": "is wrong"},
                    {"allowed": "is not early", "other": "is early", "side": "low"},
                ]
            },
            "no value lies beyond the side",
        ),
    ],
)
def test_a_rule_that_the_guideline_does_not_bear_out_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    own = RECOMMENDATIONS[2]
    base = {"recommendation": own.id, "quote": "within 7 days of symptom onset", "high": 7, "values": [1, 7, 8, 9]}
    load_rules(rules_file(tmp_path, **base), RECOMMENDATIONS)
    with pytest.raises(PackError, match=message):
        load_rules(rules_file(tmp_path, **base | changes), RECOMMENDATIONS)


@pytest.mark.parametrize("file", sorted(DEFAULT_PACK.parent.glob("*.vignettes.yaml")), ids=lambda f: f.name)
def test_the_shipped_files_fit_their_packs(file: Path) -> None:
    pack = Pack.load(file.with_name(file.name.replace(".vignettes", "")))
    own = extract(pack)
    rules = load_rules(pack, own)
    assert len(generate(rules, 300, 1)) == 300
    assert all(c.because in {r.id for r in own} for c in load_contrasts(pack, own))


def test_dose_bands_hold_their_patients(tmp_path: Path) -> None:
    content = yaml.safe_load(DEFAULT_PACK.with_suffix(".vignettes.yaml").read_text())
    content["rules"] = [r for r in content["rules"] if r["id"] in ("adult-doses", "renal-doses")]
    path = tmp_path / "p.vignettes.yaml"
    path.write_text(yaml.safe_dump(content))
    assert [r.id for r in load_rules(path)] == ["adult-doses", "renal-doses"]
    content["rules"][0]["bands"][0]["patients"].append({"kg": 39.9, "age": "12 years"})
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(PackError, match=r"39.9 kg, 12 years is not in this band"):
        load_rules(path)
    content["rules"] = [content["rules"][1]]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(PackError, match="same_as names no dose rule"):
        load_rules(path)


def doses_file(folder: Path, rules: list[tuple[str, list[dict]]]) -> Path:
    path = folder / "doses.vignettes.yaml"
    rows = [{"kind": "dose", "id": i, "category": "dose", "contexts": [""], "bands": bands} for i, bands in rules]
    path.write_text(yaml.safe_dump({"names": ["zolamide"], "rules": rows}))
    return path


def band(days: str, age: tuple[int, int] = (0, 40_000), **dose: float) -> dict:
    low, high = age
    patients = [{"kg": 12, "age": f"{low + 700} days"}, {"kg": 20, "age": f"{low + 800} days"}]
    own = {"low": low, "high": high}
    return {
        "recommendation": "d",
        "quote": "as said",
        "days": days,
        "weight": {},
        "age": own,
        "patients": patients,
    } | dose


@pytest.mark.parametrize("rate", [15, 3, 0.4])
def test_a_dose_per_kilogram_has_wrong_ones_whatever_it_is(tmp_path: Path, rate: float) -> None:
    path = doses_file(tmp_path, [("weight", [band("first", mg_per_kg=rate), band("later", mg_per_kg=rate)])])
    assert len(generate(load_rules(path), 200, 1)) == 200


def test_the_right_dose_is_that_of_the_rules_own_bands(tmp_path: Path) -> None:
    usual, reduced = ([band("first", mg=mg), band("later", mg=mg)] for mg in (100, 50))
    for example in generate(load_rules(doses_file(tmp_path, [("usual", usual), ("reduced", reduced)])), 100, 1):
        assert f"rule says {100 if rule_of(example) == 'usual' else 50} m" in explain(example)


def test_a_patient_without_a_dose_on_the_later_days_is_refused(tmp_path: Path) -> None:
    bands = [band("first", mg=100), band("later", age=(9_000, 40_000), mg=50)]
    with pytest.raises(PackError, match="12 kg, 700 days has no dose on the first day, or none on the later"):
        load_rules(doses_file(tmp_path, [("usual", bands)]))


def test_a_course_without_a_wrong_length_is_refused(tmp_path: Path) -> None:
    group = {"recommendation": "d", "quote": "5 days", "days": 5, "settings": ["at home"]}
    rule = {"kind": "course", "id": "course", "category": "duration", "groups": [group], "others": [5]}
    path = tmp_path / "course.vignettes.yaml"
    path.write_text(yaml.safe_dump({"names": ["zolamide"], "rules": [rule]}))
    with pytest.raises(PackError, match="give a length that is wrong"):
        load_rules(path)


@pytest.mark.parametrize("content", ["names: [", "names: [a]\nrules: {}\n", "- 1\n", "\xff\xfe"])
def test_an_unreadable_file_says_which(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.vignettes.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(PackError, match=r"x\.vignettes\.yaml"):
        load_rules(path)


def test_a_pack_without_a_file_has_the_rules_that_its_words_give_and_no_contrasts(tmp_path: Path) -> None:
    pack = Pack(tmp_path / "bare.yaml", PACK.spec)
    inferred = {r.id: r.spec for r in load_rules(pack, RECOMMENDATIONS)}
    declared = {r.id: r.spec for r in RULES}
    for name, own in (("start-window", "symptom-window"), ("infusion-time",) * 2, ("observation",) * 2):
        read, written = inferred.pop(name), declared[own]
        assert isinstance(read, Limit)
        assert isinstance(written, Limit)
        assert (read.low, read.high, read.unit) == (written.low, written.high, written.unit)
        assert (read.recommendation, read.kind) == (written.recommendation, written.kind)
    assert inferred == {}  # the course depends on the patient
    assert load_contrasts(pack, RECOMMENDATIONS) == []


def test_inferred_rules_give_true_vignettes() -> None:
    own = replace(RECOMMENDATIONS[0], id="d", text="The course is five consecutive days.")
    rules = infer_rules([own], ["zolamide"], "mumps")
    for example in generate(rules, 80, 3):
        text = digits(example.text)
        right = number(rf"{N} days?", text) == 5
        assert (right == favourable(text)) is (example.label is Label.SAFE), example.text
    assert infer_rules([own, replace(own, text="The course is 3 days.")], ["zolamide"], "mumps") == []
    assert infer_rules([], ["zolamide"], "mumps") == []


def test_the_kinds_of_rule_are_what_the_issue_asks_for() -> None:
    assert all(isinstance(r, Rule) for r in RULES)
    assert {"dose", "organ_function", "duration", "timing", "route", "monitoring", "frequency", "combination"} <= {
        r.category for r in RULES
    }


def test_as_many_as_the_rules_give_and_none_without_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_a_hundred(rules: list[Rule], n: int, seed: int) -> list[Example]:
        if n > 100:
            raise CorpusError("no more than 50 pairs")
        return generate(rules, n, seed)

    monkeypatch.setattr(vignettes, "generate", gives_a_hundred)
    assert generate_at_most(RULES, 300, 1) == generate(RULES, 75, 1)
    assert generate_at_most(RULES, 10, 1) == generate(RULES, 10, 1)
    assert generate_at_most([], 10, 1) == []
