"""Tokens from an endpoint and from a file: kept, renewed, refused, never shown."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from monitor.connections.tokens import ClientCredentialsToken, FileToken, TokenRefused
from tests.fixtures_secured import HOST, Authority
from tests.fixtures_services import free_ports
from tests.security.test_kafka_access import token_endpoint

SECRET = "client-secret"


def provider(url: str, **options: Any) -> ClientCredentialsToken:
    return ClientCredentialsToken(url, client_id="guardline", secret=SECRET, **options)


def answering(*answers: web.Response) -> Callable[[web.Request], Any]:
    left = list(answers)

    async def answer(_: web.Request) -> web.Response:
        return left.pop(0)

    return answer


def a_token(number: int, **more: Any) -> web.Response:
    return web.json_response({"access_token": f"token-{number}", "token_type": "Bearer", **more})


async def test_a_token_is_kept_until_a_fifth_of_its_life_is_left() -> None:
    now = 1000.0
    async with token_endpoint(answering(a_token(1, expires_in=100), a_token(2, expires_in=100))) as url:
        tokens = provider(url, clock=lambda: now)
        assert await tokens.token() == "token-1"
        now += 79.9
        assert await tokens.token() == "token-1"
        now += 0.2
        assert await tokens.token() == "token-2"


async def test_a_token_of_unstated_life_is_kept_for_less_than_a_minute() -> None:
    now = 1000.0
    async with token_endpoint(answering(a_token(1), a_token(2))) as url:
        tokens = provider(url, clock=lambda: now)
        assert await tokens.token() == "token-1"
        now += 60
        assert await tokens.token() == "token-2"


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refused_client_is_told_which_settings_to_check(status: int) -> None:
    body = {"error": "invalid_client", "error_description": "no such client"}
    async with token_endpoint(answering(web.json_response(body, status=status))) as url:
        with pytest.raises(TokenRefused, match=rf"\({status} invalid_client no such client\): check GUARDLINE_KAFKA_"):
            await provider(url).token()


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=500),
        web.Response(status=302, headers={"Location": "http://elsewhere/"}),
        web.Response(text="<html>"),
        web.json_response([1]),
        web.json_response({"token": "x"}),
        web.json_response({"access_token": "x", "expires_in": "soon"}),
    ],
    ids=["500", "redirect", "no JSON", "no object", "no token", "no number"],
)
async def test_an_endpoint_that_stumbles_is_tried_again_later(answer: web.Response) -> None:
    async with token_endpoint(answering(answer, a_token(2, expires_in=100))) as url:
        tokens = provider(url)
        with pytest.raises(ConnectionError) as failed:
            await tokens.token()
        assert not isinstance(failed.value, TokenRefused)
        assert SECRET not in str(failed.value)
        assert await tokens.token() == "token-2"


async def test_an_endpoint_that_is_away_is_no_refusal() -> None:
    with pytest.raises(ConnectionError, match="does not answer"):
        await provider(f"http://{HOST}:{free_ports(1)[0]}/token").token()


async def test_the_endpoints_certificate_is_checked(authority: Authority) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(authority.certificate, authority.key)
    async with token_endpoint(answering(a_token(1)), ssl_context=server) as url:
        with pytest.raises(TokenRefused, match="not trusted"):
            await provider(url).token()
        trusting = ssl.create_default_context(cafile=authority.ca)
        with pytest.raises(TokenRefused, match=r"not trusted .*Hostname mismatch"):
            await provider(url.replace(HOST, "localhost"), tls=trusting).token()
        assert await provider(url, tls=trusting).token() == "token-1"


async def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    tokens = FileToken(file)
    with pytest.raises(TokenRefused, match="cannot be read"):
        await tokens.token()
    file.write_text(" \n")
    with pytest.raises(TokenRefused, match="is empty"):
        await tokens.token()
    file.write_text("one\n")
    assert await tokens.token() == "one"
    file.write_text("two\n")
    assert await tokens.token() == "two"
