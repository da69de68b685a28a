"""Who may do what: users, sessions, CSRF, the proxy, the limit on logins, and headers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from monitor.console.gate import COOKIE, Limiter, Proxy, Session, Sessions
from monitor.console.server import guests
from monitor.console.users import Role, User, Users, digest, load_users
from monitor.errors import ConfigurationError
from tests.console.site import SECRET, Site, Visitor
from tests.console.stage import TOKENS, USERS, item, write_users

FLAG = item().flag.id
#: Every form of the console, and by whom it may be sent.
FORMS = {
    "/login": "anybody",
    "/logout": "anybody",
    "/theme": "anybody",
    f"/flags/{FLAG}/reveal": "reviewers",
    f"/flags/{FLAG}/decision": "reviewers",
}
PAGES = ("/", f"/flags/{FLAG}", f"/flags/{FLAG}/state", "/trends", "/problems", "/events")


def test_every_form_is_listed_here() -> None:
    routes = Site().app._app.routes
    posts = {route.path for route in routes if "POST" in (getattr(route, "methods", None) or ())}
    assert posts == {path.replace(FLAG, "{id}") for path in FORMS}


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_without_its_token_or_from_elsewhere_does_nothing(path: str) -> None:
    site = Site()
    await site.put_message()
    visitor = await site.visitor("anna")
    noted = len(site.trail.actions)
    fields = {"token": TOKENS["ben"], "decision": "reject", "theme": "dark"}
    other = await Visitor(site.client()).csrf()
    for csrf in ("", "0" * 64, other):
        answer = await visitor.client.post(path, data={"csrf": csrf, **fields})
        assert answer.status_code == 403
    right = {"csrf": await visitor.csrf(), **fields}
    for elsewhere in ("cross-site", "same-site", "none"):
        answer = await visitor.client.post(path, data=right, headers={"sec-fetch-site": elsewhere})
        assert answer.status_code == 403
    assert site.publisher.events == []
    assert len(site.trail.actions) == noted
    assert (await visitor.get("/")).status_code == 200  # still logged in, as before


@pytest.mark.parametrize("path", PAGES)
async def test_without_a_login_there_is_nothing_to_see(path: str) -> None:
    site = Site()
    await site.put_message()
    answer = await site.client().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    part = await site.client().get(path, headers={"hx-request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login")


async def test_a_viewer_sees_no_text_and_decides_nothing() -> None:
    site = Site(reveal="always")
    found = await site.put_message()
    visitor = await site.visitor("vera")
    page = await visitor.get(f"/flags/{found.flag.id}")
    assert page.status_code == 200
    assert "400 mg" not in page.text
    assert 'id="decision"' not in page.text
    for what in ("reveal", "decision"):
        answer = await visitor.post(f"/flags/{found.flag.id}/{what}", decision="accept")
        assert answer.status_code == 403
    assert site.publisher.events == []
    assert site.reader.read_places == []
    assert [a.kind for a in site.trail.actions] == ["login"]


async def test_login_and_logout() -> None:
    site = Site()
    visitor = Visitor(site.client())
    before = visitor.client.cookies.get(COOKIE), await visitor.csrf()
    assert (await visitor.post("/login", token="wrong")).status_code == 401
    answer = await visitor.post("/login", token=TOKENS["anna"], next="/trends?days=7")
    assert answer.headers["location"] == "/trends?days=7"
    assert (visitor.client.cookies.get(COOKIE), await visitor.csrf()) != before
    assert [(a.kind, a.actor) for a in site.trail.actions] == [("login", "anna")]
    stolen = visitor.client.cookies[COOKIE]
    assert (await visitor.post("/logout")).headers["location"] == "/login"
    assert (await visitor.get("/")).status_code == 303
    thief = site.client()
    thief.cookies.set(COOKIE, stolen)
    assert (await thief.get("/")).status_code == 303


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", ""])
async def test_a_login_leads_to_no_other_site(target: str) -> None:
    answer = await Visitor(Site().client()).post("/login", token=TOKENS["anna"], next=target)
    assert answer.headers["location"] == "/"


async def test_failed_logins_are_limited_by_address() -> None:
    site = Site()
    visitor = Visitor(site.client())
    codes = [(await visitor.post("/login", token=f"guess-{n}")).status_code for n in range(11)]
    assert codes == [401] * 10 + [429]
    right = await visitor.post("/login", token=TOKENS["anna"])
    assert (right.status_code, int(right.headers["retry-after"]) > 0) == (429, True)


async def test_the_limit_is_each_clients_own_behind_a_proxy() -> None:
    site = Site()
    attacker = Visitor(site.client(**{"x-forwarded-for": "203.0.113.9, 198.51.100.1"}))
    for n in range(11):
        answer = await attacker.post("/login", token=f"guess-{n}")
    assert answer.status_code == 429
    other = Visitor(site.client(**{"x-forwarded-for": "198.51.100.1, 198.51.100.2"}))
    assert (await other.post("/login", token=TOKENS["anna"])).status_code == 303
    site.gate.proxy = Proxy(None, "10.0.0.0/8")  # the header is of nobody who is trusted
    for n in range(11):
        answer = await Visitor(site.client(**{"x-forwarded-for": f"192.0.2.{n}"})).post("/login", token="guess")
    assert answer.status_code == 429


async def test_cookies_are_secure_where_the_proxy_speaks_tls() -> None:
    answer = await Site().client(**{"x-forwarded-proto": "https"}).get("/login")
    assert "secure" in answer.headers["set-cookie"].lower()


def test_the_limit_ends_and_is_each_address_own() -> None:
    now = 0.0
    limiter = Limiter(lambda: now)
    for _ in range(10):
        assert limiter.wait("a") == 0
        limiter.failed("a")
        now += 1
    assert limiter.wait("a") == 50
    assert limiter.wait("b") == 0
    now += 50
    assert limiter.wait("a") == 0
    limiter.failed("a")
    assert limiter.wait("a") == 1  # the next oldest failure still counts
    limiter.succeeded("a")
    assert limiter.wait("a") == 0


async def test_cookies_are_for_this_site_and_no_script() -> None:
    answer = await Visitor(Site().client()).post("/login", token=TOKENS["anna"])
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie  # on loopback there is no TLS
    outside = await Site(loopback=False).client().get("/login")
    assert "secure" in outside.headers["set-cookie"].lower()


def test_a_session_that_is_old_changed_or_of_another_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(SECRET, seconds=60)
    session = Session("id", "anna", "x")
    cookie = sessions.write(session)
    assert sessions.read(cookie) == session
    assert Sessions("t" * 32, seconds=60).read(cookie) is None
    assert sessions.read(cookie[:-2] + "xx") is None
    assert sessions.read(None) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 62)
    assert sessions.read(cookie) is None


async def test_a_session_ends_with_its_token_and_changes_with_the_file(tmp_path: Path) -> None:
    path = write_users(tmp_path / "users.yaml")
    site = Site(users=Users(path))
    anna, ben = await site.visitor("anna"), await site.visitor("ben")
    changed = [User(name="anna", role=Role.VIEWER, sha256=USERS[0].sha256)]
    changed += [User(name="ben", role=Role.REVIEWER, sha256=digest("a new token of ben's, longer than before"))]
    path.write_text(yaml.safe_dump({"users": [u.model_dump(mode="json") for u in changed]}))
    assert "viewer" in (await anna.get("/")).text
    assert (await ben.get("/")).status_code == 303
    path.write_text("users: [")
    assert (await anna.get("/")).status_code == 303  # nobody, rather than those of before


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("users: [", "not YAML"),
        ("- anna", "valid"),
        ("users: [{name: anna, role: reviewer, sha256: short}]", "users.0.sha256"),
        ("users: [{name: anna, role: admin}]", "users.0.role"),
        ("users: [{name: anna, role: viewer}, {name: anna, role: reviewer}]", "named twice: anna"),
        ("users: [{name: anna, role: viewer, token: secret}]", "users.0.token"),
    ],
)
def test_a_file_of_users_that_is_wrong_is_refused_without_repeating_it(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "users.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=what) as caught:
        load_users(path)
    assert "secret" not in str(caught.value)
    assert "docs/console.md" in str(caught.value)


async def test_a_link_logs_in_once_and_its_token_is_no_token() -> None:
    users, tokens = guests(["guest"])
    site = Site(users=Users(None, users), links={tokens["guest"]: users[0]})
    visitor = Visitor(site.client())
    assert (await visitor.post("/login", token=tokens["guest"])).status_code == 401
    answer = await visitor.get(f"/login?token={tokens['guest']}")
    assert answer.headers["location"] == "/"
    assert "guest" in (await visitor.get("/")).text
    assert (await site.client().get(f"/login?token={tokens['guest']}")).status_code == 401


async def test_a_proxy_names_the_user() -> None:
    site = Site(proxy="X-Forwarded-User")
    found = await site.put_message()
    visitor = Visitor(site.client(**{"x-forwarded-user": "ben"}))
    assert "ben" in (await visitor.get("/")).text
    answer = await visitor.client.get(f"/flags/{found.flag.id}")
    csrf = answer.text.split('name="csrf" value="')[1][:64]
    answer = await visitor.client.post(f"/flags/{found.flag.id}/decision", data={"csrf": csrf, "decision": "accept"})
    assert answer.status_code == 303
    unknown = site.client(**{"x-forwarded-user": "mallory"})
    assert (await unknown.get("/")).status_code == 303


async def test_nobody_else_may_name_the_user() -> None:
    site = Site()  # no proxy is set
    assert (await site.client(**{"x-forwarded-user": "ben"}).get("/")).status_code == 303
    site = Site(proxy="X-Forwarded-User")
    site.gate.proxy = Proxy("X-Forwarded-User", "10.0.0.0/8")
    assert (await site.client(**{"x-forwarded-user": "ben"}).get("/")).status_code == 303
    twice = [("x-forwarded-user", "ben"), ("x-forwarded-user", "anna")]
    site = Site(proxy="X-Forwarded-User")
    assert (await site.client().get("/", headers=twice)).status_code == 303  # type: ignore[arg-type]


async def test_who_the_proxy_no_longer_names_is_logged_out() -> None:
    site = Site(proxy="X-Forwarded-User")
    visitor = Visitor(site.client(**{"x-forwarded-user": "ben"}))
    assert (await visitor.get("/")).status_code == 200
    del visitor.client.headers["x-forwarded-user"]
    assert (await visitor.get("/")).status_code == 303


def test_addresses_of_the_proxy_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="GUARDLINE_CONSOLE_PROXY_ADDRESSES"):
        Proxy("X-Forwarded-User", "the proxy")


async def test_every_answer_has_the_headers() -> None:
    site = Site()
    visitor = await site.visitor("anna")
    for path in ("/", "/trends", "/login", "/nowhere", "/static/console.css", "/flags/none"):
        headers = (await visitor.get(path)).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")


async def test_another_host_is_refused() -> None:
    answer = await Site().client(host="evil.example").get("/login")
    assert answer.status_code == 400


async def test_a_form_that_is_too_large_is_refused() -> None:
    visitor = await Site().visitor("anna")
    assert (await visitor.post("/theme", back="x" * 70_000)).status_code == 413
