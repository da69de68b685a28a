"""What the environment of a container must be to be settings of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError
from pydantic_settings import PydanticBaseSettingsSource

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
