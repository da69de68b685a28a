"""`guardline monitor`: the process around the worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from pathlib import Path

import click
import uvloop

from monitor.app import Worker
from monitor.errors import GuardlineError
from monitor.logs import configure, said
from monitor.package import ModelPackage
from monitor.settings import load_settings


def settle_garbage_collection() -> None:
    """Collect seldom: records come and go by the thousand and hold no cycles, and the rest stays for good.

    By Python's defaults the collector takes a sixth of what a message costs beside the model
    (`tests/benchmarks/stream.py`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Model package.  [env: GUARDLINE_MODEL]")
@click.option("--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]")
@click.option("--scorer", type=click.Choice(["onnx", "triton"]), help="Where the model runs.  [env: GUARDLINE_SCORER]")
@click.option("--store", type=click.Choice(["memory", "redis"]), help="Where scores are kept.  [env: GUARDLINE_STORE]")
def command(model: Path | None, kafka_bootstrap: str | None, scorer: str | None, store: str | None) -> None:
    """Run the streaming worker until SIGTERM or Ctrl-C; every setting is also an environment variable.

    Exits with 0 after an orderly stop, 3 when going on would do harm (the last lines say why), 4 when it was told to
    stop and could not finish in time (what was not committed will be delivered again).
    """
    settings = load_settings(model=model, kafka_bootstrap=kafka_bootstrap, scorer=scorer, store=store)
    configure(settings.log_level, settings.log_format)
    package = ModelPackage.load(settings.model)
    settle_garbage_collection()

    async def run() -> None:
        worker = Worker(settings, package)
        drained = await worker.run()
        if worker.failure is not None:
            words = worker.failure if isinstance(worker.failure, GuardlineError) else said(worker.failure)
            click.echo(f"guardline: {words}", err=True)
        if worker.failure is not None or not drained:
            logging.shutdown()
            os._exit(3 if worker.failure else 4)  # closing the loop would wait for threads that wait for a broker

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
