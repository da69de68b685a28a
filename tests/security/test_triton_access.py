"""Triton with TLS, against a real tritonserver that asks for client certificates: the right ones, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from monitor.connections.access import ensure_access
from monitor.connections.triton import triton_tls
from monitor.doctor import findings
from monitor.errors import AccessDenied, ConfigurationError, ScorerUnavailable
from monitor.factory import build_backend
from monitor.models.promotion import _load
from monitor.package import ModelPackage
from monitor.settings import Settings, load_settings
from tests.fixtures_secured import HOST, Authority
from tests.fixtures_services import TRITON_VENV, LocalTriton, free_ports

pytestmark = [pytest.mark.connected, pytest.mark.model]


@pytest.fixture(scope="module")
def server(model_package: ModelPackage, authority: Authority) -> Iterator[LocalTriton]:
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    options = (
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={authority.certificate}",
        f"--grpc-server-key={authority.key}",
        f"--grpc-root-cert={authority.ca}",
    )
    with LocalTriton(model_package.path, venv=TRITON_VENV, options=options) as triton:
        yield triton


def settings_of(server: LocalTriton, authority: Authority, **changes: Any) -> Settings:
    values = {
        "scorer": "triton",
        "triton_url": server.url,
        "triton_tls": True,
        "triton_ca_file": authority.ca,
        "triton_certificate_file": authority.client_certificate,
        "triton_key_file": authority.client_key,
        "triton_timeout": 5,
    }
    return load_settings(**values | changes)


async def infer(settings: Settings, package: ModelPackage) -> None:
    backend = build_backend(settings, package, package.manifest.encoder)
    try:
        row = np.zeros((1, 2), dtype=np.int64)
        await backend.infer(row, np.ones_like(row))
    finally:
        await backend.close()


async def test_with_the_right_certificates_it_scores_and_loads(
    server: LocalTriton, authority: Authority, model_package: ModelPackage
) -> None:
    settings = settings_of(server, authority)
    await ensure_access(settings, scoring=True)
    await infer(settings, model_package)
    await _load(settings, model_package.manifest.encoder.model)
    await infer(settings, model_package)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"triton_ca_file": "stranger"}, "not trusted .*: set GUARDLINE_TRITON_CA_FILE"),
        ({"triton_ca_file": None}, "not trusted"),
        ({"triton_url": "localhost"}, "not trusted .*Hostname mismatch"),
        (
            {"triton_certificate_file": None, "triton_key_file": None},
            "set GUARDLINE_TRITON_CERTIFICATE_FILE and _KEY_FILE to a pair that it accepts",
        ),
        (
            {"triton_certificate_file": "stranger_certificate", "triton_key_file": "stranger_key"},
            "set GUARDLINE_TRITON_CERTIFICATE_FILE",
        ),
    ],
)
async def test_wrong_certificates_are_said_with_what_to_do(
    server: LocalTriton, authority: Authority, model_package: ModelPackage, wrong: dict[str, Any], says: str
) -> None:
    changes = {
        name: server.url.replace(HOST, "localhost") if name == "triton_url" else value and getattr(authority, value)
        for name, value in wrong.items()
    }
    settings = settings_of(server, authority, **changes)
    with pytest.raises(AccessDenied, match=says):
        await ensure_access(settings, scoring=True)
    with pytest.raises(ScorerUnavailable):  # a running monitor waits, and fails closed
        await infer(settings, model_package)


def test_doctor_says_what_is_wrong_of_the_certificates(server: LocalTriton, authority: Authority) -> None:
    def line(**changes: Any) -> str:
        (found,) = [f for f in findings(settings_of(server, authority, **changes)) if f.what == "triton"]
        return f"{found.ok} {found.detail}"

    assert line().startswith(f"True {server.url}: answers, serves encoder")
    assert "set GUARDLINE_TRITON_CA_FILE" in line(triton_ca_file=authority.stranger)


async def test_a_client_without_tls_is_not_answered(
    server: LocalTriton, authority: Authority, model_package: ModelPackage
) -> None:
    with pytest.raises(ScorerUnavailable):
        await infer(settings_of(server, authority, triton_tls=False), model_package)


async def test_a_triton_that_is_away_refuses_nobody(authority: Authority) -> None:
    await ensure_access(
        load_settings(
            scorer="triton", triton_tls=True, triton_url=f"{HOST}:{free_ports(1)[0]}", triton_ca_file=authority.ca
        ),
        scoring=True,
    )


def test_a_certificate_that_cannot_be_read_is_said_before_anything_connects(model_package: ModelPackage) -> None:
    settings = load_settings(scorer="triton", triton_tls=True, triton_ca_file="missing.pem")
    with pytest.raises(ConfigurationError, match=r"GUARDLINE_TRITON_CA_FILE: missing\.pem"):
        build_backend(settings, model_package, model_package.manifest.encoder)
    assert triton_tls(load_settings(scorer="triton")) is None
