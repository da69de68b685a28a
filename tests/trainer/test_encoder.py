"""Any encoder by name or path, pooling, embeddings that do not depend on batching, and what is saved loads again."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, ByT5Tokenizer, RobertaConfig, RobertaModel

from monitor.errors import ConfigurationError
from trainer.artifacts import RunFolder
from trainer.errors import StageMissing
from trainer.model.encoder import (
    PRESETS,
    Embedder,
    Pooling,
    SentenceEncoder,
    joint_classes,
    load_pretrained,
    load_trained,
    save,
)
from trainer.settings import DEFAULT_ENCODER
from trainer.types import Example, Label

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


# Loading


def test_any_encoder_by_path(tiny_model: Path) -> None:
    model, tokenizer = load_pretrained(str(tiny_model))
    assert model.dimension == 32
    assert tokenizer.padding is None
    assert tokenizer.truncation is None
    vectors = Embedder(model, tokenizer, max_length=64, sub_batch=2).embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32


def test_weights_are_fp32_whatever_they_were_saved_in(tmp_path: Path, tiny_bert: Path) -> None:
    AutoModel.from_pretrained(tiny_bert).half().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    model, _ = load_pretrained(str(tmp_path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


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


def test_an_unknown_pooling_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(ConfigurationError, match="pooling 'median' is not one of mean, cls, max"):
        load_pretrained(str(tiny_bert), "median")


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_that_the_hub_does_not_give_names_itself(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' cannot be loaded"):
        load_pretrained(name)


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


def test_the_first_token_or_the_greatest_activations_may_stand_for_the_sentence() -> None:
    hidden = torch.tensor([[[1.0, -2.0], [3.0, -1.0], [9.0, 9.0]]])

    class Fixed(torch.nn.Module):
        config = SimpleNamespace(hidden_size=2)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=hidden)

    ids, mask = torch.tensor([[4, 5, 0]]), torch.tensor([[1, 1, 0]])
    for pooling, vector in ((Pooling.CLS, [1.0, -2.0]), (Pooling.MAX, [3.0, -1.0]), (Pooling.MEAN, [2.0, -1.5])):
        expected = torch.nn.functional.normalize(torch.tensor([vector]), dim=1)
        torch.testing.assert_close(SentenceEncoder(Fixed(), pooling)(ids, mask), expected)


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


@pytest.mark.parametrize("pooling", list(Pooling))
def test_sentence_transformers_loads_what_is_saved_and_embeds_alike(
    tmp_path: Path, tiny_bert: Path, pooling: Pooling
) -> None:
    model, tokenizer = load_pretrained(str(tiny_bert), pooling)
    own = Embedder(model, tokenizer, max_length=64, sub_batch=4)
    save(own, str(tiny_bert), tmp_path / "encoder")
    other = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    assert other.max_seq_length == 64
    np.testing.assert_allclose(other.encode(TEXTS, show_progress_bar=False), own.embed(TEXTS), atol=1e-5)
    assert load_pretrained(str(tmp_path / "encoder"))[0].pooling is pooling


def test_the_pooling_of_a_folder_that_names_an_unknown_one_is_the_mean(tmp_path: Path, tiny_bert: Path) -> None:
    save(embedder(tiny_bert), str(tiny_bert), tmp_path / "encoder")
    file = tmp_path / "encoder" / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"pooling_mode_weightedmean_tokens": True}))
    assert load_pretrained(str(tmp_path / "encoder"))[0].pooling is Pooling.MEAN
