from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.alerts.config import AlertsConfig, Secret, load_config
from monitor.alerts.routing import routes_of
from monitor.alerts.sinks.build import build_sinks
from monitor.errors import ConfigurationError
from tests.alerts.flags import make_config, make_flag
from tests.fixtures_kafka import CHECKOUT

EVERY_KIND = """
timezone: Europe/Berlin
link: https://console.example.org/flags/{id}
sinks:
  hook: {type: webhook, url: {env: HOOK_URL}, token: {env: HOOK_TOKEN}, retry: {attempts: 3, first: 2s, most: 1m}}
  chat: {type: slack, url: {file: SLACK_FILE}}
  oncall: {type: pagerduty, routing_key: {env: PD_KEY}}
  mail: {type: email, host: mail.example.org, sender: g@example.org, to: [a@example.org], timeout: 1m}
  log: {type: file, path: alerts.jsonl}
  screen: {type: terminal}
routes:
  - name: dosing
    match: {categories: [dose*], score_at_least: 0.9}
    sinks: [hook, chat, oncall, mail, log, screen]
    group: {wait: 30s, suppress: 2h}
    budget: {per_day: 20, digest_at: "08:00"}
"""


def written(tmp_path: Path, text: str) -> Path:
    secret = tmp_path / "slack"
    secret.write_text("https://hooks.slack.example/T0/B0/hushhush\n")
    path = tmp_path / "alerts.yaml"
    path.write_text(text.replace("SLACK_FILE", str(secret)))
    return path


def test_every_kind_of_sink_is_read_and_built_with_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_URL", "https://hook.example.org")
    monkeypatch.setenv("HOOK_TOKEN", "t")
    monkeypatch.setenv("PD_KEY", "0" * 32)
    config = load_config(written(tmp_path, EVERY_KIND))
    assert config.routes[0].group.suppress == 7200
    assert (config.sinks["hook"].retry.first, config.sinks["hook"].retry.most) == (2, 60)
    assert set(build_sinks(config)) == {"hook", "chat", "oncall", "mail", "log", "screen"}


def test_the_example_is_right() -> None:
    config = load_config(CHECKOUT / "deploy/examples/alerts.yaml")
    assert routed(config, score=0.95) == ["dosing"]
    assert routed(config, score=0.85) == ["rest"]
    assert not any(route.include_text for route in config.routes)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("{env: HOOK_URL}", "https://hushhush.example", r"sinks\.hook\.webhook\.url.*a secret does not stand in"),
        ("{env: HOOK_URL}", "{env: A, file: b}", "either env or file"),
        ("[hook, chat, oncall, mail, log, screen]", "[hook, hushhush2]", "names unknown sinks: hushhush2"),
        ("[hook, chat, oncall, mail, log, screen]", "[hook, hook]", "names a sink twice"),
        ("Europe/Berlin", "Mars", "no time zone Mars"),
        ("{id}", "id", "a link begins with https:// and holds"),
        ("30s", "soon", "group.wait"),
        ('digest_at: "08:00"', 'digest_at: "08:00", digest_every: 1h', "not both"),
        ("sender: g@example.org", "sender: nobody", "sender"),
        ("timeout: 1m", "timeout: 1m, tls: none, username: u, password: {env: P}", "is not sent without TLS"),
        ("type: terminal", "type: pager", "sinks.screen"),
        ("score_at_least", "score", "score: Extra inputs"),
        ("timezone:", "timezone: [", "is not YAML at line"),
    ],
)
def test_a_mistake_is_named_and_no_value_repeated(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load_config(written(tmp_path, EVERY_KIND.replace(old, new)))
    assert "hushhush.example" not in str(caught.value)


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes are called x"):
        make_config(routes=[{"name": "x", "sinks": ["out"]}] * 2)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_missing_secrets_are_named_with_their_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    sinks: dict[str, Any] = {"out": {"type": "slack", "url": {"env": "NOT_SET"}}}
    with pytest.raises(ConfigurationError, match="sink out: the environment variable NOT_SET is empty or not set"):
        build_sinks(make_config(sinks=sinks))
    with pytest.raises(ConfigurationError, match="cannot be read: FileNotFoundError"):
        Secret(file=tmp_path / "missing").resolve()
    monkeypatch.setenv("NOT_SET", "hushhush")
    with pytest.raises(ConfigurationError, match="NOT_SET does not hold a URL") as caught:
        build_sinks(make_config(sinks=sinks))
    assert "hushhush" not in str(caught.value)


def routed(config: AlertsConfig, **flag: Any) -> list[str]:
    return [route.name for route in routes_of(config, make_flag(**flag))]


ROUTES = yaml.safe_load("""
- {name: grave, sinks: [out], match: {score_at_least: 0.9, verdicts: [unsafe]}}
- {name: north, sinks: [out], match: {tenants: [nor*], score_below: 0.97}}
- {name: nobody, sinks: [out], match: {tenants: ["-"]}}
- {name: first-chapter, sinks: [out], match: {recommendations: ["rem-1.*"], categories: [dose, timing]}}
""")


@pytest.mark.parametrize(
    ("flag", "all_", "first"),
    [
        ({}, ["grave", "north", "first-chapter"], ["grave"]),
        ({"score": 0.9}, ["grave", "north", "first-chapter"], ["grave"]),
        ({"score": 0.97}, ["grave", "first-chapter"], ["grave"]),
        ({"score": 0.89, "verdict": "review"}, ["north", "first-chapter"], ["north"]),
        ({"score": 0.5, "tenant": None, "category": "age"}, ["nobody"], ["nobody"]),
        ({"score": 0.5, "tenant": "south", "recommendation": "rem-10"}, [], []),
        ({"score": 0.5, "tenant": "south", "category": "timing"}, ["first-chapter"], ["first-chapter"]),
    ],
)
def test_a_flag_takes_the_routes_whose_conditions_it_meets(
    flag: dict[str, Any], all_: list[str], first: list[str]
) -> None:
    assert routed(make_config(routes=ROUTES, matching="all"), **flag) == all_
    assert routed(make_config(routes=ROUTES), **flag) == first
