"""Actions of other parts: what is published of them, and promotions that wait for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.audit.file_log import FileLog
from monitor.audit.trail import PublishedTrail
from monitor.errors import GuardlineError
from monitor.models.pointer import Alias, FilePointer
from monitor.models.promotion import promote, rollback
from monitor.records import ActionRecord
from monitor.settings import DEFAULT_MODEL, Settings, load_settings
from tests.audit.logs import START, entries, recorded
from tests.audit.packages import another_version
from tests.fixtures_kafka import Broker, consume_all
from tests.fixtures_services import free_ports
from tests.monitor.fakes import RecordingPublisher


async def test_an_action_is_an_event_that_the_recorder_reads() -> None:
    publisher = RecordingPublisher()
    trail = PublishedTrail(publisher, "actions", source="guardline/console", clock=lambda: START)
    await trail.record("reveal", actor="ann", subject="flag-1", details={"of": "message"})
    (event,) = publisher.events
    action = ActionRecord.model_validate_json(event.value or b"")
    assert event.topic == "actions"
    assert (action.kind, action.actor, action.subject, action.details) == ("reveal", "ann", "flag-1", {"of": "message"})
    headers = dict(event.headers)
    assert headers["ce_id"] == action.id.encode()
    assert (headers["ce_type"], headers["ce_source"]) == (b"guardline.action", b"guardline/console")
    assert headers["ce_time"] == START.isoformat().encode()


@pytest.mark.parametrize(
    ("kind", "details"),
    [("Reveal!", {}), ("reveal", {"text": "x" * 201}), ("reveal", {"Not a name": 1}), ("reveal", {"list": [1]})],
)
async def test_what_could_hold_a_text_is_refused(kind: str, details: dict[str, object]) -> None:
    publisher = RecordingPublisher()
    trail = PublishedTrail(publisher, "actions", source="guardline/console")
    with pytest.raises(ValueError):
        await trail.record(kind, actor="ann", subject="flag-1", details=details)  # type: ignore[arg-type]
    assert publisher.events == []


def settings_of(folder: Path, **more: object) -> Settings:
    return load_settings(models_file=folder / "models.json", audit_actions=True, onnx_threads=1, **more)


@pytest.mark.model
async def test_promotions_and_rollbacks_are_in_the_log(embedded: Broker, tmp_path: Path) -> None:
    topic = await embedded.topic("safety.audit.events", 1)
    settings = settings_of(tmp_path, kafka_bootstrap=embedded.bootstrap, topic_audit_events=topic)
    other = another_version(tmp_path / "other")
    pointer = FilePointer(tmp_path / "models.json")
    await promote(other, Alias.CHAMPION, pointer, settings, why="better", say=lambda _: None)
    await rollback(pointer, settings, why="worse", say=lambda _: None)
    log = tmp_path / "log"
    await recorded(log, await consume_all(embedded.bootstrap, topic), topic_audit_events=topic)
    _, first, second = await entries(FileLog(log))
    manifest = json.loads((DEFAULT_MODEL / "manifest.json").read_bytes())
    assert (first["kind"], first["subject"]) == ("promotion", f"{manifest['name']}@other")
    assert (second["kind"], second["subject"]) == ("rollback", f"{manifest['name']}@{manifest['version']}")
    about = first["details"]["about"]  # type: ignore[index]
    assert (about["alias"], about["why"], len(about["sha256"])) == ("champion", "better", 64)


@pytest.mark.model
async def test_no_model_changes_that_the_log_could_not_be_told_of(tmp_path: Path) -> None:
    (port,) = free_ports(1)  # nobody answers there
    settings = settings_of(tmp_path, kafka_bootstrap=f"127.0.0.1:{port}", publish_timeout=1.0)
    pointer = FilePointer(tmp_path / "models.json")
    with pytest.raises(GuardlineError, match="no model changed"):
        await promote(DEFAULT_MODEL, Alias.CHALLENGER, pointer, settings, why="", say=lambda _: None)
    assert await pointer.history(Alias.CHALLENGER) == []
