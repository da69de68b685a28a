"""Undo disguises: text that shows a reader one thing and a program another.

Character references, markup, letters of another alphabet, letters spaced out, digits for letters, overridden
direction: some are meant to slip past a filter, most are what copying from a web page leaves behind. Each function
takes text and returns what a reader sees, is linear in the length, and leaves alone what it is not sure of: a dose must
survive exactly. So a digit becomes a letter only within a word that is one afterwards, never in "q24h", "SpO2" or
"COVID19", and two numbers become one only where no reader would see two.

`monitor.text.normalise` says in which order they work, and repeats them, since disguises lie in each other.
"""

from __future__ import annotations

import re
import unicodedata
from html import unescape
from itertools import pairwise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- characters -------------------------------------------------------------------------------------------------

_CYRILLIC = dict(zip("абвгеёзикмнопрстухіїјѕһԁԛԝүьѵӏ", "a6bree3ukmhonpctyxiijshdqwybvl", strict=True))
_CYRILLIC |= dict(zip("АВЕЁЗКМНОРСТУХІЇЈЅҺԀԚԜҮѴӀ", "ABEE3KMHOPCTYXIIJSHDQWYVI", strict=True))
_GREEK = dict(zip("αεικνορτυχϲϳάέίόύήηςω", "aeikvoptuxcjaeiounncw", strict=True))
_GREEK |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹͿ", "ABEZHIKMNOPTYXCJ", strict=True))
_ARMENIAN = dict(zip("օոսհցՕՍԼՏ", "onuhgOULS", strict=True))
# The approximate ones serve only in words that have Latin letters too; these pass for Latin anywhere.
_EXACT = frozenset("аеёіїјорсухѕһԁԛԝүѵӏАВЕЁЗКМНОРСТУХІЇЈЅҺԀԚԜҮѴӀοναιρυχςϲϳΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹͿօոս")
_LOOKALIKES = {ord(c): latin for c, latin in (_CYRILLIC | _GREEK | _ARMENIAN).items() if latin.isalpha()}
_OTHER_ALPHABET = re.compile(r"[\u0370-\u058f]")
_WORD_WITH_IT = re.compile(r"\w*[\u0370-\u058f]\w*")
_LATIN = re.compile(r"[A-Za-z]")
_SYMBOL_AT_EDGE = re.compile(r"[\u03b1-\u03be\u03c0-\u03c9][A-Za-z0-9]+|[A-Za-z0-9]+[\u03b1-\u03be\u03c0-\u03c9]")


def _small_capitals() -> dict[int, str]:
    """Return the letters that are Latin ones by another name: small capitals, script g, Latin alpha."""
    found = {0x251: "a", 0x261: "g", 0x1D0B: "k"}
    for code in (*range(0x250, 0x2B0), *range(0x1D00, 0x1D2C), *range(0xA730, 0xA732), 0xA7AF):
        name = unicodedata.name(chr(code), "")
        if name.startswith("LATIN LETTER SMALL CAPITAL ") and len(letter := name.rsplit(" ", 1)[1]) == 1:
            found[code] = letter.lower()
    return found


#: Letters in boxes and flags, which NFKC does not know; small capitals.
_SHAPED = {
    **{first + i: chr(0x41 + i) for first in (0x1F150, 0x1F170, 0x1F1E6) for i in range(26)},
    **_small_capitals(),
}
#: Enclosed numbers that NFKC does not know.
ENCLOSED = "\u2776-\u2793\u24eb-\u24ff\U0001f51f"
_ENCLOSED_NUMBER = re.compile(f"[{ENCLOSED}]")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_SHAPED_CHARACTER = re.compile(f"[{''.join(map(chr, _SHAPED))}]")


def plain_characters(text: str) -> str:
    """Replace shaped letters, enclosed numbers and the digits of other scripts by A to z and 0 to 9."""
    if _SHAPED_CHARACTER.search(text):
        text = text.translate(_SHAPED)
    text = _ENCLOSED_NUMBER.sub(lambda m: "10" if m[0] == "\U0001f51f" else str(int(unicodedata.numeric(m[0]))), text)
    return _OTHER_DIGIT.sub(lambda m: str(unicodedata.decimal(m[0])), text)


# Piled up or struck through: marks of the general blocks that compose with nothing. Scripts that live by marks
# (Hebrew, Arabic, Devanagari, Thai) have their own blocks.
_MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef"
_MARKED = re.compile(f"([^{_MARKS}]?)([{_MARKS}]+)")
_ONE_LETTER_CARRIES = 2


def _unmarked(match: re.Match[str]) -> str:
    base = unicodedata.normalize("NFD", match[1])
    composed = sum(unicodedata.combining(char) != 0 for char in base)
    if composed and composed + len(match[2]) > _ONE_LETTER_CARRIES:
        base = "".join(char for char in base if not unicodedata.combining(char))
    return unicodedata.normalize("NFC", base)


def without_stray_marks(text: str) -> str:
    """Remove the marks that compose with no letter, and of a pile the composed ones too. Takes NFC."""
    return _MARKED.sub(_unmarked, text)


def without_lookalikes(text: str) -> str:
    """Replace Cyrillic, Greek and Armenian letters that stand for Latin ones.

    In a word that has Latin letters too, where every other letter has a lookalike ("r\u0435md\u0435sivir", not
    "IFN\u03b3" or "\u03bcg"). A word wholly of lookalikes only where the text has Latin letters and no true word of
    another alphabet: Russian stays Russian.
    """
    if not (_OTHER_ALPHABET.search(text) and _LATIN.search(text)):
        return text
    doubtful = False
    true_words = False

    def mixed(match: re.Match[str]) -> str:
        nonlocal doubtful, true_words
        word = match[0]
        others = _OTHER_ALPHABET.findall(word)
        if _LATIN.search(word):
            sure = all(ord(c) in _LOOKALIKES for c in others) and not _SYMBOL_AT_EDGE.fullmatch(word)
            return word.translate(_LOOKALIKES) if sure else word
        if _passes_for_latin(word):
            doubtful = True
        elif len(word) > 1:
            true_words = True
        return word

    text = _WORD_WITH_IT.sub(mixed, text)
    if not doubtful or true_words:
        return text
    return _WORD_WITH_IT.sub(
        lambda m: m[0].translate(_LOOKALIKES) if not _LATIN.search(m[0]) and _passes_for_latin(m[0]) else m[0], text
    )


def _passes_for_latin(word: str) -> bool:
    """Tell whether a word without Latin letters could be read as one; one or two Greek letters are symbols."""
    letters = [char for char in word if not char.isdigit()]
    symbol = len(letters) < 3 and all(char <= "\u03ff" for char in letters)
    return all(char in _EXACT for char in letters) and not symbol


# --- numbers ----------------------------------------------------------------------------------------------------

# International System of Units: groups of three, thin spaces between them. Before NFKC, which makes all spaces one.
_THIN = "\u2007\u2008\u2009\u200a\u202f\u205f"
_GROUPED = re.compile(rf"(?<![\w.,])[0-9]{{1,3}}(?:[{_THIN}][0-9]{{3}})+(?![0-9])")
_THIN_SPACE = re.compile(f"[{_THIN}]")
# No number begins with two zeros, so "2 00 mg" is one number.
_CUT_NUMBER = re.compile(
    r"(?<![\w.,/-])([1-9][0-9]{0,2})\s(0[0-9]{1,2})(?=\s?(?:mg|mcg|\u03bcg|g|ml|iu)\b)", re.IGNORECASE
)
# Not the dot of a product: "3·10^9".
_RAISED_POINT = re.compile(r"(?<=[0-9])[\u00b7\u066b\u2396](?=[0-9])(?!10\^)")


def grouped_numbers(text: str) -> str:
    """Join the groups of a number that thin spaces keep apart. Works before NFKC."""
    return _GROUPED.sub(lambda m: _THIN_SPACE.sub("", m[0]), text) if _THIN_SPACE.search(text) else text


def decimal_points(text: str) -> str:
    """Write raised and Arabic decimal points as full stops."""
    return _RAISED_POINT.sub(".", text)


# --- direction --------------------------------------------------------------------------------------------------

_OVERRIDE = re.compile("[\u202d\u202e]")
_DIRECTION = re.compile("([\u202a-\u202e])")
_PARAGRAPH = re.compile("([\n\r\u0085\u2029])")
_DEEPEST = 3  # overrides within overrides; what lies deeper keeps its order
_TELLING = 400  # characters that tell which way a text reads
_MIRRORED = str.maketrans("()[]{}<>\u00ab\u00bb", ")(][}{><\u00bb\u00ab")
# The triples of letters that English has much more often forwards than backwards ("_" is a space).
_FORWARDS = (
    "_th the in_ is_ _an _in _of ed_ for ith nd_ _wi wit _be and ing ng_ _co to_ ent ion n_a st_ ter _on _ha ati ay_"
    " hou tio _pr _da _wh _mg mg_ ose rea her ive ear ver not ate are dos day vir mab nib cin ole ide ine lin"
)
_FORWARD = frozenset(triple.replace("_", " ") for triple in _FORWARDS.split())
_TRIPLE = re.compile(r"(?=(...))")


def _reads(text: str) -> int:
    padded = f" {text.lower()} "
    return sum(triple in _FORWARD for triple in _TRIPLE.findall(padded))


def _clusters(text: str) -> list[str]:
    """Return the characters of a text, each with the marks that belong to it."""
    clusters: list[str] = []
    for char in text:
        if clusters and unicodedata.combining(char):
            clusters[-1] += char
        else:
            clusters.append(char)
    return clusters


def _as_shown(pieces: list[tuple[str, bool]]) -> str:
    """Return what a right-to-left override shows of its pieces (text, whether it has its final order).

    Who overrides a text that is already in reading order makes it unreadable to people, not to models; it is then
    given back as it is stored.
    """
    stored = "".join(text for text, _ in pieces)
    shown = "".join(
        text if final else "".join(reversed(_clusters(text.translate(_MIRRORED)))) for text, final in reversed(pieces)
    )
    return stored if _reads(stored[:_TELLING]) > _reads(shown[-_TELLING:]) else shown


def _shown_line(line: str) -> str:
    # A stack of open embeddings: whether each shows its text reversed, and the pieces in it.
    stack: list[tuple[bool, list[tuple[str, bool]]]] = [(False, [])]
    ignored = 0

    def close() -> None:
        reversing, pieces = stack.pop()
        stack[-1][1].append((_as_shown(pieces) if reversing else "".join(text for text, _ in pieces), True))

    for part in _DIRECTION.split(line):
        if not _DIRECTION.fullmatch(part):
            stack[-1][1].append((part, False))
        elif part != "\u202c":
            if len(stack) > _DEEPEST:
                ignored += 1
            else:
                stack.append((part == "\u202e", []))
        elif ignored:
            ignored -= 1
        elif len(stack) > 1:
            close()
    while len(stack) > 1:
        close()
    return "".join(text for text, _ in stack[0][1])


def shown_direction(text: str) -> str:
    """Put overridden text into the order in which a reader sees it (Unicode Standard Annex 9, overrides only)."""
    if not _OVERRIDE.search(text):
        return text
    return "".join(_shown_line(line) if _OVERRIDE.search(line) else line for line in _PARAGRAPH.split(text))


# --- markup -----------------------------------------------------------------------------------------------------

_AMPERSANDS = re.compile(r"&(?:(?:amp|AMP|#0{0,4}38|#[xX]0{0,4}26);)+")
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7};|#[xX][0-9A-Fa-f]{1,6};|[A-Za-z][A-Za-z0-9]{1,31};|nbsp(?![A-Za-z;]))")
#: Elements that begin a line or a cell of their own; a reader never reads across them.
BLOCK_ELEMENTS = (
    "address|article|aside|blockquote|br|caption|center|dd|details|div|dl|dt|figcaption|figure|footer|h[1-6]|header|hr"
    "|li|main|nav|ol|p|pre|section|summary|table|tbody|tfoot|thead|tr|ul"
)
_INLINE_ELEMENTS = (
    "a|abbr|b|big|cite|code|del|dfn|em|font|i|img|ins|kbd|label|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|var"
    "|wbr"
)
#: What follows an element's name in a tag. Words without "=" are no attributes: "a<b and c>d".
TAG_END = r"(?:\s+[\w:-]{1,40}\s*=[^<>]{0,400})?\s*/?>"
_BLOCK_TAG = re.compile(rf"</?(?:{BLOCK_ELEMENTS}|t[dh]){TAG_END}|<!--|-->", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE_ELEMENTS}){TAG_END}", re.IGNORECASE)
_RAISED_TAG = re.compile(r"(?<=[0-9])<sup>(?=[-+\u2212]?[0-9])", re.IGNORECASE)
_NUMBERS_APART = re.compile(r"(?<=[0-9])(?:<sub>|</su[bp]>)(?=[0-9])", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\[\]]{1,400})\]\((?:https?://|mailto:|www\.|[#/])[^\s()]{0,400}(?:\s\"[^\"()]{0,200}\")?\)")


def without_markup(text: str) -> str:
    """Resolve HTML character references, take tags away, and leave of a Markdown link its words.

    Only elements that HTML knows are tags: "<5 mg" and "a<b" stay. What a comment holds stays too; not every reader
    sees the text rendered.
    """
    if "&" in text:
        text = _REFERENCE.sub(lambda m: unescape(m[0]), _AMPERSANDS.sub("&", text))
    if "<" in text or "-->" in text:
        text = _NUMBERS_APART.sub(" ", _RAISED_TAG.sub("^", text))
        text = _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", text))
    return _LINK.sub(r"\1", text) if "](" in text else text


# --- words ------------------------------------------------------------------------------------------------------

_FEWEST_SPACED = 5  # letters; "U.S.S.R." and "A B C D" are fewer
_SPACED_BY_SIGN = re.compile(
    r"(?<![^\W_])[A-Za-z0-9](\s?[-._*\u00b7\u2022~]\s?)[A-Za-z0-9](?:\1[A-Za-z0-9]){3,}(?![^\W_])"
)
_SPACED_BY_SPACE = re.compile(r"(?<![^\s(\[\"'])[A-Za-z0-9](?:\s{1,8}[A-Za-z0-9]){4,}(?![^\s)\].,;:!?\"'])")
_STAND_ALONE = re.compile(r"[\W_][A-Za-z0-9][\W_]{1,8}[A-Za-z0-9][\W_]")
_SINGLE_GAP = re.compile(r"(?<=\S)\s(?=\S)")
_LETTERS_OR_DIGITS = re.compile(r"[A-Za-z]+|[0-9]+")
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)


def _is_spaced_word(characters: str) -> bool:
    """Tell whether single characters in a row were one or more words: enough letters, and no list of choices."""
    letters = [char for char in characters.lower() if char.isalpha()]
    return (
        len(letters) >= _FEWEST_SPACED
        and 5 * len(letters) >= 3 * len(characters)
        and len(set(letters)) > 2
        and _VOWEL.search(characters) is not None
        and sum(ord(b) - ord(a) == 1 for a, b in pairwise(letters)) < len(letters) // 2
    )


def _joined_by_sign(match: re.Match[str]) -> str:
    characters = match[0].replace(match[1], "")
    return " ".join(_LETTERS_OR_DIGITS.findall(characters)) if _is_spaced_word(characters) else match[0]


def _joined_by_space(match: re.Match[str]) -> str:
    characters = "".join(match[0].split())
    if not _is_spaced_word(characters):
        return match[0]
    words = _SINGLE_GAP.sub("", match[0]).split()
    if all(len(word) == 1 for word in words):  # every gap is wide
        words = [characters]
    return " ".join(part for word in words for part in _LETTERS_OR_DIGITS.findall(word))


def joined_letters(text: str) -> str:
    """Join words whose letters stand apart: "r e m d e s i v i r", "r-e-m-d-e-s-i-v-i-r".

    Wider gaps divide words where there are some; digits within such a row stay numbers of their own.
    """
    if not _STAND_ALONE.search(text):
        return text
    return _SPACED_BY_SPACE.sub(_joined_by_space, _SPACED_BY_SIGN.sub(_joined_by_sign, text))


_AS_LETTERS = str.maketrans("013457@$", "oieastas")
_ALTERNATIVELY = str.maketrans("013457@$", "oleastas")
_TOKEN = re.compile(r"[A-Za-z0-9@$]+")
# The class first: a search for it is quick, and most texts hold none.
_SUSPECT = re.compile(
    r"[013457@$](?:(?=[A-Za-z])(?<=[A-Za-z].)|(?![\w@$])(?<=[A-Za-z]{2}.)|(?=[a-z]{2})(?<![\w@$].))", re.DOTALL
)
_ADDRESS = re.compile(r"@[\w-]+\.\w")
_INSIDE = re.compile(r"[A-Za-z]+(?:[013457@$][A-Za-z]+)+")
_PARTS = re.compile(r"[013457@$]")
#: Words that turn a claim, or make up most sentences: what a disguised token must become where it has one digit.
_COMMON = _words(
    "about above adult adults after all allowed also and any approved are avoid because been before below but"
    " can child children combined contraindicated continue daily day days death did does done dosage dose doses"
    " dosing double drug drugs each early either else even ever every extend first five for four from give given"
    " gives had half has have high home hospital hours inject injected injection into intravenous kidney less"
    " liver load loading low made main maintenance may medicine mild minutes moderate more most much must need"
    " needed needs never none nor normal not nothing now off once one only oral orally other out outside over"
    " oxygen patient patients people per pregnancy pregnant prescribe recommended reduce required route safe"
    " safely same severe should single six skip slow some stop stopped start started take taken tablet tablets"
    " ten than that the them then there these they this three time times treat treated treatment twice two under"
    " unless unsafe until use used using vein very was weight were when which who will with within without women"
    " you your"
)
#: Nouns that a number follows, and what such numbers belong to: "day1dose" is two words and a number.
_NUMBERED = _words(
    "alpha apo arm beta cd covid cox cycle cyp day days dose factor grade group hba interleukin level mg ml"
    " omega part phase reg section stage step type vit vitamin week year il"
)
_INTERVAL = re.compile(r"[a-z]?[0-9]+(?:h|hr|hrs|hour|hours|d|day|days)")
_WRITTEN_CAREFULLY = 6  # letters of a word in capitals, where formulas and genes are


def _as_word(token: str, *, among_others: bool) -> str | None:
    """Return the word that a token with digits in it was, or None where that is not sure.

    Args:
        token: Letters, digits, "@" and "$".
        among_others: The text has words disguised beyond doubt, so that one digit is enough.
    """
    if token.isalpha() or not any(map(str.isalpha, token)):
        return None
    letters = [char for char in token if char.isalpha()]
    lower = token.lower()
    if len(letters) * 2 >= len(token) and not _INTERVAL.fullmatch(lower):
        for word in (lower.translate(_AS_LETTERS), lower.translate(_ALTERNATIVELY)):
            if word in _COMMON and (len(letters) > 1):
                return _in_case_of(token, word)
    if not _INSIDE.fullmatch(token) or _INTERVAL.fullmatch(lower):
        return None
    parts = _PARTS.split(lower)
    substitutions = len(parts) - 1
    if not _NUMBERED.isdisjoint(parts):
        return None
    capitals = "".join(letters).isupper()
    mixed_case = not capitals and not "".join(letters[1:]).islower()
    if mixed_case or (capitals and (substitutions < 2 or len(letters) < _WRITTEN_CAREFULLY)):
        return None
    sure = substitutions > 1 and len(letters) >= _FEWEST_SPACED
    return _in_case_of(token, lower.translate(_AS_LETTERS)) if sure or (among_others and len(letters) > 1) else None


def _in_case_of(token: str, word: str) -> str:
    if token.upper() == token and sum(map(str.isalpha, token)) > 1:
        return word.upper()
    return word.capitalize() if token[0].isupper() else word


def letters_for_digits(text: str) -> str:
    """Replace the digits that stand for letters in words: "r3mdes1vir", "n0t", "p@tient".

    Where at least two stand between small letters of a word, or where a common word comes out; in a text that has a
    word of the first kind, one between letters is enough. Doses, intervals, formulas and names with numbers stay.
    """
    if not _SUSPECT.search(text):
        return text
    found = [token for token in _TOKEN.findall(text) if _PARTS.search(token) and _INSIDE.fullmatch(token)]
    among_others = any(
        len(_PARTS.split(token)) > 2 and _as_word(token, among_others=False) is not None for token in set(found)
    )

    def revealed(match: re.Match[str]) -> str:
        token = match[0]
        if token.isalpha() or token.isdigit():
            return token
        if "@" in token and _ADDRESS.match(text, match.start() + token.rindex("@")):
            return token
        return _as_word(token, among_others=among_others) or token

    return _TOKEN.sub(revealed, text)


_STRETCHED = re.compile(r"\b(?=[^\W_]*([A-Za-z])\1\1)[A-Za-z]{4,}\b")
_LONG_RUN = re.compile(r"([A-Za-z])\1{2,}")
_ROMAN = re.compile(r"[ivxlcdm]+[a-d]?|[acgtu]+", re.IGNORECASE)
#: Common words with a double letter, lest "neeeed" become "ned".
_DOUBLED = _words("all been deep fall feel free full illness keep kidneys need needed see seen still too week will")


def _unstretched(match: re.Match[str]) -> str:
    word = match[0]
    if len(set(word.lower())) < 2 or _ROMAN.fullmatch(word) or "www" in word:
        return word
    if not word[1:].islower() and not (word.isupper() and len(word) >= _WRITTEN_CAREFULLY + 2):
        return word  # an identifier, or an acronym
    doubled = _LONG_RUN.sub(r"\1\1", word)
    return doubled if doubled.lower() in _DOUBLED else _LONG_RUN.sub(r"\1", word)


def unstretched_words(text: str) -> str:
    """Shorten what is repeated three times and more within a word: "nooot", "remdesiviiir". Not "III", not "www"."""
    return _STRETCHED.sub(_unstretched, text) if _LONG_RUN.search(text) else text


def cut_numbers(text: str) -> str:
    """Join a number that a space cuts before a zero, where a unit follows: "2 00 mg"."""
    return _CUT_NUMBER.sub(r"\1\2", text) if " 0" in text else text
