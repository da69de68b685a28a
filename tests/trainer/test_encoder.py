"""Any encoder by name or path, embeddings that do not depend on batching, and a training loop that learns."""

import random
import re
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
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, ByT5Tokenizer, RobertaConfig, RobertaModel

from monitor.errors import ConfigurationError
from trainer import encoder
from trainer.artifacts import RunFolder
from trainer.encoder import (
    Embedder,
    SentenceEncoder,
    batches,
    joint_classes,
    load_pretrained,
    load_trained,
    save,
    train,
)
from trainer.errors import CorpusError, StageMissing
from trainer.settings import DEFAULT_ENCODER, EncoderSettings
from trainer.types import Example, Label, Recommendation

TEXTS = [
    "The dose is 20 mg.",
    "No.",
    "Zolamide should not be withheld from adults in pregnancy, and the ward is at home for life.",
    "The dose is 40 mg.",
    "adults " * 50,
    "Never.",
]


def embedder(path: Path, *, max_length: int = 256, sub_batch: int = 4) -> Embedder:
    return Embedder(*load_pretrained(str(path)), max_length=max_length, sub_batch=sub_batch)


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


# Loading


def test_any_encoder_by_path(tiny_model: Path) -> None:
    model, tokenizer = load_pretrained(str(tiny_model))
    assert model.dimension == 32
    assert tokenizer.padding is None
    assert tokenizer.truncation is None
    vectors = Embedder(model, tokenizer, max_length=64, sub_batch=2).embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32


def test_the_default_encoder_comes_with_the_package() -> None:
    model, tokenizer = load_pretrained(DEFAULT_ENCODER)
    assert model.dimension == 384
    assert tokenizer.encode("remdesivir").ids[0] == tokenizer.token_to_id("[CLS]")


def test_an_unknown_name_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_pretrained("nobody/no-such-encoder")
    message = str(caught.value)
    assert "'nobody/no-such-encoder' cannot be loaded (HF_HUB_OFFLINE is set)" in message
    assert DEFAULT_ENCODER in message


def test_an_unknown_name_does_not_blame_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub's client read the variable when it was imported and stays offline; only the message looks again.
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ConfigurationError) as caught:
        load_pretrained("nobody/no-such-encoder")
    assert "cannot be loaded: give a name" in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="empty' cannot be loaded"):
        load_pretrained(str(tmp_path / "empty"))


def test_an_encoder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    config = BertConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(path)
    ByT5Tokenizer().save_pretrained(path)
    with pytest.raises(ConfigurationError, match=r"no fast tokenizer; serving needs its tokenizer\.json"):
        load_pretrained(str(path))


def test_a_run_without_a_trained_encoder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="guardline train encoder"):
        load_trained(RunFolder(tmp_path))


# Pooling


def test_padding_does_not_count_in_the_mean() -> None:
    class Echo(torch.nn.Module):
        config = SimpleNamespace(hidden_size=2)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=torch.stack([input_ids, 10 - input_ids], dim=-1).half())

    model = SentenceEncoder(Echo())
    assert model.dimension == 2
    ids, mask = torch.tensor([[1, 5, 9], [0, 6, 7]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    got = model(ids, mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([[3.0, 7.0], [0.0, 10.0]]) / torch.tensor([[58.0**0.5], [10.0]]))


# Embeddings


def test_embeddings_have_length_one(tiny_model: Path) -> None:
    vectors = embedder(tiny_model).embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors[0] - vectors[3]).max() > 1e-4  # 20 mg is not 40 mg


@pytest.mark.parametrize("sub_batch", [1, 2, 3, 100])
def test_order_is_kept_and_sub_batches_do_not_matter(tiny_model: Path, sub_batch: int) -> None:
    alone = np.concatenate([embedder(tiny_model).embed([text]) for text in TEXTS])
    together = embedder(tiny_model, sub_batch=sub_batch)
    np.testing.assert_allclose(together.embed(TEXTS), alone, atol=1e-5)
    np.testing.assert_allclose(together.embed(TEXTS[::-1]), alone[::-1], atol=1e-5)


def test_more_texts_than_one_pass_takes_and_none_at_all(tiny_bert: Path) -> None:
    told: list[int] = []
    texts = [f"dose {i}" for i in range(300)]
    own = embedder(tiny_bert, sub_batch=64)
    vectors = own.embed(texts, told.append)
    assert told == [256, 44]
    np.testing.assert_allclose(vectors[[0, 299]], own.embed([texts[0], texts[299]]), atol=1e-5)
    assert own.embed([]).shape == (0, 32)


def test_a_long_text_is_cut_at_the_limit_and_keeps_its_last_token(tiny_bert: Path) -> None:
    own = embedder(tiny_bert, max_length=10)
    seen = []
    own.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    long = "adults " * 500
    vectors = own.embed([long, "adults " * 8])
    assert [tuple(ids.shape) for ids in seen] == [(2, 10)]
    assert torch.equal(seen[0][0], seen[0][1])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert seen[0][0, -1] == load_pretrained(str(tiny_bert))[1].token_to_id("[SEP]")


def test_a_limit_beyond_the_positions_of_the_encoder(tiny_bert: Path) -> None:
    long = "adults " * 400
    found = embedder(tiny_bert, max_length=512).embed([long])
    np.testing.assert_allclose(found, embedder(tiny_bert, max_length=300).embed([long]), atol=1e-6)


def test_a_limit_beyond_the_positions_of_a_roberta() -> None:
    config = RobertaConfig(
        vocab_size=200, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=34,
    )  # fmt: skip
    words = Tokenizer(WordLevel({"<unk>": 5}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    own = Embedder(SentenceEncoder(RobertaModel(config)), words, max_length=256, sub_batch=4)
    assert own.embed(["adults " * 100]).shape == (1, 8)


def test_calling_the_embedder_can_be_differentiated(tiny_bert: Path) -> None:
    own = embedder(tiny_bert, sub_batch=2)
    own(TEXTS)[0, 0].backward()
    gradients = [p.grad for p in own.encoder.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


# Classes and batches


def test_joint_classes_count_by_rule_and_label() -> None:
    rows = [
        example(0, "dose", Label.SAFE, "", ""), example(1, "dose", Label.UNSAFE, "", ""),
        example(2, "days", Label.SAFE, "", ""), example(3, "days", Label.UNSAFE, "", ""),
        example(4, None, Label.OUT_OF_SCOPE, "", ""),
    ]  # fmt: skip
    assert joint_classes(rows, ["dose", "days"]).tolist() == [0, 1, 2, 3, 4]
    assert joint_classes(rows, ["days", "dose"]).tolist() == [2, 3, 0, 1, 4]


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

    train(toy(), rules, settings, report)
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

    monkeypatch.setattr(encoder, "joint_classes", classes)
    rules = [rule("dose", "Give 20 mg."), rule("days", "Stop when well.")]
    settings = replace(tiny_settings, epochs=3, edits_per_recommendation=edits, out_of_scope_per_epoch=outside)
    assert len(encoder._epoch(toy(), rules, settings, random.Random(1))) == rows
    progress: list[float] = []
    _, summary = train(toy(), rules, settings, lambda done, _: progress.append(done))
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
        train(examples, TOY_RULES, tiny_settings, lambda *_: None)


def test_training_ends_when_its_minutes_are_spent(
    tiny_settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)

    def monotonic() -> float:
        clock.now += 1e-6
        return clock.now

    monkeypatch.setattr(encoder, "time", SimpleNamespace(monotonic=monotonic))
    seen = []

    def report(done: float, line: str) -> None:
        seen.append(done)
        clock.now += 10

    _, summary = train(toy(), TOY_RULES, replace(tiny_settings, epochs=1000, max_minutes=1.0), report)
    assert len(seen) == 6  # 10 s a step, 60 s in all
    assert seen == pytest.approx([i / 6 for i in range(6)], abs=0.01)
    assert summary["statements_per_second"] > 0


def test_rates_rise_then_fall() -> None:
    schedule = encoder._Schedule(steps=100, max_minutes=None, warmup=0.1)
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
        own, _ = train(toy(), TOY_RULES, replace(settings, seed=seed), lambda *_: None)
        vectors.append(own.embed(TEXTS[:2]))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-4


def test_word_embeddings_stay_and_the_rest_moves(tiny_settings: EncoderSettings, tiny_bert: Path) -> None:
    before = load_pretrained(str(tiny_bert))[0].state_dict()
    own, summary = train(toy(), TOY_RULES, replace(tiny_settings, epochs=1), lambda *_: None)
    after = own.encoder.state_dict()
    words = "transformer.embeddings.word_embeddings.weight"
    assert torch.equal(before[words], after[words])
    query = "transformer.encoder.layer.1.attention.self.query.weight"
    assert not torch.equal(before[query], after[query])
    assert set(summary) == {"epochs", "statements_per_second", "final_loss"}


def test_an_epoch_is_the_corpus_the_guideline_and_wrong_numbers(tiny_settings: EncoderSettings) -> None:
    rules = [rule("dose", "Give 20 mg."), rule("days", "Stop when well.")]
    settings = replace(tiny_settings, edits_per_recommendation=4, out_of_scope_per_epoch=2)
    rng = random.Random(1)
    first, second = (encoder._epoch(toy(), rules, settings, rng) for _ in range(2))
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
        return encoder._epoch(examples, rules, tiny_settings, random.Random(seed))

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)
    assert examples == toy()


def test_an_epoch_without_edits_and_statements_out_of_scope(tiny_settings: EncoderSettings) -> None:
    settings = replace(tiny_settings, edits_per_recommendation=0, out_of_scope_per_epoch=0)
    epoch = encoder._epoch(toy(), [rule("dose", "Give 20 mg.")], settings, random.Random(1))
    assert [e.text for e in epoch if e.family.startswith("guideline:")] == ["Give 20 mg."]
    assert not any(e.label is Label.OUT_OF_SCOPE for e in epoch)


def test_wrong_numbers_are_trained_on(tiny_settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def classes(batch: list[Example], rules: list[str]) -> np.ndarray:
        seen.update(e.text for e in batch)
        return joint_classes(batch, rules)

    monkeypatch.setattr(encoder, "joint_classes", classes)
    rules = [rule("dose", "Give 20 mg."), rule("days", "Stop when well.")]
    train(toy(), rules, replace(tiny_settings, epochs=4, edits_per_recommendation=3), lambda *_: None)
    assert "Give 20 mg." in seen
    assert any(re.fullmatch(r"Give (?!20 )[\d.]+ mg\.", text) for text in seen)


def test_saved_and_loaded_it_gives_the_same(tmp_path: Path, tiny_model: Path) -> None:
    torch.manual_seed(1)
    own = embedder(tiny_model)
    with torch.no_grad():
        for parameter in own.encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save(own, str(tiny_model), tmp_path / "encoder")
    again = embedder(tmp_path / "encoder")
    np.testing.assert_allclose(again.embed(TEXTS), own.embed(TEXTS), atol=1e-6)
    assert np.abs(embedder(tiny_model).embed(TEXTS) - own.embed(TEXTS)).max() > 1e-4
    assert (tmp_path / "encoder" / "tokenizer.json").is_file()


def test_run_leaves_an_encoder_that_loads(tmp_path: Path, tiny_settings: EncoderSettings) -> None:
    folder = RunFolder(tmp_path)
    with Progress(disable=True) as progress:
        summary = encoder.run(toy(), TOY_RULES, folder, replace(tiny_settings, epochs=1), progress)
        assert progress.tasks[0].completed == 1
    assert summary["final_loss"] > 0
    model, _ = load_trained(folder)
    assert model.dimension == 32
