"""The verifier learns from twins, goes on after an interruption, loads what it saved, and survives eight bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification, BertModel

from monitor.errors import ConfigurationError
from trainer.model.encoder import load_pretrained
from trainer.model.export import write_onnx
from trainer.model.graphs import verifier_graph
from trainer.settings import Precision, VerifierSettings
from trainer.types import Difficulty, Example, Label, Recommendation
from trainer.verifier import crossencoder, shipped, stage
from trainer.verifier.crossencoder import AlignedComparison, CrossEncoder, PairReader, special_ids
from trainer.verifier.pairs import RELATIONS, Pair, Relation
from trainer.verifier.training import Trainer, VerifierTraining, batched, contradiction_auc, repeat, train

RULE = "The dose is {n} mg on the first day."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_pretrained("all-MiniLM-L6-v2")[1]


def small_config(tokenizer: Tokenizer, **more: object) -> BertConfig:
    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=128, **more,
    )  # fmt: skip


def comparison(tokenizer: Tokenizer, seed: int = 0) -> PairReader:
    torch.manual_seed(seed)
    model = BertModel(small_config(tokenizer)).eval()
    encoder = AlignedComparison(model, int(tokenizer.token_to_id("[SEP]") or 0), special_ids(tokenizer))
    return PairReader(encoder, tokenizer, max_length=96)


def pairs() -> list[Pair]:
    numbers = (50, 100, 150, 200, 250, 300, 400, 500)
    return [
        Pair(RULE.format(n=a), f"Give {b} mg on day 1.", Relation.CONSISTENT if a == b else Relation.CONTRADICTS,
             "g", "s", f"{a}-{c}")
        for a, c in itertools.permutations(numbers, 2)
        for b in (a, c)
    ]  # fmt: skip


def forever(own: list[Pair], size: int = 16) -> Iterator[list[Pair]]:
    import random

    return batched(repeat(own, random.Random(0)), size)


def quiet(_: float, __: str) -> None: ...


def test_an_aligned_comparison_learns_to_compare_numbers(tokenizer: Tokenizer) -> None:
    reader = comparison(tokenizer)
    trainer = Trainer(reader, VerifierTraining(steps=60, batch_size=16, learning_rate=2e-3, head_learning_rate=4e-3))
    said = train(trainer, forever(pairs()), quiet)
    auc = contradiction_auc(reader, pairs())
    assert said["steps"] == 60
    assert auc is not None
    assert auc > 0.95


def test_each_text_is_encoded_by_itself(tokenizer: Tokenizer) -> None:
    """What a statement's tokens are does not depend on the recommendation beside it; the comparison does."""
    encoder = comparison(tokenizer).encoder
    assert isinstance(encoder, AlignedComparison)
    hidden = []
    for premise in ("Short.", "A much longer recommendation about 200 mg."):
        ids = torch.tensor([tokenizer.encode(premise, "Give 400 mg on day 1.").ids])
        mask = torch.ones_like(ids)
        segments, ends = encoder.segments(ids, mask)
        with torch.inference_mode():
            found = encoder._encode(ids, mask, segments, ends)
        hidden.append(found[segments == 1])
    torch.testing.assert_close(*hidden)


def test_padding_changes_nothing(tokenizer: Tokenizer) -> None:
    reader = comparison(tokenizer)
    own = [(RULE.format(n=200), "Give 400 mg on day 1."), (RULE.format(n=200) * 3, "No. " * 20)]
    together = reader.logits(own)
    alone = np.concatenate([reader.logits([pair]) for pair in own])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings = VerifierTraining(steps=12, batch_size=8, learning_rate=1e-3)
    whole = comparison(tokenizer)
    train(Trainer(whole, settings), forever(pairs(), 8), quiet)

    file = tmp_path / "checkpoint"
    first = Trainer(comparison(tokenizer), settings)
    for batch in itertools.islice(forever(pairs(), 8), 5):
        first.step(batch)
    first.save(file, "key")
    later = comparison(tokenizer, seed=1)
    second = Trainer(later, settings)
    assert not second.resume(file, "another key")
    assert second.resume(file, "key")
    train(second, forever(pairs(), 8), quiet)
    own = [(p.premise, p.hypothesis) for p in pairs()[:8]]
    np.testing.assert_allclose(whole.logits(own), later.logits(own), atol=1e-4)


def test_an_unreadable_checkpoint_is_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    file.write_bytes(b"half a file")
    assert not Trainer(comparison(tokenizer), VerifierTraining(steps=1)).resume(file, "key")


def test_what_is_saved_loads_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    reader = comparison(tokenizer)
    crossencoder.save(reader, tmp_path / "verifier")
    again = PairReader(*crossencoder.load(str(tmp_path / "verifier")), max_length=96)
    own = [(p.premise, p.hypothesis) for p in pairs()[:8]]
    np.testing.assert_allclose(reader.logits(own), again.logits(own), atol=1e-6)


def test_eight_bits_cost_little(tokenizer: Tokenizer, tmp_path: Path) -> None:
    reader = comparison(tokenizer)
    shipped.save(reader, tmp_path / "start")
    again = PairReader(*shipped.load(tmp_path / "start"), max_length=96)
    own = [(p.premise, p.hypothesis) for p in pairs()[:8]]
    np.testing.assert_allclose(reader.probabilities(own), again.probabilities(own), atol=0.02)
    sizes = [sum(f.stat().st_size for f in folder.rglob("*.safetensors")) for folder in (tmp_path / "start",)]
    assert sizes[0] < sum(p.numel() for p in reader.encoder.parameters()) * 1.3


def test_a_start_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pretrain"):
        shipped.load(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        crossencoder.load(str(tmp_path / "nothing"))


def saved_classifier(tokenizer: Tokenizer, folder: Path, labels: list[str]) -> BertForSequenceClassification:
    from transformers import PreTrainedTokenizerFast

    config = small_config(tokenizer, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, sep_token="[SEP]", cls_token="[CLS]", pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "labels",
    [["contradiction", "entailment", "neutral"], ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]],
)
def test_an_nli_model_keeps_what_it_knows_in_the_order_of_the_relations(
    tokenizer: Tokenizer, tmp_path: Path, labels: list[str]
) -> None:
    model = saved_classifier(tokenizer, tmp_path / "nli", labels)
    encoder, own = crossencoder.load(str(tmp_path / "nli"))
    assert isinstance(encoder, CrossEncoder)
    ids = torch.tensor([own.encode("A rule.", "A statement.").ids])
    mask = torch.ones_like(ids)
    types = torch.tensor([own.encode("A rule.", "A statement.").type_ids])
    with torch.inference_mode():
        before = model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits[0]
        after = encoder.eval()(ids, mask)[0]
    place = {"contra": Relation.CONTRADICTS, "entail": Relation.CONSISTENT, "neutra": Relation.NEUTRAL}
    for i, label in enumerate(labels):
        torch.testing.assert_close(after[RELATIONS.index(place[label.lower()[:6]])], before[i])


def test_two_classes_become_three(tokenizer: Tokenizer, tmp_path: Path) -> None:
    saved_classifier(tokenizer, tmp_path / "nli", ["entailment", "not_entailment"])
    encoder, own = crossencoder.load(str(tmp_path / "nli"))
    ids = torch.tensor([own.encode("A rule.", "A statement.").ids])
    with torch.inference_mode():
        logits = encoder.eval()(ids, torch.ones_like(ids))[0]
    contradicts, neutral = (float(logits[RELATIONS.index(r)]) for r in (Relation.CONTRADICTS, Relation.NEUTRAL))
    assert contradicts == pytest.approx(neutral, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_deberta_is_read_and_trained(tokenizer: Tokenizer) -> None:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=48, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=64, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0, num_labels=3,
        id2label={i: str(r) for i, r in enumerate(RELATIONS)}, pooler_hidden_size=48,
    )  # fmt: skip
    encoder = CrossEncoder(DebertaV2ForSequenceClassification(config), int(tokenizer.token_to_id("[SEP]") or 0))
    reader = PairReader(encoder, tokenizer, max_length=96)
    trainer = Trainer(reader, VerifierTraining(steps=2, batch_size=8))
    assert np.isfinite([trainer.step(batch) for batch in itertools.islice(forever(pairs(), 8), 2)]).all()


def test_the_graph_gives_what_the_model_gives(tokenizer: Tokenizer, tmp_path: Path) -> None:
    reader = comparison(tokenizer)
    graph = verifier_graph(reader.encoder.cpu().float().eval(), Tokenizer.from_str(tokenizer.to_str()), 96)
    assert write_onnx(graph, tmp_path / "model.onnx", Precision.FP32).difference < 1e-5
    before = (tmp_path / "model.onnx").stat().st_size
    assert write_onnx(graph, tmp_path / "model.onnx", Precision.INT8).difference < 0.1
    assert (tmp_path / "model.onnx").stat().st_size < 0.4 * before


RECOMMENDATIONS = [
    Recommendation(f"r{i}", "1", "h", text, "s", "v", text, 0, len(text))
    for i, text in enumerate(("Give 200 mg on day 1.", "Stop after 5 days.", "Avoid it in children."))
]


def example(i: int, recommendation: str | None, label: Label) -> Example:
    hard = Difficulty.HARD if label is Label.UNSAFE else None
    return Example(f"e{i}", f"text {i}", label, recommendation, "dose", hard, f"f{i // 2}", "a")


def test_statements_are_read_beside_right_and_wrong_recommendations() -> None:
    import random

    examples = [example(0, "r0", Label.SAFE), example(1, "r0", Label.UNSAFE), example(2, None, Label.OUT_OF_SCOPE)]
    found = stage.guideline_pairs(
        examples, [["r1", "r0"], ["r2"], ["r2", "r1"]], RECOMMENDATIONS, 1.0, random.Random(0)
    )
    assert [(p.premise, p.hypothesis, p.relation) for p in found] == [
        (RECOMMENDATIONS[0].text, "text 0", Relation.CONSISTENT),
        (RECOMMENDATIONS[1].text, "text 0", Relation.NEUTRAL),
        (RECOMMENDATIONS[0].text, "text 1", Relation.CONTRADICTS),
        (RECOMMENDATIONS[2].text, "text 1", Relation.NEUTRAL),
        (found[-1].premise, "text 2", Relation.NEUTRAL),
    ]
    assert found[0].twin == found[2].twin is not None
    assert found[1].twin is None


def test_mining_takes_the_pairs_of_greatest_loss(tokenizer: Tokenizer) -> None:
    reader = comparison(tokenizer)
    own = pairs()[:20]
    chosen = stage.mine(reader, own, 0.25)
    p = reader.probabilities([(x.premise, x.hypothesis) for x in own])
    right = {x.hypothesis + x.premise: p[i, RELATIONS.index(x.relation)] for i, x in enumerate(own)}
    assert len(chosen) == 5
    assert max(right[x.hypothesis + x.premise] for x in chosen) <= sorted(right.values())[5]


def test_fine_tuning_needs_statements_on_the_guideline(tokenizer: Tokenizer) -> None:
    from trainer.errors import CorpusError

    with pytest.raises(CorpusError, match="no statement"):
        stage.fine_tune(
            comparison(tokenizer), [example(0, None, Label.OUT_OF_SCOPE)], [["r0"]], RECOMMENDATIONS, [],
            VerifierSettings(), quiet,
        )  # fmt: skip


def test_candidates_never_come_from_a_classifier_that_saw_the_family() -> None:
    """A statement whose family alone speaks about a recommendation can only be placed wrongly."""
    rng = np.random.default_rng(0)
    examples = [example(i, f"r{i % 2}", Label.UNSAFE if i % 4 > 1 else Label.SAFE) for i in range(40)]
    examples = [
        Example(e.id, e.text, e.label, e.recommendation, e.category, e.difficulty, f"f{i}", "a")
        for i, e in enumerate(examples)
    ]
    lonely = Example("x", "lonely", Label.SAFE, "r2", "dose", None, "alone", "a")
    vectors = np.eye(4, dtype=np.float32)[[i % 2 for i in range(40)] + [2]]
    vectors += 0.01 * rng.standard_normal(vectors.shape).astype(np.float32)
    found = stage.out_of_fold_candidates(vectors, [*examples, lonely], ["r0", "r1", "r2"], 4, 1)
    assert all(own[0] == e.recommendation for own, e in zip(found[:40], examples, strict=True))
    assert found[40][0] != "r2"
