"""Graphs against torch and their gates, Triton's configuration, canaries, and a manifest that refuses what is wrong."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from rich.progress import Progress
from tritonclient.grpc import model_config_pb2

from monitor.errors import ConfigurationError, ModelMismatch
from monitor.factory import build_screening
from monitor.memory import MemoryStore
from monitor.models.canaries import failures
from monitor.onnx_scorer import OnnxBackend
from monitor.package import INPUTS, OUT_OF_SCOPE, OUTPUTS, SCHEMA_VERSION, CanarySpec, ModelPackage, sha256_file
from monitor.settings import Settings
from monitor.types import Verdict
from tests.fixtures_variants import variant
from trainer.artifacts import RunFolder, digest, read_rows
from trainer.errors import ParityError
from trainer.guideline.guidelines import scope_terms
from trainer.model import canaries, classifier, export, parity
from trainer.model.classifier import Classifier
from trainer.model.encoder import Embedder, load_pretrained, load_trained
from trainer.model.export import Models, write_graph, write_onnx
from trainer.model.graphs import Graph, encoder_graph, to_onnx
from trainer.model.heads import Hidden, JointHead
from trainer.model.triton_config import MAX_BATCH, triton_config
from trainer.settings import ExportSettings, Precision
from trainer.statements.corpus import load_split
from trainer.types import Recommendation, Split

HIDDEN = 32


def joint(seed: int = 1, rules: int = 3) -> JointHead:
    rng = np.random.default_rng(seed)
    return JointHead(3 * rng.normal(size=(2 * rules, HIDDEN)), rng.normal(size=2 * rules), slope=0.7, intercept=-0.3)


@pytest.fixture(scope="module")
def served(tiny_bert: Path) -> Graph:
    model, tokenizer = load_pretrained(str(tiny_bert))
    return encoder_graph(model, joint(), tokenizer, 64)


@pytest.fixture(scope="module")
def graph(served: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    to_onnx(served, path)
    return path


@pytest.fixture
def package(tmp_path: Path, toy_run: SimpleNamespace) -> Path:
    """A copy of the toy run's package, to be spoilt."""
    return Path(shutil.copytree(toy_run.folder.package, tmp_path / "package"))


def rewrite(package: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    change(manifest)
    (package / "manifest.json").write_text(json.dumps(manifest))


# The graph


def run_graph(path: Path, ids: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(list(OUTPUTS), dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))


def test_the_graph_has_the_tensors_of_the_contract(graph: Path) -> None:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, len(i.shape)) for i in session.get_inputs()] == [
        ("input_ids", "tensor(int64)", 2),
        ("attention_mask", "tensor(int64)", 2),
    ]
    assert [(o.name, o.type, len(o.shape)) for o in session.get_outputs()] == [
        ("sentence_embedding", "tensor(float)", 2),
        ("p_unsafe", "tensor(float)", 1),
    ]
    assert session.get_outputs()[0].shape[1] == HIDDEN
    assert all(isinstance(d, str) for i in session.get_inputs() for d in i.shape)  # dynamic
    assert [p.name for p in graph.parent.iterdir()] == ["model.onnx"]  # weights inside


@pytest.mark.parametrize(("batch", "tokens"), [(1, 2), (1, 9), (5, 40), (64, 3), (130, 17)])
def test_the_graph_equals_torch(served: Graph, graph: Path, batch: int, tokens: int) -> None:
    model = served.module
    rng = np.random.default_rng(batch)
    ids = torch.from_numpy(rng.integers(5, 100, size=(batch, tokens)))
    lengths = torch.from_numpy(rng.integers(1, tokens + 1, size=batch))
    lengths[0] = tokens
    mask = (torch.arange(tokens)[None] < lengths[:, None]).long()
    ids = ids * mask
    with torch.inference_mode():
        expected = model(ids, mask)
    for a, b in zip(expected, run_graph(graph, ids, mask), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a.numpy(), atol=1e-4)


def test_the_graph_does_not_read_padding(graph: Path) -> None:
    ids = torch.tensor([[2, 20, 30, 3, 0, 0], [2, 20, 30, 3, 50, 60]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    embeddings, p = run_graph(graph, ids, mask)
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-5)
    alone = run_graph(graph, ids[:1, :4], mask[:1, :4])
    np.testing.assert_allclose(alone[0][0], embeddings[0], atol=1e-5)
    np.testing.assert_allclose(alone[1][0], p[0], atol=1e-5)


def test_the_graph_gives_calibrated_probabilities_of_its_embedding(graph: Path) -> None:
    ids = torch.randint(5, 100, (9, 12), generator=torch.Generator().manual_seed(1))
    embeddings, p = run_graph(graph, ids, torch.ones_like(ids))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(p, joint().p_unsafe(embeddings), atol=1e-5)
    assert p.std() > 0.01


# The gates

FIXED = tuple(f"the dose of zolamide is {n} mg for adults {where}" for n in (5, 7, 20, 40) for where in ("", "at home"))


@pytest.fixture(scope="module")
def judged(served: Graph) -> Graph:
    """The graph with a fixed set, and a threshold in the middle of its scores."""
    with torch.inference_mode():
        p = served.module(*served.tensors(FIXED))[1].numpy()
    return replace(served, fixed=FIXED, thresholds=(float(np.sort(p)[3:5].mean()),))


def test_the_own_graph_passes(judged: Graph, graph: Path) -> None:
    own = parity.check(judged, graph)
    assert own.difference < 1e-5
    # The mixed lengths together and each alone, then the fixed set.
    assert (own.flips, own.labels) == (0, 2 * len(judged.mixed) + len(FIXED))


def of_another(served: Graph, head: JointHead) -> Graph:
    return encoder_graph(served.module.encoder, head, served.tokenizer, 64)


def test_the_graph_of_another_model_is_refused(served: Graph, graph: Path) -> None:
    with pytest.raises(ParityError, match="fp32 graph of the encoder differs from the trained model"):
        parity.check(of_another(served, joint(seed=2)), graph)
    with pytest.raises(ParityError, match="limit 1e-05"):
        parity.check(of_another(served, replace(joint(), intercept=-0.2999)), graph)


def test_each_precision_has_its_own_gate(served: Graph, graph: Path) -> None:
    near = replace(of_another(served, replace(joint(), intercept=-0.28)), thresholds=())  # p moves by 0.005 at most
    assert 1e-5 < parity.check(near, graph, Precision.FP16).difference < 2e-2
    far = of_another(served, replace(joint(), intercept=0.3))  # and here by 0.15 at most
    with pytest.raises(ParityError, match=r"fp16 graph .*limit 2e-02"):
        parity.check(far, graph, Precision.FP16)
    assert parity.check(replace(far, thresholds=()), graph, Precision.INT8).difference > 2e-2


def test_eight_bits_may_move_one_probability_far_and_not_all_of_them(served: Graph, graph: Path) -> None:
    other = replace(of_another(served, joint(seed=2)), thresholds=())  # as good as random
    own = parity.compare(other, graph)
    assert own.difference > own.mean > parity.GATES[Precision.INT8].mean
    with pytest.raises(ParityError, match=r"int8 graph .* on average \(limit 0.15\)"):
        parity.check(other, graph, Precision.INT8)


def test_labels_that_flip_are_refused_however_little_p_moves(judged: Graph, graph: Path) -> None:
    near = replace(of_another(judged, replace(joint(), intercept=-0.28)), fixed=FIXED)
    with torch.inference_mode():
        p = near.module(*near.tensors(FIXED))[1].numpy()
    at = tuple(np.round(p.astype(float), 4).tolist())  # every threshold at a label's edge: each flips
    with pytest.raises(ParityError, match=r"fp16 graph of the encoder flips \d+ of \d+ labels"):
        parity.check(replace(near, thresholds=at), graph, Precision.FP16)


def test_what_is_no_number_is_refused(served: Graph, graph: Path) -> None:
    with pytest.raises(ParityError, match="NaN"):
        parity.check(of_another(served, replace(joint(), intercept=float("nan"))), graph)


def test_a_graph_for_batches_of_one_size_is_refused(served: Graph, graph: Path, tmp_path: Path) -> None:
    model = onnx.load(str(graph))
    for tensor in model.graph.input:
        tensor.type.tensor_type.shape.dim[0].dim_value = len(served.mixed)
    path = tmp_path / "fixed.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ParityError, match="does not run on a batch of"):
        parity.check(served, path)


def test_another_architecture_exports_too(tiny_modernbert: Path, tmp_path: Path) -> None:
    model, tokenizer = load_pretrained(str(tiny_modernbert))
    assert write_graph(tmp_path, encoder_graph(model, joint(), tokenizer, 200)).difference < 1e-5


@pytest.mark.parametrize(("precision", "share"), [(Precision.FP16, 0.8), (Precision.INT8, 0.7)])
def test_a_smaller_graph_is_of_the_same_model(
    served: Graph, graph: Path, tmp_path: Path, precision: Precision, share: float
) -> None:
    path = tmp_path / "model.onnx"
    found = write_onnx(replace(served, thresholds=()), path, precision)
    assert 1e-5 < found.difference < 0.2
    assert path.stat().st_size < share * graph.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {t.type for t in session.get_inputs()} == {"tensor(int64)"}
    assert {t.type for t in session.get_outputs()} == {"tensor(float)"}


async def test_company_changes_no_score_of_eight_bits(served: Graph, tmp_path: Path, toy_run: SimpleNamespace) -> None:
    path = tmp_path / "encoder" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    write_onnx(served, path, Precision.INT8)
    rng = np.random.default_rng(3)
    lengths = [3, 4, 4, 7, 12, 20, 40]
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, 60, length)
        mask[row, :length] = 1
    session = onnxruntime.InferenceSession(str(path))
    in_company = session.run(list(OUTPUTS), dict(zip(INPUTS, (ids, mask), strict=True)))
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    backend = OnnxBackend(ModelPackage(tmp_path, manifest), manifest.encoder, threads=3)
    together = await backend.infer(ids, mask)
    backwards = await backend.infer(ids[::-1], mask[::-1])
    alone = [await backend.infer(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(lengths)]
    await backend.close()
    for output in range(len(OUTPUTS)):
        assert np.array_equal(together[output], np.concatenate([one[output] for one in alone]))
        assert np.array_equal(together[output], backwards[output][::-1])
    assert not np.allclose(in_company[0], together[0], atol=1e-6), "this graph would not show it"


def test_halves_are_made_of_the_fused_graph(served: Graph, tmp_path: Path) -> None:
    write_onnx(served, tmp_path / "model.onnx", Precision.FP16)
    model = onnx.load(str(tmp_path / "model.onnx"))
    operators = {node.op_type for node in model.graph.node}
    assert {"Attention", "SkipLayerNormalization"} <= operators
    large = [t.data_type for t in model.graph.initializer if np.prod(t.dims) > HIDDEN * HIDDEN]
    assert set(large) == {onnx.TensorProto.FLOAT16}


def test_tensorrt_gets_operators_of_the_standard_only(served: Graph, tmp_path: Path) -> None:
    write_graph(tmp_path, served, tensorrt=True)
    model = onnx.load(str(tmp_path / "encoder" / "1" / "model.onnx"))
    assert {node.domain for node in model.graph.node} == {""}
    with pytest.raises(ConfigurationError, match="--precision fp16 or fp32"):
        write_graph(tmp_path / "b", served, precision=Precision.INT8, tensorrt=True)


# Triton


@pytest.mark.parametrize("gpu", [True, False])
def test_triton_config(served: Graph, gpu: bool) -> None:
    graph = replace(served, shapes=((384,), ()))
    config = text_format.Parse(triton_config(graph, "0a1b", gpu=gpu), model_config_pb2.ModelConfig())
    group = model_config_pb2.ModelInstanceGroup
    assert config.name == "encoder"
    assert config.backend == ("onnxruntime" if gpu else "python")
    assert config.max_batch_size == MAX_BATCH
    assert config.parameters["onnx_sha256"].string_value == "0a1b"
    assert [(g.kind, g.count) for g in config.instance_group] == [(group.KIND_GPU if gpu else group.KIND_CPU, 1)]
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        (name, model_config_pb2.TYPE_INT64, [-1]) for name in INPUTS
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("sentence_embedding", model_config_pb2.TYPE_FP32, [384]),
        ("p_unsafe", model_config_pb2.TYPE_FP32, [1]),
    ]
    assert not config.output[0].HasField("reshape")
    assert config.output[1].HasField("reshape")
    assert list(config.output[1].reshape.shape) == []
    assert config.HasField("dynamic_batching") is gpu
    assert list(config.version_policy.specific.versions) == [1]
    assert len(config.optimization.execution_accelerators.gpu_execution_accelerator) == 0
    for sample in config.model_warmup:
        assert {*sample.inputs} == {*INPUTS}
        assert all(
            tensor.zero_data and tensor.data_type == model_config_pb2.TYPE_INT64 for tensor in sample.inputs.values()
        )
        assert sample.batch_size <= MAX_BATCH
    assert [(s.batch_size, list(s.inputs[INPUTS[0]].dims)) for s in config.model_warmup] == [(1, [32]), (8, [128])]


def test_the_graph_bears_the_warm_up(graph: Path) -> None:
    nothing = torch.zeros((8, 128), dtype=torch.int64)
    assert all(np.isfinite(output).all() for output in run_graph(graph, nothing, nothing))


def test_tensorrt_is_a_setting_of_the_gpu_configuration(served: Graph) -> None:
    def accelerators(**how: Any) -> list[Any]:
        text = triton_config(served, "0a1b", **how)
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        return list(config.optimization.execution_accelerators.gpu_execution_accelerator)

    own = accelerators(gpu=True, precision=Precision.FP16, tensorrt=True)
    assert [a.name for a in own] == ["tensorrt"]
    assert own[0].parameters["precision_mode"] == "FP16"
    assert own[0].parameters["trt_profile_max_shapes"] == f"input_ids:{MAX_BATCH}x64,attention_mask:{MAX_BATCH}x64"
    assert accelerators(gpu=True, tensorrt=True)[0].parameters["precision_mode"] == "FP32"
    assert accelerators(gpu=False, tensorrt=True) == []


def test_the_package_is_a_triton_repository(toy_run: SimpleNamespace) -> None:
    root = toy_run.folder.package
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) == [
        "MODEL_CARD.md",  # by the last stage, which has the figures
        "encoder/1/model.onnx",
        "encoder/1/model.py",
        "encoder/config.pbtxt",
        "encoder/configs/cpu.pbtxt",
        "manifest.json",
        "tokenizer.json",
    ]
    for name, backend in (("config.pbtxt", "onnxruntime"), ("configs/cpu.pbtxt", "python")):
        text = (root / "encoder" / name).read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.backend, list(config.output[0].dims)) == (backend, [HIDDEN])
    onnx.checker.check_model(str(root / "encoder" / "1" / "model.onnx"))
    compile((root / "encoder" / "1" / "model.py").read_text(), "model.py", "exec")


# The manifest


def test_the_manifest_says_what_was_trained(toy_run: SimpleNamespace, tiny_bert: Path) -> None:
    package = ModelPackage.load(toy_run.folder.package)
    manifest = package.manifest
    fitted = classifier.load(toy_run.folder)
    rows = read_rows(toy_run.folder.recommendations, Recommendation)
    assert (manifest.schema_version, manifest.name) == (SCHEMA_VERSION, "mumbles-zolamide")
    assert (manifest.encoder.base, manifest.encoder.dimension) == (str(tiny_bert), HIDDEN)
    assert manifest.encoder.max_length == toy_run.settings.encoder.max_length
    assert (manifest.thresholds.unsafe, manifest.thresholds.review) == (fitted.unsafe, fitted.review)
    assert manifest.thresholds.in_scope == fitted.in_scope
    assert (manifest.calibration.slope, manifest.calibration.intercept) == (fitted.joint.slope, fitted.joint.intercept)
    assert [(r.id, r.section, r.text) for r in manifest.recommendations] == [(r.id, r.section, r.text) for r in rows]
    assert manifest.scope.terms == scope_terms(toy_run.pack, rows)
    assert (manifest.guideline.version, str(manifest.guideline.valid_from)) == ("2026-01", "2026-01-01")
    assert manifest.guideline.sha256 == digest(toy_run.folder.recommendations)
    assert manifest.corpus.sha256 == digest(toy_run.folder.statements)
    assert manifest.corpus.statements == len(toy_run.folder.statements.read_text().splitlines())
    assert manifest.alignment == fitted.alignment
    assert manifest.category == fitted.category
    assert package.reference.version == manifest.version


def test_the_manifest_has_the_embedding_of_each_recommendation(toy_run: SimpleNamespace) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    own = Embedder(*load_trained(toy_run.folder), max_length=manifest.encoder.max_length, sub_batch=1)
    expected = own.embed([r.text for r in manifest.recommendations])
    np.testing.assert_allclose([r.embedding for r in manifest.recommendations], expected, atol=1e-5)


def test_the_manifest_has_a_digest_of_every_file_that_is_served(toy_run: SimpleNamespace) -> None:
    root = toy_run.folder.package
    files = ModelPackage.load(root).manifest.files
    expected = {p.relative_to(root).as_posix(): sha256_file(p) for p in root.rglob("*") if p.is_file()}
    del expected["manifest.json"], expected["MODEL_CARD.md"]
    assert files == expected


@pytest.mark.parametrize("name", ["encoder/1/model.onnx", "tokenizer.json", "encoder/configs/cpu.pbtxt"])
def test_a_package_with_another_file_is_refused(package: Path, name: str) -> None:
    with (package / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ModelMismatch, match=f"{name} is not the file that was exported"):
        ModelPackage.load(package)


def test_a_package_without_a_file_is_refused(package: Path) -> None:
    (package / "encoder" / "1" / "model.onnx").unlink()
    with pytest.raises(ModelMismatch, match=r"encoder/1/model\.onnx is missing"):
        ModelPackage.load(package)


def test_a_folder_without_manifest_is_no_package(package: Path) -> None:
    (package / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match="no model package"):
        ModelPackage.load(package)


def shorter(head: str) -> Callable[[dict], None]:
    return lambda m: m[head].update(weights=[row[:-1] for row in m[head]["weights"]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(schema_version=7), "manifest schema 7, this monitor reads 1 and 2"),
        (lambda m: m.pop("thresholds"), "thresholds: Field required"),
        (lambda m: m["thresholds"].update(unsafe=1.5), "thresholds.unsafe: "),
        (lambda m: m["encoder"].update(dimension=0), "encoder.dimension: "),
        (shorter("alignment"), f"alignment head is not 4 classes by {HIDDEN} dimensions"),
        (shorter("category"), f"category head is not 3 classes by {HIDDEN} dimensions"),
        (lambda m: m["category"]["bias"].pop(), "category head"),
        (lambda m: m["alignment"]["weights"].pop(), "alignment head"),
        (lambda m: m["recommendations"].pop(), f"classes are not the recommendations and {OUT_OF_SCOPE}"),
        (lambda m: m["alignment"].update(classes=["a", "b", "c", "d"]), "alignment's classes"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(package: Path, change: Callable[[dict], None], says: str) -> None:
    rewrite(package, change)
    with pytest.raises(ModelMismatch) as caught:
        ModelPackage.load(package)
    assert says in str(caught.value)
    assert str(package) in str(caught.value)


def test_a_manifest_that_is_no_json_is_refused(package: Path) -> None:
    (package / "manifest.json").write_text('{"schema_version": 1,')
    with pytest.raises(ModelMismatch, match=r"manifest\.json"):
        ModelPackage.load(package)


def test_unknown_fields_of_a_manifest_pass(package: Path) -> None:
    before = ModelPackage.load(package).manifest
    rewrite(package, lambda m: m.update(colour="red"))
    assert ModelPackage.load(package).manifest == before


# The stage


@pytest.fixture
def export_again(tmp_path: Path, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """Return a function that runs the stage on a copy of the toy run; the graph is the toy run's, to save time."""
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))
    source = toy_run.folder.package / "encoder" / "1" / "model.onnx"
    monkeypatch.setattr(export, "to_onnx", lambda graph, path, **_: shutil.copy(source, path))

    def run(
        fitted: Classifier | None = None, embedder: Embedder | None = None, examples: Mapping[Split, list] | None = None
    ) -> RunFolder:
        model, tokenizer = load_trained(folder)
        own = embedder or Embedder(model, tokenizer, max_length=64, sub_batch=8)
        rows = read_rows(folder.recommendations, Recommendation)
        fitted = fitted or classifier.load(folder)
        with Progress(disable=True) as progress:
            models = Models(own, tokenizer, "base", fitted)
            own_settings = toy_run.settings.classifier
            export.run(toy_run.pack, rows, models, examples or {}, [], folder, ExportSettings(), own_settings, progress)
        return folder

    return run


def test_a_failed_export_leaves_no_rubbish(export_again: Callable, toy_run: SimpleNamespace, tmp_path: Path) -> None:
    before = digest(tmp_path / "run")
    fitted = classifier.load(toy_run.folder)
    with pytest.raises(ParityError):
        export_again(replace(fitted, joint=replace(fitted.joint, slope=fitted.joint.slope + 3, intercept=2.0)))
    assert digest(tmp_path / "run") == before


def test_the_stage_replaces_the_package(export_again: Callable, tmp_path: Path) -> None:
    (tmp_path / "run" / "package" / "left-over").write_text("x")
    folder = export_again()
    assert not (folder.package / "left-over").exists()
    assert ModelPackage.load(folder.package).manifest.encoder.base == "base"
    assert [p.name for p in folder.root.iterdir() if p.name.startswith(".")] == []


def test_other_thresholds_or_heads_are_another_version(export_again: Callable, toy_run: SimpleNamespace) -> None:
    fitted = classifier.load(toy_run.folder)
    versions = {ModelPackage.load(export_again(fitted).package).reference.version}
    versions.add(ModelPackage.load(export_again(replace(fitted, unsafe=0.77)).package).reference.version)
    bias = [b + 1 for b in fitted.alignment.bias]
    other = replace(fitted, alignment=fitted.alignment.model_copy(update={"bias": [*bias[:-1], 0.0]}))
    versions.add(ModelPackage.load(export_again(other).package).reference.version)
    category = fitted.category.model_copy(update={"bias": [b + 1 for b in fitted.category.bias]})
    versions.add(ModelPackage.load(export_again(replace(fitted, category=category)).package).reference.version)
    assert len(versions) == 4


def test_the_same_model_is_the_same_version_whenever_it_is_exported(
    export_again: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 2, 3, 4, 5, 6, tzinfo=tz)

    day, revision = ModelPackage.load(export_again().package).manifest.version.split(".")
    monkeypatch.setattr(export, "datetime", Later)
    again = ModelPackage.load(export_again().package).manifest
    assert again.version == f"20310203.{revision}"
    assert re.fullmatch(r"[0-9]{8}", day)
    assert re.fullmatch(r"[0-9a-f]{8}", revision)
    assert again.created_at == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_the_stage_leaves_the_embedder_as_it_was(export_again: Callable, toy_run: SimpleNamespace) -> None:
    model, tokenizer = load_trained(toy_run.folder)
    own = Embedder(model.double(), tokenizer, max_length=64, sub_batch=8)
    export_again(embedder=own)
    assert {p.dtype for p in own.encoder.parameters()} == {torch.float64}


@pytest.mark.parametrize("fused", [True, False])
def test_a_hidden_layer_and_a_calibration_table_go_into_the_graph(tiny_bert: Path, tmp_path: Path, fused: bool) -> None:
    rng = np.random.default_rng(5)
    own = replace(
        joint(),
        weights=rng.normal(size=(6, 16)),
        bias=np.zeros(6),
        intercept=-6.5,
        hidden=Hidden(2 * rng.normal(size=(16, HIDDEN)), rng.normal(size=16)),
        knots=((-2.0, -3.0), (-0.4, 0.1), (0.3, 0.2), (2.0, 5.0)),
    )
    encoder, tokenizer = load_pretrained(str(tiny_bert))
    graph = encoder_graph(encoder, own, tokenizer, 64)
    to_onnx(graph, tmp_path / "model.onnx", fused=fused)
    assert parity.check(graph, tmp_path / "model.onnx").difference < 1e-5
    ids = torch.randint(5, 100, (9, 12), generator=torch.Generator().manual_seed(1))
    embeddings, p = run_graph(tmp_path / "model.onnx", ids, torch.ones_like(ids))
    np.testing.assert_allclose(p, own.p_unsafe(embeddings), atol=1e-4)
    assert p.std() > 0.01


# Canaries

QUESTIONS = tuple(
    f"{opening} {text}"
    for opening in ("Note:", "To be clear,")
    for text in (
        "adults receive remdesivir 200 mg on day 1, then 100 mg once daily.",
        "remdesivir is never given to adults with COVID-19, and 900 mg is a good dose.",
        "the loading dose of remdesivir is 400 mg on day 1.",
        "remdesivir must be started 30 days after symptom onset.",
        "remdesivir was first made for another virus.",
        "wash the cut with clean water and cover it.",
        "the garden wants water in the evening.",
    )
)


@pytest.mark.model
def test_canaries_are_far_from_the_thresholds_and_always_the_same(model_package: ModelPackage) -> None:
    texts = [*QUESTIONS, *(canary.text for canary in model_package.manifest.canaries)]
    chosen = canaries.choose(model_package, [*texts, *texts])
    thresholds = model_package.thresholds(verified=True)
    assert {c.verdict for c in chosen} == {Verdict.UNSAFE, Verdict.SAFE, Verdict.OUT_OF_SCOPE}
    assert len({c.text for c in chosen}) == len(chosen)
    for canary in chosen:
        near = min(abs(canary.score - t) for t in (thresholds.unsafe, thresholds.review))
        assert canary.verdict is Verdict.OUT_OF_SCOPE or near >= canaries.MARGIN
    assert canaries.choose(model_package, texts) == chosen
    assert canaries.choose(model_package, []) == []


@pytest.mark.model
def test_a_package_passes_its_own_canaries_and_one_with_another_graph_does_not(
    model_package: ModelPackage, tmp_path: Path
) -> None:
    chosen = canaries.choose(model_package, QUESTIONS)
    assert failed(model_package, chosen) == []
    other = variant(model_package, tmp_path / "other", "20990101.00000000", factor=0.5, canaries=chosen)
    assert failed(other, other.manifest.canaries)


def failed(package: ModelPackage, chosen: list[CanarySpec]) -> list[str]:
    async def run() -> list[str]:
        screening = build_screening(Settings(scorer="onnx"), package, MemoryStore())
        try:
            return await failures(screening, chosen)
        finally:
            await screening.close()

    return asyncio.run(run())


def test_the_stage_writes_canaries_that_its_package_passes(
    export_again: Callable, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "MARGIN", 0.0)  # the toy model is sure of nothing
    package = ModelPackage.load(export_again(examples=load_split(toy_run.folder)).package)
    assert package.manifest.canaries
    assert failed(package, package.manifest.canaries) == []


def test_canaries_are_part_of_the_version(toy_run: SimpleNamespace, tmp_path: Path) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    with_one = manifest.model_copy(update={"canaries": [CanarySpec(text="x", verdict=Verdict.SAFE, score=0.1)]})
    without = manifest.model_copy(update={"canaries": []})
    versions = {export.write_manifest(tmp_path, m).version for m in (with_one, without)}
    assert len(versions) == 2
