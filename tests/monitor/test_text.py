import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.text import normalise, well_formed

#: All of Unicode, lone surrogates included, with what normalising works on made frequent.
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from(
            "*_` \u200b\u00ad\u0301\ud800\ufeff\u2011\u201c=\u0338a5\u2079\u2082\u00bd\u2044&#;<>\u202e\u0435\u00b4"
        ),
    )
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("   \n\t ", ""),
        ("Remdesivir 200 mg", "Remdesivir 200 mg"),
        # compatibility forms
        ("\uff32\uff45\uff4d 200\u2009mg", "Rem 200 mg"),
        (
            "\u00bd \ufb01rst, 1\u20442, SpO\u2082, m\u00b2, HCO\u2083\u207b, Ca\u00b2\u207a",
            "1/2 first, 1/2, SpO2, m2, HCO3-, Ca2+",
        ),
        # digits that stay apart
        ("20 \u00d7 10\u2079/L, 10\u00b9\u00b2, 10\u207b\u2076", "20 \u00d7 10^9/L, 10^12, 10^-6"),
        ("1\u00bd tablets, \uff11\u00be, log 10\u2082", "1 1/2 tablets, 1 3/4, log 10 2"),
        ("\u00b9200 mg, \u2460\u2461 5\u2462, SO\u2084\u00b2\u207b", "1 200 mg, 1 2 5 3, SO4 2-"),
        ("**10**\u2079 and 10\u200b\u2079", "10^9 and 10^9"),
        ("e\u0301", "\u00e9"),
        # invisible
        ("rem\u200bdesi\u200cvir\u200d", "remdesivir"),
        ("rem\u00addesivir", "remdesivir"),
        ("\ufeffremdesivir\u2060", "remdesivir"),
        ("\u202eremdesivir\u202c \u2066x\u2069", "remdesivir x"),  # in reading order already
        ("re" + "".join(chr(0xE0000 + ord(c)) for c in "hidden") + "md", "remd"),
        # control and white space
        ("a\x00b\x07c\x1bd\x7fe\x85f", "a b c d e f"),
        ("a\r\n\tb\u2028c\u2029d\u00a0e\u3000f", "a b c d e f"),
        # one meaning, one character
        ("5\u201310 d \u2014 x \u2011 y \u2212 z \u2015", "5-10 d - x - y - z -"),
        ("\u2018a\u2019 \u201cb\u201d \u201ec\u201f \u00abd\u00bb 5\u2032 6\u2033", '\'a\' "b" "c" "d" 5\' 6\'\''),
        # Markdown emphasis
        ("**Do not** give __more than__ `200 mg`", "Do not give more than 200 mg"),
        ("*Do not* give it", "Do not give it"),
        ("(*never*), *always*.", "(never), always."),
        ("**Dose:** 200 mg", "Dose: 200 mg"),
        # not emphasis
        ("ALT above 5*ULN", "ALT above 5*ULN"),
        ("5 * ULN", "5 * ULN"),
        ("snake_case stays", "snake_case stays"),
        # lone surrogates
        ("a\ud800b\udfffc", "a\ufffdb\ufffdc"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_two_surrogates_are_not_taken_for_a_pair() -> None:
    assert well_formed("\ud83d\ude00") == "\ufffd\ufffd"
    assert well_formed("\U0001f600") == "\U0001f600"


@settings(deadline=None)
@given(texts)
@example("a\ud800b")
def test_well_formed_keeps_every_offset(text: str) -> None:
    formed = well_formed(text)
    assert len(formed) == len(text)
    assert formed.encode().decode() == formed
    assert all(a == b for a, b in zip(text, formed, strict=True) if not "\ud800" <= a <= "\udfff")


@settings(deadline=None, max_examples=300)
@given(texts)
@example("a\u200b\u0301")
@example("e`\u0301")
@example("=`\u0338")
@example("_**_")
@example("_`_x__")
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


_BESIDE_A_DIGIT = [*"059\uff15\u00b2\u2079\u2082\u2089\u00bd\u2154\u2463`\u200b", "**"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_BESIDE_A_DIGIT)).map("".join))
def test_no_two_numbers_become_one(text: str) -> None:
    """Every run of digits of one kind is a number of the result, for itself."""
    plain = re.sub("[*`\u200b]", "", text)
    written = re.findall("[059\uff15]+|[\u00b2\u2079]+|[\u2082\u2089]+|[\u00bd\u2154\u2463]", plain)
    expected = [number for run in written for number in re.findall(r"\d+", unicodedata.normalize("NFKC", run))]
    assert re.findall(r"\d+", normalise(text)) == expected


@settings(deadline=None, max_examples=300)
@given(texts)
def test_normalised_text_is_visible_and_single_spaced(text: str) -> None:
    result = normalise(text)
    assert not {unicodedata.category(char) for char in result} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert result == " ".join(result.split())
    assert "`" not in result
