"""Words of clinical English as tables: numbers, units, comparators, categories, negation, opposites.

Tables only, no logic; `monitor.claims.reading` says how they are used. They name units, routes and kinds of patients
in general and no treatment, so they serve any guideline. All entries are in lower case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final


def words(text: str) -> frozenset[str]:
    """Split a list of words, so that a lexicon reads like one."""
    return frozenset(text.split())


def _list(text: str) -> list[str]:
    return text.split()


def _table(text: str) -> Iterator[tuple[str, str]]:
    """Yield (key, phrase) of lines "key: phrase|phrase"; a key may have several lines."""
    for line in text.strip().splitlines():
        key, _, phrases = line.partition(": ")
        for phrase in phrases.split("|"):
            yield key, phrase


# ------------------------------------------------------------------------------------------------------------- numbers

_SMALL = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
ONES: Final = {word: float(value) for value, word in enumerate(_SMALL)}
TENS: Final = {
    word: 10.0 * value
    for value, word in enumerate(_list("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
SCALES: Final = {"hundred": 100.0, "thousand": 1000.0, "million": 1e6}
ORDINALS: Final = {
    word: float(value)
    for value, word in enumerate(
        _list(
            "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
        ),
        start=1,
    )
}
ROMAN: Final = {"i": 1.0, "ii": 2.0, "iii": 3.0, "iv": 4.0, "v": 5.0, "vi": 6.0}
#: A Roman numeral counts only after one of these; "IV" alone is a route.
GRADED: Final = words("stage grade class type phase category step")
MULTIPLES: Final = {"twofold": 2.0, "threefold": 3.0, "fivefold": 5.0, "tenfold": 10.0}
TIMES: Final = {"once": 1.0, "twice": 2.0, "thrice": 3.0}
MONTHS: Final = {
    name[:length]: number
    for number, name in enumerate(
        _list("january february march april may june july august september october november december"),
        start=1,
    )
    for length in (3, len(name))
}

# --------------------------------------------------------------------------------------------------------------- units

#: Unit as written -> (dimension, factor to its base unit, as shown). Bases: mg, mL, hours, kg, percent.
UNITS: Final[dict[str, tuple[str, float, str]]] = {
    **dict.fromkeys(("ng", "nanogram", "nanograms"), ("mass", 1e-6, "ng")),
    **dict.fromkeys(("mcg", "ug", "\u03bcg", "microgram", "micrograms", "microg"), ("mass", 0.001, "micrograms")),
    **dict.fromkeys(("mg", "mgs", "milligram", "milligrams", "milligramme", "milligrammes"), ("mass", 1.0, "mg")),
    **dict.fromkeys(("g", "gm", "gram", "grams", "gramme", "grammes"), ("mass", 1000.0, "g")),
    **dict.fromkeys(("kg", "kgs", "kilo", "kilos", "kilogram", "kilograms"), ("weight", 1.0, "kg")),
    **dict.fromkeys(("unit", "units", "iu"), ("units", 1.0, "units")),
    **dict.fromkeys(("mmol", "millimol", "millimole", "millimoles"), ("mmol", 1.0, "mmol")),
    **dict.fromkeys(("meq",), ("mmol", 1.0, "mEq")),
    **dict.fromkeys(("ml", "millilitre", "millilitres", "milliliter", "milliliters", "cc"), ("volume", 1.0, "mL")),
    **dict.fromkeys(("l", "litre", "litres", "liter", "liters"), ("volume", 1000.0, "L")),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), ("time", 1 / 3600, "seconds")),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), ("time", 1 / 60, "minutes")),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), ("time", 1.0, "hours")),
    **dict.fromkeys(("d", "day", "days"), ("time", 24.0, "days")),
    **dict.fromkeys(("night", "nights"), ("time", 24.0, "nights")),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), ("time", 168.0, "weeks")),
    **dict.fromkeys(("fortnight", "fortnights"), ("time", 336.0, "fortnights")),
    **dict.fromkeys(("month", "months"), ("time", 730.5, "months")),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), ("time", 8766.0, "years")),
    **dict.fromkeys(("%", "percent"), ("percent", 1.0, "%")),
    **dict.fromkeys(("mmhg",), ("mmHg", 1.0, "mmHg")),
    **dict.fromkeys(("bpm",), ("bpm", 1.0, "bpm")),
    **dict.fromkeys(("cm", "centimetre", "centimetres", "centimeter", "centimeters"), ("length", 10.0, "cm")),
    **dict.fromkeys(("mm", "millimetre", "millimetres", "millimeter", "millimeters"), ("length", 1.0, "mm")),
    **dict.fromkeys(("joule", "joules"), ("energy", 1.0, "J")),
    **dict.fromkeys(("kcal",), ("kcal", 1.0, "kcal")),
}
#: What may follow "/" or "per", as it is written in the canonical unit.
DENOMINATORS: Final = {
    **dict.fromkeys(("kg", "kilo", "kilogram"), "kg"),
    **dict.fromkeys(("m2",), "m2"),
    **dict.fromkeys(("ml", "millilitre", "milliliter"), "mL"),
    **dict.fromkeys(("l", "litre", "liter"), "L"),
    "dl": "dL",
    "mmol": "mmol",
    **dict.fromkeys(("min", "minute"), "min"),
    **dict.fromkeys(("h", "hr", "hour"), "h"),
}
#: "per day" is a frequency of what stands before it, no part of the unit.
PER_DAY: Final = {
    **dict.fromkeys(("day", "d", "night"), 1.0),
    **dict.fromkeys(("week", "wk"), 1 / 7),
    **dict.fromkeys(("fortnight",), 1 / 14),
    **dict.fromkeys(("month",), 1 / 30.4375),
    **dict.fromkeys(("year",), 1 / 365.25),
}
#: Abbreviated and adverbial frequencies, as times a day.
FREQUENCIES: Final = {
    **dict.fromkeys(("daily", "od", "qd", "nightly", "nocte", "mane", "qhs"), 1.0),
    **dict.fromkeys(("bd", "bid"), 2.0),
    **dict.fromkeys(("tds", "tid"), 3.0),
    **dict.fromkeys(("qds", "qid"), 4.0),
    **dict.fromkeys(("hourly",), 24.0),
    **dict.fromkeys(("weekly", "qw"), 1 / 7),
    **dict.fromkeys(("fortnightly",), 1 / 14),
    **dict.fromkeys(("monthly",), 1 / 30.4375),
    **dict.fromkeys(("yearly", "annually", "annual"), 1 / 365.25),
}
#: Things that are counted out to a patient; one unit of the count, whatever it is called.
DOSES: Final = words(
    "dose doses infusion infusions bag bags injection injections shot shots jab jabs administration administrations "
    "tablet tablets capsule capsules pill pills puff puffs spray sprays drop drops sachet sachets vial vials visit "
    "visits drip drips"
)

# --------------------------------------------------------------------------------------------------------- comparators

#: Comparator before a number -> (side, strict): "most" bounds above, "least" below.
BEFORE: Final[dict[str, tuple[str, bool]]] = {
    phrase: (key.split()[0], key.endswith("strict"))
    for key, phrase in _table(
        """
most inclusive: up to|at most|no more than|not more than|never more than|no longer than|not longer than|no later than
most inclusive: not later than|within|maximum of|maximum|max|not exceed|not exceeding|never exceed|not above|not over
most inclusive: not beyond|limit of|limited to|not past|no greater than|no higher than|ceiling of|≤|within the first
most inclusive: inside|at or below|at or under
most strict: under|below|less than|fewer than|lower than|younger than|shorter than|smaller than|lighter than|<
most strict: short of|earlier than|sooner than|not at least
least inclusive: at least|no less than|not less than|no fewer than|not fewer than|minimum of|minimum|from|not under
least inclusive: not below|no shorter than|no sooner than|not before|no earlier than|not sooner than|not shorter than
least inclusive: no lower than|≥|at or above|at or over|no younger than
least strict: above|more than|greater than|higher than|over|exceeds|exceed|exceeding|exceeded|beyond|older than
least strict: longer than|heavier than|later than|>|not within
"""
    )
}
#: The longest of them, in words.
BEFORE_WORDS: Final = 3
#: Second word after "or" or "and" behind a quantity ("40 kg or more").
AFTER_LEAST: Final = words("more over above older longer greater higher heavier beyond upwards later up")
AFTER_MOST: Final = words("less under below younger fewer lower shorter lighter earlier sooner")

# ---------------------------------------------------------------------------------------------------------- categories

#: Phrase -> (group, value). Longer phrases win. Values of one group exclude one another, but see `NESTED`.
CATEGORIES: Final[dict[str, tuple[str, str]]] = {
    phrase: (key.split()[0], key.split()[1])
    for key, phrase in _table(
        """
route intravenous: iv|intravenous|intravenously|vein|veins|infusion|infusions|infuse|infused|infuses|infusing|drip
route intravenous: drips|dripped
route bolus: push|iv push|intravenous push|bolus|boluses|iv bolus|intravenous bolus|pushed into
route oral: oral|orally|by mouth|po|tablet|tablets|capsule|capsules|swallow|swallowed|pill|pills|syrup|oral form
route intramuscular: intramuscular|intramuscularly|im|into muscle|into the muscle|muscle injection|in the muscle
route intramuscular: into a muscle
route subcutaneous: subcutaneous|subcutaneously|sc|subcut|under the skin|beneath the skin
route inhaled: inhaled|inhaler|inhale|inhalation|nebulised|nebulized|nebuliser|nebulizer|nebulisation|aerosolised
route inhaled: aerosolized|breathed in
route topical: topical|topically|cream|ointment|lotion|transdermal|skin patch
route rectal: rectal|rectally|suppository|suppositories|enema
route nasal: intranasal|intranasally|nasal spray|nasal drops|nose spray
route intrathecal: intrathecal|intrathecally
route sublingual: sublingual|sublingually|under the tongue
route vaginal: vaginal|vaginally|pessary
setting outpatient: outpatient|outpatients|ambulatory|non-hospitalized|non-hospitalised|nonhospitalized
setting outpatient: nonhospitalised|at home|home patient|outside hospital|outside the hospital|out of hospital
setting outpatient: not hospitalized|not hospitalised|not in hospital|not admitted|home pt|not in the hospital
setting inpatient: inpatient|inpatients|hospitalized|hospitalised|admitted|in hospital|in the hospital|on the ward
setting inpatient: ward patient|ward patients
oxygen none: room air|no supplemental oxygen|without supplemental oxygen|no oxygen|without oxygen|off oxygen
oxygen none: not on oxygen|without any oxygen|no supplemental o2|no o2|not need oxygen|not needing oxygen
oxygen none: not require oxygen|not requiring oxygen|not need supplemental oxygen|not require supplemental oxygen
oxygen none: no added oxygen|no oxygen requirement|no oxygen need|no extra oxygen|without extra oxygen
oxygen low: low-flow|low flow|conventional oxygen|minimal oxygen|nasal cannula|nasal prongs
oxygen low: minimal conventional oxygen|by cannula
oxygen high: high-flow|high flow|hfnc|hfno|hfnp|niv|non-invasive ventilation|noninvasive ventilation|cpap|bipap
oxygen high: non-invasive ventilator|non-invasively ventilated
oxygen invasive: invasive mechanical ventilation|invasive ventilation|mechanical ventilation|mechanically ventilated
oxygen invasive: ventilated|intubated|ventilator|ecmo|imv|ecmo circuit
severity mild: mild|mildly
severity moderate: moderate|moderately
severity severe: severe|severely
severity critical: critical|critically
risk high: high risk|high-risk|at high|at risk|increased risk|at increased|high likelihood|high chance
risk low: low risk|low-risk|not at high risk|average risk|average-risk|standard risk|standard-risk|no risk factor
risk low: no risk factors|without risk factors|not at risk|at low|at average
population adult: adult|adults|man|men|woman|women|grown-up|grown-ups
population child: child|children|paediatric|pediatric|boy|girl|toddler|toddlers|kid|kids|boys|girls
population infant: infant|infants|baby|babies
population neonate: neonate|neonates|newborn|newborns|neonatal|preterm|premature
population adolescent: adolescent|adolescents|teenager|teenagers|teenage
population elderly: elderly|older people|older adults
pregnancy pregnant: pregnant|pregnancy|trimester|expectant
pregnancy breastfeeding: breastfeeding|breast-feeding|lactation|lactating|nursing mother|nursing mothers|breastfed
pregnancy breastfeeding: breastfeed
line first: first-line|first line|first choice|first-choice|preferred
line later: second-line|second line|third-line|last-line|last resort|next choice|fallback|reserve
care renal: renal|kidney|kidneys|egfr|dialysis|haemodialysis|hemodialysis|creatinine
care hepatic: hepatic|liver|alt|transaminases|cirrhosis
"""
    )
}
#: Values that do not exclude one another: a baby is a child, an infusion may be called an injection.
NESTED: Final = frozenset(
    {
        ("population", "child", "infant"),
        ("population", "child", "neonate"),
        ("population", "child", "adolescent"),
        ("population", "infant", "neonate"),
        ("population", "adult", "elderly"),
        ("oxygen", "low", "high"),
        ("severity", "severe", "critical"),
        ("severity", "mild", "moderate"),
        ("severity", "moderate", "severe"),
    }
)

# ------------------------------------------------------------------------------------------------------------ polarity

#: Each turns round what is said in its clause.
NEGATORS: Final = words(
    "no not never without none neither nor nobody nothing cannot can't don't doesn't didn't isn't aren't "
    "wasn't weren't "
    "won't shouldn't mustn't needn't couldn't wouldn't haven't hasn't hadn't lacks lack lacking unless hardly"
)
#: So does each of these, which say it with a verb or an adjective.
REFUSALS: Final = words(
    "avoid avoids avoided avoiding contraindicated contraindication contraindications withhold withholds withheld "
    "withholding discourage discouraged discourages forbid forbidden forbids prohibit prohibited prohibits "
    "refuse refused "
    "refuses decline declined omit omitted skip skipped reject rejected deny denied denying exclude excluded excludes "
    "unnecessary needless inappropriate unacceptable unsuitable unsafe unjustified inadvisable ineligible "
    "superfluous pointless redundant harmful dangerous fails failed fail stop stops stopped discontinue discontinued "
    "cancel cancelled against bars barred ineffective useless unproven insufficient inferior incompatible impossible "
    "outside closed disqualifies disqualify disqualified unneeded unwarranted barrier unlicensed"
)
#: Turns round the rest of its sentence: "it is a myth that ...", "...; that is wrong".
REJECTIONS: Final = words(
    "myth myths misconception fallacy untrue false wrong mistaken mistake incorrect error misreading wrongly outdated "
    "obsolete incorrectly falsely corrected query queried"
)
#: Introduce what others think; with one of `FACTS` later in the sentence or the next one it is denied.
BELIEFS: Final = words(
    "fear fears thought believed believe believes worry told assume assumed assumes supposed tempting heard rumour"
)
FACTS: Final = words("fact actually but reality truth")
#: Adverbs that no negation turns into its opposite.
NOT_NEGATING: Final = frozenset({"not only", "no matter", "no doubt", "not just", "not merely", "no exception"})
YES: Final = words("yes correct true right indeed agreed certainly absolutely sure definitely")
NO: Final = words("no false wrong incorrect never")
#: "Rather than 10 days", "instead of tablets": what follows is denied, what stands before is not.
CONTRASTS: Final = frozenset({"rather than", "instead of", "as opposed", "in place"})
#: After "and", "or" or a comma each of these begins a clause of its own: "stop the drug and record an ECG weekly".
IMPERATIVES: Final = words(
    "give start begin use test measure offer check monitor keep continue avoid switch add repeat treat reduce increase "
    "consider seek stop record take screen refer inject apply perform obtain change extend limit choose prefer restart "
    "withdraw withhold omit replace review perform aim administer infuse never do discontinue escalate taper "
    "double hold "
    "advise ask carry watch wait"
)
#: Begin a clause.
CONJUNCTIONS: Final = words(
    "but while whereas although though because if when unless who whom whose which that then until so since "
    "whether yet "
    "however where"
)
#: After one of these "not" denies the clause; after anything else ("200 mg, not 400") what follows.
VERBS: Final = words(
    "is are was were be been being am do does did has have had can could may might must should shall will would need "
    "ought"
)
#: A condition, which a negation beside the main clause leaves alone.
CONDITIONS: Final = words("if when unless who whose whom which that because since although though where until whether")

# ------------------------------------------------------------------------------------------------------ time and plan

#: Say that a time is counted from the beginning of an illness or an event.
ONSET: Final = words("onset symptom symptoms illness began exposure fever cough ill sick ago earlier since feeling")
#: Say that a mass is not one dose.
TOTAL: Final = words(
    "total totals totalling altogether overall all sum cumulative combined contains containing vial vials "
    "portions parts "
    "divided split tablet tablets capsule capsules maximum ceiling limit cap entire"
)
#: The phase of a course that a dose belongs to.
FIRST: Final = words(
    "load loading loaded loads initial initially opening opens open starting starts start first ld begins begin opener"
)
LATER: Final = words(
    "maintenance maintain maintains maintained tomorrow thereafter then later subsequent subsequently "
    "afterwards following followed continue continues "
    "continued daily after remaining md onward onwards next each every further"
)
#: Before a dose or a length of time, say that a patient has it already.
HAS: Final = words(
    "has have had been taken took usually already since last past previous previously preceding now still"
)
#: After one of these "against" advises against; elsewhere it is a preposition.
ADVISING: Final = words(
    "advised advise advises advising recommended recommend recommends warn warns warned counsel counsels "
    "caution cautions "
    "argues speaks spoke decided decide decides"
)
#: Say that a number is told, not claimed.
TOLD: Final = words(
    "earlier formerly former previously previous old older outdated used trial study placebo versus against compared "
    "twice half double doubled doubling halve halved triple times instead x \u00d7 going step exceed exceeds "
    "exceeded would "
    "cut cutting reduce reduced reducing raise raised increase increased increasing decrease decreased taper tapered "
    "climbing added"
)

# ----------------------------------------------------------------------------------------------------------- opposites

#: Words of which one cannot stand for another without changing what is claimed, by the kind of change.
OPPOSITES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = tuple(
    (line.partition(": ")[0], tuple(" ".join(side.split()) for side in line.partition(": ")[2].split("/")))
    for line in """
comparator: more greater higher above over exceeds exceed exceeding longer older least minimum beyond / less fewer
    lower below under shorter younger most maximum smaller
timing: before prior preceding ahead beforehand / after following afterwards once
timing: early earlier sooner soon immediately promptly prompt urgent / late later delay delayed deferred wait postpone
    postponed
timing: start starts started begin begins began initiate initiated commence / stop stops stopped end ends discontinue
    discontinued cease withdraw
timing: morning mornings / evening evenings night bedtime nightly
timing: continue continues continued continuing / stop stops stopped interrupt interrupted pause paused discontinue
    discontinued suspend suspended
direction: increase increases increased raise raises raised rise rises up escalate / decrease decreases decreased
    reduce reduces reduced lower lowers lowered fall falls down
direction: better improve improves improved superior / worse worsen worsens worsened inferior
direction: faster quicker quickly rapid rapidly / slower slowly slow gradual gradually
direction: longer prolonged extended / shorter brief shortened short
direction: positive / negative
direction: high / low
quantifier: all every any always each whole entire everyone / no none never nobody neither / some few several selected
    certain sometimes occasionally rarely
quantifier: only solely exclusively alone / also besides additionally plus
modality: must required mandatory compulsory obligatory requires needed necessary essential / may optional might could
    permitted allowed acceptable
combination: with plus together combined alongside and / without alone instead replace replaces replacing monotherapy
order: first / second / third / last
verdict: recommended advised preferred indicated appropriate suitable eligible / discouraged contraindicated
    unsuitable ineligible inappropriate avoided
verdict: safe safely harmless / unsafe harmful dangerous
verdict: enough sufficient adequate suffices / insufficient inadequate
verdict: regardless irrespective whatever any / depending depends according
verdict: include includes included / exclude excludes excluded
sex: men man male males boys / women woman female females girls
severity: mild / severe / critical
side: left / right
unit: minute minutes / hour hours / day days / week weeks / month months / year years
unit: mg milligram milligrams / g gram grams / microgram micrograms mcg
frequency: daily / weekly / monthly / yearly annually
frequency: once / twice / thrice
route: oral orally tablets tablet capsules mouth / intravenous intravenously infusion infusions drip iv / subcutaneous
    subcutaneously skin / intramuscular intramuscularly muscle / topical topically cream / inhaled inhaler nebulised
""".replace("\n    ", " ")
    .strip()
    .splitlines()
)

#: Words that carry no content; their presence or absence is never an agreement.
FUNCTION: Final = words(
    "a an the of to in on at for by with and or is are was were be been being as it its this that these those there "
    "from into than then so if when who which whose while he she they we you i his her their your our my me him them "
    "has have had do does did will would can could may might must should shall not no any all some more most other "
    "such also just only even still yet very about after before during until within without between per each every one "
    "what how why where yes because but s t re"
)
#: Endings of international non-proprietary names (WHO, "The use of stems in the selection of INN").
DRUG_ENDINGS: Final = tuple(
    _list(
        "vir mab nib sone solone quine mycin cillin cycline floxacin azole statin pril sartan olol dipine parin xaban "
        "gatran gliptin gliflozin formin tidine prazole semide thiazide caine profen setron triptan citinib dronate "
        "penem oxetine barbital azepam azolam mectin micin tide platin rubicin taxel fibrate lukast terol tropium "
        "phylline amide zepine oxacin adol codone morphone fentanil curonium vudine navir tegravir buvir asvir previr "
        "conazole fungin toin afil steride lutamide zosin"
    )
)
#: Medicines whose names have none of these endings, and brands; each with the nonproprietary name.
COMMON_MEDICINES: Final = {
    name: name
    for name in _list(
        "paracetamol acetaminophen aspirin insulin morphine warfarin digoxin metformin prednisone lithium adrenaline "
        "epinephrine noradrenaline amiodarone colchicine salbutamol albuterol clopidogrel ticagrelor levothyroxine "
        "gabapentin pregabalin tramadol amphotericin methotrexate azathioprine cyclosporine ciclosporin tacrolimus "
        "mycophenolate sertraline fluoxetine citalopram mirtazapine diazepam lorazepam haloperidol melatonin zopiclone "
        "loratadine cetirizine diphenhydramine pseudoephedrine dextromethorphan guaifenesin oseltamivir ribavirin "
        "interferon rifampicin rifampin isoniazid trimethoprim nitrofurantoin metronidazole chlorhexidine"
    )
} | {
    "tylenol": "paracetamol", "panadol": "paracetamol", "calpol": "paracetamol", "advil": "ibuprofen",
    "nurofen": "ibuprofen", "motrin": "ibuprofen", "tamiflu": "oseltamivir", "xofluza": "baloxavir",
    "relenza": "zanamivir", "paxlovid": "nirmatrelvir", "lagevrio": "molnupiravir", "veklury": "remdesivir",
    "ventolin": "salbutamol", "augmentin": "amoxicillin", "eliquis": "apixaban", "xarelto": "rivaroxaban",
    "lipitor": "atorvastatin", "ozempic": "semaglutide", "benadryl": "diphenhydramine", "zyrtec": "cetirizine",
    "claritin": "loratadine", "lantus": "insulin", "coumadin": "warfarin", "lovenox": "enoxaparin",
}  # fmt: skip
