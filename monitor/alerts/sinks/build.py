"""From the file's sinks to sinks, with their secrets."""

from __future__ import annotations

from monitor.alerts.config import (
    AlertsConfig,
    EmailSink,
    FileSink,
    PagerDutySink,
    SinkConfig,
    SlackSink,
    WebhookSink,
)
from monitor.alerts.sinks import Sink
from monitor.alerts.sinks.local import File, Terminal
from monitor.alerts.sinks.mail import Email
from monitor.alerts.sinks.pagerduty import PagerDuty
from monitor.alerts.sinks.slack import Slack
from monitor.alerts.sinks.webhook import Webhook
from monitor.errors import ConfigurationError


def _build(name: str, config: SinkConfig) -> Sink:
    match config:
        case WebhookSink():
            return Webhook(name, config.url.resolve_url(), config.token.resolve() if config.token else None)
        case SlackSink():
            return Slack(name, config.url.resolve_url())
        case PagerDutySink():
            return PagerDuty(name, config.endpoint, config.routing_key.resolve())
        case EmailSink():
            return Email(name, config, config.password.resolve() if config.password else None)
        case FileSink():
            return File(name, config.path)
        case _:
            return Terminal(name)


def build_sinks(config: AlertsConfig) -> dict[str, Sink]:
    """Return the sinks by name. Connects to none.

    Raises:
        ConfigurationError: a secret is missing; the message names the sink, and the variable or file.
    """
    sinks = {}
    for name, part in config.sinks.items():
        try:
            sinks[name] = _build(name, part)
        except ConfigurationError as error:
            raise ConfigurationError(f"sink {name}: {error}") from error
    return sinks
