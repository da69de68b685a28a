"""The deployment files fit together and fit the code; and the checker reports copies in which something is broken."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tests.deploy.compose import Deployment, Dockerfile, parse_example, problems, resolved, seconds

ROOT = Path(__file__).parents[2]
MONITOR, TRAINER = "deploy/monitor.Dockerfile", "deploy/trainer.Dockerfile"


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    return Deployment(
        compose=yaml.safe_load((ROOT / "docker-compose.yml").read_text()),
        dockerfiles={path: Dockerfile.parse((ROOT / path).read_text()) for path in (MONITOR, TRAINER)},
        example=parse_example((ROOT / ".env.example").read_text()),
        dockerignore=[line for line in ignore if line and not line.startswith("#")],
        extras=frozenset(project["optional-dependencies"]),
        commands=frozenset(project["entry-points"]["guardline.commands"]),
        exists=lambda path: (ROOT / path).exists(),
        read=lambda path: (ROOT / path).read_text(),
    )


def test_everything_fits(deployment: Deployment) -> None:
    assert problems(deployment) == []


def _services(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of one value below `services`; None removes it."""
    *above, last = path.split("/")

    def change(compose: dict[str, Any]) -> None:
        tree = compose["services"]
        for key in above:
            tree = tree.setdefault(key, {})
        if value is None:
            del tree[last]
        else:
            tree[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("monitor/environment/GUARDLINE_GROUP", "${NOT_DECLARED:-x}", "NOT_DECLARED is missing from .env.example"),
        ("monitor/environment/GUARDLINE_GROUP", "${GUARDLINE_GROUP}", "GUARDLINE_GROUP has no default"),
        ("monitor/environment/GUARDLINE_GROUP", "${GUARDLINE_GROUP:?}", "GUARDLINE_GROUP has no default"),
        ("monitor/environment/GUARDLINE_INCLUDE_TEXT", "true", "nothing reads GUARDLINE_INCLUDE_TEXT"),
        ("monitor/environment/GUARDLINE_INCLUDE_TEXT", "${GUARDLINE_INCLUDE_TEXT:-false}", "'true' in .env.example"),
        ("monitor/environment/GUARDLINE_KAFKA_BOOTSTRAP", "kafka:9192", "kafka does not listen on 9192"),
        ("monitor/environment/GUARDLINE_KAFKA_BOOTSTRAP", "kafka:29092", "not what kafka advertises"),
        ("monitor/environment/GUARDLINE_REDIS_URL", "redis://cache:6379/0", "there is no service cache"),
        ("monitor/environment/GUARDLINE_REDIS_URL", "redis://redis:6380/0", "redis does not listen on 6380"),
        ("triton/healthcheck/test", ["CMD", "curl", "http://127.0.0.1:8080/"], "127.0.0.1 does not listen on 8080"),
        ("kafka/healthcheck/test", ["CMD", "nc", "broker:9092"], "there is no service broker"),
        ("monitor/environment/GUARDLINE_TRITON_URL", "triton:8000", "is not the gRPC port of triton"),
        ("monitor/environment/GUARDLINE_METRICS_PORT", "9000", "listens on 9464, but nothing"),
        ("monitor/environment/GUARDLINE_BATCH", "16", "GUARDLINE_BATCH is not a setting"),
        ("monitor/environment/GUARDLINE_STORE", "valkey", "GUARDLINE_STORE: Input should be"),
        ("monitor/environment/GUARDLINE_DRAIN_TIMEOUT", "60", "the drain takes up to 65 s"),
        ("monitor/environment/GUARDLINE_TOPIC_FLAGS", "flags", "GUARDLINE_TOPIC_FLAGS is 'flags'"),
        ("monitor/environment/GUARDLINE_MODEL", "/models/package", "no volume holds /models/package"),
        ("monitor/depends_on/postgres", {"condition": "service_healthy"}, "depends on postgres"),
        ("monitor/depends_on/trainer", {"condition": "service_healthy"}, "waits for trainer to be healthy"),
        ("monitor/stop_grace_period", None, "is killed after 10 s"),
        ("monitor/read_only", None, "monitor: has a writable root file system"),
        ("monitor/user", "0", "monitor: runs as root"),
        ("monitor/cap_drop", None, "monitor: has capabilities"),
        ("monitor/ports", ["127.0.0.1:9464:9464"], "the metrics port is published"),
        ("monitor/volumes", ["./packages:/runs:ro"], "mounted path ./packages does not exist"),
        ("monitor/volumes", ["runs:/runs"], "monitor: the model volume must be read-only"),
        ("monitor/build/dockerfile", "Dockerfile", "Dockerfile Dockerfile does not exist"),
        ("triton/ports", ["8001:8001"], "triton: port 8001 is published on every address"),
        ("triton/ports", ["127.0.0.1:9092:8001"], "port 9092 is also published by kafka"),
        ("triton/image", "nvcr.io/nvidia/tritonserver:latest", "is not pinned"),
        ("triton/healthcheck", None, "triton: has no health check"),
        ("triton/command", ["tritonserver", "--model-repository=/runs/x"], "packages are promoted to /runs/triton"),
        ("triton/deploy", None, "triton: reserves no GPU"),
        ("triton/command", ["tritonserver", "--load-model=classifier"], "loads classifier"),
        ("topics/restart", "unless-stopped", "waits for the end of topics"),
        ("topics/volumes", ["./deploy/compose/alerts.yaml:/topics.sh:ro"], "does not create GUARDLINE_TOPIC_OUTPUTS"),
        ("topics/volumes", None, "topics: its script is not mounted"),
        ("alerts/environment/ALERTMANAGER_URL", "http://alertmanager:9094", "alertmanager does not listen on 9094"),
        ("alerts/profiles", None, "depends on alertmanager, which only a profile starts"),
        ("grafana/secrets", ["password"], "grafana: secret password is not declared"),
        ("grafana/user", "0", "grafana: runs as root"),
        ("kafka/environment/KAFKA_AUTO_CREATE_TOPICS_ENABLE", "true", "creates topics by itself"),
        ("kafka/ports", ["127.0.0.1:9092:9092"], "HOST advertises 127.0.0.1:9092 but listens on 29092"),
        ("kafka/volumes", ["data:/var/lib/kafka/data"], "volume data is not declared"),
        ("redis/user", None, "redis: runs as root"),
        ("redis/tmpfs", None, "no /tmp"),
        ("trainer/profiles", None, "trainer: is started with everything else"),
        ("trainer/command", ["fit"], "starts fit, which is not a command"),
    ],
)
def test_a_broken_compose_file_is_reported(deployment: Deployment, path: str, value: Any, expected: str) -> None:
    compose = deepcopy(deployment.compose)
    _services(path, value)(compose)
    assert any(expected in problem for problem in problems(replace(deployment, compose=compose)))


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        (MONITOR, "[monitor,console,tracing]", "[worker]", "there is no extra worker"),
        (MONITOR, "[monitor,console,tracing]", "[monitor,trainer]", "installs the trainer"),
        (MONITOR, "USER 10001:10001", "USER root", "monitor: runs as root"),
        (MONITOR, "COPY monitor monitor", "COPY monitor src monitor", "COPY source src does not exist"),
        (MONITOR, "COPY monitor monitor", "COPY tests tests", "tests is left out by .dockerignore"),
        (MONITOR, "COPY --from=build", "COPY --from=builder", "unknown stage builder"),
        (MONITOR, "ORT_DISABLE_TELEMETRY=1", "", "leaves ONNX Runtime's telemetry on"),
        (MONITOR, "HEALTHCHECK", "LABEL", "monitor: has no health check"),
        (
            MONITOR,
            "GUARDLINE_METRICS_PORT=9464",
            "GUARDLINE_METRIC=1",
            "GUARDLINE_METRIC is not a setting",
        ),
        (TRAINER, "python:3.11.14-slim-bookworm AS", "python AS", "image python is not pinned"),
        (TRAINER, 'CMD ["train"]', 'CMD ["fit"]', "not a command of guardline"),
    ],
)
def test_a_broken_dockerfile_is_reported(deployment: Deployment, path: str, old: str, new: str, expected: str) -> None:
    text = (ROOT / path).read_text()
    assert old in text
    changed = {**deployment.dockerfiles, path: Dockerfile.parse(text.replace(old, new))}
    assert any(expected in problem for problem in problems(replace(deployment, dockerfiles=changed)))


def test_a_forgotten_or_stale_example_is_reported(deployment: Deployment) -> None:
    example = {name: value for name, value in deployment.example.items() if name != "KAFKA_PORT"} | {"OLD": "1"}
    found = problems(replace(deployment, example=example))
    assert found == ["variable KAFKA_PORT is missing from .env.example", ".env.example: nothing reads OLD"]


def test_prometheus_scrapes_every_process_where_it_serves_metrics(deployment: Deployment) -> None:
    services = deployment.compose["services"]
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        service = services[job["job_name"]]
        own = service["environment"]
        port = own.get("GUARDLINE_INTAKE_PORT", own["GUARDLINE_METRICS_PORT"])
        if set(service.get("profiles", [])) <= set(services["prometheus"]["profiles"]):
            assert job["static_configs"] == [{"targets": [f"{job['job_name']}:{port}"]}]
        else:  # it may be wanted elsewhere only: then it is no fault that it does not answer
            assert job["dns_sd_configs"] == [{"names": [job["job_name"]], "type": "A", "port": int(port)}]
    assert {job["job_name"] for job in jobs} == {
        name for name, own in services.items() if own.get("image") == services["monitor"]["image"]
    } - {"repository"}


def test_durations() -> None:
    assert [seconds(text) for text in ("45s", "1m30s", "500ms", "1h")] == [45, 90, 0.5, 3600]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("redis/tmpfs", ["/tmp"], None),
        ("redis/cap_dropp", ["ALL"], "cap_dropp"),
        ("redis/restart", "sometimes", "sometimes"),
        ("kafka/healthcheck/interval", "soon", "soon"),
        ("monitor/depends_on/kafka/condition", "healthy", "healthy"),
        ("monitor/secrets", ["password"], "password"),
    ],
)
def test_the_file_keeps_to_the_specification(
    deployment: Deployment, path: str, value: Any, expected: str | None
) -> None:
    compose = resolved(deepcopy(deployment.compose))
    _services(path, value)(compose)
    text = yaml.safe_dump(compose)
    if expected is None:
        assert PyCompose.from_yaml(text).service_names
    else:
        with pytest.raises(ValueError, match=expected):
            PyCompose.from_yaml(text).validate()


def test_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("`docker compose` is not installed; install the Compose plugin to validate the file with it too")
    done = subprocess.run(
        [docker, "compose", "--env-file", ".env.example", "--profile", "*", "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
