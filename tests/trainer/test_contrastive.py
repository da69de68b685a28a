"""PK batches, epochs, gradients however a batch was cut, and a training loop that learns and resumes."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.progress import Progress

from trainer.artifacts import RunFolder
from trainer.errors import CorpusError
from trainer.model import contrastive
from trainer.model.contrastive import Criterion, backward, batches, one_epoch, train, validation_auc
from trainer.model.encoder import Embedder, joint_classes, load_pretrained, load_trained
from trainer.settings import EncoderSettings, Objective
from trainer.types import Example, Label, Recommendation

TEXTS = ["The dose is 20 mg.", "No."]


def example(i: int, rule: str | None, label: Label, text: str, family: str) -> Example:
    return Example(f"e-{i}", text, label, rule, "dose", None, family, "a")


def rule(identifier: str, text: str = "") -> Recommendation:
    return Recommendation(identifier, "1", "", text, "g.md", "1", text, 0, len(text))


TOY_RULES = [rule("dose"), rule("days")]


def toy() -> list[Example]:
    """Two rules, right and wrong, told apart by a word; some statements out of scope."""
    rows = []
    for i, who in enumerate(["adults", "teenagers", "adults at home", "teenagers on ward", "adults in pregnancy"]):
        for name, right, wrong in (("dose", "given daily", "never given"), ("days", "for weeks", "for life")):
            family = f"{name}-{i}"
            rows.append(example(len(rows), name, Label.SAFE, f"zolamide {right} {who}", family))
            rows.append(example(len(rows), name, Label.UNSAFE, f"zolamide {wrong} {who}", family))
        rows.append(example(len(rows), None, Label.OUT_OF_SCOPE, f"the round is at home with {who}", "topic"))
    return rows


# Batches


@hypothesis_settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=40),
    st.integers(1, 24),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_an_epoch_has_every_family_whole_and_once(rows: list, batch_size: int, rules: int, seed: int) -> None:
    examples = []
    for name, family, members in dict.fromkeys(rows):
        for _ in range(members):
            examples.append(example(len(examples), f"r{name}", Label.SAFE, "", f"r{name}-f{family}"))
    given_ = list(batches(examples, batch_size=batch_size, recommendations=rules, rng=random.Random(seed)))
    assert Counter(e.id for batch in given_ for e in batch) == Counter(e.id for e in examples)
    where: dict[str, set[int]] = {}
    for i, batch in enumerate(given_):
        assert batch
        assert len({e.recommendation for e in batch}) <= rules
        for e in batch:
            where.setdefault(e.family, set()).add(i)
    assert all(len(own) == 1 for own in where.values())


@pytest.mark.parametrize("outside", [0, 3, 40])
def test_out_of_scope_statements_are_dealt_out_evenly(outside: int) -> None:
    scoped = [example(i, f"r{i % 4}", Label.SAFE, "", f"f{i}") for i in range(40)]
    others = [example(100 + i, None, Label.OUT_OF_SCOPE, "", "topic") for i in range(outside)]
    given_ = list(batches([*others, *scoped], batch_size=8, recommendations=4, rng=random.Random(1)))
    counts = [sum(e.recommendation is None for e in batch) for batch in given_]
    assert max(counts) - min(counts) <= 1
    assert all(len(batch) > count for batch, count in zip(given_, counts, strict=True))
    assert Counter(e.id for batch in given_ for e in batch) == Counter(e.id for e in [*others, *scoped])


def test_batches_depend_on_the_seed_only() -> None:
    def ids(seed: int) -> list[list[str]]:
        rng = random.Random(seed)
        return [[e.id for e in b] for b in batches(toy(), batch_size=4, recommendations=2, rng=rng)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


# Training


@pytest.fixture
def tiny_settings(tiny_bert: Path) -> EncoderSettings:
    return EncoderSettings(
        base=str(tiny_bert), epochs=12, batch_size=8, recommendations_per_batch=3, max_length=64, learning_rate=2e-3,
        edits_per_recommendation=2, out_of_scope_per_epoch=3,
    )  # fmt: skip


def losses(settings: EncoderSettings, rules: list[Recommendation] = TOY_RULES) -> tuple[list[float], list[float]]:
    seen: list[tuple[float, float]] = []

    def report(done: float, line: str) -> None:
        found = re.match(r"loss (\d+\.\d+), ", line)
        assert found
        seen.append((done, float(found[1])))

    train(toy(), [], rules, settings, report)
    return [done for done, _ in seen], [loss for _, loss in seen]


def test_training_lowers_the_loss(tiny_model: Path, tiny_settings: EncoderSettings) -> None:
    progress, values = losses(replace(tiny_settings, base=str(tiny_model), epochs=20))
    assert progress[-1] == 1
    assert progress == sorted(progress)
    assert np.mean(values[-4:]) < 0.6 * np.mean(values[:4])


@pytest.mark.parametrize(
    ("edits", "outside", "rows"),
    [
        (0, 0, 20 + 2),  # the statements on the two rules, and the rules
        (0, 3, 20 + 3 + 2),
        (0, 99, 20 + 5 + 2),  # there are five out of scope
        (10, 0, 20 + 2 + 10 + 10),  # one of the rules has a number; each wrong one comes with the right one
    ],
)
def test_epochs_are_counted_by_what_an_epoch_sees(
    tiny_settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch, edits: int, outside: int, rows: int
) -> None:
    sizes: list[int] = []

    def classes(batch: list[Example], rules: list[str]) -> np.ndarray:
        sizes.append(len(batch))
        return joint_classes(batch, rules)

    monkeypatch.setattr(contrastive, "joint_classes", classes)
    rules = [rule("dose", "Give 20 mg."), rule("days", "Stop when well.")]
    settings = replace(tiny_settings, epochs=3, edits_per_recommendation=edits, out_of_scope_per_epoch=outside)
    assert len(one_epoch(toy(), rules, settings, random.Random(1))) == rows
    progress: list[float] = []
    _, summary = train(toy(), [], rules, settings, lambda done, _: progress.append(done))
    steps = 3 * (rows // 8)
    assert progress == pytest.approx([(i + 1) / steps for i in range(steps)])
    assert summary["epochs"] == pytest.approx(sum(sizes) / rows, abs=0.006)


def test_an_epoch_smaller_than_a_batch_is_a_step(tiny_settings: EncoderSettings) -> None:
    progress, _ = losses(replace(tiny_settings, epochs=2, batch_size=1000, recommendations_per_batch=9))
    assert progress == [0.5, 1.0]


@pytest.mark.parametrize("label", [None, Label.OUT_OF_SCOPE])
def test_training_on_nothing_is_refused(tiny_settings: EncoderSettings, label: Label | None) -> None:
    examples = [e for e in toy() if e.label is label]
    with pytest.raises(CorpusError, match=r"no statement on the guideline to train on: see splits\.json"):
        train(examples, [], TOY_RULES, tiny_settings, lambda *_: None)


def test_training_ends_when_its_minutes_are_spent(
    tiny_settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)

    def monotonic() -> float:
        clock.now += 1e-6
        return clock.now

    monkeypatch.setattr(contrastive, "time", SimpleNamespace(monotonic=monotonic))
    seen = []

    def report(done: float, line: str) -> None:
        seen.append(done)
        clock.now += 10

    _, summary = train(toy(), [], TOY_RULES, replace(tiny_settings, epochs=1000, max_minutes=1.0), report)
    assert len(seen) == 6  # 10 s a step, 60 s in all
    assert seen == pytest.approx([i / 6 for i in range(6)], abs=0.01)
    assert summary["statements_per_second"] > 0


def test_a_step_is_taken_however_little_time_there_is(tiny_settings: EncoderSettings) -> None:
    seen: list[float] = []
    settings = replace(tiny_settings, max_minutes=1e-9)
    _, summary = train(toy(), toy(), TOY_RULES, settings, lambda done, _: seen.append(done))
    assert seen == [1.0]
    assert summary["kept"] == 1


def test_the_main_process_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "agreed", lambda _: 30.0)
    schedule = contrastive._Schedule(steps=100, max_minutes=1.0, warmup=0.1)
    schedule.tick()
    assert schedule.progress == 0.5


def test_rates_rise_then_fall() -> None:
    schedule = contrastive._Schedule(steps=100, max_minutes=None, warmup=0.1)
    factors = []
    for schedule.step in range(100):
        factors.append(schedule.factor())
    assert factors[0] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[9] == pytest.approx(1)
    assert max(factors) <= 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.02


def test_training_is_repeatable_and_the_seed_matters(tiny_settings: EncoderSettings) -> None:
    settings = replace(tiny_settings, epochs=1)
    vectors = []
    for seed in (1, 1, 2):
        own, _ = train(toy(), [], TOY_RULES, replace(settings, seed=seed), lambda *_: None)
        vectors.append(own.embed(TEXTS[:2]))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-4


def test_word_embeddings_stay_and_the_rest_moves(tiny_settings: EncoderSettings, tiny_bert: Path) -> None:
    before = load_pretrained(str(tiny_bert))[0].state_dict()
    own, summary = train(toy(), [], TOY_RULES, replace(tiny_settings, epochs=1), lambda *_: None)
    after = own.encoder.state_dict()
    words = "transformer.embeddings.word_embeddings.weight"
    assert torch.equal(before[words], after[words])
    query = "transformer.encoder.layer.1.attention.self.query.weight"
    assert not torch.equal(before[query], after[query])
    assert set(summary) == {
        "epochs", "kept", "validation_auc", "statements_per_second", "final_loss", "resumed", "history"
    }  # fmt: skip


def test_an_epoch_is_the_corpus_the_guideline_and_wrong_numbers(tiny_settings: EncoderSettings) -> None:
    rules = [rule("dose", "Give 20 mg."), rule("days", "Stop when well.")]
    settings = replace(tiny_settings, edits_per_recommendation=4, out_of_scope_per_epoch=2)
    rng = random.Random(1)
    first, second = (one_epoch(toy(), rules, settings, rng) for _ in range(2))
    corpus = [e for e in toy() if e.label is not Label.OUT_OF_SCOPE]
    for epoch in (first, second):
        assert epoch[: len(corpus)] == corpus
        assert sum(e.label is Label.OUT_OF_SCOPE for e in epoch) == 2
        own = [e for e in epoch if e.family.startswith("guideline:")]
        right = sorted(e.text for e in own if e.label is Label.SAFE)
        assert right == ["Give 20 mg."] * (1 + 4) + ["Stop when well."]
        wrong = [e for e in own if e.label is Label.UNSAFE]
        assert len(wrong) == 4
        assert all(re.fullmatch(r"Give (?!20 )[\d.]+ mg\.", e.text) for e in wrong)
        assert {e.family for e in wrong} == {"guideline:dose"}
        assert len(epoch) == len(corpus) + 2 + 2 + 4 + 4
    assert first != second


def test_an_epoch_leaves_the_examples_as_they_were_and_depends_on_the_seed_only(
    tiny_settings: EncoderSettings,
) -> None:
    examples, rules = toy(), [rule("dose", "Give 20 mg."), rule("days", "Treat for 5 days.")]

    def epoch(seed: int) -> list[Example]:
        return one_epoch(examples, rules, tiny_settings, random.Random(seed))

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)
    assert examples == toy()


def test_an_epoch_without_edits_and_statements_out_of_scope(tiny_settings: EncoderSettings) -> None:
    settings = replace(tiny_settings, edits_per_recommendation=0, out_of_scope_per_epoch=0)
    epoch = one_epoch(toy(), [rule("dose", "Give 20 mg.")], settings, random.Random(1))
    assert [e.text for e in epoch if e.family.startswith("guideline:")] == ["Give 20 mg."]
    assert not any(e.label is Label.OUT_OF_SCOPE for e in epoch)


def test_wrong_numbers_are_trained_on(tiny_settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def classes(batch: list[Example], rules: list[str]) -> np.ndarray:
        seen.update(e.text for e in batch)
        return joint_classes(batch, rules)

    monkeypatch.setattr(contrastive, "joint_classes", classes)
    rules = [rule("dose", "Give 20 mg."), rule("days", "Stop when well.")]
    train(toy(), [], rules, replace(tiny_settings, epochs=4, edits_per_recommendation=3), lambda *_: None)
    assert "Give 20 mg." in seen
    assert any(re.fullmatch(r"Give (?!20 )[\d.]+ mg\.", text) for text in seen)


def test_run_leaves_an_encoder_that_loads(tmp_path: Path, tiny_settings: EncoderSettings) -> None:
    folder = RunFolder(tmp_path)
    with Progress(disable=True) as progress:
        summary = contrastive.run(toy(), toy(), TOY_RULES, folder, replace(tiny_settings, epochs=1), progress)
        assert progress.tasks[0].completed == 1
    assert summary["final_loss"] > 0
    model, _ = load_trained(folder)
    assert model.dimension == 32
    history = json.loads((folder.encoder / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1]
    assert 0 <= history[0]["validation_auc"] <= 1
    assert not folder.checkpoint.exists()


# Objectives and gradients


def all_gradients(module: torch.nn.Module) -> torch.Tensor:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters])


def gradients(settings: EncoderSettings, *, cached: bool) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, gradient of the encoder and of the criterion on the toy corpus, from the same start."""
    torch.manual_seed(1)
    model, tokenizer = load_pretrained(settings.base)
    model.eval()
    own = Embedder(model, tokenizer, max_length=64, sub_batch=3)
    criterion = Criterion(model.dimension, len(TOY_RULES), settings)
    classes = torch.from_numpy(joint_classes(toy(), [r.id for r in TOY_RULES]))
    loss, _ = backward(own, criterion, [e.text for e in toy()], classes, cached=cached)
    return loss, all_gradients(model), all_gradients(criterion)


@pytest.mark.parametrize("objective", list(Objective))
def test_a_gradient_cache_changes_nothing_but_memory(tiny_settings: EncoderSettings, objective: Objective) -> None:
    settings = replace(tiny_settings, objective=objective, projection=8, hard_negative_weight=2.0)
    plain, cached = (gradients(settings, cached=cached) for cached in (False, True))
    assert plain[0] == pytest.approx(cached[0])
    assert plain[1].abs().max() > 0
    for a, b in zip(plain[1:], cached[1:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_gradients_equal_those_of_one_graph(tiny_settings: EncoderSettings) -> None:
    torch.manual_seed(1)
    model, tokenizer = load_pretrained(tiny_settings.base)
    model.eval()
    own = Embedder(model, tokenizer, max_length=64, sub_batch=100)
    criterion = Criterion(model.dimension, len(TOY_RULES), tiny_settings)
    classes = torch.from_numpy(joint_classes(toy(), [r.id for r in TOY_RULES]))
    criterion(own([e.text for e in toy()]), classes).backward()
    torch.testing.assert_close(gradients(tiny_settings, cached=False)[1], all_gradients(model), atol=1e-6, rtol=1e-4)


_ONE_OF_TWO = """
import sys
import torch
from tests.trainer.test_contrastive import gradients
from trainer.model import encoder
from trainer.settings import EncoderSettings
torch.set_num_threads(1)
encoder.half_is_faster = lambda where: False
found = [gradients(EncoderSettings(base=sys.argv[1]), cached=cached) for cached in (False, True)]
assert encoder.processes().num_processes == 2
assert encoder.agreed(0.1 + encoder.processes().process_index) == 0.1
if encoder.processes().is_main_process:
    torch.save(found, sys.argv[2])
"""


def test_two_processes_have_the_gradients_of_one_and_decide_alike(tmp_path: Path, tiny_bert: Path) -> None:
    script, out = tmp_path / "one.py", tmp_path / "gradients.pt"
    script.write_text(_ONE_OF_TWO)
    root = Path(__file__).parents[2]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*launcher, str(script), str(tiny_bert), str(out)],
        check=True, cwd=root, capture_output=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    loss, own, head = gradients(EncoderSettings(base=str(tiny_bert)), cached=False)
    for found in torch.load(out, weights_only=True):
        assert found[0] == pytest.approx(loss)
        torch.testing.assert_close(found[1], own, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found[2], head, atol=1e-6, rtol=1e-4)


def test_without_cross_entropy_the_head_is_a_probe_that_leaves_the_encoder_alone(
    tiny_settings: EncoderSettings,
) -> None:
    settings = replace(tiny_settings, objective=Objective.NONE, cross_entropy_weight=0.0)
    _, encoder_gradient, head_gradient = gradients(settings, cached=False)
    assert encoder_gradient.abs().max() == 0
    assert head_gradient.abs().max() > 0


def test_positives_by_label_do_not_look_at_the_recommendation(tiny_settings: EncoderSettings) -> None:
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(8, 32), dim=1)
    probe = replace(tiny_settings, cross_entropy_weight=0.0, contrastive_weight=1.0)
    classes, other = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]), torch.tensor([2, 3, 0, 1, 2, 3, 0, 1])
    by_label = Criterion(32, 2, replace(probe, objective=Objective.LABEL))
    mixed = torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])
    assert by_label._contrastive(z, classes) == pytest.approx(by_label._contrastive(z, other).item())
    assert by_label._contrastive(z, classes) == pytest.approx(by_label._contrastive(z, mixed).item())
    aware = Criterion(32, 2, probe)
    assert aware._contrastive(z, classes).item() != pytest.approx(aware._contrastive(z, mixed).item())


# Early stopping and checkpoints


def test_the_best_epoch_is_kept_and_training_stops_without_progress(
    tiny_settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([0.6, 0.9, 0.7, 0.9, 0.5])
    weights: list[torch.Tensor] = []

    def scripted(own: Embedder, *_: object) -> float:
        weights.append(own.encoder.state_dict()["transformer.encoder.layer.1.output.dense.weight"].clone())
        return next(script)

    monkeypatch.setattr(contrastive, "validation_auc", scripted)
    own, summary = train(toy(), toy(), TOY_RULES, replace(tiny_settings, patience=2), lambda *_: None)
    assert [e.validation_auc for e in summary["history"]] == [0.6, 0.9, 0.7, 0.9]
    assert summary["kept"] == 2
    kept = own.encoder.state_dict()["transformer.encoder.layer.1.output.dense.weight"]
    assert torch.equal(kept, weights[1])
    assert not torch.equal(kept, weights[3])


def test_validation_is_scored_on_what_is_in_scope(tiny_settings: EncoderSettings) -> None:
    model, tokenizer = load_pretrained(tiny_settings.base)
    own = Embedder(model, tokenizer, max_length=64, sub_batch=3)
    criterion = Criterion(model.dimension, len(TOY_RULES), tiny_settings)
    scoped = [e for e in toy() if e.recommendation]
    assert validation_auc(own, criterion, toy()) == validation_auc(own, criterion, scoped)
    assert validation_auc(own, criterion, [e for e in scoped if e.label is Label.SAFE]) is None
    assert validation_auc(own, criterion, []) is None


class _Killed(Exception):
    pass


def test_a_killed_training_goes_on_and_ends_where_it_would_have_ended(
    tmp_path: Path, tiny_settings: EncoderSettings
) -> None:
    settings = replace(tiny_settings, epochs=4, patience=0)
    whole, summary = train(toy(), toy(), TOY_RULES, settings, lambda *_: None)
    checkpoint, steps = tmp_path / "encoder.checkpoint", []

    def dies_in_the_third_epoch(done: float, _: str) -> None:
        steps.append(done)
        if done > 0.6:
            raise _Killed

    with pytest.raises(_Killed):
        train(toy(), toy(), TOY_RULES, settings, dies_in_the_third_epoch, checkpoint)
    assert checkpoint.exists()
    seen: list[float] = []
    again, resumed = train(toy(), toy(), TOY_RULES, settings, lambda done, _: seen.append(done), checkpoint)
    assert resumed["resumed"] is True
    assert seen[0] > 0.4
    assert [e.validation_auc for e in resumed["history"]] == [e.validation_auc for e in summary["history"]]
    np.testing.assert_allclose(again.embed(TEXTS), whole.embed(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    "damage", ["none", "other seed", "other validation", "other recommendation", "truncated", "text", "no dictionary"]
)
def test_a_checkpoint_of_another_training_is_not_taken_up(
    tmp_path: Path, tiny_settings: EncoderSettings, damage: str
) -> None:
    checkpoint = tmp_path / "encoder.checkpoint"
    settings = replace(tiny_settings, epochs=1)
    train(toy(), toy(), TOY_RULES, settings, lambda *_: None, checkpoint)
    examples, validation = toy(), toy()
    if damage == "other seed":
        settings = replace(settings, seed=5)
    elif damage == "other validation":
        validation = validation[:-1]
    elif damage == "other recommendation":
        examples[0] = replace(examples[0], recommendation="days")
    elif damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage == "text":
        checkpoint.write_text("nothing")
    elif damage == "no dictionary":
        torch.save([1], checkpoint)
    _, summary = train(examples, validation, TOY_RULES, settings, lambda *_: None, checkpoint)
    assert summary["resumed"] is (damage == "none")
