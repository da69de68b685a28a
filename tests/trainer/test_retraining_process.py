"""`guardline retrain` as it is run: killed and going on, one at a time, promoted over a file and over a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from rich.console import Console

from monitor.package import ModelPackage
from monitor.settings import Settings
from tests.fixtures_services import LocalRedis
from tests.fixtures_variants import variant
from trainer.artifacts import RunFolder
from trainer.guideline.guidelines import Pack
from trainer.pipeline import STAGES, Pipeline
from trainer.retraining.lock import held
from trainer.settings import TrainSettings

#: Like no statement of the corpus, so that the champion's verdict on it can be overruled.
TEXT = "Grandmother swears by half a spoon of zolamide in warm goat milk whenever the moon is full."


def guardline(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monitor.cli", *map(str, arguments)]
    own = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "250", "OMP_NUM_THREADS": "1"} | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=own, timeout=600)


#: Further people whom the held-out voices speak of: enough statements to show something.
PEOPLE = ("nurses", "sailors", "bakers", "farmers", "smiths", "tailors")


@pytest.fixture(scope="module")
def champion(
    tmp_path_factory: pytest.TempPathFactory, make_pack: Callable[[Path], Path], tiny_settings: TrainSettings
) -> Path:
    """The run folder of a champion that was trained in seconds: good for little, and wrong about `TEXT`."""
    root = tmp_path_factory.mktemp("champion")
    pack = make_pack(root / "pack")
    for file in (pack.parent / "corpus" / f"llm_style_{style}.jsonl" for style in ("g", "l")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for people in PEOPLE:
            rows += [
                row
                | {
                    "id": f"{row['id']}-{people}",
                    "parent": row["parent"] and f"{row['parent']}-{people}",
                    "text": row["text"].replace("adults", people),
                }
                for row in rows
                if "adults" in row["text"] and row["id"].count("-") == 1
            ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Pipeline(RunFolder(root / "run"), Pack.load(pack), tiny_settings).run(STAGES[:-1], Console(quiet=True))
    return root / "run"


@dataclass
class Deployment:
    """A champion, decisions on it, and where the pointer is."""

    run: Path
    decisions: Path
    environment: dict[str, str]
    before: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def arguments(self) -> list[str]:
        # A toy's few statements move by whole shares.
        own = ["--run", str(self.run), "--from", str(self.decisions), "--least", "1", "--margin", "0.45", "--json"]
        return ["retrain", *own]

    def retrain(self, *more: object) -> subprocess.CompletedProcess[str]:
        return guardline(*self.arguments, *more, environment=self.environment)

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "monitor.cli", *self.arguments, *more]
        own = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | self.environment
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=own)
        self.processes.append(process)
        return process

    def verdict(self, package: object) -> str:
        done = guardline("check", "--json", "--model", package, TEXT, environment=self.environment)
        return str(json.loads(done.stdout)["verdict"])

    def champion(self) -> str:
        rows = json.loads(guardline("models", "--json", environment=self.environment).stdout)
        return next(f"{row['version']}" for row in rows if row["alias"] == "champion")


@pytest.fixture
def deploy(champion: Path, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    made: list[Deployment] = []

    def of(**settings: str) -> Deployment:
        # The corpus is read where it is; retrainings go to a folder of the test.
        run = tmp_path / "run"
        run.mkdir()
        for entry in champion.iterdir():
            (run / entry.name).symlink_to(entry)
        environment = {"GUARDLINE_MODEL": str(champion / "package")} | settings
        own = Deployment(run, tmp_path / "decisions.jsonl", environment, "")
        own.before = own.verdict(champion / "package")
        safe = own.before == "unsafe"
        row = {
            "id": "review-1", "text": TEXT, "label": "safe" if safe else "unsafe",
            "recommendation": ModelPackage.load(champion / "package").manifest.recommendations[0].id,
            "category": "dose", "decision": "reject" if safe else "accept", "decided_at": "2026-11-20T08:00:00Z",
        }  # fmt: skip
        own.decisions.write_text(json.dumps(row) + "\n")
        made.append(own)
        return own

    yield of
    for own in made:
        for process in own.processes:
            process.kill()
            process.wait()


def appeared(file: Path, process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists():
            return True
        time.sleep(0.005)
    return file.exists()


def test_killed_it_goes_on_and_promotes_a_challenger_that_has_learnt(
    deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    own = deploy(GUARDLINE_MODELS_FILE=str(tmp_path / "active.json"))
    first = own.champion()
    attempt = own.run / "retraining" / "0001"
    for stage in ("start", "classifier"):
        process = own.start()
        there = appeared(attempt / "stamps" / f"{stage}.json", process)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert there, said
    done = own.retrain()
    assert done.returncode == 0, done.stderr
    assert "Going on with" in done.stderr
    assert "classifier  is current" in done.stderr
    ended = json.loads(done.stdout)
    assert (ended["outcome"], ended["learnt"], ended["decisions"]) == ("promoted", 1, 1)
    package = ModelPackage.load(Path(ended["package"]))
    assert own.champion() == package.reference.version != first
    assert own.verdict(package.path) != own.before
    listed = guardline("models", environment=own.environment).stdout
    assert "by 1 decisions" in listed
    assert "gate passed" in listed
    # The same decisions once more are no reason to retrain.
    again = own.retrain()
    assert again.returncode == 0
    assert json.loads(again.stdout)["outcome"] == "nothing to do"
    assert not (own.run / "retraining" / "0002").exists()


def test_a_worse_candidate_is_refused_and_nothing_changes(
    deploy: Callable[..., Deployment], champion: Path, tmp_path: Path
) -> None:
    own = deploy(GUARDLINE_MODELS_FILE=str(tmp_path / "active.json"))
    first = own.champion()
    bad = tmp_path / "bad"
    manifest = json.loads((champion / "package" / "manifest.json").read_text())
    # Flags everything that it takes for in scope: whatever the weights, that cannot be better.
    limits = {"unsafe": 0.0001, "review": 0.0001, "in_scope": 0.0001}
    assert manifest["thresholds"] != limits
    variant(ModelPackage.load(champion / "package"), bad, "99990101.bad", thresholds=limits)
    done = own.retrain("--candidate", bad, "--margin", "0.03")
    assert done.returncode == 1, done.stderr
    ended = json.loads(done.stdout)
    assert ended["outcome"] == "refused"
    assert any("balanced accuracy, as served" in reason for reason in ended["reasons"])
    assert own.champion() == first
    assert "Refused" in Path(ended["report"]).read_text()


@pytest.mark.connected
def test_over_redis_one_is_at_work_and_the_pointer_moves(
    deploy: Callable[..., Deployment], redis_server: LocalRedis, tmp_path: Path
) -> None:
    own = deploy(GUARDLINE_STORE="redis", GUARDLINE_REDIS_URL=redis_server.url)
    with held(Settings(store="redis", redis_url=redis_server.url), tmp_path):
        refused = own.retrain()
    assert refused.returncode == 3
    assert "another retraining is at work" in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    done = own.retrain()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "promoted"
    client = Redis.from_url(redis_server.url)
    latest = json.loads(client.lindex("guardline:models:champion", 0) or b"{}")
    assert latest["version"] == own.champion()
    assert "retrained on 1 decisions (1 learnt)" in latest["why"]
    assert client.get("guardline:retrain") is None
