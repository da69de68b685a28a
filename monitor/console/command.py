"""`guardline console`: the process around the review console."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import click
import structlog
import uvloop

from monitor.console.server import is_loopback, serve
from monitor.console.users import Role, digest, new_token
from monitor.logs import configure
from monitor.settings import load_settings

_log = structlog.get_logger(__name__)


def _print_token(name: str, role: str) -> None:
    token = new_token()
    click.echo(f"Token of {name}, shown this once:\n\n  {token}\n\nFor the file of GUARDLINE_CONSOLE_TOKENS_FILE:\n")
    click.echo(f"  - name: {name}\n    role: {role}\n    sha256: {digest(token)}")


def _announce(address: str, links: Mapping[str, str]) -> None:
    click.echo(f"console {address}")
    for name, link in links.items():
        click.echo(f"{name} {link}")


@click.command()
@click.option("--host", "console_host", help="Address to serve on.  [env: GUARDLINE_CONSOLE_HOST]")
@click.option("--port", "console_port", type=int, help="Port; 0: any.  [env: GUARDLINE_CONSOLE_PORT]")
@click.option("--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]")
@click.option("--store", type=click.Choice(["memory", "redis"]), help="Where state is kept.  [env: GUARDLINE_STORE]")
@click.option("--model", type=click.Path(path_type=Path), help="Package whose recommendations reviewers choose from.")
@click.option("--one-time-link", "links", metavar="NAME", multiple=True, help="Print a link that logs NAME in, once.")
@click.option("--new-token", "newcomer", metavar="NAME", help="Make a token for NAME, print it, and end.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.REVIEWER.value,
    show_default=True,
    help="For --new-token.",
)
def command(
    console_host: str | None,
    console_port: int | None,
    kafka_bootstrap: str | None,
    store: str | None,
    model: Path | None,
    links: tuple[str, ...],
    newcomer: str | None,
    role: str,
) -> None:
    """Serve the page on which reviewers look at flags and decide, until SIGTERM or Ctrl-C.

    Prints its address when it answers. Users are those of GUARDLINE_CONSOLE_TOKENS_FILE. With GUARDLINE_STORE=redis
    several consoles share their state and a restart loses none; the memory store is filled from Kafka at each start.
    Bring it to other machines by a reverse proxy with TLS; docs/console.md says how.

    Exits with 0 after an orderly stop, 2 for wrong usage or configuration, 3 when a service refuses.
    """
    if newcomer is not None:
        _print_token(newcomer, role)
        return
    settings = load_settings(
        console_host=console_host, console_port=console_port, kafka_bootstrap=kafka_bootstrap, store=store, model=model
    )
    configure(settings.log_level, settings.log_format)
    if not is_loopback(settings.console_host):
        _log.warning("console_without_tls", host=settings.console_host, action="put a reverse proxy with TLS before it")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, links, _announce))
