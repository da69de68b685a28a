"""Tell whether a text is in another language than the guideline's.

A language identifier (py3langid: byte n-grams, naive Bayes) is sure of sentences and not of what clinical text is full
of: drug lists, Latin names, eponyms, "RDV 200 mg IV D1". So it does not decide alone. Small words do (*und*, *pas*,
*nahin*): few, frequent, and different in every language, also where it is written in another's letters, which the
identifier was not trained on. Other scripts speak for themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# The languages that medical chat most often comes in. A closed list makes the identifier surer of each.
_LANGUAGES = (
    "en", "ar", "cs", "da", "de", "el", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl",
    "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
_MAX_CHARS = 2000

#: Small words by language, in Latin letters. Not what is also a common English word or a clinical abbreviation
#: ("die", "an", "na", "od"). Hindi, Russian, Chinese, Japanese, Arabic and Greek as typed without their script.
_SMALL_WORDS = {
    "en": "a about after all also an and any are as at be because been before both but by can could did do does"
    " during each either every few for from had has have he her his how if in into is it its less may more"
    " most must neither no nor not of on once only or other our out over per same shall she should since"
    " so some such than that the their them then there these they this those to too under unless until up"
    " was we were what when where whether which while who will with within without would yes you your",
    "de": "aber als am auch auf aus bei beim bis danach dann das dass dem der des dosis drei durch ein eine einem"
    " einen einer erst es fur fünf für ganz gegen haben ihr im ist jede jeden kann kein keine keinen keinesfalls mit"
    " muss nach nicht niemals noch nur oder ohne sich sie sind soll sollte sondern tage tagen taglich täglich uber"
    " und unter vier vom von vor wenn werden wie wird wurde zehn zu zum zur zwei über",
    "fr": "alors après au aucun aucune aux avant avec ce cette chaque chez cinq dans de des deux dix doit du elle en"
    " ensuite est et faut il jamais jour jours la le les leur lors mais ne ou par pas pendant pour puis qu quatre"
    " que qui sans sont sous sur toujours trois un une être",
    "es": "al antes cinco como con cuando cuatro de debe del despues después dia dias diez dos durante día días el"
    " en es esta está la las los luego más ninguna ningún nunca para pero por primer que se seguir siempre sin son"
    " su sus tras tres un una y",
    "pt": "antes ao apos após até cinco com como da das de depois deve dez dia dias do dos duas durante ele em mais"
    " mas menos nao nas nenhum nenhuma nos nunca não os ou para pela pelo por quando quatro que sao se sem sempre"
    " ser seu são três um uma é",
    "it": "agli al alla anche che cinque con da dal dalla dei del della delle deve di dieci dopo due giorni giorno"
    " gli il la le lo ma mai negli nei nel nella nessun nessuna non per più poi prima quando quattro se sempre senza"
    " si solo sono tre un una è",
    "nl": "aan alleen als bij daarna dag dagen dan dat de deze door drie een elke en geen heeft het is kan maar mag"
    " met moet moeten naar niet nooit of om onder ook op over te tien tot twee uit van vier vijf voor worden wordt"
    " zijn zonder",
    "sv": "aldrig att av dag dagar dagen de den det därefter efter eller en ett fem fram från fyra för ges har inga"
    " ingen inte kan med och om på sedan ska som tio två under utan var vid är",
    "da": "af aldrig at dag dage de den der derefter det efter eller en et fem fire for fra gives har ikke ingen kan"
    " med og om på skal som ti til to uden ved",
    "no": "aldrig av dag dager de den deretter det eller en et etter fem fire for fra gis har ikke ingen kan med og"
    " om på skal som ti til uten ved",
    "pl": "ale bez co cztery dawka dawki dla dni dnia do dwa dziesięć dzień jak jako jego jest lub należy następnie"
    " nie nigdy oraz pięć po ponad potem przed przez przy się są trzy tylko za że",
    "cs": "ale až by den deset dne dny dnů do dva dávka dávky jako je jen ji jsou ne nebo nikdy pak po pod potom"
    " poté pět při se sí tři ve za čtyři že",
    "ro": "ale apoi cel cinci cu de din doza doză după este fi la mai niciodată nu patru pe pentru prin sau se sunt"
    " să trei un zece zi zile ziua în şi și",
    "hu": "a alatt az csak egy ha hogy kell majd meg már napig napon ne nem sem soha tíz után vagy van és öt",
    "fi": "ei ennen että ja joka jos kaksi kun kymmenen mutta ole on ovat päivän päivänä saa se sekä sitten tai vain"
    " viisi voi",
    "tr": "ama beş bir bu daha de değil doz gün günde her hiç ile için kadar olan olarak on sadece sonra ve veya ya",
    "vi": "bị cho các có của duoc khi khong không là một ngay ngày nên năm phải trong từ và với được",
    "id": "adalah atau bagi dalam dan dari dengan di dosis dua empat hanya hari harus ini itu jangan ke kemudian"
    " kepada lima oleh pada saat sampai selama setelah setiap tidak tiga untuk yang",
    "sw": "au baada cha dozi hadi hii kabla katika kila kisha kwa kwenye la lakini mbili moja ni nne siku tano tatu"
    " tu usitumie wa watoto ya",
    "tl": "ang araw ay dapat dosis hindi huwag ito kada kung lang lima limang mga ng pagkatapos para sa",
    "hi": "agar aur baad bhi chahiye dein dena din diya gaya hai hain hona hota jata ka kabhi karein karna ke keval"
    " ki kiya ko kya lekin liye mein nahi nahin paanch par pehle phir roz se sirf tak teen uske wala ya yah zaroorat",
    "ru": "bez chem cherez chto den detej detyam dlya dnej dney dnya dozy eto ezhednevno ili iz kak kazhdyj lechenie"
    " mozhno nado ne nelzya nikogda nuzhno pacientam pervyj pervyy po posle potom pri pyat sutki tolko vvodit"
    " vvodite zatem",
    "zh": "bu buyao de di haoke he huanzhe ji jingmai kaishi keyi liang mei meitian ranhou ri shi shiyong tian wu"
    " yao yi yong zhiliao zhushe",
    "ja": "dake de desu ga kara kudasai masen masu mo nai ni nichi nichikan no sareru shimasen shimasu shinai"
    " shougai suru to toyo wa wo",
    "ar": "al ala an ayyam ba'd fi hadha hatta ila jur'a jur'at khamsat kul kull la lil lilmarid ma thumma wa ya"
    " yajib yawm yawmiyan yu'ta",
    "el": "apo den diarkei gia hmera imera imeres imeron kai kathe mera meres meta mia na ochi pente prepei proti"
    " stin sto ston ta ti tou",
}  # fmt: skip
#: Latin and French that English clinical text is written with.
_BORROWED = re.compile(
    r"\b(?:et al|de novo|in (?:vitro|vivo|utero|situ|silico)|per os|per se|a priori|vis-[\u00e0a]-vis|sine qua non"
    r"|ad (?:libitum|hoc)|pro re nata|grand mal|petit mal|tic douloureux|caf\u00e9[- ]au[- ]lait|cri[- ]du[- ]chat"
    r"|de facto|nota bene|status quo|Sans Fronti\u00e8res|los angeles|la jolla|den haag|le havre|al dente)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CLAUSE = re.compile(r"[,;:()\u2013]|\s-\s")
_CJK = re.compile(r"[\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1cff\u1f00-\u1fff\u2c80-\u2dff\ua4d0-\ua71f\ua800-\uab2f\uabc0-\uabff]{2,}")
_FOREIGN_LETTER = re.compile(r"\b[a-z]*[\u00df-\u00f6\u00f8-\u02af\u1e00-\u1eff][^\W\d_]*")
_NOT_LATIN = frozenset(["ar", "el", "fa", "he", "hi", "ja", "ko", "ru", "th", "uk", "zh"])

# Measured, not learnt: no statement of the English styles of the corpus is foreign (tests/monitor/test_scope.py),
# nor would be with these a third lower.
_SURE = 0.9
_LIKELY = 0.4
_HARDLY_EXPECTED = 0.25  # what a text with two foreign small words may score as the expected language
_NOT_EXPECTED = 0.06
_FAR_FROM_EXPECTED = 0.02
_NOUN = 4  # letters: German nouns have capitals too


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(_LANGUAGES))
    return identifier


@cache
def _words(language: str) -> frozenset[str]:
    return frozenset(_SMALL_WORDS.get(language, "").split())


@cache
def _lexicon(expected: str) -> dict[str, tuple[str, ...]]:
    """Return the languages of each small word: `(expected,)` for those of the expected language."""
    languages: dict[str, list[str]] = {}
    for language, words in _SMALL_WORDS.items():
        for word in words.split():
            languages.setdefault(word, []).append(language)
    return {word: (expected,) if expected in names else tuple(names) for word, names in languages.items()}


def _small_words(text: str, expected: str) -> tuple[Counter[str], Counter[str]]:
    """Return the small words of the expected language, and how many distinct ones there are of each other."""
    lexicon = _lexicon(expected)
    home: Counter[str] = Counter()
    others: Counter[str] = Counter()
    seen = set()
    for i, written in enumerate(_WORD.findall(text.lower() if text.isupper() else text)):
        if i and written[0].isupper() and len(written) < _NOUN:
            continue  # of a name: "Universidade de S\u00e3o Paulo"
        word = written.lower()
        names = lexicon.get(word) or lexicon.get(word.partition("'")[0], ())
        if names == (expected,):
            home[word] += 1
        elif names and word not in seen:
            seen.add(word)
            others.update(names)
    return home, others


def _other_script(text: str) -> bool:
    """Tell whether a good part of the letters is of a script that Latin languages are not written in."""
    ideographs = len(_CJK.findall(text))
    letters = sum(map(len, _OTHER_SCRIPT.findall(text)))
    if ideographs < 2 and letters < 4:
        return False
    # An ideograph says as much as three letters.
    return 4 * (3 * ideographs + letters) >= sum(map(str.isalpha, text)) + 2 * ideographs


def _identified(text: str, expected: str, home: Counter[str], others: Counter[str]) -> str | None:
    """Return the foreign language of a text in Latin letters, given its small words, else None."""
    ranked = _identifier().rank(text)
    language, probability = ranked[0]
    of_expected = dict(ranked).get(expected, 0.0)
    best, count = others.most_common(1)[0] if others else (language, 0)
    at_home = sum(n for word, n in home.items() if word not in _words(best))
    if count > max(1, at_home) and (of_expected < _HARDLY_EXPECTED or (count > 2 and not at_home)):
        return best
    if language == expected or of_expected >= _NOT_EXPECTED:
        return None
    own = others[language]
    at_home = sum(n for word, n in home.items() if word not in _words(language))
    if (own and own >= at_home and probability >= _SURE) or (own and not at_home and probability >= _LIKELY):
        return str(language)
    foreign_letters = _FOREIGN_LETTER.search(text) is not None
    return str(language) if foreign_letters and of_expected < _FAR_FROM_EXPECTED and not at_home else None


def foreign_language(text: str, expected: str) -> str | None:
    """Return the ISO 639-1 code of the language of `text` when it is surely not the expected one, else None.

    Text is a statement or a message, normalised; of long ones the first 2,000 characters are read. A sentence with a
    clause in another language is foreign. Drug lists, fragments and names are not.
    """
    text = text[:_MAX_CHARS]
    if expected not in _NOT_LATIN and _other_script(text):
        return str(_identifier().classify(text)[0])
    plain = _BORROWED.sub(" ", text)
    home, others = _small_words(plain, expected)
    if expected not in _SMALL_WORDS:
        language, probability = _identifier().classify(plain)
        return str(language) if language != expected and probability >= _SURE and len(plain) >= 24 else None
    if not others and (home.total() > 1 or text.isascii()):
        return None  # most statements: nothing to ask the identifier
    if found := _identified(plain, expected, home, others):
        return found
    if others and home:
        for clause in _CLAUSE.split(plain):
            home, others = _small_words(clause, expected)
            if (
                others
                and max(others.values()) > max(1, home.total())
                and (found := _identified(clause, expected, home, others))
            ):
                return found
    return None
