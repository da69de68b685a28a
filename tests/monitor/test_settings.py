from pathlib import Path

import pytest
from pydantic import ValidationError

from monitor.errors import ConfigurationError
from monitor.settings import DEFAULT_MODEL, Settings, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GUARDLINE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_no_service_but_kafka() -> None:
    settings = load_settings()
    assert (settings.scorer, settings.store, settings.model) == ("onnx", "memory", DEFAULT_MODEL)
    assert settings.metrics_port is None
    assert settings.emit_verdicts is False


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("GUARDLINE_MODEL", "/models/a", "model", Path("/models/a")),
        ("GUARDLINE_KAFKA_BOOTSTRAP", "a:1,b:2", "kafka_bootstrap", "a:1,b:2"),
        ("GUARDLINE_EMIT_VERDICTS", "true", "emit_verdicts", True),
        ("GUARDLINE_INCLUDE_TEXT", "0", "include_text", False),
        ("GUARDLINE_THRESHOLD_UNSAFE", "0.9", "threshold_unsafe", 0.9),
        ("GUARDLINE_METRICS_PORT", "9100", "metrics_port", 9100),
        ("guardline_group", "mine", "group", "mine"),
    ],
)
def test_the_environment_sets_values(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(load_settings(), field) == expected


def test_arguments_win_over_the_environment_and_the_environment_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "GUARDLINE_GROUP=file\nGUARDLINE_ATTEMPTS=7\nOTHER=x\nGUARDLINE_OF_LATER_VERSION=1\n"
    )
    assert load_settings().group == "file"
    monkeypatch.setenv("GUARDLINE_GROUP", "environment")
    assert load_settings().group == "environment"
    assert load_settings(group="argument").group == "argument"
    assert load_settings(group=None).group == "environment"
    assert load_settings(group="argument").attempts == 7


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GUARDLINE_SCORER", "tensorrt"),
        ("GUARDLINE_THRESHOLD_UNSAFE", "1.5"),
        ("GUARDLINE_THRESHOLD_REVIEW", "high"),
        ("GUARDLINE_CHUNK_RECORDS", "0"),
        ("GUARDLINE_CHUNK_RECORDS", "100000"),
        ("GUARDLINE_ATTEMPTS", "-1"),
        ("GUARDLINE_METRICS_PORT", "70000"),
        ("GUARDLINE_PUBLISH_TIMEOUT", "0"),
        ("GUARDLINE_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"{variable}: "):
        load_settings()


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(
        ConfigurationError, match=r"GUARDLINE_ATTEMPTS.*; .*GUARDLINE_STORE|GUARDLINE_STORE.*; .*GUARDLINE_ATTEMPTS"
    ):
        load_settings(attempts=0, store="disk")


def test_the_password_of_redis_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDLINE_REDIS_URL", "redis://:hunter2@host/0")
    settings = load_settings()
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.redis_url.get_secret_value() == "redis://:hunter2@host/0"
    monkeypatch.setenv("GUARDLINE_ATTEMPTS", "0")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_change_after_the_start() -> None:
    with pytest.raises(ValidationError):
        load_settings().group = "other"  # type: ignore[misc]


def test_every_setting_explains_itself() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDLINE_METRICS_PORT", "")
    monkeypatch.setenv("GUARDLINE_STORE", "")
    settings = load_settings()
    assert (settings.metrics_port, settings.store) == (None, "memory")
