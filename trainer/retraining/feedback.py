"""Where settled decisions come from: a file that `guardline feedback export` wrote, or the topic itself."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from rich.console import Console

from monitor.settings import Settings
from trainer.artifacts import write_rows
from trainer.retraining import decisions

#: Texts of statements may be health data: only their owner reads them.
PRIVATE = 0o600


def _of_topic(settings: Settings, path: Path, console: Console) -> None:
    from monitor.feedback.export import export, read_texts, settled  # which need a client of Kafka
    from monitor.feedback.reading import read_topic

    async def read() -> None:
        found = await read_topic(settings, lambda *_: None)
        flags = settled(found.decisions)
        texts = await read_texts(settings, flags, lambda *_: None)
        made = export(flags, texts.found)
        write_rows(path, made.rows)
        console.print(
            f"{len(found.decisions)} decisions on {settings.topic_feedback}, {len(flags)} flags settled, "
            f"{len(made.rows)} statements ({len(made.conflicting)} more were settled both ways and are left out)"
        )

    asyncio.run(read())


def take(
    source: Path | None, topic: bool, settings: Settings, path: Path, console: Console
) -> list[decisions.ExportedRow]:
    """Write the settled decisions to `path` and return them, in order of time.

    Args:
        source: an export, if it is one.
        topic: read them from the topic, and statements from the messages on the broker; with neither there are none.
        settings: where the broker is.
        path: file that is written, readable by its owner only.
        console: told what was found.

    Raises:
        CorpusError: a row of the file is no settled decision.
        ConfigurationError: there is no such topic.
        GuardlineError: the broker does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        shutil.copyfile(source, path)
    elif topic:
        _of_topic(settings, path, console)
    else:
        path.write_bytes(b"")
    path.chmod(PRIVATE)
    return decisions.read(path)
