"""What the words of a guideline's sentence say: whether it directs, how strongly, for whom, what.

Word lists and patterns of clinical English and of the ways in which guideline bodies state strength and evidence; none
is made for one guideline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from monitor.text import normalise
from trainer.guideline.quantities import quantities

# What makes a sentence a recommendation

VERBS = (
    "add|administer|admit|advise|aim|allow|anticoagulate|apply|arrange|ask|assess|attempt|avoid|begin|"
    "bridge|calculate|change|check|choose|classify|collect|combine|confirm|consider|continue|convert|"
    "correct|counsel|count|decide|defer|delay|diagnose|discharge|discontinue|discourage|discuss|do not|"
    "document|don't|double|drain|elevate|encourage|ensure|escalate|evaluate|exclude|follow|give|halve|"
    "hold|hospitalise|hospitalize|identify|immunise|immunize|increase|inform|infuse|initiate|inject|"
    "insert|intubate|investigate|invite|involve|judge|keep|limit|lower|maintain|manage|measure|monitor|"
    "move|never|notify|observe|obtain|offer|omit|optimise|optimize|order|perform|plan|position|"
    "postpone|prefer|prescribe|protect|provide|raise|reassess|recheck|record|reduce|refer|regard|"
    "remove|repeat|replace|review|rinse|rule out|screen|seek|select|send|set|split|start|step|stop|"
    "stratify|substitute|suspect|swab|switch|take|taper|target|teach|test|titrate|transfer|transfuse|"
    "treat|try|use|vaccinate|wait|warn|watch|wear|weigh|withdraw|withhold"
)
_JUDGED = (
    "recommended|suggested|advised|advisable|indicated|contraindicated|contra-indicated|preferred|required|necessary|"
    "needed|mandatory|appropriate|acceptable|reasonable|optional|warranted|justified|permitted|approved|licensed|"
    "authori[sz]ed|given|taken|begun|held|withheld|withdrawn|chosen|kept|sought|set|split|worn|reconstituted|diluted|"
    "stored|crushed|swallowed|skipped|extended|completed|dosed|tried|identified"
)
#: "Stopped", "used", "reviewed": of the verbs above; irregular ones and judgements besides.
PARTICIPLES = "|".join([*(rf"{verb.rstrip('e')}{verb[-1]}?ed" for verb in VERBS.split("|") if verb.isalpha()), _JUDGED])
MODAL = r"(?:should|must|shall|may(?!\s\d)|can|cannot|need not|needs? to|ought to|(?:has|have) to)"
_ADVERBS = r"(?:\w+ly\s|also\s|then\s|only\s|the\s)*"
_DIRECTS = re.compile(
    rf"\b{MODAL}\b"
    rf"|\b(?:is|are|be|being|not|been|was|were|remains?)\s{_ADVERBS}(?:{PARTICIPLES})\b"
    r"|\b(?:is|are)\s(?:not\s)?(?:an?\s|the\s)?(?:\w+\s){0,2}"
    r"(?:choice|option|alternative|standard|treatment|therapy|target)\b"
    r"|\b(?:is|are)\s(?:not\s)?(?:outside|off[- ]label)\b"
    r"|\b(?:is|are)\s(?:not|no)\s(?:a\s)?reasons?\s(?:to|for)\b"
    r"|\b(?:is|are|was)\s(?:now\s)?(?:no longer|outdated|obsolete|superseded)\b"
    r"|\b(?:receives?|recommend(?:s|ation)?|suggests?|contra-?indicat\w+|prefers?|requires?|needs?)\b"
    r"|\b(?:targets?|goals?|thresholds?|maximum|minimum)\b[^.;]*?\d"
    r"|\b(?:first|second)[- ]line\b|\bdo(?:es)? not (?:use|give|replace|start|need|require)\b"
    # "Patients on warfarin continue it": what patients do, in the present tense, is what they are to do.
    r"|\b(?:patients?|adults|children|people|women|men|those)\b[^.;:]*?\s"
    r"(?:continue|take|start|stop|complete|avoid|undergo|remain on)\b"
    rf"|^(?:please |always |then )?(?:{VERBS})\b|,\s(?:{VERBS})\s(?!and\b)",
    re.IGNORECASE,
)
_TREATS = re.compile(
    r"\b(?:treatments?|therap(?:y|ies)|courses?|dos(?:e|es|ing)|drugs?|medicines?|medications?|regimens?|infusions?|"
    r"injections?|tablets?|vaccines?|procedures?|adverse|side effects?)\b|^(?:it|its|they|their)\b",
    re.IGNORECASE,
)
#: "In hospitalized patients": what stands before the subject.
_LEAD_WORDS = re.compile(r"(?:in|for|among|with)\s(?:[\w-]+\s){1,4}?(?=(?:it|they)\b)", re.IGNORECASE)
_REPORTS = re.compile(
    r"\b(?:reduc(?:es?|ed|tion)|lower(?:s|ed)|shorten(?:s|ed)?|prolong(?:s|ed)?|improv(?:es?|ed)|prevent(?:s|ed)?|"
    r"increas(?:es?|ed) |benefits?|effective(?:ness)?|efficacy|superior|inferior|(?:better|worse) than|not better|"
    r"has(?: not|n't)? been (?:shown|reported|observed)|have(?: not|n't)? been (?:shown|reported|observed)|guarantees?|"
    r"eliminates?|interact(?:s|ions?)?|active against|activity|depends? on|adverse|side effects?|safe|toxic\w*)\b",
    re.IGNORECASE,
)
_REGIMEN = re.compile(
    r"^(?:mg|mcg|g|mL|IU|units|mEq|mmol|mg/\S+|mcg/\S+|g/\S+|mL/kg\S*|units/\S+|doses|tablets|puffs|per day|per week)$"
)
_ABOUT_ITSELF = re.compile(
    r"^(?:(?:this|these|the present|our|each) (?:guidelines?|guidance|documents?|digests?|sections?|chapters?|"
    r"tables?|figures?|recommendations?|page)\b"
    r"|(?:see|refer to|for (?:more|further|details)|last (?:updated|reviewed)|version|copyright)\b)",
    re.IGNORECASE,
)


def _gives_regimen(text: str) -> bool:
    found = quantities(text)
    units = {q.unit for q in found}
    lasting = bool(units & {"days", "weeks", "months", "hours", "minutes"}) and _TREATS.search(text) is not None
    compared = (
        bool(units & {"days", "weeks"}) and re.search(r"\b(?:better|worse|longer|shorter|enough)\b", text) is not None
    )
    return lasting or compared or any(_REGIMEN.match(unit) for unit in units)


def directs(text: str) -> bool:
    """Tell whether a sentence or clause says what to do, or gives a dose or duration."""
    return bool(_DIRECTS.search(text)) or _gives_regimen(text)


def is_recommendation(text: str, names: Sequence[str] = ()) -> bool:
    """Tell whether a sentence directs, gives a regimen, or reports what the treatment does.

    `names` are those of the treatment: what is reported of anything else is background.
    """
    plain = normalise(text)
    if plain.endswith("?") or len(plain.split()) < 2 or _ABOUT_ITSELF.match(plain):
        return False
    if directs(plain):
        return True
    lead = _LEAD_WORDS.match(plain)
    named = _TREATS.search(plain[lead.end() :] if lead else plain) or any(
        name.lower() in plain.lower() for name in names
    )
    return bool(named and _REPORTS.search(plain))


# Strength and grade

_OPEN, _CLOSE = r"[(\[]\s*", r"\s*[)\]]"
_RATINGS = (
    # NIH: (AIIa). GRADE as UpToDate and KDIGO write it: (1B), Grade 2C.
    re.compile(rf"{_OPEN}(?P<strength>[A-C])(?P<grade>I{{1,3}}[ab]?){_CLOSE}"),
    re.compile(rf"{_OPEN}(?:grade\s*)?(?P<strength>[12])(?P<grade>[A-D]){_CLOSE}", re.IGNORECASE),
    re.compile(r"\bgrade\s(?P<strength>[12])(?P<grade>[A-D])\b", re.IGNORECASE),
    # ESC, AHA/ACC: Class IIa, Level B; COR 1, LOE B-R.
    re.compile(
        rf"(?:{_OPEN})?\b(?P<strength>(?:class(?: of recommendation)?|COR)[ :]*(?:III|II[ab]?|I|[123][ab]?))\b"
        rf"(?:[,;/ ]+(?P<grade>(?:level(?: of evidence)?|LOE)[ :]*[A-C](?:-[A-Z]{{1,3}})?)\b)?(?:{_CLOSE})?",
        re.IGNORECASE,
    ),
    # GRADE in words: strong recommendation, moderate certainty of evidence.
    re.compile(
        rf"(?:{_OPEN})?\b(?P<strength>strong|weak|conditional|discretionary)\b(?: recommendation)?"
        r"(?: (?:for|against)(?: the)?(?: intervention)?)?[,;: ]+(?:based on )?"
        r"(?P<grade>(?:very[- ]low|low|moderate|high)[- ](?:certainty|quality))(?:(?: of)?(?: the)? evidence)?"
        rf"(?:{_CLOSE})?",
        re.IGNORECASE,
    ),
    re.compile(rf"{_OPEN}(?P<strength>strong|weak|conditional) recommendation{_CLOSE}", re.IGNORECASE),
    re.compile(
        rf"{_OPEN}(?P<grade>(?:grade|level)(?: of evidence)?[ :]*(?:[A-D]|[1-5][a-c]?))(?: evidence)?{_CLOSE}",
        re.IGNORECASE,
    ),
)


class Rating(NamedTuple):
    """What a guideline states of a recommendation, and the span in which it does."""

    strength: str | None
    grade: str | None
    start: int
    end: int


def find_rating(text: str) -> Rating | None:
    """Return strength and grade of evidence where a text states them, as it writes them ("A" and "IIa")."""
    for pattern in _RATINGS:
        for match in pattern.finditer(text):
            stated = match.groupdict()
            if stated.get("grade") is None and match.group()[0] not in "([":
                continue  # "class III antiarrhythmics" rates nothing
            return Rating(stated.get("strength"), stated.get("grade"), *match.span())
    return None


# Population and action

_PEOPLE = (
    r"(?:patients?|adults?|children|child|infants?|neonates?|newborns?|adolescents?|people|persons?|individuals?|"
    r"women|woman|men|outpatients?|inpatients?|anyone|those|mothers?|recipients?|smokers?|athletes?|residents?|workers?|"
    r"travell?ers?)"
)
STATES = re.compile(
    rf"\b(?:{_PEOPLE}|hospitali[sz]ed|critically ill|ventilat\w+|intubat\w+|oxygen|ECMO|pregnan\w+|breastfe\w+|"
    r"lactat\w+|immunocompromised|immunosuppress\w+|impairment|insufficiency|failure|dialysis|transplant\w*|elderly|p(?:a)?ediatric|"
    r"diabet\w+|comorbid\w+|under \d+|over \d+|aged)\b",
    re.IGNORECASE,
)
#: A verb of the main clause ends what says who; "who are" and "and are" go on.
_UNTIL_VERB = r"(?:(?!(?<!\bwho)(?<!\band)(?<!\bor)\s(?:is|are|was|were|should|must|may|can|receives?)\b)[^,;:()])*"
_WHO = (
    r"(?:\s(?:who|whose|with|without|aged|of|on|already|not|at|under|over|above|below|younger|older|taking|receiving|"
    rf"undergoing|requiring|needing|in|hospitali[sz]ed|treated|admitted)\b{_UNTIL_VERB})?"
)
_NO_PREPOSITION = r"(?!(?:in|for|of|from|to|with|among|on|by)\s)[\w-]+\s"
LED = re.compile(
    rf"^(?P<lead>(?:in|for|among|if|when|with|without|on|during|from|after|once|unless)\b[^,;]*(?:,\s(?!{VERBS}\b)[^,;]*)??),\s",
    re.IGNORECASE,
)
_FOR_PEOPLE = re.compile(
    rf"\b(?:in|for|from|to|of|among)\s(?P<who>(?:{_NO_PREPOSITION}){{0,3}}?{_PEOPLE}{_WHO})",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    rf"^(?P<who>(?:{_NO_PREPOSITION}){{0,3}}?{_PEOPLE}\b(?:\s(?:and|or)\s(?:[\w-]+\s)?{_PEOPLE}\b)?.*?)"
    rf"(?=:|\s(?:{MODAL}|receives?|needs?|requires?|(?:is|are)\s(?:not\s)?(?:{PARTICIPLES}))\b)",
    re.IGNORECASE,
)  # fmt: skip


def find_population(text: str, headings: Sequence[str] = ()) -> str | None:
    """Return whom a recommendation is for, in its own words, else in those of the innermost heading that says it."""
    if (lead := LED.match(text)) and STATES.search(lead["lead"]):
        return re.sub(r"^(?:in|for|among|with)\s", "", lead["lead"], flags=re.IGNORECASE)
    for pattern in (_SUBJECT, _FOR_PEOPLE):
        if match := pattern.search(text):
            return match["who"].strip(" .")
    return next((heading for heading in headings if STATES.search(heading)), None)


def find_action(text: str, population: str | None) -> str | None:
    """Return what is to be done: the text without the words for whom, where it begins with them."""
    lead = LED.match(text)
    rest = text
    if lead and population and population.lower() in lead["lead"].lower():
        rest = text[lead.end() :]
    elif population and text.lower().startswith(population.lower()):
        rest = text[len(population) :].lstrip(" :,")
    return rest.rstrip(" .;") or None


# Words

WORD = re.compile(r"[a-z]+(?:[a-z0-9]*)(?:-[a-z0-9]+)*")
STOP = frozenset([
    "a", "about", "after", "against", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "both", "but", "by", "can", "could", "do", "does", "done", "each", "either", "for", "from",
    "had", "has", "have", "he", "her", "his", "how", "if", "in", "into", "is", "it", "its", "itself", "like", "may",
    "more", "most", "much", "must", "need", "of", "on", "once", "one", "or", "other", "our", "out", "over", "own",
    "per", "shall", "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there",
    "these", "they", "this", "those", "through", "to", "too", "under", "until", "up", "upon", "us", "was", "we",
    "were", "what", "when", "where", "whether", "which", "while", "who", "whom", "whose", "will", "with", "within",
    "would", "you", "your", "example",
])  # fmt: skip


def content_words(text: str) -> set[str]:
    """Return the words of a text that carry its meaning, lower case, parts of hyphenated words apart.

    Negations ("not", "no", "without", "only") count; numbers do not, they are compared as such.
    """
    return {
        part
        for word in WORD.findall(normalise(text).lower())
        for part in word.split("-")
        if part not in STOP and len(part) > 1
    }


_BARE_NUMBER = re.compile(r"(?<![\w.])(?<![a-z]-)\d+(?:\.\d+)?", re.IGNORECASE)


def numbers(text: str) -> set[str]:
    """Return the numbers of a text as written, but for digits of names (COVID-19, CYP3A)."""
    return set(_BARE_NUMBER.findall(normalise(text)))
