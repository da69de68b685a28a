"""What the environment of a container must be to be settings of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import ValidationError
from pydantic_settings import PydanticBaseSettingsSource

from monitor.alerts.config import AlertsConfig
from monitor.settings import Settings

PREFIX = "GUARDLINE_"
#: Seconds that the worker takes to close its connections after the drain (monitor/app.py).
CLOSE = 5.0


class _Given(Settings):
    """The settings of exactly the values given, whatever the environment of the tests holds."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type, init_settings: PydanticBaseSettingsSource, **_: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def problems_of(name: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable of ours that is no setting, or has a value that the setting refuses."""
    given = {k: str(v) for k, v in environment.items() if k.startswith(PREFIX)}
    fields = {variable: variable.removeprefix(PREFIX).lower() for variable in given}
    for variable, own in fields.items():
        if own not in Settings.model_fields:
            yield f"{name}: {variable} is not a setting"
    try:
        _Given(**{fields[v]: value for v, value in given.items() if fields[v] in Settings.model_fields})
    except ValidationError as error:
        yield from (f"{name}: {PREFIX}{str(p['loc'][0]).upper()}: {p['msg']}" for p in error.errors())


def drain(environment: Mapping[str, str]) -> float:
    """Return the seconds that a process may take to stop."""
    return float(environment.get("GUARDLINE_DRAIN_TIMEOUT", Settings.model_fields["drain_timeout"].default)) + CLOSE


def topics() -> dict[str, str]:
    """Return the default name of every topic, by the variable that topics.sh takes it from."""
    own = {f"{PREFIX}{n.upper()}": str(f.default) for n, f in Settings.model_fields.items() if n.startswith("topic_")}
    return {**own, "ALERTS_DEADLETTER": str(AlertsConfig.model_fields["deadletter"].default)}


def problems_of_topics(name: str, script: str) -> Iterator[str]:
    """Yield a sentence for each topic that a script does not create, or under another name than the setting's."""
    created = dict(re.findall(r'^topic "\$\{(\w+):-([^}]+)\}"', script, re.MULTILINE))
    expected = topics()
    for variable in sorted({*expected} | {*created}):
        if variable not in created:
            yield f"{name}: does not create {variable}"
        elif created[variable] != expected.get(variable):
            yield f"{name}: {variable} is {created[variable]}, the setting's default {expected.get(variable)}"
