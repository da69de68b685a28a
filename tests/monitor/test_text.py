import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.text import normalise, well_formed

#: All of Unicode, lone surrogates included, with what normalising works on made frequent.
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=()), st.sampled_from("*_` \u200b\u00ad\u0301\ud800\ufeff\u2011\u201c=\u0338a5")
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
        ("10\u00b2 \u00bd \ufb01rst", "102 1\u20442 first"),
        ("e\u0301", "\u00e9"),
        # invisible
        ("rem\u200bdesi\u200cvir\u200d", "remdesivir"),
        ("rem\u00addesivir", "remdesivir"),
        ("\ufeffremdesivir\u2060", "remdesivir"),
        ("\u202eremdesivir\u202c \u2066x\u2069", "remdesivir x"),
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


@settings(deadline=None, max_examples=300)
@given(texts)
def test_normalised_text_is_visible_and_single_spaced(text: str) -> None:
    result = normalise(text)
    assert not {unicodedata.category(char) for char in result} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert result == " ".join(result.split())
    assert "`" not in result
