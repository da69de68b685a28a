"""The file `alerts.yaml`: sinks, and the routes that lead to them.

```yaml
timezone: Europe/Berlin
link: https://console.example.org/flags/{id}
sinks:
  oncall: {type: pagerduty, routing_key: {env: PAGERDUTY_KEY}}
  chat: {type: slack, url: {file: /run/secrets/slack_url}}
routes:
  - name: dosing
    match: {categories: [dose*], score_at_least: 0.9}
    sinks: [oncall, chat]
    budget: {per_day: 20, digest_at: "08:00"}
  - name: rest
    sinks: [chat]
```

Secrets never stand in the file: a secret is `{env: NAME}` or `{file: PATH}`.
"""

from __future__ import annotations

import os
import re
from datetime import time
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic import model_validator as whole

from monitor.errors import ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_NAME = r"^[A-Za-z0-9_.\-]{1,64}$"


def _seconds(value: object) -> object:
    """Turn "30s", "5m", "1h" or "2d" into seconds; leave anything else to pydantic."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        return float(found[1]) * _UNITS[found[2]]
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone {value}: give a name such as Europe/Berlin") from None
    return value


def _web_link(value: str) -> str:
    if not value.startswith(("https://", "http://")) or "{id}" not in value:
        raise ValueError("a link begins with https:// and holds {id}, where the flag's id goes")
    return value


#: Seconds; in the file a number, or a number with s, m, h or d.
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
Severity = Literal["critical", "error", "warning", "info"]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Secret(_Part):
    """Where a URL, token or password is: in an environment variable or in a file."""

    env: str | None = None
    file: Path | None = None

    @whole(mode="before")
    @classmethod
    def _not_in_the_file(cls, value: object) -> object:
        if not isinstance(value, (dict, Secret)):
            raise ValueError("a secret does not stand in this file: write {env: NAME} or {file: PATH}")
        return value

    @whole(mode="after")
    def _one(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either env or file")
        return self

    def resolve(self) -> SecretStr:
        """Return the secret.

        Raises:
            ConfigurationError: the variable is not set, or the file cannot be read; the message names it.
        """
        if self.env is not None:
            value, where = os.environ.get(self.env, ""), f"the environment variable {self.env}"
        else:
            where = f"the file {self.file}"
            try:
                value = Path(str(self.file)).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{where} cannot be read: {type(error).__name__}") from error
        if not value:
            raise ConfigurationError(f"{where} is empty or not set")
        return SecretStr(value)

    def resolve_url(self) -> SecretStr:
        """Return a secret that has to be a web address; raises as `resolve` does."""
        value = self.resolve()
        if not value.get_secret_value().startswith(("https://", "http://")):
            raise ConfigurationError(f"{self.env or self.file} does not hold a URL: it has to begin with https://")
        return value


class Retry(_Part):
    """How often a sink is tried: waits double from `first` to `most`; a longer Retry-After is kept, up to 5 minutes."""

    attempts: int = Field(default=6, ge=1, le=50)
    first: Seconds = 1.0
    most: Seconds = 60.0


class _Sink(_Part):
    retry: Retry = Retry()
    timeout: Seconds = Field(default=10.0, gt=0, description="Seconds that one try may take.")
    queue: int = Field(default=100, ge=1, description="Alerts that wait for this sink before intake waits for it.")


class WebhookSink(_Sink):
    """A receiver of Alertmanager's webhook payload, version 4."""

    type: Literal["webhook"]
    url: Secret
    token: Secret | None = Field(default=None, description="Sent as `Authorization: Bearer`.")


class AlertmanagerSink(_Sink):
    """A Prometheus Alertmanager, by its API v2."""

    type: Literal["alertmanager"]
    url: Secret = Field(description="Where Alertmanager is served, without /api/v2: http://alertmanager:9093.")
    token: Secret | None = Field(default=None, description="Sent as `Authorization: Bearer`, for a proxy before it.")
    resolve_after: Seconds = Field(default=3600.0, gt=0, description="A flag's alert ends so long after it was sent.")


class SlackSink(_Sink):
    """A Slack incoming webhook."""

    type: Literal["slack"]
    url: Secret


class PagerDutySink(_Sink):
    """A PagerDuty service with an Events API v2 integration."""

    type: Literal["pagerduty"]
    routing_key: Secret
    endpoint: str = Field(
        default="https://events.pagerduty.com/v2/enqueue",
        pattern=r"^https?://",
        description="Of the EU service region: https://events.eu.pagerduty.com/v2/enqueue.",
    )


class EmailSink(_Sink):
    """Mail over SMTP."""

    type: Literal["email"]
    host: str
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    username: str | None = None
    password: Secret | None = None
    sender: str = Field(pattern=r"^[^\s@]+@[^\s@]+$")
    to: Annotated[tuple[Annotated[str, Field(pattern=r"^[^\s@,]+@[^\s@,]+$")], ...], Field(min_length=1)]

    @whole(mode="after")
    def _login(self) -> EmailSink:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        if self.password is not None and self.tls == "none":
            raise ValueError("a password is not sent without TLS: set tls to starttls or implicit")
        return self


class FileSink(_Sink):
    """A file, one JSON object a line."""

    type: Literal["file"]
    path: Path


class TerminalSink(_Sink):
    """Standard output, for people."""

    type: Literal["terminal"]


SinkConfig = Annotated[
    AlertmanagerSink | WebhookSink | SlackSink | PagerDutySink | EmailSink | FileSink | TerminalSink,
    Field(discriminator="type"),
]


class Match(_Part):
    """Which flags a route takes: those that meet every condition given. Patterns are shell globs, case included."""

    tenants: Patterns | None = Field(
        default=None, description="A flag without tenant matches `-`; canaries only where `guardline-canary` is named."
    )
    categories: Patterns | None = None
    recommendations: Patterns | None = None
    verdicts: Annotated[tuple[Literal["unsafe", "review"], ...], Field(min_length=1)] | None = None
    score_at_least: float = Field(default=0.0, ge=0, le=1)
    score_below: float | None = Field(default=None, gt=0, le=1)


class Grouping(_Part):
    """How a storm becomes one alert.

    The first flag of a group opens a window of `wait`; at its end one alert goes out, with the count. For `suppress`
    after it no other goes out; what came meanwhile is one more alert, with its count, at the end of that window.
    """

    wait: Seconds = 10.0
    suppress: Seconds = 3600.0


class Budget(_Part):
    """How many alerts a route gives each of its sinks a day; the rest is in a digest."""

    per_day: int | None = Field(default=None, ge=0, description="None: no limit. 0: nothing but digests.")
    digest_at: time | None = Field(default=None, description="Local time of day, as 08:00.")
    digest_every: Seconds | None = Field(
        default=None, gt=0, description="Instead of digest_at: so long after its first."
    )

    @whole(mode="after")
    def _one_time(self) -> Budget:
        if self.digest_at is not None and self.digest_every is not None:
            raise ValueError("give digest_at or digest_every, not both")
        if self.digest_at is not None and self.digest_at.tzinfo is not None:
            raise ValueError("digest_at is in the file's timezone: leave the offset away")
        return self


class Route(_Part):
    """From flags to sinks."""

    name: str = Field(pattern=_NAME)
    match: Match = Match()
    sinks: Annotated[tuple[str, ...], Field(min_length=1)]
    severity: Severity | None = Field(default=None, description="Default: error for unsafe, warning for review.")
    include_text: bool = Field(
        default=False, description="Put the statement and what differs into alerts (it may be health data)."
    )
    group: Grouping = Grouping()
    budget: Budget = Budget()


class AlertsConfig(_Part):
    """The whole file."""

    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    link: Annotated[str, AfterValidator(_web_link)] | None = Field(
        default=None, description="Where a flag can be looked at; {id} becomes its id."
    )
    review: bool = Field(default=False, description="Read the topic of statements in the uncertainty band as well.")
    deadletter: str = Field(default="safety.alerts.deadletter", min_length=1, description="Topic of undelivered flags.")
    matching: Literal["first", "all"] = Field(
        default="first", description="A flag takes the first route that matches, or all of them."
    )
    stale_after: Seconds = Field(
        default=86400.0, gt=0, description="Flags older than this go to the digest: nobody is woken for old ones."
    )
    sinks: dict[Annotated[str, Field(pattern=_NAME)], SinkConfig] = Field(min_length=1)
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]

    @whole(mode="after")
    def _fits(self) -> AlertsConfig:
        names = [route.name for route in self.routes]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two routes are called {', '.join(doubled)}")
        for route in self.routes:
            if unknown := sorted(set(route.sinks) - self.sinks.keys()):
                raise ValueError(f"route {route.name} names unknown sinks: {', '.join(unknown)}")
            if len(set(route.sinks)) < len(route.sinks):
                raise ValueError(f"route {route.name} names a sink twice")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of budgets and digests."""
        return ZoneInfo(self.timezone)


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'file'}: {p['msg']}" for p in found)


def load_config(path: Path) -> AlertsConfig:
    """Read `path`.

    Raises:
        ConfigurationError: it cannot be read or is wrong; the message says where, and repeats no value.
    """
    try:
        raw = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}: give --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"{path} is not YAML{where}") from error
    try:
        return AlertsConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_problems(error)}") from error
