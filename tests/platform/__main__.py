"""`python -m tests.platform`: see the package. Exit codes: 0 it works, 1 it does not, 3 tools are missing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from monitor.replay.reading import stopping_on_signals
from tests.fixtures_secured import make_authority
from tests.observability.tools import alerts_at
from tests.platform import checks, servers
from tests.platform.components import COMMANDS, COMMON, Components, Places
from tests.platform.credentials import COMPONENTS, Credentials
from tests.platform.report import Steps, what_a_team_sees
from tests.platform.requirements import missing

#: The rule that fires when something among the flags is none.
_ALARM = "GuardlineFlagsUnreadable"
#: Lines of each log that are shown when something fails.
_TAIL = 8
#: Where nobody says how wide the output may be.
_WIDTH = 140


async def _servers(stack: AsyncExitStack, steps: Steps, folder: Path, credentials: Credentials) -> Places:
    authority = await asyncio.to_thread(make_authority, folder / "services")
    kafka, redis, triton, alertmanager = await asyncio.gather(
        steps.done("Kafka: SASL over TLS, ACLs", servers.start_kafka(stack, folder / "kafka"), lambda k: k.sasl_tls),
        steps.done(
            "Redis: TLS, ACL users",
            servers.start_redis(stack, authority, credentials.redis_admin),
            lambda redis: f"127.0.0.1:{redis.port}",
        ),
        steps.done("Triton: TLS, the shipped models", servers.start_triton(stack, authority), lambda t: t.url),
        steps.done("Alertmanager: the shipped routes", servers.start_alertmanager(stack, folder), str),
    )
    return Places(kafka, redis, triton, authority, alertmanager)


async def _keep(
    console: Console, components: Components, credentials: Credentials, places: Places, prometheus: str
) -> None:
    console.print("[bold]It runs until Ctrl-C.[/bold]")
    for name, link in components.links.items():
        console.print(f"  console, logs {name} in once: {link}", soft_wrap=True)
    console.print(f"  Prometheus: {prometheus}\n  Alertmanager: {places.alertmanager}")
    console.print(
        f'  send more: sh deploy/examples/send.sh {components.intake} "$(cat {credentials.sender_file})"\n'
        f"  as the monitor's user: set -a; . {credentials.folder}/monitor.env; guardline doctor",
        soft_wrap=True,
    )
    stop = asyncio.Event()
    with stopping_on_signals(stop):
        await stop.wait()


async def _use(console: Console, steps: Steps, folder: Path, components: Components, *, keep: bool) -> None:
    credentials = Credentials(folder / "secrets")
    async with AsyncExitStack() as stack:
        places = await _servers(stack, steps, folder, credentials)
        kafka, alertmanager = places.kafka, places.alertmanager
        await steps.done(
            f"{len(COMPONENTS)} users, allowed what `guardline acls` prints",
            credentials.grant(kafka, places.redis, COMMON, servers.ALERTS_CONFIG),
            "{0[0]} grants in Kafka, {0[1]} in Redis".format,
        )
        await steps.done(f"Guardline: {', '.join(COMMANDS)}", components.start(stack, places, credentials, guests=keep))
        steps.watched = asyncio.ensure_future(components.first_end())
        stack.callback(steps.watched.cancel)
        prometheus = await steps.done(
            "Prometheus: the shipped rules",
            servers.start_prometheus(stack, folder, components.ports, alertmanager),
            str,
        )
        refused = await steps.done("What nobody may", checks.refused(components), lambda tried: f"{len(tried)} refused")
        await steps.done("Answers over HTTP, and from a program", checks.send(components, credentials))
        flags = await steps.done("Flags: the wrong ones, nothing else", checks.flagged(kafka))
        await steps.done("An alert for each in Alertmanager", checks.alerted(alertmanager, flags))
        (dose,) = (flag for flag in flags if flag.message_id == "dose")
        review = await steps.done("Two reviewers in the console", checks.reviewed(components, credentials, kafka, dose))
        await steps.done(
            f"A stranger's record among the flags: {_ALARM} from Prometheus",
            checks.alarmed(prometheus, alertmanager, kafka, _ALARM),
        )
        figures = await steps.done("Figures in Prometheus; canaries come back", checks.figures(prometheus))
        audit = await steps.done("Audit log verified", checks.verified(components, prometheus))
        alerts = await alerts_at(alertmanager)
        raised = {alert["labels"]["alertname"] for alert in alerts}
        assert raised == {"GuardlineFlag", _ALARM}, f"other alarms than there should be: {raised}"
        what_a_team_sees(
            console, flags=flags, alerts=alerts, figures=figures, review=review, audit=audit, refused=refused
        )
        if keep:
            await _keep(console, components, credentials, places, prometheus)
        steps.watched.cancel()
        steps.watched = None
        codes = await steps.done("Guardline stopped in order", components.stop())
        assert set(codes.values()) == {0}, f"exit codes: {codes}"
    logs = {log.stem: log.read_text(errors="replace") for log in components.logs.iterdir()}
    await steps.done(
        "No secret and no message text in any log",
        asyncio.to_thread(checks.discreet, logs, credentials.all),
        lambda size: f"{size:,} characters",
    )


async def _run(console: Console, folder: Path, *, keep: bool) -> int:
    loop, own = asyncio.get_running_loop(), asyncio.current_task()
    assert own is not None
    loop.add_signal_handler(signal.SIGTERM, own.cancel)
    # A terminal sends Ctrl-C to everything at once. What these threads start inherits that it is blocked, and is
    # stopped here, after what uses it.
    loop.set_default_executor(
        ThreadPoolExecutor(initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, {signal.SIGINT}))
    )
    components = Components(folder)
    began = time.monotonic()
    with console.status("") as status:
        try:
            await _use(console, Steps(console, status), folder, components, keep=keep)
        except Exception as error:
            console.print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}", soft_wrap=True)
            for log in sorted(components.logs.iterdir()):
                for line in log.read_text(errors="replace").splitlines()[-_TAIL:]:
                    console.print(f"{log.stem}: {line}", markup=False, highlight=False, soft_wrap=True)
            console.print("[red]The platform does not work.[/red] Everything that was started is stopped.")
            return 1
    console.print(f"[green]The platform works.[/green] Everything is stopped; {time.monotonic() - began:.0f} s.")
    return 0


@click.command()
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C, and print where everything is.")
def command(keep: bool) -> None:
    """Start the whole platform on this machine, use it as a team would, and stop it.

    Kafka with SASL, TLS and ACLs, Redis with ACL users, Triton, Prometheus and Alertmanager, and of Guardline intake,
    monitor, alerts, console, canary and audit log. All of it listens on loopback and leaves nothing behind.
    """
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if lacking := list(missing()):
        console.print("The platform needs what this machine does not have:")
        for line in lacking:
            console.print(f"  {line}", markup=False, soft_wrap=True)
        sys.exit(3)
    os.umask(0o077)  # for every file and socket below, of the servers too
    folder = Path(tempfile.mkdtemp(prefix="guardline-platform-"))
    try:
        sys.exit(asyncio.run(_run(console, folder, keep=keep)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped; nothing runs any more.")
        sys.exit(130)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    command()
