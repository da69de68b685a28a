"""The circle: a flag, an alert, two rejections in a browser, a better champion, and no flag the second time.

Everything is real: Kafka, Redis, a tritonserver, Chromium, and each part of Guardline is a process. `make circle` runs
it and prints its steps.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from redis import Redis

from monitor.models.triton_repository import install
from monitor.package import ModelPackage
from monitor.records import Decision, FeedbackRecord, FlagRecord, VerdictRecord
from tests.alerts.servers import receiving
from tests.alerts.test_group import Alerts, until
from tests.audit.logs import entries
from tests.audit.test_process import Recording
from tests.console.browser import Browser
from tests.console.stage import Console, Scene
from tests.console.test_browser import decide, drive
from tests.e2e.worker import Topics, Worker, collect
from tests.fixtures_kafka import CHECKOUT, Broker, consume_all, produce
from tests.fixtures_services import TRITON_VENV, LocalRedis, LocalTriton
from tests.fixtures_variants import variant, without_verifier

pytestmark = [pytest.mark.circle, pytest.mark.connected, pytest.mark.model]

#: Right statements, said the wrong way round: written to be taken for wrong ones. In none of the corpus' files.
RIGHT = (
    "Nobody without risk factors who is coughing at home with COVID-19 needs remdesivir.",
    "Withholding remdesivir from a pregnant woman with COVID-19 merely because she is pregnant would be a mistake.",
    "Cutting the dose of remdesivir in half for a patient with cirrhosis would be an error.",
    "Nursing mothers who are told to wean because of remdesivir are told wrong.",
    "It is a myth that COVID-19 patients on dialysis must do without remdesivir.",
    "Two doses of remdesivir a day are one too many.",
    "Refusing remdesivir to somebody with COVID-19 because of an eGFR of 20 is yesterday's medicine.",
)
CHAMPIONS = "guardline:models:champion"


@pytest.fixture(scope="module")
def champion(model_package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The encoder of the package that ships, which retrains in a minute: the verifier takes minutes."""
    return without_verifier(model_package, tmp_path_factory.mktemp("champion") / "package")


@pytest.fixture
def triton(champion: ModelPackage, tmp_path: Path) -> Iterator[LocalTriton]:
    """A tritonserver with a repository of the test's own, so that a further version may be put there."""
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    repository = tmp_path / "repository"
    assert install(champion, champion.manifest.encoder, repository) == 1
    with LocalTriton(repository, venv=TRITON_VENV) as server:
        yield server


@dataclass
class Circle:
    """One deployment: what its processes share, and a diary."""

    folder: Path
    scene: Scene
    topics: Topics
    settings: dict[str, str]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    async def create(
        cls, broker: Broker, redis: LocalRedis, triton: LocalTriton, champion: ModelPackage, folder: Path
    ) -> Circle:
        roles = {"outputs": "llm.outputs", "audit_events": "safety.audit.events"}
        roles |= {role: f"safety.{role}" for role in ("flags", "review", "verdicts", "deadletter", "feedback", "audit")}
        names = {role: await broker.topic(name, 1) for role, name in roles.items()}
        settings = {
            "models_every": "0.5",
            "redis_url": redis.url,
            "scorer": "triton",
            "store": "redis",
            "triton_repository": str(folder / "repository"),
            "triton_timeout": "20",
            "triton_url": triton.url,
        }
        return cls(folder, Scene(broker, names, champion), Topics(names), settings)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GUARDLINE_AUDIT_ACTIONS": "true",
            "GUARDLINE_KAFKA_BOOTSTRAP": self.scene.broker.bootstrap,
            "GUARDLINE_MODEL": str(self.scene.package.path),
            **self.topics.environment(),
            **{f"GUARDLINE_{name.upper()}": value for name, value in self.settings.items()},
        }

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {line}", flush=True)

    async def guardline(self, *arguments: object, expected: int = 0) -> bytes:
        """Run a command as an operator would; return what it prints.

        Raises:
            AssertionError: it exited otherwise, or took ten minutes; what it said is in the message.
        """
        name = f"guardline {arguments[0]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "monitor.cli", *map(str, arguments), cwd=CHECKOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "150"} | self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(600):
                output, said = await process.communicate()
        except TimeoutError:
            process.kill()
            _, said = await process.communicate()
            raise AssertionError(f"{name}: no end after ten minutes\n{said.decode()}") from None
        print("".join(f"            {line}\n" for line in said.decode().splitlines()), end="")
        assert process.returncode == expected, f"{name} exited with {process.returncode}:\n{said.decode()[-3000:]}"
        return output

    async def asked(self, *arguments: object, expected: int = 0) -> dict[str, Any]:
        """Run a command with --json; return what it says, raising as `guardline`."""
        answer: dict[str, Any] = json.loads(await self.guardline(*arguments, "--json", expected=expected))
        return answer

    async def published(self, number: int, text: str, worker: Worker) -> dict[str, list[ConsumerRecord]]:
        """Publish an answer as a platform does; return all events once it is decided on, the number-th of all."""
        value = json.dumps({"id": f"circle-{number}", "text": text, "tenant": "north"}).encode()
        await produce(self.scene.broker.bootstrap, self.scene.names["outputs"], [value])
        return await collect(self.scene.broker.bootstrap, self.topics, number, worker)

    async def champions(self) -> list[str]:
        """Return the pointer's versions as they lie in Redis, the latest first."""

        def read() -> list[str]:
            with Redis.from_url(self.settings["redis_url"]) as client:
                return [json.loads(row)["version"] for row in client.lrange(CHAMPIONS, 0, -1)]

        return await asyncio.to_thread(read)


def _answer(statement: str) -> str:
    return f"{statement} Ask the ward pharmacist if in doubt."


async def _wrongly_flagged(circle: Circle) -> str:
    """Return a right statement that the champion flags, so that reviewers reject it with reason.

    Of several it is the one nearest to the threshold, which costs the gate's margins the least.
    """
    asked, answers = circle.folder / "right.jsonl", circle.folder / "checked.jsonl"
    asked.write_text("".join(json.dumps({"id": text, "text": _answer(text)}) + "\n" for text in RIGHT))
    await circle.guardline("check", "--input", asked, "--output", answers)
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    flagged = {row["id"]: row["score"] for row in rows if row["verdict"] == "unsafe"}
    circle.say(f"the champion flags {len(flagged)} of {len(RIGHT)} right statements")
    assert flagged, f"the champion is right about all of these: write one that it takes for wrong\n{rows}"
    return min(flagged, key=flagged.__getitem__)


def _rejected(flag: FlagRecord, text: str) -> Callable[[Browser], None]:
    """Return the steps of two reviewers in a browser."""

    def steps(browser: Browser) -> None:
        for name, status in (("anna", "second"), ("ben", "settled")):
            browser.login(name)
            browser.until(lambda: browser.find("#waiting").text == "1", "the flag, told by the server")
            browser.open("/")
            browser.find(f"#queue tr[data-flag='{flag.id}'] .open").click()
            browser.find("#reveal").click()
            assert browser.find("#statement").text == text
            decide(browser, Decision.REJECT, "Says the same as the recommendation.")
            browser.until(
                lambda status=status: browser.find("#state").get_attribute("data-status") == status, f"status {status}"
            )

    return steps


async def _kinds(recording: Recording, wanted: dict[str, int]) -> Counter[object]:
    """Return the audit log's entries by kind, as soon as there are at least so many."""
    found: Counter[object] = Counter()
    deadline = time.monotonic() + 60
    while any(found[kind] < count for kind, count in wanted.items()):
        assert time.monotonic() < deadline, f"wanted {wanted}, found {found}\n{recording.output.read_text()[-3000:]}"
        await asyncio.sleep(0.1)
        found = Counter(entry["kind"] for entry in await entries(recording.log))
    return found


async def test_a_rejected_flag_makes_a_better_champion_and_a_worse_one_is_refused(
    kafka_broker: Broker, redis_server: LocalRedis, triton: LocalTriton, champion: ModelPackage, tmp_path: Path
) -> None:
    circle = await Circle.create(kafka_broker, redis_server, triton, champion, tmp_path)
    names, first = circle.scene.names, champion.reference.version
    statement = await _wrongly_flagged(circle)
    answer = _answer(statement)
    deadletter = await kafka_broker.topic("safety.alerts.deadletter", 1)
    recording = Recording(
        kafka_broker, tmp_path, {role: names[role.lower()] for role in ("FLAGS", "REVIEW", "FEEDBACK", "AUDIT_EVENTS")}
    )
    async with (
        receiving() as receiver,
        Worker(kafka_broker, champion.path, circle.topics, tmp_path / "monitor.log", **circle.settings) as worker,
        Alerts(kafka_broker, tmp_path, receiver.url, names["flags"], deadletter, {"wait": 0, "suppress": 0}) as alerts,
        recording,
        Console(circle.scene, tmp_path, model=str(champion.path), **circle.settings) as console,
    ):
        circle.say(f"published: {statement}")
        events = await circle.published(1, answer, worker)
        (flag,) = (FlagRecord.model_validate_json(record.value) for record in events["flags"])
        assert (flag.message_id, flag.statement, flag.model.version) == ("circle-1", statement, first)
        circle.say(f"flagged by {first} with {flag.score} as against {flag.evidence.recommendation}")

        await until(lambda: bool(receiver.bodies), alerts.log)
        assert [alert["labels"]["message_id"] for alert in receiver.bodies[0]["alerts"]] == ["circle-1"]
        circle.say("the webhook has it")

        await drive(console, tmp_path, _rejected(flag, statement))
        made = [FeedbackRecord.model_validate_json(r.value) for r in await consume_all(
            kafka_broker.bootstrap, names["feedback"])]  # fmt: skip
        assert [(r.flag.id, r.reviewer, r.decision) for r in made] == [
            (flag.id, "anna", Decision.REJECT), (flag.id, "ben", Decision.REJECT),
        ]  # fmt: skip
        circle.say("rejected by two reviewers in the browser")

        await _kinds(recording, {"flag": 1, "decision": 2})
        verified = await circle.asked("audit", "verify", tmp_path / "audit")
        circle.say(f"the audit log has flag and decisions, and holds: {verified}")

        run = tmp_path / "run"
        ended = await circle.asked("retrain", "--run", run, "--topic", "--least", "1")
        assert (ended["outcome"], ended["learnt"], ended["decisions"]) == ("promoted", 1, 1), ended
        challenger = ModelPackage.load(Path(ended["package"]))
        second = challenger.reference.version
        assert await circle.champions() == [second, first]
        circle.say(f"retrained, through the gate, promoted: {second}")

        await until(lambda: worker.log.read_text().count('"model_switched"') == 1, worker.log)
        circle.say("the monitor has moved to it")
        events = await circle.published(2, answer, worker)
        verdicts = [VerdictRecord.model_validate_json(record.value) for record in events["verdicts"]]
        assert [(v.message_id, v.verdict, v.model.version) for v in verdicts] == [
            ("circle-1", "unsafe", first), ("circle-2", "safe", second),
        ]  # fmt: skip
        assert [FlagRecord.model_validate_json(record.value).id for record in events["flags"]] == [flag.id]
        circle.say(f"published again: {verdicts[1].verdict}, says {second}")

        # No alarm at all pleases everybody, and lets everything pass.
        nothing = {"unsafe": 1.0, "review": 1.0, "in_scope": challenger.manifest.thresholds.in_scope}
        worse = variant(challenger, tmp_path / "worse", "99990101.worse", factor=1.0, thresholds=nothing)
        served = sorted((tmp_path / "repository").glob("encoder/*"))
        ended = await circle.asked("retrain", "--run", run, "--candidate", worse.path, expected=1)
        assert ended["outcome"] == "refused", ended
        assert any("balanced accuracy" in reason for reason in ended["reasons"]), ended
        assert await circle.champions() == [second, first]
        assert sorted((tmp_path / "repository").glob("encoder/*")) == served
        circle.say(f"a challenger that flags nothing is refused: {ended['reasons'][0]}")

        kinds = await _kinds(recording, {"promotion": 1})
        assert (kinds["flag"], kinds["decision"], kinds["promotion"], kinds["unreadable"]) == (1, 2, 1, 0), kinds
        await circle.asked("audit", "verify", tmp_path / "audit")
        for process in (worker, alerts, recording, console):
            assert await process.stop() == 0, process
    assert len(receiver.bodies) == 1, "the webhook was called again"
    for process in (worker, alerts, console):
        assert statement not in process.log.read_text(), f"{process.log.name} quotes the statement"
    circle.say("the webhook was called once, and no log quotes the statement")
