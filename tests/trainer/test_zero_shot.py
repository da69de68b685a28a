"""A guideline without training: alignment by likeness, pseudo-guidelines, the generic combination, the package."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.check import check_lines
from monitor.errors import ConfigurationError
from monitor.factory import build_screening
from monitor.memory import MemoryStore
from monitor.package import OUT_OF_SCOPE, ModelPackage
from monitor.settings import Settings
from trainer import package
from trainer.errors import CorpusError, PackError
from trainer.guideline.guidelines import Pack
from trainer.model.encoder import Embedder, load_pretrained
from trainer.types import Example, Label, Recommendation
from trainer.verifier import shipped, zero_shot
from trainer.verifier.combining import UNSAFE_FEATURES
from trainer.verifier.crossencoder import PairReader, load
from trainer.verifier.pairs import Pair, Relation
from trainer.verifier.pretraining import split
from trainer.verifier.zero_shot import Generic, Guideline, Likeness

LIKENESS = Likeness(20.0, 3.0, 8.0)


def unit(rng: np.random.Generator, n: int, width: int = 16) -> np.ndarray:
    vectors = rng.normal(size=(n, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def topic_pairs(topics: int = 80, source: str = "general") -> list[Pair]:
    """Statements on invented topics: two recommendations each, with twins and something neutral."""
    pairs = []
    for t in range(topics):
        for dose in (20, 40):
            rule = f"For topic {t} the dose is {dose} mg once daily."
            for who in ("adults", "teenagers"):
                says = {
                    Relation.CONSISTENT: f"{who} with {t} receive {dose} mg once daily",
                    Relation.CONTRADICTS: f"{who} with {t} receive {dose + 7} mg once daily",
                    Relation.NEUTRAL: f"the ward of {who} with {t} is at home, not {dose}",
                }
                pairs += [Pair(rule, text, relation, f"{source}:{t}", source) for relation, text in says.items()]
    return pairs


@pytest.fixture(scope="module")
def embedder(tiny_bert: Path) -> Embedder:
    return Embedder(*load_pretrained(str(tiny_bert)), max_length=64, sub_batch=32)


@pytest.fixture(scope="module")
def reader(tiny_bert: Path) -> PairReader:
    return PairReader(*load(str(tiny_bert)))


@pytest.fixture(scope="module")
def generic(reader: PairReader, embedder: Embedder) -> Generic:
    return zero_shot.fit_generic(reader, embedder, topic_pairs())


@pytest.fixture(scope="module")
def start(reader: PairReader, generic: Generic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships: a verifier and the generic combination."""
    folder = tmp_path_factory.mktemp("verifier")
    shipped.save(reader, folder)
    zero_shot.save(generic, folder)
    return folder


@pytest.fixture(scope="module")
def made(
    start: Path, tiny_bert: Path, make_pack: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[package.Packaged, Pack]:
    root = tmp_path_factory.mktemp("packaged")
    pack = Pack.load(make_pack(root / "pack"))
    return package.build(pack, root / "package", base=str(tiny_bert), start=start), pack


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_a_statement_that_says_a_recommendation_is_about_it(n: int, seed: int) -> None:
    directions = unit(np.random.default_rng(seed), n)
    head = LIKENESS.head([str(i) for i in range(n)], directions)
    p = head.probabilities(directions)
    assert head.classes == [*map(str, range(n)), OUT_OF_SCOPE]
    assert p[:, :-1].argmax(axis=1).tolist() == list(range(n))


def test_a_statement_that_is_like_no_recommendation_is_about_none() -> None:
    directions = np.eye(16, dtype=np.float32)[:4]
    p = LIKENESS.head(list("abcd"), directions).probabilities(np.eye(16)[15:])
    assert p[0, -1] > 0.9


def test_fitted_likeness_explains_the_statements_better_than_where_it_starts() -> None:
    rng = np.random.default_rng(1)
    rules = unit(rng, 5)
    about = rng.integers(0, 6, 200)
    noise = unit(rng, 200)
    mixed = np.where(about[:, None] < 5, rules[np.minimum(about, 4)] + 0.8 * noise, noise)
    vectors = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    names = [*map(str, range(5)), None]
    examples = [Example(str(i), str(i), Label.SAFE, names[a], None, None, "f", "s") for i, a in enumerate(about)]
    own = Guideline([*map(str, range(5))], rules, examples, vectors)

    def loss(likeness: Likeness) -> float:
        return -float(np.log(own.aligned(likeness)[np.arange(200), own.targets()]).mean())

    fitted = zero_shot.fit_likeness([own])
    assert loss(fitted) < loss(Likeness(*zero_shot._START))
    found = zero_shot.ranks([own], fitted)
    assert found["right recommendation among the first 1"] > 0.9
    assert found["right recommendation among the first 3"] >= found["right recommendation among the first 1"]


def test_views_leave_out_the_names_that_all_recommendations_share() -> None:
    own = Recommendation("1", "1", "Dose", "ZLM/zolamide (ZLM) 20 mg, zolamides apart.", "", "", "", 0, 0)
    assert zero_shot.views(own, ["zolamide", "zlm"]) == [own.text, "/ ( ) 20 mg, zolamides apart.", "Dose"]
    assert zero_shot.views(own, []) == [own.text, own.text, "Dose"]


def test_pseudo_guidelines_are_made_of_topics_that_pretraining_never_met(embedder: Embedder) -> None:
    pairs = topic_pairs(100)
    twice = topic_pairs(3, "further")  # these topics are known from another source, wherever they are held out
    seen, held = split([*pairs, *twice])
    known = {p.group.split(":")[1] for p in seen}
    own = zero_shot.pseudo_guidelines([*pairs, *twice], embedder)
    rules = {rule for guideline in own for rule in guideline.rules}
    assert rules == {p.premise for p in held if p.group.split(":")[1] not in known}
    for guideline in own:
        assert len(guideline.embeddings) == len(guideline.examples)
        assert {e.recommendation for e in guideline.examples} <= {*guideline.rules, None}
        assert len({e.family for e in guideline.examples}) == 1
        outside = [e.text for e in guideline.examples if e.label is Label.OUT_OF_SCOPE]
        assert any("ward" in text for text in outside)
        assert all("ward" not in e.text for e in guideline.examples if e.label is not Label.OUT_OF_SCOPE)


def test_too_few_topics_are_refused(embedder: Embedder) -> None:
    with pytest.raises(CorpusError, match="topics held out"):
        zero_shot.pseudo_guidelines(topic_pairs(20), embedder)


def test_the_encoder_has_no_weight_in_the_generic_combination(generic: Generic) -> None:
    weights = dict(zip(generic.spec.unsafe.features, generic.spec.unsafe.weights, strict=True))
    assert tuple(weights) == UNSAFE_FEATURES
    assert weights["encoder"] == 0
    assert 0.5 <= generic.spec.thresholds.unsafe <= 1
    assert generic.spec.thresholds.review <= generic.spec.thresholds.unsafe
    assert {"guidelines", "statements", "AUC combined, out of fold"} <= generic.report.keys()


def test_what_is_saved_loads_again(generic: Generic, start: Path) -> None:
    again = zero_shot.load(start)
    assert (again.likeness, again.spec) == (generic.likeness, generic.spec)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"alignment": {}, "combination": {}, "report": {}}'])
def test_a_combination_that_is_not_there_or_not_one_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / zero_shot.COMBINATION).write_text(content)
    with pytest.raises(ConfigurationError, match=r"combination\.json"):
        zero_shot.load(tmp_path)


def test_the_package_screens_messages(made: tuple[package.Packaged, Pack]) -> None:
    own = ModelPackage.load(made[0].path)
    assert [r.id for r in own.manifest.recommendations] == ["1-dose", "2-duration", "3-pregnancy"]
    assert own.manifest.corpus.statements == 0
    assert "zolamide" in own.manifest.scope.terms

    line = b'{"id": "1", "text": "The dose of zolamide is 20 mg once daily."}'

    async def screened(verify: bool) -> list[dict]:
        screening = build_screening(Settings(model=own.path, verify=verify), own, MemoryStore())
        try:
            return await check_lines([line], screening, own)
        finally:
            await screening.close()

    verdicts = {verify: asyncio.run(screened(verify))[0]["verdict"] for verify in (True, False)}
    assert verdicts[True] in {"safe", "review", "unsafe", "out_of_scope"}
    # The encoder alone knows nothing: what it takes to be in scope is for people to judge.
    assert verdicts[False] in {"review", "out_of_scope"}


def test_the_package_is_measured_on_labelled_statements(made: tuple[package.Packaged, Pack]) -> None:
    packaged, pack = made
    known = [Recommendation(r.id, r.section, "", r.text, "", "", "", 0, 0) for r in packaged.manifest.recommendations]
    measured = package.measure(packaged.path, package.statements_of(pack, known, 60))
    assert measured.statements == 60
    assert all(0 <= f.auc <= 1 and 0 <= f.f1 <= 1 for f in measured.figures)
    assert all(0 <= share <= 1 for share in measured.others.values())
    with pytest.raises(CorpusError, match="safe and unsafe"):
        package.measure(packaged.path, [])


def test_what_is_no_package_is_not_overwritten(
    made: tuple[package.Packaged, Pack], start: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="no model package"):
        package.build(made[1], tmp_path, base=str(tiny_bert), start=start)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_guideline_without_recommendations_is_refused_and_leaves_nothing(
    start: Path, tiny_bert: Path, make_pack: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make_pack(tmp_path / "pack")
    (path.parent / "guideline.md").write_text("# Zolamide\n\nNothing is known.\n")
    path.write_text("\n".join(row for row in path.read_text().splitlines() if not row.startswith("recommendations:")))
    with pytest.raises(PackError, match="no recommendation was found"):
        package.build(Pack.load(path), tmp_path / "out", base=str(tiny_bert), start=start)
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]


def test_the_command_says_what_it_made_and_what_to_do_next(
    made: tuple[package.Packaged, Pack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged, pack = made
    output = Path(shutil.copytree(packaged.path, tmp_path / "out"))
    monkeypatch.setattr(
        package, "build", lambda *_, **__: package.Packaged(output, packaged.manifest, packaged.extraction)
    )
    result = CliRunner().invoke(package.command, ["--pack", str(pack.path), "--output", str(output), "--measure", "60"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "3 recommendations in 3 sections (curated list), 0 rejected" in said
    assert "guardline check --model" in said
    assert "guardline train --pack" in said
    assert "as served: combined" in said
    assert json.loads((output / "manifest.json").read_text())["schema_version"] == 2
