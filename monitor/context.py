"""What a statement means where it stands: the text that the models should read for each statement of a message.

Sentences of an answer lean on what stands before them: "It is given for 5 days.", "No.", a list item under "Children
(3 to 40 kg):", a row under a table's head. Such a statement is given the least that it lacks, taken from its heading,
its lead-in, its head row, the question it answers, the case it speaks of or the drug it calls "it"; a statement that
stands alone stays as it is. Two rules keep what is right for one statement from changing another: context is taken
only from what claims nothing itself (headings, questions, histories, names), with one exception, a claim and its
rejection, which have one meaning together; and whatever is not sure is left alone, above all who "it" is in a message
about two medicines. Who "it" is follows the subject of the sentence before (centering: Grosz, Joshi and Weinstein,
"Centering: a framework for modeling the local coherence of discourse", 1995).

One pass over the message; every look back is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from monitor.assertion import (
    ANSWER,
    FINITE_VERB,
    Stance,
    describes_case,
    is_bare_heading,
    is_correction,
    is_rejection,
    rejections,
    stances,
)
from monitor.claims.lexicon import DRUG_ENDINGS
from monitor.medicines import Medicines, Mention, compiled_terms
from monitor.types import Statement

#: The longest text with context, in characters: the model reads 256 tokens, the recommendation among them.
MAX_CHARS = 350
#: The longest heading, lead-in or question that is taken as context.
_MAX_CONTEXT = 180
#: The longest claim with its rejection, which are nothing apart.
_MAX_PAIR = 600
#: So many lead-ins hold at once, the innermost ones.
_MOST_LEADS = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What the models should read for a statement, and whether its author asserts it."""

    text: str
    stance: Stance


# ------------------------------------------------------------------------------------------------------------- layout

_BREAK = re.compile(
    r"[\n\r\v\f\u0085\u2028\u2029]|<\s?/?\s?(?:p|div|li|ul|ol|h[1-6]|tr|table|br)\b[^<>\n]{0,100}>", re.IGNORECASE
)
_ITEM = re.compile(
    r"(?:(?:[-*+\u2022\u2023\u25e6\u25aa\u25cf\u25cb\u25a0\u2043\u2713\u2714\u2717\u2718\u2013\u2014]|"
    r"\(?(?:\d{1,3}(?:\.\d{1,2}){0,3}|[A-Za-z]|[ivx]{2,4})[.)])[ \t\u00a0]+(?:\[[ xX]\][ \t]+)?|"
    r"<li\b[^<>]{0,100}>\s*)$",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"(?:(#{1,6})[ \t]*|<h([1-6])\b[^<>]{0,100}>\s*)(?:[\dA-Za-z]{1,3}[.)](?:\d{1,2}[.)]?)*[ \t]+)?$", re.IGNORECASE
)
_TABLE_RULE = re.compile(r"\|[ \t]*:?-+:?[ \t]*\||-\|-|-[ \t]*\|[ \t]*:?-")
_UNDERLINE = re.compile(r"[^\S\n]*\n[ \t]*(={3,}|-{3,})[ \t]*\r?(?:\n|$)")
_BOLD = re.compile(r"(\*\*|__)(?=\S)(?:(?!\1).){1,200}\1:?", re.DOTALL)
#: Levels of headings that Markdown does not mark: a line in bold, a bare title.
_BOLD_LEVEL, _TITLE_LEVEL = 7, 8
#: What a look back at the beginning of a line sees of it, in characters.
_LINE_START = 120


@dataclass(slots=True)
class _Place:
    """Where a statement stands."""

    begins_line: bool
    ends_line: bool
    blank_before: bool = False
    item: bool = False
    indent: int = 0
    level: int = 0  # of a heading, 0 for none
    announcing: bool = False  # laid out like a heading: in bold, above a deeper list, a short line without a stop
    row: bool = False
    head: bool = False  # the head row of a table


def _place(statement: Statement, before: str, after: str) -> _Place:
    """Return where a statement stands, from what lies before and after it: the message without its statements."""
    breaks = len(_BREAK.findall(before))
    place = _Place(breaks > 0 or not statement.start - len(before), _BREAK.search(after) is not None)
    place.row = (
        "|" in before[-_LINE_START:] or "|" in statement.text or after[:_LINE_START].lstrip(" \t").startswith("|")
    )
    place.head = place.row and _TABLE_RULE.search(after[: 10 * _LINE_START]) is not None
    if not place.begins_line:
        return place
    place.blank_before = breaks > 1
    start = before[-_LINE_START:].rstrip("*_")
    line = _BREAK.split(start)[-1].expandtabs(4)
    place.indent = len(line) - len(line.lstrip())
    heading = _HEADING.search(start)
    place.item = heading is None and _ITEM.search(start) is not None
    if heading:
        place.level = len(heading.group(1)) if heading.group(1) else int(heading.group(2))
    elif place.ends_line and (underline := _UNDERLINE.match(after[:_LINE_START])):
        place.level = 1 if "=" in underline.group(1) else 2
    elif place.ends_line and not place.row:
        bold = _BOLD.fullmatch(statement.text) is not None
        place.level = _BOLD_LEVEL if bold and not place.item else 0
        place.announcing = bold or (not place.item and statement.text[-1:] not in ".!?;,")
    return place


def _places(message: str, statements: Sequence[Statement]) -> list[_Place]:
    """Return the place of each statement."""
    gaps, end = [], 0
    for statement in statements:
        gaps.append(message[end : statement.start])
        end = max(end, statement.end)
    gaps.append(message[end:] + "\n")
    places = [_place(s, gaps[i], gaps[i + 1]) for i, s in enumerate(statements)]
    for place, below in pairwise(places):
        place.announcing |= place.item and place.ends_line and below.item and below.indent > place.indent
    if places:
        places[-1].announcing = False  # nothing follows that it could announce
    return places


# ---------------------------------------------------------------------------------------------- what a text speaks of

_FACETS = {
    "population": r"adults?|child(?:ren)?|p[a]?ediatrics?|infants?|neonat\w*|newborns?|bab(?:y|ies)|adolescents?|"
    "teenagers?|"
    r"toddlers?|elderly|older people|pregnan\w*|breast-?feeding|lactat\w*|immunocompromised|immunosuppress\w*|"
    r"transplant\w*|"
    r"\d+ ?kg(?!/)|years? (?:of age|old)|days of age|weigh\w*",
    "setting": r"out-?patients?|in-?patients?|(?:non-?)?hospitali[sz]ed|hospital|ambulatory|at home|admitted|ward",
    "oxygen": r"oxygen|o2|high[- ]flow|low[- ]flow|hfnc|niv|ventilat\w*|intubat\w*|ecmo|room air|cannula|mask",
    "organ": r"renal|kidneys?|e?gfr|dialysis|ha?emodialysis|creatinine|hepatic|liver|alt|cirrhosis|child-pugh",
    "time": r"before|during|after|days? \d+|day one|first day|loading|maintenance|subsequent days|following days",
    "sense": r"contra-?indicat\w*|avoid\w*|not|never|no|withhold|withheld|stop\w*|discontinu\w*|who should|whom|"
    r"interact\w*|side effects|adverse|monitor\w*|check\w*|alternatives?|instead|duration|myths?|misconceptions?|"
    r"mistakes|"
    r"errors|wrong|false|outdated|incorrect",
}
_FACET = {name: re.compile(rf"(?<![\w-])(?:{words})(?!\w)", re.IGNORECASE) for name, words in _FACETS.items()}
#: Of whom a statement speaks: what names one of them anew no longer speaks of those before.
_WHOM = frozenset({"population", "setting", "oxygen", "organ"})
#: Headings of lists whose items the author rejects.
_ERRORS = re.compile(
    r"\b(?:myths|misconceptions|misinformation|(?:common|frequent|typical) (?:mistakes|errors|misunderstandings)|"
    r"(?:false|wrong|incorrect|outdated) (?:claims|statements|advice|information|beliefs|ideas))\b",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"\d|\b(?:once|twice|double|half|halve|reduced|full) (?:daily|the|a|dose|doses)\b", re.IGNORECASE
)
#: A name within a sentence, which might be a medicine's trade name.
_PROPER = re.compile(
    r"(?<=[a-z,;] )(?!January|February|March|April|June|July|August|September|October|November|December|"
    r"Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)[A-Z][a-z]{4,}\b"
)
_LONGEST_FRAGMENT = 10  # words


def _facets(text: str) -> frozenset[str]:
    return frozenset(name for name, pattern in _FACET.items() if pattern.search(text))


# ----------------------------------------------------------------------------------------------------- what is lacking

_LEAD = r"(?P<lead>(?:(?:also|then|however|in addition|additionally|moreover|overall|normally|usually|yes|no),?\s+)?)"
_EXPLETIVE = re.compile(
    r"^it(?:'s| is| was| may be| can be| might be| would be| seems| remains| is also| is not| isn't)\s+(?:\w+ly\s+|"
    r"very\s+|not\s+)?"
    r"(?:\w+\s){0,2}?(?:to\s+(?!be\b)|that\b|whether\b|who\b|because\b|why\b|unclear|true|wrong|right|false|possible|"
    r"\w+ing\b)",
    re.IGNORECASE,
)
_IT = re.compile(
    rf"^{_LEAD}(?P<it>it(?='s\b|\s)|its(?=\s)|(?:this|the|that) (?:drug|medicine|medication|antiviral|agent)\b)",
    re.IGNORECASE,
)
_OBJECT_IT = re.compile(
    r"^(?P<lead>(?:please |always |do not |don't |never )?(?:give|start|stop|infuse|dilute|use|take|continue|avoid|"
    r"withhold|"
    r"reconstitute|administer|repeat|dose) )(?P<it>it)\b(?!\s+is)",
    re.IGNORECASE,
)
#: Said of a medicine and hardly of anything else, so that "it" may be the object of the sentence before.
_OF_MEDICINES = re.compile(
    r"^(?:\w+,?\s){0,3}?\w+(?:'s|\s(?:is|was|isn't|must|should|can|may|will|has to|"
    r"needs to))\s(?:\w+\s){0,3}?(?:given|administered|"
    r"infused|injected|taken|started|stopped|diluted|reconstituted|contraindicated|approved|licen[cs]ed|used|avoided|"
    r"indicated|"
    r"withheld|prescribed)\b",
    re.IGNORECASE,
)
_VERB_FOLLOWS = (
    r"(?=\s(?:is|was|has|should|must|can|cannot|may|might|will|does|isn't|doesn't|can't|shouldn't|lasts|runs|takes)\b)"
)
_NAMED_SUBJECT = re.compile(
    r"(?:however, |in contrast, |also, )?(?!There|This|That|These|Those|Here|What|Which|When|While|Where|Some|Many|"
    r"Most|Each|Every|Both|"
    r"None|Nobody|Someone|Anyone|Everyone|Nothing|They|With|From|"
    r"Then)(?P<name>[A-Z][a-z]{3,}(?:-\w+)?)(?:\s\([^()]{1,40}\))?" + _VERB_FOLLOWS
)
_COURSE_SUBJECT = re.compile(
    r"(?:the|a|each|this|every)\s(?:[\w-]+\s){0,3}?(?:dose|infusion|course|treatment|regimen|duration|combination|"
    r"drip|powder|solution)"
    r"(?:\sof\s[\w-]+)?" + _VERB_FOLLOWS,
    re.IGNORECASE,
)
_NOT_THE_SUBJECT = re.compile(
    r"(?:infusions|doses|courses|patients|treatments|levels|vials|trials|studies|users|recipients|concentrations)\b",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"(?:\s*\([^()]{1,40}\))?(?:,[^,.;]{1,60},)?\s+(?:\w+ly\s+|also\s+|only\s+|not\s+)?(?P<verb>is|was|has|had|should|"
    r"must|can|cannot|may|"
    r"might|will|would|does|did|isn't|doesn't|can't|shouldn't|\w{3,}s)\b",
    re.IGNORECASE,
)
#: Nouns that "it" may stand for as well as for the medicine.
_A_COURSE = re.compile(
    r"\b(?:dos(?:e|es|ing)|course|infusion|regimen|combination|trial|study|load|vial|bag)\b", re.IGNORECASE
)
_CONTINUES = re.compile(
    r"^(?:and |but |so )?(?:then|from|on (?:day|the)|after (?:that|this)|thereafter|afterwards|followed by|"
    r"subsequently|next|later|"
    r"days? \d|up to|for (?:\d|up|at most|the|a total)|give|continue|it|this|treatment|therapy|dosing|an? (?:single|"
    r"loading|maintenance|longer)|"
    r"the (?:\w+ )?(?:dose|doses|course|treatment|infusion|regimen|duration|amount|total|drug|rate|load)|a total|"
    r"(?:loading|maintenance|daily) dose|(?:\d|once|twice|no|one|two|three|four|five|six|seven|ten)\b)",
    re.IGNORECASE,
)
#: "Paxlovid: twice daily" speaks of Paxlovid, "Duration: 5 days" of what was spoken of before.
_NAMED_LABEL = re.compile(r"[A-Z][a-z]{4,}(?:\s\([^()]{1,40}\))?:")
_COMMON_LABEL = re.compile(
    r"(?:duration|route|dos\w+|schedule|total|monitor\w*|infus\w+|prepar\w+|timing|course|frequency|maintenance|loading|caution|"
    r"notes?|important|administration|observation|treatment|therapy|regimen|dilut\w+|start\w*|extension|length|indication|adults?):",
    re.IGNORECASE,
)
_FRAME = re.compile(r"^(?:for|in|on|among|with|under|below|above|from)\b[^,.;:?!]{3,90}(?=,\s)", re.IGNORECASE)
_LABEL = re.compile(r"^[^.:;?!]{3,90}(?=:\s)")
_SUBJECT = re.compile(
    r"^(?:(?:the|most|all|high-risk|hospitalized|hospitalised|preterm|term)\s+){0,2}(?:adults|children|infants|"
    r"neonates|newborns|babies|"
    r"adolescents|teenagers|outpatients|inpatients|patients|people|women|those|anyone|individuals)\b[^.;:?!]{0,80}?"
    r"(?=\s+(?:receives?|gets?|are given|is given|needs?|should|must|may|can|starts?|take|takes|have|has)\b)",
    re.IGNORECASE,
)
_ANAPHORIC = re.compile(
    r"^(?:yes|no|not|it|its|it's|that|that's|this|these|those|they|they're|there|then|he|he's|she|she's|both|neither|"
    r"either|if so|"
    r"in that case|otherwise|the same|so|such|his|her|their|because|here|for (?:him|her|them|that|this|those)|"
    r"as (?:he|she|they|it))\b",
    re.IGNORECASE,
)
_REFERS = re.compile(r"\b(?:it|he|she|him|her|his|they|them|that's|there|the remaining|the rest)\b", re.IGNORECASE)
#: A heading over several medicines says of none of them what stands below.
_COMPARES = re.compile(r"\b(?:vs|versus|or|compared)\b", re.IGNORECASE)
_OPEN_END = re.compile(
    r"\b(?:if|when|unless|while|to|in|for|who|whom|with|without|that|of|by|on|at|from|than|is|are|be|should|must|may|"
    r"can|whose|where)$",
    re.IGNORECASE,
)
_ATTRIBUTION = re.compile(
    r",?\s*(?:(?:the|current|nih|idsa|who|our|these|this)\s+)*(?:guidelines?|guidance|label|panel|recommendations?|"
    r"advice|experts)\s+"
    r"(?:advises?|recommends?|suggests?|says?|states?|is|are)(?:\s+(?:the following|as follows|to|that))?$|"
    r",?\s*(?:the )?following (?:applies|apply|is advised|is recommended)$",
    re.IGNORECASE,
)


def _starts_small(text: str) -> str:
    """Return the text with a small first letter, unless its first word is a name or an abbreviation."""
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if first[1:].islower() and not first.lower().endswith(DRUG_ENDINGS) else text


@dataclass(frozen=True, slots=True)
class _Context:
    """A heading, a lead-in or a frame that says of what the statements under it speak."""

    text: str
    facets: frozenset[str]
    medicines: frozenset[str]
    rank: int  # level of a heading, indent of a lead-in
    item: bool = False

    @property
    def open(self) -> bool:
        """Whether it is half a sentence: "Do not give it to"."""
        return _OPEN_END.search(self.text) is not None

    def before(self, text: str) -> str:
        """Return a text with this before it."""
        if self.open:
            return f"{self.text} {_starts_small(text)}"
        return f"{self.text} {text}" if self.text.endswith("?") else f"{self.text}: {text}"


@dataclass(slots=True)
class _State:
    """What has been said so far and still holds."""

    headings: list[_Context] = field(default_factory=list)
    leads: list[_Context] = field(default_factory=list)
    frame: _Context | None = None
    fronted: bool = False  # whether the frame goes before a comma
    subject: Mention | None = None  # what "it" is
    object: Mention | None = None  # what "it" is where only a medicine can be meant
    topic: Mention | None = None  # the only medicine lately spoken of
    listing: bool = False  # whether the section has begun a list; a paragraph after it may speak of all again


class _Resolver:
    """Resolves the statements of one message, in order."""

    def __init__(self, texts: Sequence[str], terms: Sequence[str], name: str, synonyms: Iterable[str]) -> None:
        self._medicines = Medicines(name, synonyms)
        self._single = len({m.identity for text in texts for m in self._medicines.mentions(text)}) == 1
        self._treatment = name.lower()
        self._terms = compiled_terms(tuple(terms)) if terms else None
        self._state = _State()

    # ---- what is taken note of

    def _context(self, text: str, rank: int, *, item: bool = False) -> _Context:
        bare = text if text.endswith("?") else _ATTRIBUTION.sub("", text.rstrip(" :.*_")).rstrip(" ,:")
        mentions = frozenset(m.identity for m in self._medicines.mentions(bare) if not _COMPARES.search(bare))
        return _Context(bare, _facets(bare), mentions, rank, item)

    def enter_line(self, place: _Place, previous: Stance | None) -> None:
        """Drop what does not hold beyond the line that a statement begins; `previous` is the stance before it."""
        state = self._state
        state.frame = None
        if place.blank_before:
            state.subject = state.object = None
            if not self._single:
                state.topic = None
        if place.item:
            state.leads = [lead for lead in state.leads if not lead.item or lead.rank < place.indent]
        elif not place.row and previous not in (Stance.HEADING, Stance.QUESTION):
            state.leads = [lead for lead in state.leads if 0 <= lead.rank < place.indent]

    def pass_by(self, text: str, place: _Place, stance: Stance) -> None:
        """Take note of a statement that claims nothing: what it speaks of holds for those after it."""
        state = self._state
        if place.head:
            return  # `segment` has named the columns in the rows
        announces = stance is Stance.HEADING or (stance is Stance.QUESTION and place.ends_line and self._concerns(text))
        if announces and len(text) <= _MAX_CONTEXT:
            self._announce(text, place)
        state.frame = state.subject = None
        self._note_topic(text)

    def _announce(self, text: str, place: _Place) -> None:
        state = self._state
        if place.item or (text.endswith((":", "?")) and not place.level):
            rank = place.indent if place.item else -1
            state.leads = [lead for lead in state.leads if lead.rank < rank][-_MOST_LEADS + 1 :]
            state.leads.append(self._context(text, rank, item=place.item))
            return
        level = place.level or _TITLE_LEVEL
        state.headings = [heading for heading in state.headings if heading.rank < level]
        state.headings.append(self._context(text, level))
        state.leads, state.topic, state.listing = [], None, False

    def _concerns(self, text: str) -> bool:
        return self._terms is None or self._terms.search(text) is not None

    def _note_topic(self, text: str) -> list[Mention]:
        """Take note of the medicines of a text; of several, none is the topic."""
        mentions = self._medicines.mentions(text)
        if len({m.identity for m in mentions}) == 1 and not _COMPARES.search(text):
            self._state.topic = mentions[0]
        elif mentions or _PROPER.search(text):
            self._state.topic = None
        return mentions

    def _note(self, text: str) -> None:
        """Take note of what a claim speaks of; its pronoun, where it could be, is a name by now."""
        state = self._state
        for pattern, fronted in ((_FRAME, True), (_LABEL, False), (_SUBJECT, False)):
            found = pattern.match(text)
            if found and _facets(found.group()) & _WHOM and (pattern is not _LABEL or _is_label(found.group())):
                state.frame, state.fronted = self._context(found.group(), 0), fronted
                break
        else:
            if _facets(text) & _WHOM:
                state.frame = None
        mentions = self._note_topic(text)
        if not mentions and (_CONTINUES.match(text) or is_rejection(text)):
            return
        state.subject = state.object = None
        course = _COURSE_SUBJECT.match(text)
        if course and len({m.identity for m in mentions}) <= 1:
            identity = mentions[0].identity if mentions else ""
            state.subject = Mention(course.group().strip(), identity, *course.span())
        elif not mentions and (other := _NAMED_SUBJECT.match(text)):
            # Perhaps a medicine with a trade name.
            state.topic = None
            if not _facets(other.group("name")):
                state.object = Mention(other.group("name"), other.group("name").lower(), *other.span("name"))
        elif len({m.identity for m in mentions}) == 1 and not _PROPER.search(_without_brackets(text)):
            first = mentions[0]
            before, after = text[: first.start], text[first.end :]
            predicate = _PREDICATE.match(after)
            begins = not before.strip(" \"'*(") or _FRAME.match(text) is not None
            if begins and predicate and not _NOT_THE_SUBJECT.match(predicate.group("verb")):
                state.subject = first
            elif not _A_COURSE.search(text):
                state.object = first

    # ---- what is added

    def _named(self, text: str) -> str:
        """Put the medicine in the place of the pronoun, where it is surely meant."""
        found = None if _EXPLETIVE.match(text) else _IT.match(text) or _OBJECT_IT.match(text)
        state = self._state
        antecedent = state.subject or (state.object if _OF_MEDICINES.match(text) or _OBJECT_IT.match(text) else None)
        if found is None or antecedent is None:
            return text
        rest, written = text[found.end() :], antecedent.written
        if any(m.identity != antecedent.identity for m in self._medicines.mentions(text)) and antecedent.identity:
            return text  # "It is given with dexamethasone": true of either
        if not found.group("lead"):
            written = written[0].upper() + written[1:]
        if found.group("it").lower() == "its":
            written += "'s"
        elif rest.startswith("'s "):
            rest = (" has " if re.match(r"'s (?:been|had|got)\b", rest) else " is ") + rest[3:]
        return f"{found.group('lead')}{written}{rest}"

    def resolve(self, text: str, place: _Place, scene: str | None) -> tuple[str, bool]:
        """Return a claim with what it lacks, and whether it stands in a list of errors.

        `scene` is the question or the case before it.
        """
        state, own = self._state, self._named(text)
        said, named = _facets(own), {m.identity for m in self._medicines.mentions(own)}
        complete = FINITE_VERB.search(own) is not None
        result = own
        if scene and self._needs(scene, own, bool(named), complete):
            result = f"{scene} {text}"
            said, named = said | _facets(scene), named | {m.identity for m in self._medicines.mentions(scene)}
        elif state.frame and not (place.begins_line or said & _WHOM or _IT.match(own)) and _goes_on(own):
            result = f"{state.frame.text}, {_starts_small(own)}" if state.fronted else state.frame.before(own)
            said, named = said | state.frame.facets, named | state.frame.medicines
        listed, rejected = place.item or place.row or bool(state.leads), False
        state.listing |= place.item or place.row
        headings = state.headings
        if state.listing and not listed:
            headings = [h for h in headings if h.medicines and self._treatment not in h.medicines]
        for context in reversed([*headings, *state.leads]):
            errors = (
                listed and place.begins_line and _ERRORS.search(context.text) is not None and not is_correction(own)
            )
            if context.text not in result and (errors or self._lacks(context, own, said, named, listed, complete)):
                result, rejected = context.before(result), rejected or errors
                said, named = said | context.facets, named | context.medicines
        if not named and _QUANTITY.search(own):
            result = self._told_of_medicine(own, result, complete=complete)
        self._note(own)
        return (result, rejected) if len(result) <= MAX_CHARS else (text, rejected)

    def _needs(self, scene: str, own: str, named: bool, complete: bool) -> bool:
        """Tell whether a claim leans on the question or the case before it."""
        if scene.endswith("?"):
            return self._concerns(scene) and (_leans(own) or not named or not complete)
        if _leans(own):
            return True
        return (
            not named and not _facets(own) & _WHOM and own[:4].lower() == "the " and not self._medicines.mentions(scene)
        )

    def _told_of_medicine(self, own: str, result: str, *, complete: bool) -> str:
        """Return a figure with its medicine: a fragment's with any, a sentence's with one that is not the treatment.

        That a sentence speaks of the treatment the models take for granted; of any other they must be told.
        """
        subject, topic = self._state.subject, self._state.topic
        if complete:
            other = subject is not None and subject.identity not in ("", self._treatment) and _CONTINUES.match(own)
            medicine = subject if other else None
        else:
            label = _NAMED_LABEL.match(own)
            known = label is None or _facets(label.group()) or _COMMON_LABEL.match(own)
            medicine = topic if known and len(own.split()) <= _LONGEST_FRAGMENT else None
        return f"{medicine.written[0].upper()}{medicine.written[1:]}: {result}" if medicine else result

    def _lacks(
        self, context: _Context, own: str, said: frozenset[str], named: set[str], listed: bool, complete: bool
    ) -> bool:
        """Tell whether a statement needs a context: it says of whom or of what, and the statement leaves that open."""
        new = context.facets - said
        lead, medicine = context in self._state.leads, bool(context.medicines) and not named
        about = bool(context.facets or context.medicines)
        if lead and about and (context.open or (not complete and FINITE_VERB.search(context.text))):
            return True  # half a sentence, and its items the other half
        if said & context.facets & _WHOM or (named and context.medicines and not context.medicines & named):
            return False
        if lead or listed:
            wanted = _WHOM | {"time"} if lead or not complete else _WHOM
            return bool(new & (wanted if complete else wanted | {"sense"})) or (medicine and (lead or not complete))
        if not complete:
            return _QUANTITY.search(own) is not None and (medicine or bool(new & _WHOM))
        # A sentence in a section speaks of the section's patients where it gives a figure.
        return (bool(new & _WHOM) and _QUANTITY.search(own) is not None) or (
            medicine and self._treatment not in context.medicines
        )


def _is_label(text: str) -> bool:
    return len(text.split()) <= 8 and not FINITE_VERB.search(text)


def _goes_on(text: str) -> bool:
    """Tell whether a statement goes on with the figures for the same patients."""
    return _CONTINUES.match(text) is not None and _QUANTITY.search(text) is not None


def _leans(text: str) -> bool:
    """Tell whether a statement answers or points back."""
    return any(pattern.search(text) for pattern in (ANSWER, _ANAPHORIC, _REFERS))


def _without_brackets(text: str) -> str:
    return re.sub(r"\([^()]{0,60}\)", "", text)


def _scene(i: int, texts: Sequence[str], stance: Sequence[Stance], places: Sequence[_Place]) -> str | None:
    """Return the question or the case right before a statement, which claims nothing and may be what it answers."""
    if not i:
        return None
    before = texts[i - 1]
    if stance[i - 1] is Stance.QUESTION:
        case = i > 1 and not places[i - 1].begins_line and describes_case(texts[i - 2])
        return f"{texts[i - 2]} {before}" if case else before
    same_line = not places[i].begins_line
    return before if same_line and (stance[i - 1] is Stance.HISTORY or describes_case(before)) else None


def read(
    message: str, statements: Sequence[Statement], terms: Sequence[str], name: str, synonyms: Iterable[str] = ()
) -> list[Reading]:
    """Return what the models should read for each statement of a message, and its stance, in order.

    `message` is the text as received, `statements` what `segment` made of it; `terms` are the guideline's scope terms,
    `name` its treatment and `synonyms` the treatment's other names. Linear in the length of the message.
    """
    places = _places(message, statements)
    texts = [statement.normalised for statement in statements]
    stance = stances(texts, {i for i, place in enumerate(places) if place.level or place.head or place.announcing})
    resolver = _Resolver(texts, terms, name, synonyms)
    result: list[str] = []
    for i, (text, place) in enumerate(zip(texts, places, strict=True)):
        if place.begins_line:
            resolver.enter_line(place, stance[i - 1] if i else None)
        if place.level and stance[i].judged and is_bare_heading(text):
            resolver.pass_by(text, place, Stance.HEADING)  # "No supplemental oxygen", of which the words might claim
            result.append(text)
        elif stance[i].judged and not place.head:
            resolved, rejected = resolver.resolve(text, place, _scene(i, texts, stance, places))
            result.append(resolved)
            if rejected:
                stance[i] = Stance.REFUTED
        else:
            resolver.pass_by(text, place, stance[i])
            result.append(text)
    for claim, verdict in rejections(texts).items():
        together = f"{result[claim]} {texts[verdict]}"
        if len(together) <= _MAX_PAIR:
            result[claim] = result[verdict] = together
        else:
            stance[claim] = stance[verdict] = Stance.ASSERTED
    return [Reading(text, kind) for text, kind in zip(result, stance, strict=True)]


def resolve(
    message: str, statements: Sequence[Statement], terms: Sequence[str], name: str, synonyms: Iterable[str] = ()
) -> list[str]:
    """Return only the texts of `read`."""
    return [reading.text for reading in read(message, statements, terms, name, synonyms)]
