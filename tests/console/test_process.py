"""`guardline console` as a process on both brokers: what it reads, publishes, keeps over a restart, and says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition
from httpx import AsyncClient, Response

from monitor.console.messages import KafkaReader, Messages, Missing
from monitor.console.server import serve
from monitor.console.store import Item
from monitor.errors import ConfigurationError, GuardlineError
from monitor.publisher import Event
from monitor.records import ActionRecord, Decision, FeedbackRecord, Origin
from monitor.settings import Settings, load_settings
from monitor.types import Message, StatementVerdict
from tests.console.site import Visitor, ids
from tests.console.stage import SPAN, TEXT, Console, Published, Scene, write_users
from tests.fixtures_kafka import Broker, committed_offsets, consume_all
from tests.fixtures_services import LocalRedis, free_ports


def statement(scene: Scene, score: float = 0.97) -> StatementVerdict:
    return scene.statement(
        TEXT, SPAN, score=score, category="dose", recommendation="2.1-loading-dose", reason="400 mg stated"
    )


async def some_flags(scene: Scene, count: int = 3, **options: bool) -> list[Published]:
    messages = [
        (Message(f"m-{n}", TEXT, "north", "llm", None), [statement(scene, 0.9 + n / 100)]) for n in range(count)
    ]
    return await scene.publish(messages, **options)


@asynccontextmanager
async def reviewer(console: Console, name: str) -> AsyncIterator[Visitor]:
    async with AsyncClient(base_url=console.url) as client:
        visitor = Visitor(client)
        await visitor.login(name)
        yield visitor


async def page(visitor: Visitor, path: str, holds: str, log: Path) -> Response:
    """Return a page as soon as it says something."""
    deadline = time.monotonic() + 60
    while True:
        found = await visitor.get(path)
        if holds in found.text:
            return found
        assert time.monotonic() < deadline, f"{found.text[:2000]}\n{log.read_text()[-3000:]}"  # noqa: ASYNC240
        await asyncio.sleep(0.05)


async def test_from_flag_to_decision_and_over_a_restart(broker: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(broker)
    published = await some_flags(scene)
    flag = published[0].flags[0]
    unreadable = Event(scene.names["flags"], None, b'{"id": 7}')
    await scene.send([unreadable])
    async with Console(scene, tmp_path) as console:
        async with reviewer(console, "anna") as anna:
            await page(anna, "/problems", "wrong_type", console.log)
            assert set(ids(await anna.get("/"))) == {p.flags[0].id for p in published}
            shown = await anna.post(f"/flags/{flag.id}/reveal")
            assert '<mark id="statement">Give 400 mg on day 1.</mark>' in shown.text, shown.text
            answer = await anna.post(f"/flags/{flag.id}/decision", decision="reject", note="fine")
            assert answer.status_code == 303, answer.text
        assert await console.stop() == 0, console.log.read_text()[-3000:]
        log = console.log.read_text()
    assert "record_unreadable" in log
    assert "400 mg" not in log
    (record,) = await consume_all(broker.bootstrap, scene.names["feedback"])
    decision = FeedbackRecord.model_validate_json(record.value)
    assert (record.key, decision.flag, decision.origin) == (flag.id.encode(), flag, published[0].origin)
    noted = [
        ActionRecord.model_validate_json(r.value)
        for r in await consume_all(broker.bootstrap, scene.names["audit_events"])
    ]
    assert [(a.kind, a.actor) for a in noted] == [("login", "anna"), ("reveal", "anna")]
    group = f"{scene.names['outputs']}.console"
    assert await committed_offsets(broker.bootstrap, group, scene.names["flags"], 1) == {0: 4}
    # The memory store forgot all of it; Kafka did not.
    async with Console(scene, tmp_path) as console, reviewer(console, "anna") as anna:
        await page(anna, f"/flags/{flag.id}", 'data-status="second"', console.log)
        await page(anna, "/problems", "wrong_type", console.log)


@pytest.mark.connected
async def test_two_consoles_share_redis_and_a_restart_reads_nothing_again(
    kafka_broker: Broker, redis_server: LocalRedis, tmp_path: Path
) -> None:
    scene = await Scene.create(kafka_broker)
    flag = (await some_flags(scene))[0].flags[0]
    shared = {"store": "redis", "redis_url": redis_server.url, "console_secret": "s" * 40}
    (tmp_path / "two").mkdir()
    async with Console(scene, tmp_path, **shared) as one, Console(scene, tmp_path / "two", **shared) as two:
        async with reviewer(one, "anna") as anna, reviewer(two, "ben") as ben:
            await page(anna, f"/flags/{flag.id}", "data-status", one.log)
            await page(ben, f"/flags/{flag.id}", "data-status", two.log)
            await anna.post(f"/flags/{flag.id}/decision", decision="accept")
            await page(ben, "/?view=second", flag.id, two.log)
            ben.client.cookies = anna.client.cookies  # a session is everybody's
            ben.client.base_url = one.url
            assert "anna" in (await ben.get("/")).text
        assert await two.stop() == 0
        assert await one.stop() == 0
    async with Console(scene, tmp_path, **shared) as console, reviewer(console, "ben") as ben:
        first = await ben.get("/?view=all")  # at once, from Redis
        assert len(ids(first)) == 3
        await ben.post(f"/flags/{flag.id}/decision", decision="accept")
        assert 'data-status="settled"' in (await ben.get(f"/flags/{flag.id}")).text


@pytest.mark.connected
async def test_a_message_beyond_retention_is_said_to_be_gone(kafka_broker: Broker) -> None:
    scene = await Scene.create(kafka_broker)
    published = await some_flags(scene, 2)
    settings = Settings(kafka_bootstrap=kafka_broker.bootstrap)
    messages = Messages(KafkaReader(settings), [scene.names["outputs"]])
    places = [Origin(topic=scene.names["flags"], partition=0, offset=n) for n in range(2)]
    items = [Item.of(p.flags[0], origin=p.origin, place=place) for p, place in zip(published, places, strict=True)]
    assert (await messages.show(items[0])).before == TEXT[: SPAN[0]]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(scene.names["outputs"], 0): RecordsToDelete(before_offset=1)})
    await admin.close()
    gone = await messages.show(items[0])
    assert (gone.missing, gone.statement, gone.reason) == (Missing.GONE, TEXT[slice(*SPAN)], "400 mg stated")
    assert (await messages.show(items[1])).missing is None
    beyond = Origin(topic=scene.names["outputs"], partition=0, offset=99)
    assert await KafkaReader(settings).read(beyond) is None


async def test_a_broker_that_is_away_is_said_to_be() -> None:
    settings = Settings(kafka_bootstrap=f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(GuardlineError):
        await KafkaReader(settings).read(Origin(topic="llm.outputs", partition=0, offset=0))


async def test_flags_without_text_are_decided_on_without_text(embedded: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(embedded)
    (published,) = await some_flags(scene, 1, include_text=False)
    flag = published.flags[0]
    async with Console(scene, tmp_path) as console, reviewer(console, "anna") as anna:
        await page(anna, f"/flags/{flag.id}", "data-status", console.log)
        shown = await anna.post(f"/flags/{flag.id}/reveal")
        assert '<mark id="statement">Give 400 mg on day 1.</mark>' in shown.text  # from the message itself
        await anna.post(f"/flags/{flag.id}/decision", decision="unsure")
    (record,) = await consume_all(embedded.bootstrap, scene.names["feedback"])
    decision = FeedbackRecord.model_validate_json(record.value)
    assert (decision.decision, decision.flag.statement) == (Decision.UNSURE, None)


async def test_a_link_health_and_figures(embedded: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(embedded)
    await some_flags(scene)
    port = str(free_ports(1)[0])
    options = ["--one-time-link", "guest"]
    async with Console(scene, tmp_path, options=options, metrics_port=port) as console, AsyncClient() as client:
        assert (await client.get(console.links["guest"])).status_code == 303
        assert "guest" in (await client.get(console.url)).text
        await page(Visitor(client), f"http://127.0.0.1:{port}/metrics", "guardline_console_flags 3.0", console.log)
        for path in ("live", "ready"):
            assert (await client.get(f"http://127.0.0.1:{port}/{path}")).status_code == 200
        async with client.stream("GET", f"{console.url}/events") as events:
            line = await anext(events.aiter_lines())
            assert line == "event: queue"
            assert await console.stop() == 0  # an open page does not hold it up


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"console_tokens_file": None}, "GUARDLINE_CONSOLE_TOKENS_FILE"),
        ({"console_tokens_file": "/no/such/file"}, "cannot be read"),
        ({"console_tokens_file": None, "console_proxy_header": "X-User"}, "GUARDLINE_CONSOLE_TOKENS_FILE"),
        ({"console_proxy_addresses": "here"}, "GUARDLINE_CONSOLE_PROXY_ADDRESSES"),
        ({"console_secret": "short"}, "GUARDLINE_CONSOLE_SECRET"),
        ({"console_port": 1, "console_host": "192.0.2.1"}, "GUARDLINE_CONSOLE_PORT"),
    ],
)
async def test_a_console_that_nobody_could_use_does_not_start(
    embedded: Broker, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    values = {"kafka_bootstrap": embedded.bootstrap, "console_tokens_file": write_users(tmp_path / "users.yaml")}

    def announce(*_: object) -> None:
        raise AssertionError("it started")

    with pytest.raises(ConfigurationError, match=says):
        await serve(load_settings(**values | changes), ["guest"] if "console_port" in changes else [], announce)
