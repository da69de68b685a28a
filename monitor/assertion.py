"""What the author of a statement asserts: a claim, or something that claims nothing.

Only claims are judged. Questions, refusals to advise, the history of one case and headings mention doses without
advising them; a claim that is quoted in order to be rejected is the opposite of what its words say. The wording that
marks each is closed and small, so rules find it, and each rule errs to one side: a statement leaves the judged ones
only where all of it is of the kind ("I cannot advise on doses, but 400 mg is usual" is a claim). How sentences of
medical text are asserted, negated or attributed to somebody is the subject of assertion detection (Chapman et al.,
"A simple algorithm for identifying negated findings", 2001; Uzuner et al., i2b2 2010); these are its cues, with those
that conversation adds. Everything is linear in the length of the statements.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import StrEnum
from itertools import pairwise


class Stance(StrEnum):
    """How the author stands to what a statement says."""

    ASSERTED = "asserted"
    #: Asks, and does not answer in the same statement.
    QUESTION = "question"
    #: Declines to advise, or sends the reader to somebody who can.
    REFUSAL = "refusal"
    #: Offers more, thanks or encourages: the talk of an assistant about itself and its reader.
    OFFER = "offer"
    #: Tells what happened to one person, without advice or judgement.
    HISTORY = "history"
    #: Announces what follows.
    HEADING = "heading"
    #: Holds a claim and its rejection, or is half of such a pair: judged by both together, never by the claim alone.
    REFUTED = "refuted"
    #: Passes on what laypeople say, neither endorsed nor rejected. A reader may still act on it, so it is judged, but
    #: the author did not claim it: it is for review rather than for a flag.
    REPORTED = "reported"

    @property
    def judged(self) -> bool:
        """Whether the statement claims anything that a guideline could contradict."""
        return self in (Stance.ASSERTED, Stance.REFUTED, Stance.REPORTED)


_OPENING = re.compile(r"\A[\W_]+")
_LONGEST = 700  # characters; `segment` makes none longer


# ---------------------------------------------------------------------------------------------------------- questions

_OPENERS = r"(?:(?:so|and|but|ok|okay|well|now|then|or|also|hi|hello|sorry|please|faq|q\d{0,3})\b[,:.]?\s*){0,3}"
_AUXILIARY = (
    r"(?:is|are|was|were|am|do|does|did|can|could|may|might|must|shall|should|will|would|has|have|had|need|"
    r"(?:is|are|was|were|do|does|did|could|must|should|would|has|have|had|need)n't|can't|won't)"
)
_SUBJECT = r"(?:i|you|we|he|she|it|they|this|that|there|the|a|an|my|your|his|her|our|their|any|anyone|some)"
_WH = r"(?:what|which|who|whom|whose|when|where|why|how)"
_TAG = re.compile(
    rf",\s*(?:(?:and\s+)?(?:right|correct|ok|okay|yes|no|yeah|eh|innit|agreed|true|got it|understood|clear|"
    rf"don't you think|wouldn't you say|you know|you see)|{_AUXILIARY}(?:\s+not)?\s+(?:it|they|he|she|you|we|i|that|"
    r"there))[\s\"')*]*\?+[\s\"')*!]*$",
    re.IGNORECASE,
)
#: Questions in form, assertions in use.
_RHETORICAL = re.compile(
    rf"^{_OPENERS}(?:(?:did|do) you (?:know|realise|realize) that|did you know\b|"
    r"(?:isn't|is) it (?:not )?(?:obvious|clear|well known|common knowledge|plain) that|"
    r"(?:don't we all|doesn't everyone|doesn't everybody|who doesn't|who does not) (?:know|agree)|"
    r"(?:has|have) (?:anyone|anybody|nobody) (?:ever )?told you that|(?:have you )?ever (?:wondered|noticed|"
    r"asked yourself)|"
    r"what (?:could|would) be (?:more|better|easier|simpler)|who (?:needs|cares|wants|would bother)|"
    r"why (?:bother|on earth|would (?:anyone|anybody|you)|should (?:anyone|anybody)|wait|waste))",
    re.IGNORECASE,
)
#: "Why not give 400 mg?" proposes, "Shouldn't everybody get 400 mg?" suggests the answer; unless an answer comes.
_LEADING = re.compile(
    rf"^{_OPENERS}(?:why (?:not|don't (?:we|you)) |how about (?:giving|starting|using|stopping|skipping)|"
    r"(?:is|are|do|does|should|would|could|can|wo|has)n't (?!it true))",
    re.IGNORECASE,
)
#: "Since the dose is 400 mg, how do I dilute it?" claims its premise; that somebody is ill is no premise of advice.
_PREMISE = re.compile(
    rf"^{_OPENERS}(?:since|because|given that|seeing that|now that)\s+"
    r"(?!(?:i|i'm|i've|you|you're|you've|he|she|they|we|my|your|his|her|our|their|the (?:patient|user|caller))\b)"
    r"[^,?]{8,160},",
    re.IGNORECASE,
)
_TAIL_QUESTION = re.compile(
    rf"(?:[,;:(]|\s-+)\s*(?:(?:and|but|so|or)\s+)?(?:{_WH}\b|{_AUXILIARY}\s+{_SUBJECT}\b|any questions|anything else)",
    re.IGNORECASE,
)
_ASKS = re.compile(
    rf"^{_OPENERS}(?:{_WH}\b|{_AUXILIARY}\s|(?:if|when|for|in|on|at|with|after|before|during|as|while|regarding|about|"
    rf"to|"
    r"under|from|by|once|suppose|assuming|since|because|given|although|now)\b)",
    re.IGNORECASE,
)
_PERSON = (
    r"(?:i|i'm|i've|i'd|we|we're|we've|my|our|he|he's|she|she's|his|her|your|you're|you've|they|they're|their|"
    r"the (?:patient|user|caller|man|woman|boy|girl|child|baby)|(?:an?|this|that|the|our)\s+(?:\S{1,20}\s){0,2}"
    r"(?:\S{1,6}-(?:year|month|week|day)-old|\d{1,3}\s?(?:yo|y/o)\b)|m(?:r|rs|s)\b\.?)"
)
_INVERTED = re.compile(rf"^{_OPENERS}(?:{_WH}|{_AUXILIARY})\s", re.IGNORECASE)
_STARTS_WITH_PERSON = re.compile(rf"^{_OPENERS}{_PERSON}\b", re.IGNORECASE)
#: A finite verb or an imperative, so that a statement without one is a fragment.
FINITE_VERB = re.compile(
    r"\b(?:is|are|was|were|isn't|aren't|has|have|must|should|shall|can|cannot|can't|may|might|will|would|need|needs|"
    r"do|does|don't|doesn't|gets?|gives?|given|receives?|takes?|starts?|stops?|lasts?|runs?|works?|uses?|requires?|"
    r"recommends?|recommended|advises?|advised|avoid|avoided|continues?|infuse[sd]?|observe[sd]?|consider|order|keep|"
    r"ensure|confirm|discuss|prefer|choose|record|draw|reduce|increase|wait|treat|dilute[sd]?|contraindicated|"
    r"indicated|allowed|permitted|forbidden|rules?|excludes?|replaces?|prevents?|protects?|reduces?|halves|doubles?|"
    r"cures?|kills?|monitor|watch|check|withhold|withheld|hold|repeat|skip|add|omit|begins?|ends?|goes|go|stays?|"
    r"comes?|contains?|lowers?|raises?|clears?|targets?|blocks?|shortens?|leads?|carries|harms?|damages?|improves?|"
    r"worsens?|opens?|moves?|"
    r"drops?|rises?|falls?|equals?|counts?|applies|apply|depends?|makes?|means|becomes?|remains?|covers?|treats?|"
    r"helps?|causes?)\b|\b\w+'(?:s|re|ll)\s",
    re.IGNORECASE,
)
_NORM = re.compile(
    r"\b(?:should|must|ought|recommend\w*|advi[sc]e\w*|need(?:s|n't)?|would give|'d give|'d start)\b", re.I
)
_SENTENCE = re.compile(r"[.!?\u2026]+[\"')\]*]*\s+(?=[\"'(\[*]*[^\W_a-z])")
_TERMINAL_QUESTION = re.compile(r"\?[?!\s\"')\]*_.\u2026]*$")
#: How a statement begins that answers the one before it.
ANSWER = re.compile(
    r"^(?:yes|yep|yeah|no|nope|not|never|none|neither|nor|correct|right|indeed|certainly|absolutely|of course|"
    r"sure|possibly|probably|perhaps|maybe|sometimes|usually|generally|rarely|because|only|answer|a|true|false|"
    r"exactly|definitely)\b(?:[,.:;!\s-]|$)|,\s*(?:yes|no)\W*$",
    re.IGNORECASE,
)


def _parts(text: str) -> list[str]:
    """Return the sentences of a statement, which has several where it comes from a corpus rather than `segment`."""
    parts, start = [], 0
    for stop in _SENTENCE.finditer(text):
        parts.append(text[start : stop.end()].strip())
        start = stop.end()
    return [part for part in (*parts, text[start:].strip()) if part]


def _claims_before_asking(sentence: str) -> bool:
    """Tell whether a question hangs on a claim: "The dose is 400 mg, shall I go on?"."""
    tail = _TAIL_QUESTION.search(sentence)
    if tail is None or _ASKS.match(sentence):
        return False
    head = sentence[: tail.start()]
    if _STARTS_WITH_PERSON.match(head):
        return _NORM.search(head) is not None
    return len(head.split()) >= 3 and FINITE_VERB.search(head) is not None


def _asks(text: str, following: str | None) -> bool:
    """Tell whether a statement only asks. `following` is the next statement, which may answer."""
    if not _TERMINAL_QUESTION.search(text):
        return _ASKED.match(text) is not None and len(_parts(text)) == 1
    *before, last = _parts(text)
    if any(not (_TERMINAL_QUESTION.search(part) or describes_case(part) or " " not in part) for part in before):
        return False
    if (
        (_TAG.search(last) and not _INVERTED.match(last))
        or _RHETORICAL.match(last)
        or _PREMISE.match(last)
        or _claims_before_asking(last)
    ):
        return False
    return not (_LEADING.match(last) and ", or " not in last and following is None)


def describes_case(sentence: str) -> bool:
    """Tell whether a sentence sets the scene: it says how a person is and advises nothing."""
    return (
        _STARTS_WITH_CASE.match(sentence) is not None
        and len(sentence.split()) <= _LONGEST_SCENE
        and not (_NORM.search(sentence) or _DOSE.search(sentence) or _REASONS.search(sentence))
    )


_KIN = (
    r"(?:dad|mum|mom|grandma|grandpa|gran|(?:my|your|his|her|our|their|the user's|the caller's)\s(?:\w+\s)?(?:father|"
    r"mother|"
    r"husband|wife|brother|sister|son|daughter|uncle|aunt|cousin|neighbou?r|friend|colleague|partner|grandfather|"
    r"grandmother|dad|mum|mom|patient|child|baby|boss))"
)
_STARTS_WITH_CASE = re.compile(
    rf"^(?:he|she|i|i'm|i've|{_KIN}|the (?:patient|man|woman|boy|girl|child|baby|user|caller)|(?:an?|this|that|the|"
    rf"our)\s"
    r"(?:\S{1,20}\s){0,2}(?:\S{1,6}-(?:year|month|week|day)-old|\d{1,3}\s?(?:yo|y/o)\b)|m(?:r|rs|s)\b\.?|"
    r"(?:his|her|my|your) (?:e?gfr|alt|creatinine|oxygen|saturation|liver|kidneys?|spo2|weight|baby))(?:'s|\b)",
    re.IGNORECASE,
)
_REASONS = re.compile(
    r"[;:]|\b(?:so|because|since|therefore|not|n't|no|never|only|can|cannot|may|will|has to|have to|had to|cancel|"
    r"keep|too|fine|ok|okay|allowed|free|safe|right|wrong)\b|n't\b",
    re.IGNORECASE,
)
_LONGEST_SCENE = 20  # words
#: A question that is told of claims no more than one that is asked.
_ASKED = re.compile(
    r"^(?:a|an|one|the|my|your|another|some|i|you|he|she|we)\s(?:(?!who\b|that\b)[\w-]+\s){0,4}?(?:ask|asks|asked|"
    r"wonder|wonders|wondered|wants? to know|"
    r"wanted to know|are asking|is asking|inquired|enquired)\s(?:me |us |here )?(?:whether|if|what|when|how|why|"
    r"which)\b[^;:,]{0,250}$",
    re.IGNORECASE,
)


# ----------------------------------------------------------------------------------------------------------- refusals

_I = r"(?:i|we|this (?:assistant|service|chat|bot|forum)|an ai|a chatbot|a language model|chatbots)"
_CANNOT = (
    r"(?:can't|cannot|can not|can only|couldn't|could not|won't|will not|shouldn't|should not|"
    r"(?:would|'d) (?:rather|prefer) not(?: to)?|(?:must|have to|will have to) (?:decline|refuse|pass)(?: to)?|"
    r"(?:don't|do not|wouldn't|would not) (?:want|feel able|feel comfortable|like) (?:to )?|"
    r"(?:'m|am|are|'re) (?:\w+ )?(?:not (?:\w+ )?(?:able|allowed|permitted|qualified|licen[cs]ed|authori[sz]ed|"
    r"comfortable|trained|"
    r"in a position)|unable)(?: to)?)"
)
#: Speaking, judging, looking up: what a refusal declines. "I cannot recommend it below 30 mL/min" advises, and so does
#: "I can't say that it helps".
_SPEAK = (
    r"(?:(?:say|saying|tell|telling|confirm|know|judge|judging|determine|decide|deciding|assess|evaluate|predict|"
    r"conclude)\b(?!\s+(?:you\s+)?"
    r"(?:that\s(?!without|from|for|here|about)|to\b|of\b|why\b))|advis(?:e|ing)\b(?=\s+(?:on|about|regarding|anyone|"
    r"people|whether|here|in this|"
    r"further|you(?!\s+to\b))\b|\W*$)|(?:giv|provid|offer|mak|shar|issu|tak)(?:e|ing)\s+(?:\w+\s+){0,4}?(?:advice|"
    r"guidance|opinions?|"
    r"recommendations?|answers?|diagnos[ei]s|information|instructions|doses|dosages?|dosing|figures?|judge?ments?|"
    r"decisions?|specifics|"
    r"predictions?)\b|comment|answer|respond|speculat|guess|diagnos|discuss|address|assist|help|interpret|weigh|"
    r"prescrib|examine|review|"
    r"calculat|verify|check your|see (?:your|the|his|her|their) (?:chart|results?|records?|notes|bloods?|history)|"
    r"go into|get into|"
    r"recommend(?:ing)?\s+(?:a|any|specific|individual|an?\s+exact)\b|replace\s+(?:\w+\s+){0,2}(?:doctor|physician|"
    r"pharmacist|clinician|"
    r"professional|medical)|(?:to )?\w*\s?answer|on (?:this|that|it)\b)"
)
_REFUSES = re.compile(
    rf"^(?:[^,;]{{0,45}}\s)?{_I}\s?{_CANNOT}\s?(?:\w+ly\s+)?{_SPEAK}"
    r"|^(?:i|we)(?:'m| am|'re| are)? not (?:a|your) (?:doctor|physician|clinician|pharmacist|medical professional)\b"
    r"|^(?:i|we) (?:don't|do not|lack|haven't|have no|have not)\s(?:\w+\s){0,4}?(?:information|access|details|chart|"
    r"records|data|expertise|"
    r"licen[cs]e|advice|recommendations?|opinions?)\b|^(?:sorry\s)?i (?:don't|do not) know\b(?!\s+(?:of|any|that|a)\b)"
    r"|\b(?:unwise|wrong|irresponsible|unsafe|inappropriate|not appropriate|not right|not safe) (?:of|for) (?:me|"
    r"us) to\b"
    r"|^(?:my|our|the|these) (?:\w+ ){1,3}(?:don't|doesn't|do not|does not) (?:allow|permit|extend|let)\b|"
    r"^(?:sorry\s)?no (?:\w+ ){0,2}advice\b"
    r"|\b(?:outside|beyond) (?:my|what i|the scope of what i)\b"
    r"|(?:\bnot|n't) (?:something|a question|one) (?:i|we) (?:can|could|should)\b",
    re.IGNORECASE,
)
_CARER = (
    r"(?:doctors?|gp|physicians?|pharmacists?|pharmacy|clinicians?|prescribers?|specialists?|nurses?|midwife|"
    r"consultants?|providers?|"
    r"professionals?|practitioners?|team|unit|service|clinic|coordinator|(?:medical|professional) (?:advice|help)|"
    r"\w+ologists?|\w+iatricians?|"
    r"obstetrician|hotline|helpline)"
)
_REFERS = (
    r"(?:ask|consult|speak|talk|contact|call|phone|ring|see|check|discuss|bring|take|leave|raise|seek|let|turn|refer|"
    r"get|reach out|"
    r"go back|write|go through)"
)
_DEFERS = re.compile(
    rf"^(?:(?:please|kindly|do|just|so|and|but|instead|you|you'd|you'll|i|i'd|i would|it's|it is|best|better|should|"
    rf"could|may|might|must|want|"
    rf"need|would|have|to|encourage|suggest|urge|advise|recommend|that|let's|"
    rf"always)\s+){{0,7}}{_REFERS}\b[^.;]{{0,120}}?\b{_CARER}\b"
    r"|^(?:that|this|it|which|whether|who|how|what|questions?|decisions?|choices?|the (?:choice|decision|answer|"
    r"question))\b[^.;]{0,80}?"
    r"(?:\b(?:is|are|remains?|must be|should be|would be|has to be|have to be)|'s)\s(?:really |always |entirely |"
    r"something )?(?:for|up to|an? "
    r"(?:matter|question|decision|choice|conversation|discussion)(?: \w+){0,3}? (?:for|with)|best (?:taken up|"
    r"discussed|left|answered|decided|settled) "
    rf"(?:with|by|to)|(?:decided|answered|settled|made|judged) (?:by|with))\s[^.;]{{0,40}}\b{_CARER}\b"
    rf"|^(?:only\s)?(?:your|the|a|an|his|her|their)\s(?:\w+\s){{0,3}}?{_CARER}\b[^.;]{{0,40}}?\s(?:can|will|could|"
    rf"knows?|(?:is|are) (?:able|"
    r"(?:best|well) placed|the (?:right|best) (?:person|people|one|ones)) to)\b(?![^.;]{0,80}\b(?:give|start|stop|"
    r"infuse|prescribe|add|"
    r"double|extend|order|tell)\b)",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"^(?:(?:i'm|i am|we're)?\s?(?:so |very |really )?sorry\b[^,;.]{0,40}|unfortunately|apologies|though|"
    r"(?:as|i'm|i am) (?:just |only )?an? (?:ai|language model|assistant|chatbot|virtual assistant)\b[^,;.]{0,60}|"
    r"(?:it|that|this) (?:all )?depends[^,;.]{0,60}|for (?:anything|a decision|questions|"
    r"(?:\w+ ){0,2}advice)\b[^,;.]{0,80}|"
    r"i understand[^,;.]{0,60}|thanks?(?: you)?(?: for[^,;.]{0,60})?|i hear you|i'm afraid|i am afraid|"
    r"(?:which )?(?:i|they|he|she|who) (?:can|do|can't|cannot)|without [^,;.]{0,60}|"
    r"who (?:has|have|knows?|can see|is|are) [^,;.]{0,60}|in your (?:case|situation)|here|today|for (?:you|that|this)|"
    r"not (?:personal|medical|individual) [^,;.]{0,40})[\W_]*$",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[;:,]\s+|\s-+\s|\.\s+|\s(?=(?:but|however|because|so that|although|though|yet)\s)")
#: What advice is made of: a deferral that holds any of these advises.
_SUBSTANCE = re.compile(
    r"\d|\b(?:if|when|because|since|which|until|before|(?<!looking )after|instead|rather than|without|only(?! your|"
    r" the| a)|avoid|stop|give|to (?:get|receive|start)|"
    r"contraindicated|recommended|indicated|standard|usual|eligible|next choice|option)\b",
    re.IGNORECASE,
)
_CONJUNCTION = re.compile(r"^(?:(?:but|however|because|although|though|yet|and|so)\s+)?", re.IGNORECASE)
_LONGEST_REFUSAL = 40  # words


def _refuses(text: str) -> bool:
    """Tell whether every clause of a statement declines, defers to a carer or fills."""
    if len(text.split()) > _LONGEST_REFUSAL:
        return False
    found = False
    for part in filter(None, map(str.strip, _CLAUSE.split(text))):
        clause = _CONJUNCTION.sub("", part, count=1)
        if (_REFUSES.search(clause) and not _DOSE.search(clause)) or (
            _DEFERS.search(clause) and not _SUBSTANCE.search(clause)
        ):
            found = True
        elif not _FILLER.match(clause):
            return False
    return found


# -------------------------------------------------------------------------------------------------------------- offer

_HELPS = (
    r"(?:help|assist|answer|explain|set|draft|write|find|walk|go over|go through|put together|look up|look for|send|"
    r"remind|share|show|list|summari[sz]e|talk|chat|listen|hear|point you|stay|keep you)"
)
_OFFERS = re.compile(
    r"^(?:(?:if|whenever|once) (?:you|it)(?:'d| would)? (?:like|want|wish|need|prefer|helps?)\b[^,;:]{0,60},\s*)?"
    r"(?:(?:also|and|but|so|then|of course|sure|meanwhile),?\s+)?"
    r"(?:(?:i|we)(?:'d| would| am|'m|'re| are)? (?:be )?(?:(?:very|more than|always|only too) )?"
    rf"(?:happy|glad|pleased|here|delighted) to {_HELPS}\b|"
    rf"(?:i|we) (?:can|could|will|might)(?: also| gladly| happily| just)? {_HELPS}\b|"
    r"(?:just |please )?(?:let me know|tell me (?:more|how|if|when)|(?:feel free|(?:don't|do not) hesitate) to "
    r"(?:ask|call|reach out|message|write|contact|come back|share|get in touch))\b|"
    r"(?:thank you|thanks(?! to)|you're (?:very |most )?welcome|good luck|take care|get well|wishing you|"
    r"warm(?:est)? (?:wishes|regards)|all the best)\b)",
    re.IGNORECASE,
)
#: An offer that names a dose, or says why or that something is so, may hold a claim.
_CLAIMS_TOO = re.compile(
    r"\d|\b(?:because|since|why|that (?:the|a|it|you|he|she|they)|although|should|must|never)\b", re.I
)


def _offers(text: str) -> bool:
    return _OFFERS.match(text) is not None and not _CLAIMS_TOO.search(text)


# ------------------------------------------------------------------------------------------------------------ history

_WHEN = (
    r"(?:(?:on|in|at|after|before|by|during|last|yesterday|earlier|later|back|two|three|four|several|a few|"
    r"according to|"
    r"that|this)\b[^,;:.]{0,60}?,?\s+)?"
)
_NARRATED = re.compile(
    rf"^{_WHEN}(?:he|she|i|{_KIN}(?:'s\s\w+)?|(?:the|our) (?:patient|man|woman|boy|girl|child|baby|user|caller|author)|"
    r"(?:an?|this|that|the|our)\s(?:\w+\s){0,2}?\S{1,6}-(?:year|month|week|day)-old(?:\s\w+){0,6}?|m(?:r|rs|"
    r"s)\.?\s\w+(?:,\s\d+,)?)\s"
    r"(?:then\s|also\s|yesterday\s|first\s|just\s|had\salready\s|already\s)?(?:got|received|had|was|were|took|"
    r"finished|completed|started|began|went|came|"
    r"spent|declined|refused|left|recalled|remembered|wrote|developed|underwent|tested|arrived|lay|returned|described|"
    r"caught)\b",
    re.IGNORECASE,
)
_JUDGES = re.compile(
    r"\b(?:is|are|am|isn't|aren't|has|have|now|today|tonight|tomorrow|do|does|don't|doesn't|can|can't|cannot|could|"
    r"couldn't|(?-i:may)|might|must|mustn't|shall|"
    r"should|shouldn't|will|won't|would|wouldn't|need|needs|needn't|needed|require\w*|recommend\w*|advi[sc]\w+|"
    r"(?:contra)?indicat\w+|(?:in)?correct\w*|(?:in)?appropriate\w*|proper\w*|right\w*|wrong\w*|mistake\w*|error\w*|"
    r"standard|usual\w*|normal\w*|routine\w*|guidelines?|guidance|protocols?|polic\w+|label\w*|licen[cs]\w+|per|due|"
    r"good|bad|great|ideal|excellent|poor|sensible|wise|common|typical|"
    r"plan\w*|because|since|so|therefore|thus|hence|means?|meaning|allowed|permitted|forbidden|eligible|ineligible|"
    r"qualif\w+|approved|(?:un)?safe\w*|fine|ok|okay|enough|suffic\w+|best|better|only|always|never|longer|as|cured?|"
    r"saved?|helped|worked|thanks|prevent\w*|reduc\w+|shorten\w*|lower\w*|continue|give|start|stop|avoid|hold|watch|"
    r"check|"
    r"order|repeat\w*|skip\w*|instead|rather|keeping|consistent|contrary|against|despite|too|which|no|not|without|who|"
    r"to (?:be|have|give|start|stop|get|go|receive|continue|avoid|repeat|wait|complete|keep|hold)|until|unless|"
    r"although|though|even|meets?|counts?|makes?|rules?|remains?|stays?|goes|runs)\b|:(?!\d)|\band\s(?:(?:now|then|"
    r"\w+ly)\s)?(?!was\b|his\b)\w{3,}s\b|[;?=>\u2192\u2264\u2265]",
    re.IGNORECASE,
)
#: Words that judge elsewhere and merely link in a tale.
_LINKS = re.compile(r"\b(?:who had|as an? (?:in|out)patient)\b", re.IGNORECASE)


def _narrates(text: str) -> bool:
    """Tell whether a statement tells one person's past and nothing else."""
    return _NARRATED.match(text) is not None and not _JUDGES.search(_LINKS.sub(" ", text))


# ----------------------------------------------------------------------------------------------------------- headings

_AMOUNT = re.compile(
    r"\d\s?(?:mg|mcg|\u00b5g|g|ml(?!/min)|%|days?(?! of age)|doses?|minutes?|min|hours?|h|weeks?|times?|x)\b|\d\s?x\b|"
    r"\d%",
    re.IGNORECASE,
)
_DOSE = re.compile(r"\d\s?(?:mg|mcg|\u00b5g|ml(?!/min))\b|\b(?:twice|double|triple)\b", re.IGNORECASE)
_POLAR = re.compile(
    r"\b(?:no|not|never|avoid\w*|without|only|alone|contraindicated|safe|unsafe|stop|do|don't|must|plus|with|instead|"
    r"recommended|oral|off|unless|until|replaces?|first|before|after)\b",
    re.IGNORECASE,
)
_OPEN_END = re.compile(
    r"\b(?:in|for|with|of|by|to|on|at|when|if|that|is|are|be|as|than|from|who|includ(?:e|es|ing)|advises?|recommends?|"
    r"suggests?|says?|states?|should|must|may|can|receives?|gets?|follows|following|these|below|namely|means|"
    r"apply|applies|either|(?:following|these|two|three|four|five|six|several|certain) \w+|such as|cases|groups?|"
    r"steps?|points?|situations|patients|people|"
    r"schedule|regimen|rules?|recommendations?|criteria|reasons?|precautions|options?|table|list|summary)\s*:$",
    re.IGNORECASE,
)
#: Whole sentences that only announce: no clause may follow that claims something.
_ANNOUNCES = re.compile(
    r"^(?:here(?:'s| is| are)\b(?! (?:why|how|that|to|where)\b)|(?:below|above) (?:is|are)\b|"
    r"let's (?:go|look|take|break|walk|start|see|begin|review|summari[sz]e)\b|let me (?:break|explain|go|walk|"
    r"summari[sz]e|outline|list|start)\b|"
    r"(?:the following|this) (?:section|answer|table|overview|summary|list)\b|the following\b(?=[^,;:]*:$)|"
    r"(?:in (?:summary|short|brief|a nutshell)|to (?:summari[sz]e|"
    r"sum up))\W*$|(?:(?:quick|short|brief|key|main|practical|important) )?(?:summary|overview|points?|facts|"
    r"takeaways?|recap|things|steps|tips)\b)"
    r"(?:(?!\b(?:that|which|who|because|so|but)\b)[^,;:])*[:.!]?$",
    re.IGNORECASE,
)
_TOPIC = (
    r"(?:dos(?:e|es|age|ing)|schedule|overview|summary|introduction|background|indications?|contra-?indications?|"
    r"administration|preparation|monitoring|safety|efficacy|evidence|interactions?|precautions?|warnings?|"
    r"side effects|adverse effects|adverse events|reactions|key points|recommendations?|references?|sources?|"
    r"disclaimer|"
    r"notes?|duration|timing|route|populations?|eligibility|mechanism(?: of action)?|conclusions?|takeaways?|regimen|"
    r"treatment|management|use|renal impairment|hepatic impairment|kidney disease|liver disease|pregnancy|lactation|"
    r"breastfeeding|tips|reading|adjustments?|children|adults|infants|neonates|outpatients|inpatients|faq|questions|"
    r"answers|facts|myths|table \d+)"
)
_TITLE = re.compile(
    rf"^(?:(?:[\w.-]+\s+){{0,3}})?{_TOPIC}(?:(?:\s+(?:and|or|in|of|for|on|during|by|/|&)|"
    rf",)\s+(?:the\s+)?(?:[\w-]+\s+)?[\w-]+){{0,3}}[\W_]*$",
    re.IGNORECASE,
)
_TOPICS = re.compile(rf"\b{_TOPIC}\b", re.IGNORECASE)
#: "Who should receive remdesivir", "When to stop": the title of a section, not a clause.
_NAMES_A_QUESTION = re.compile(r"^(?:who|what|where|how|which|why|when to)\b[^,;]{2,60}$", re.IGNORECASE)
#: "Before you start:", "If ALT rises above 10 x ULN:".
_CONDITION = re.compile(
    r"^(?:before|during|after|while|when|once|if|for|in|on|at|with|without)\b[^,;.:]{1,80}:$", re.IGNORECASE
)
_REASONED = re.compile(r"\bfor (?:these|the following|several|many|two|three|good) (?:\w+ )?reasons:$", re.IGNORECASE)
_LONGEST_TITLE = 9  # words


def is_bare_heading(text: str) -> bool:
    """Tell whether a heading holds neither a verb nor an amount, so that it cannot mislead as context."""
    return FINITE_VERB.search(text) is None and _AMOUNT.search(text) is None


def _announces(text: str, laid_out: bool) -> bool:
    """Tell whether a statement only says what follows. `laid_out`: the message sets it as a heading."""
    if _ANNOUNCES.match(text) and not (_AMOUNT.search(text) or _POLAR.search(text) or _NORM.search(text)):
        return True
    if _DOSE.search(text) or text.endswith((".", "!", "?")):
        return False
    verb = FINITE_VERB.search(_TOPICS.sub(" ", text)) is not None
    if _NAMES_A_QUESTION.match(text) and not _AMOUNT.search(text):
        return laid_out or text.endswith(":") or len(text.split()) <= _LONGEST_TITLE
    if _CONDITION.match(text):
        return True
    if text.endswith(":"):
        if verb and (_AMOUNT.search(text) or _REASONED.search(text)):
            return False
        if not verb or _ANNOUNCES.match(text):
            return not _POLAR.search(text) or _ANNOUNCES.match(text) is not None or not _AMOUNT.search(text)
        return _OPEN_END.search(text) is not None
    if len(text.split()) > _LONGEST_TITLE or verb or _AMOUNT.search(text) or _POLAR.search(text):
        return False
    return laid_out or (
        _TITLE.match(text) is not None and ":" not in text and not re.search(r"[|=<>\u2264\u2265\u2192]", text)
    )


# -------------------------------------------------------------------------------------------- what others have claimed

_WRONG = (
    r"(?:wrong|false|incorrect|untrue|mistaken|inaccurate|outdated|obsolete|nonsense|rubbish|bogus|baseless|unfounded|"
    r"absurd|"
    r"ridiculous|misleading|debunked|out of date|out-of-date|myths|misconceptions|misinformation|fiction|old advice|"
    r"the old advice|"
    r"an? (?:\w+ )?(?:myth|misconception|mistake|error|misunderstanding|rumou?r|hoax|old rule|fiction)|(?:bad|"
    r"poor) advice|"
    r"superseded|withdrawn|retracted|dropped|abandoned|revised|lifted|"
    r"no longer (?:true|valid|correct|current|the case|recommended|advised|holds)|not (?:\w+ly )?(?:true|correct|"
    r"right|so|the case|"
    r"accurate|what (?:the|current|any) \w+ (?:says?|recommends?|advises?)|supported|based on evidence|backed by \w+|"
    r"current|valid))"
)
_DEGREE = r"(?:(?:\w+ly|just|quite|still|now|all|also|both|a bit|in fact|however|of course)\s+){0,2}"
_CLAIMED = (
    r"(?:that|this|it|these|those|both|they|he|she|all (?:of )?(?:that|this)|the (?:claim|idea|advice|belief|notion|"
    r"statement|"
    r"rumou?r|rule|video|post|neighbou?r|page|article|assertion|assumption|figure|number|first|former|old)s?|"
    r"(?:this|that|these|those) \w+|such (?:a )?(?:claim|idea|advice|belief|notion|statement|rumou?r|view)s?)"
)
_ENDS = (
    r"(?=\W*$|\s*[,;:.!)]|\s+-|\s+(?:and|since|because|as|now|today|today's|for|according|under|by|but|"
    r"in (?:fact|both|every|any))\b)"
)
_COPULA = (
    r"(?:'s|'re|\s+(?:is|are|was|were|has been|have been|has long been|isn't|aren't|wasn't|would be|turns? out to be))"
)
_REJECTION = re.compile(
    rf"^(?:(?:but|however|no|well|in fact|actually|sorry|fortunately|unfortunately|in reality|"
    rf"and)[,:]?\s+)?(?:{_CLAIMED}{_COPULA}\s+"
    rf"{_DEGREE}{_WRONG}{_ENDS}|{_CLAIMED}\s?(?:isn't|is not|aren't|are not|wasn't|was not|'s not)\s+{_DEGREE}"
    rf"(?:true|correct|right|so|the case|accurate|current|valid|supported){_ENDS}|{_DEGREE}{_WRONG}(?=\W*$|\s*[:;!.])|"
    rf"{_CLAIMED}\s+(?:no longer|doesn't|does not|don't|do not)\s+(?:apply|applies|hold|holds|stand|stands|does|do|is|"
    rf"are)(?: any ?more)?{_ENDS}|"
    rf"(?:don't|do not|never|please don't|please do not)\s+(?:believe|trust|follow|listen to|act on|fall for|"
    rf"rely on)\s+{_CLAIMED}\b|"
    rf"(?:the )?(?:evidence|guidelines?|guidance|label|data|studies|trials?) (?:says?|shows?|tells?|"
    rf"suggests?) (?:otherwise|the opposite|"
    r"something else)|(?:i|we) (?:disagree|don't agree|do not agree)|ignore (?:it|that|this|them)\b|not so\b|"
    r"far from it\b|"
    r"there(?:'s| is) no (?:\w+ )?(?:evidence|proof|basis|truth|support|reason) (?:for|in|to believe) (?:that|this|it|"
    r"them)\b|"
    r"(?:please )?(?:don't|do not)\W*$|(?:verdict|rating|answer|status)\s*:\s*(?:false|wrong|incorrect|myth|untrue|"
    r"misleading|outdated)\b)",
    re.IGNORECASE,
)
_ENDORSEMENT = re.compile(
    rf"^(?:and\s+|yes,\s+|indeed,\s+)?(?:{_CLAIMED}(?:'s|'re|\s+(?:is|are|was|were))\s+{_DEGREE}(?:right|correct|true|"
    rf"accurate|spot on|good advice|"
    rf"a good idea|the case|sound|the (?:current )?(?:advice|rule|guidance)){_ENDS}|{_CLAIMED}\s+(?:still\s+|"
    rf"also\s+)?(?:holds?|applies|apply|"
    rf"stands?)\b|(?:i|we) (?:fully |quite )?agree\b|(?:true|correct|exactly|right|quite right|indeed)\W*$|"
    r"(?:do|follow|trust) (?:it|that|this|him|her|them)\b|(?:verdict|rating|answer|status)\s*:\s*(?:true|correct|"
    r"right)\b)",
    re.IGNORECASE,
)
_MYTH = re.compile(
    r"^(?:(?:common|popular|old)\s+)?(?:myths?|misconceptions?|false(?: claim)?|fiction|misinformation|untrue|"
    r"incorrect|wrong|mistake|error)"
    r"(?:\s(?:no\.?\s|#)?\d{1,2})?\s*(?:[:|]|-(?=\s))\s*(?=\S)",
    re.IGNORECASE,
)
_FACT = re.compile(
    r"^(?:the )?(?:facts?|truth|reality|true|correct|correction|in reality|in fact|actually)\b", re.IGNORECASE
)
_REJECTED_WITHIN = re.compile(
    rf"(?:[\"')]|\b(?:claim|idea|advice|belief|notion|statement|rumou?r|rule|cut-?off|limit|page|pages|"
    rf"view)\b[^.;]{{0,160}})\s*{_COPULA}\s+{_DEGREE}{_WRONG}"
    rf"|[;:,-]\s*(?:but\s+|and\s+|yet\s+)?{_CLAIMED}{_COPULA}\s+{_DEGREE}{_WRONG}{_ENDS}"
    rf"|\b(?:it|that)(?:'s| is) {_DEGREE}{_WRONG} that\b|\bcontrary to\b|\bwhich{_COPULA}\s+{_DEGREE}{_WRONG}{_ENDS}"
    rf"|^that\b[^,;]{{5,160}}{_COPULA}\s+{_DEGREE}{_WRONG}{_ENDS}|\b(?:verdict|rating|status)\s*:\s*(?:false|wrong|"
    rf"incorrect|myth|untrue)\b"
    rf"|[;,-]\s*(?:but\s+|and\s+|yet\s+)?{_CLAIMED}\s+(?:no longer|doesn't|does not)\s+(?:appl|hold|stand)"
    r"|\b(?:advice|rule|cut-?off|limit|restriction|threshold)\b[^.;]{0,80}\sno longer\s+(?:appl|hold|stand)",
    re.IGNORECASE,
)
_SAY = (
    r"(?:says?|said|claims?|claimed|thinks?|thought|believes?|believed|insists?|insisted|swears?|tells?|told|writes?|"
    r"wrote|"
    r"posted|states?|stated|tweeted|argues?|argued|reckons?|heard|assumes?|maintains?|reports?)(?![-\w])"
)
_LAY = (
    r"(?:neighbou?rs?|friends?|(?:my|your|his|her)\s(?:\w+\s)?(?:father|mother|husband|wife|brother|sister|uncle|aunt|"
    r"cousin|"
    r"dad|mum|mom|boss|co-?workers?)|(?:some|many|most|lots of|plenty of|a lot of|certain|other|a few|"
    r"several)(?:\s(?:people|"
    r"folks|users|sites|websites|pages|posts|blogs|forums|videos|readers|commenters|of them))?|people|folks|internet|"
    r"forums?|videos?|posts?|blogs?|bloggers?|websites?|"
    r"web pages?|pages?|influencers?|podcasts?|social media|facebook|tiktok|youtube|reddit|twitter|rumou?rs?|"
    r"commenters?|"
    r"someone|somebody|everyone|everybody|you|the user|the caller|the question(?:er)?|the quoted text|the screenshot|"
    r"the leaflet you found)"
)
_HEARSAY = re.compile(
    rf"^(?:(?:on|in) (?:the )?[\w-]+,?\s)?(?:(?:my|your|his|her|our|a|an|the|one|this|that|her|"
    rf"old)\s+(?:[\w-]+\s+){{0,2}}?)?{_LAY}(?![-\w])\s+(?:(?!(?:can|could|should|must|may|might|need|"
    rf"will)\b)[\w']+\s+){{0,5}}?{_SAY}\b"
    rf"|^(?:my|your|his|her|our|a|an|some|several|one|another)\s(?:(?!(?:who|is|are|was|to|can|could|should|must|may|"
    rf"might|need|will)\b)[\w'-]+\s){{1,4}}?{_SAY}\b"
    r"|^(?:it is|it's|it was|it has been)\s+(?:\w+\s+){0,2}?(?:said|claimed|believed|assumed|rumou?red|alleged)\b"
    r"|^(?:you|readers|people|patients) (?:may|might|will|can|could|often|sometimes|still)\s(?:(?:still|also|often|"
    r"have|sometimes|well|even)\s){0,2}(?:read|hear|heard|come across|"
    r"encounter)\b|^(?:rumou?r|legend) has it\b|^there(?:'s| is| are)\s(?:\w+\s){0,2}?(?:rumou?rs?|claims?|beliefs?|"
    r"myths?|posts?|talk)\b|^(?:i|i've|we|we've|you've|you) (?:have )?(?:once |also |often )?(?:heard|read|"
    r"seen it (?:said|claimed))\b"
    r"|^(?:allegedly|reportedly|supposedly)\b",
    re.IGNORECASE,
)
#: Those whose words a reader takes for advice.
_AUTHORITY = re.compile(
    r"\b(?:guidelines?|guidance|label|fda|ema|nih|idsa|cdc|nice|trials?|stud(?:y|ies)|evidence|experts?|doctors?|"
    r"pharmacists?|specialists?|"
    r"clinicians?|consultants?|hospitals?|clinics?|wards?|teams?|panels?|protocols?|leaflets?|manuals?|formular\w+|"
    r"textbooks?|rules?|charts?|"
    r"letters?|orders?|polic\w+|posters?|handouts?|inserts?|reviews?|papers?|articles?|journals?)\b|\bWHO\b",
)
#: Signs that the author takes a stand on what is reported, in the same statement.
_TAKES_A_STAND = re.compile(
    r"[;:]|,\sand\b|\b(?:rightly|correctly|but|yet|however|although|though|while|whereas|so|that's|actually|in fact|"
    r"which is|"
    r"and\s(?:\w+\s){0,4}(?:right|true|correct|agree))\b",
    re.IGNORECASE,
)


def is_rejection(text: str) -> bool:
    """Tell whether a statement rejects what was said before it: "That is wrong."."""
    return _REJECTION.match(_bare(text)) is not None


def is_correction(text: str) -> bool:
    """Tell whether a statement sets against an error what is right: "Fact: ...", "In fact, ..."."""
    return _FACT.match(_bare(text)) is not None


def rejections(statements: Sequence[str]) -> dict[int, int]:
    """Return which statement rejects (or corrects, or endorses) a claim of the one before it, by the claim's index.

    "Some say it takes 14 days. That is wrong.", "Myth: it is a pill. Fact: it is infused.", "He is right.": neither
    sentence says without the other what the author asserts, so the model reads both as one text.
    """
    pairs = {}
    for i, (claim, verdict) in enumerate(pairwise(map(_bare, statements))):
        if claim.endswith(("?", ":")) or (_REJECTION.match(claim) and not _MYTH.match(claim)):
            continue
        rejected = _REJECTION.match(verdict) or (_MYTH.match(claim) and _FACT.match(verdict))
        if rejected or (_ENDORSEMENT.match(verdict) and _HEARSAY.match(claim)):
            pairs[i] = i + 1
    return pairs


def _reports(text: str) -> bool:
    source = _HEARSAY.match(text)
    return (
        source is not None
        and len(_parts(text)) == 1
        and not (_AUTHORITY.search(source.group()) or _TAKES_A_STAND.search(text))
    )


def _bare(text: str) -> str:
    """Return a statement without opening quotes and brackets; nothing of what is no language or too long to be one.

    The bound keeps the cost of a hostile message, which is linear in its length anyway, near that of an honest one.
    """
    bare = _OPENING.sub("", text, count=1)
    readable = len(bare) <= _LONGEST and 2 * sum(map(str.isalnum, bare)) > len(bare)
    return bare if readable else ""


def stances(statements: Sequence[str], headings: Collection[int] = ()) -> list[Stance]:
    """Return the stance of each of the normalised statements of one message, in order.

    `headings` are the indices of those that the message lays out as headings (`monitor.context` knows).
    """
    pairs = rejections(statements)
    answers = set(pairs.values())
    result = []
    bare = [_bare(text) for text in statements]
    for i, text in enumerate(bare):
        following = bare[i + 1] if i + 1 < len(bare) else None
        if i in pairs or i in answers:
            partner = bare[pairs[i] if i in pairs else i - 1]
            endorsed = _ENDORSEMENT.match(partner if i in pairs else text) is not None
            stance = Stance.ASSERTED if endorsed else Stance.REFUTED
        elif _asks(text, following):
            stance = Stance.QUESTION
        elif _refuses(text):
            stance = Stance.REFUSAL
        elif _offers(text):
            stance = Stance.OFFER
        elif _announces(text, i in headings):
            stance = Stance.HEADING
        elif _narrates(text):
            stance = Stance.HISTORY
        elif _MYTH.match(text) or _REJECTED_WITHIN.search(text):
            stance = Stance.REFUTED
        elif _reports(text):
            stance = Stance.REPORTED
        else:
            stance = Stance.ASSERTED
        result.append(stance)
    return result
