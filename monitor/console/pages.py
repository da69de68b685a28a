"""The pages: requests in, HTML out. Each works without JavaScript; htmx swaps parts of the very same pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from monitor.audit.trail import AuditTrail
from monitor.console import charts, metrics, trends
from monitor.console.deciding import NOTE_LENGTH, Choice, Deciding, Refused, Unpublished, may_decide, visible_decisions
from monitor.console.desk import Desk
from monitor.console.gate import CSRF_FIELD, Gate, Limiter, Session, Visitor
from monitor.console.messages import Messages, Shown
from monitor.console.register import FACETS, PAGE, Filters, Row, Sort, View
from monitor.console.store import Item
from monitor.console.users import User, digest
from monitor.errors import GuardlineError, StoreUnavailable
from monitor.feedback.adjudication import Status
from monitor.records import Decision

_log = structlog.get_logger(__name__)
TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
_FORM_BYTES = 64_000
_THEMES = ("light", "dark")
_AUDIT_SECONDS = 10.0
_DAYS = (7, 30, 90)
_GROUPS: Mapping[str, Callable[[Row], str]] = {
    "category": lambda row: row.category,
    "tenant": lambda row: row.tenant,
    "model": lambda row: row.model,
}

Handler = Callable[[Request], Awaitable[Response]]
Posted = Callable[[Request, Mapping[str, str]], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What reviewers may choose from."""

    id: str
    section: str
    text: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the pages are told by settings: texts are shown at once (`always`) or on demand (`click`)."""

    reveal: Literal["click", "always"]


def _age(then: datetime, now: datetime) -> str:
    seconds = max((now - then).total_seconds(), 0)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def environment() -> Environment:
    """Return the templates; what is missing from one is an error, and everything is escaped."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["percent"] = _percent
    env.filters["words"] = lambda value: str(value).replace("_", " ")
    env.filters["stamp"] = lambda when: when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    env.filters["iso"] = lambda when: when.astimezone(UTC).isoformat()
    env.globals.update(View=View, Sort=Sort, Decision=Decision, Status=Status, FACETS=FACETS, NOTE_LENGTH=NOTE_LENGTH)
    return env


class Pages:
    """Answers requests."""

    def __init__(
        self,
        *,
        desk: Desk,
        gate: Gate,
        messages: Messages,
        deciding: Deciding,
        trail: AuditTrail,
        recommendations: Sequence[Recommendation],
        policy: Policy,
        links: Mapping[str, User],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Answer with these parts; `links` has the users of login links by the digest of their token."""
        self._desk = desk
        self._gate = gate
        self._messages = messages
        self._deciding = deciding
        self._trail = trail
        self._recommendations = {r.id: r for r in recommendations}
        self._policy = policy
        self._links = dict(links)
        self._limiter = Limiter()
        self._clock = clock
        self._templates = environment()

    # Around every page.

    async def _visitor(self, request: Request) -> Visitor:
        visitor = self._gate.visitor(request)
        if visitor.user is not None and not visitor.fresh and await self._desk.store.revoked(visitor.session.id):
            return Visitor(Session.new(), None, fresh=True)
        return visitor

    def for_users(self, handler: Handler) -> Handler:
        """Wrap a page that somebody must have logged in for."""

        async def wrapped(request: Request) -> Response:
            visitor = await self._visitor(request)
            if visitor.user is None:
                return self._to_login(request)
            request.state.visitor, request.state.user = visitor, visitor.user
            response = await handler(request)
            if visitor.fresh:  # the proxy named somebody
                self._gate.remember(response, request, visitor.session)
            return response

        return wrapped

    def posted(self, handler: Posted, *, by: Literal["anybody", "users", "reviewers"]) -> Handler:
        """Wrap what a form does: the form is read, its CSRF token and the visitor's role are checked."""

        async def wrapped(request: Request) -> Response:
            visitor = await self._visitor(request)
            form = await _form(request)
            if not self._gate.sessions.meant(visitor.session, form.get(CSRF_FIELD, ""), request.headers):
                raise HTTPException(403, "This form is out of date or came from elsewhere. Go back, reload, try again.")
            if visitor.user is None and by != "anybody":
                return self._to_login(request)
            if not visitor.reviews and by == "reviewers":
                raise HTTPException(403, "You may look, and not see texts or decide: your role is viewer.")
            request.state.visitor, request.state.user = visitor, visitor.user
            return await handler(request, form)

        return wrapped

    def _to_login(self, request: Request) -> Response:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        address = f"/login?{urlencode({'next': target})}" if request.method == "GET" and target != "/" else "/login"
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"hx-redirect": "/login"})
        return RedirectResponse(address, status_code=303)

    def _render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        visitor: Visitor | None = getattr(request.state, "visitor", None)
        user = visitor.user if visitor else None
        theme = request.cookies.get("theme")
        values = {
            "visitor": visitor,
            "user": user,
            "csrf": self._gate.sessions.csrf(visitor.session) if visitor else "",
            "theme": theme if theme in _THEMES else None,
            "waiting": self._desk.register.waiting(user.name) if user else 0,
            "arrived": len(self._desk.register),
            "problem_count": len(self._desk.problems),
            "here": request.url.path,
        } | values
        return HTMLResponse(self._templates.get_template(template).render(values), status_code=status)

    async def error(self, request: Request, error: Exception) -> Response:
        """Say what went wrong, on a page or in its part."""
        headers = None
        if isinstance(error, HTTPException):
            status, detail, headers = error.status_code, error.detail, error.headers
        elif isinstance(error, StoreUnavailable):
            metrics.STORE_FAILURES.inc()
            status, detail = 503, f"{error}. Nothing is lost; try again in a moment."
        else:
            status, detail = 500, "Something is wrong inside the console; its log says what."
        title = HTTPStatus(status).phrase
        response = self._render(request, "error.html", status=status, title=title, detail=detail)
        response.headers.update(headers or {})
        response.headers["hx-reselect"] = "#error"  # in place of whatever part of the page was asked for
        return response

    async def _note(self, kind: str, actor: str, subject: str, **details: str) -> None:
        """Take note of an action before its effect is shown.

        Raises:
            HTTPException: it could not be noted, so it must not happen.
        """
        try:
            async with asyncio.timeout(_AUDIT_SECONDS):
                await self._trail.record(kind, actor=actor, subject=subject, details=details)
        except (GuardlineError, TimeoutError) as error:
            _log.error("action_not_recorded", kind=kind, actor=actor, subject=subject, error=repr(error))
            raise HTTPException(
                503, "Kafka did not confirm the entry in the audit trail, so this was not done. Try again in a moment."
            ) from error

    # Login.

    async def login_page(self, request: Request) -> Response:
        """Show the form; a login link logs in."""
        if token := request.query_params.get("token"):
            return await self._login(request, self._links.pop(digest(token), None), target="/")
        visitor = await self._visitor(request)
        request.state.visitor = visitor
        if visitor.user is not None:
            return RedirectResponse("/", status_code=303)
        response = self._render(request, "login.html", target=_local(request.query_params.get("next")), problem=None)
        self._gate.remember(response, request, visitor.session)
        return response

    async def login(self, request: Request, form: Mapping[str, str]) -> Response:
        """Log in by token."""
        return await self._login(request, self._gate.users.by_token(form.get("token", "")), _local(form.get("next")))

    async def _login(self, request: Request, user: User | None, target: str) -> Response:
        address = self._gate.proxy.client(request)
        if wait := self._limiter.wait(address):
            metrics.LOGINS.labels("limited").inc()
            raise HTTPException(
                429, f"Too many failed logins. Wait {wait:.0f} seconds.", {"Retry-After": f"{wait:.0f}"}
            )
        if user is None:
            self._limiter.failed(address)
            metrics.LOGINS.labels("refused").inc()
            _log.warning("login_refused", address=address)
            request.state.visitor = visitor = await self._visitor(request)
            problem = "That token is not known, or the link was used before. Ask for a new one."
            response = self._render(request, "login.html", status=401, target=target, problem=problem)
            self._gate.remember(response, request, visitor.session)
            return response
        session = Session.new(user)
        await self._note("login", user.name, session.id)
        self._limiter.succeeded(address)
        metrics.LOGINS.labels("accepted").inc()
        _log.info("login", user=user.name, role=user.role.value, address=address)
        redirect = RedirectResponse(target, status_code=303)
        self._gate.remember(redirect, request, session)
        return redirect

    async def logout(self, request: Request, form: Mapping[str, str]) -> Response:  # noqa: ARG002 - as every form
        """End the session, here and for whoever else has its cookie."""
        visitor: Visitor = request.state.visitor
        await self._desk.store.revoke(visitor.session.id, self._gate.sessions.seconds)
        redirect = RedirectResponse("/login", status_code=303)
        self._gate.remember(redirect, request, Session.new())
        return redirect

    async def theme(self, request: Request, form: Mapping[str, str]) -> Response:
        """Remember light, dark, or what the system says."""
        redirect = RedirectResponse(_local(form.get("back")), status_code=303)
        secure = self._gate.secure(request)
        if form.get("theme") in _THEMES:
            redirect.set_cookie(
                "theme", form["theme"], max_age=31_536_000, samesite="strict", httponly=True, secure=secure
            )
        else:
            redirect.delete_cookie("theme", samesite="strict", httponly=True, secure=secure)
        return redirect

    # Queue.

    async def queue(self, request: Request) -> Response:
        """List flags."""
        filters = Filters.of(request.query_params)
        name = request.state.user.name
        rows = self._desk.register.select(filters, name)
        pages = max((len(rows) + PAGE - 1) // PAGE, 1)
        filters = replace(filters, page=min(filters.page, pages))
        start = (filters.page - 1) * PAGE
        return self._render(
            request,
            "queue.html",
            filters=filters,
            rows=rows[start : start + PAGE],
            ages={row.id: _age(row.received_at, self._clock()) for row in rows[start : start + PAGE]},
            texts={id_: r.text for id_, r in self._recommendations.items()},
            total=len(rows),
            start=start,
            pages=pages,
            counts=self._desk.register.counts(filters, name),
            facets=self._desk.register.facets(),
        )

    # One flag.

    async def _item(self, request: Request) -> Item:
        found = await self._desk.store.get([request.path_params["id"]])
        if not found:
            raise HTTPException(404, "There is no such flag, or it is older than the console keeps them.")
        return found[0]

    async def flag(self, request: Request) -> Response:
        """Show one flag; with `always`, its text as well."""
        item = await self._item(request)
        shown = None
        if self._policy.reveal == "always" and request.state.visitor.reviews:
            shown = await self._reveal(request, item)
        return self._flag_page(request, item, shown=shown)

    async def reveal(self, request: Request, form: Mapping[str, str]) -> Response:  # noqa: ARG002 - as every form
        """Show the text of one flag."""
        item = await self._item(request)
        return self._flag_page(request, item, shown=await self._reveal(request, item))

    async def _reveal(self, request: Request, item: Item) -> Shown:
        await self._note("reveal", request.state.user.name, item.flag.id, policy=self._policy.reveal)
        shown = await self._messages.show(item)
        source = "message" if shown.missing is None else "flag" if shown.statement else "none"
        metrics.REVEALS.labels(source).inc()
        return shown

    async def decide(self, request: Request, form: Mapping[str, str]) -> Response:
        """Take a decision: the page says done only once Kafka has it."""
        item = await self._item(request)
        neighbour = self._neighbours(request, item)[1]
        try:
            choice = Choice.of(form, known=self._recommendations.keys(), own=item.flag.evidence.recommendation)
            await self._deciding.decide(item, request.state.user.name, choice)
        except (Refused, Unpublished) as error:
            status = 422 if isinstance(error, Refused) else 503
            return self._flag_page(request, item, status=status, problem=str(error), form=form)
        if not request.headers.get("hx-request"):
            done = {"done": "1"} | ({"then": neighbour} if neighbour else {})
            query = "&".join(filter(None, (Filters.of(request.query_params).query(), urlencode(done))))
            return RedirectResponse(f"/flags/{item.flag.id}?{query}", status_code=303)
        return self._flag_page(request, await self._item(request), done=True, then=neighbour)

    async def state(self, request: Request) -> Response:
        """Return how far the review of one flag has come, as a part of its page."""
        item = await self._item(request)
        return self._render(request, "_state.html", **self._state(request, item))

    def _state(self, request: Request, item: Item) -> dict[str, Any]:
        name = request.state.user.name
        row = Row.of(item)
        return {
            "item": item,
            "row": row,
            "visible": visible_decisions(item, name),
            "hidden": len(row.votes) - len(visible_decisions(item, name)),
            "mine": next((vote for vote in row.votes if vote.reviewer == name), None),
        }

    def _neighbours(self, request: Request, item: Item) -> tuple[str | None, str | None]:
        """Return the flags before and after this one in the list it was opened from."""
        filters = Filters.of(request.query_params)
        ids = [row.id for row in self._desk.register.select(filters, request.state.user.name)]
        if item.flag.id not in ids:
            return None, next(iter(ids), None)
        place = ids.index(item.flag.id)
        after = ids[place + 1] if place + 1 < len(ids) else None
        return (ids[place - 1] if place else None), after

    def _flag_page(
        self,
        request: Request,
        item: Item,
        *,
        status: int = 200,
        shown: Shown | None = None,
        problem: str | None = None,
        form: Mapping[str, str] | None = None,
        done: bool = False,
        then: str | None = None,
    ) -> HTMLResponse:
        filters = Filters.of(request.query_params)
        visitor: Visitor = request.state.visitor
        row = Row.of(item)
        before, after = self._neighbours(request, item)
        asked = request.query_params
        beside = [r for id_ in self._desk.register.beside(row) if (r := self._desk.register.get(id_)) is not None]
        return self._render(
            request,
            "flag.html",
            status=status,
            filters=filters,
            flag=item.flag,
            shown=shown,
            beside=sorted(beside, key=lambda r: -r.score),
            recommendations=list(self._recommendations.values()),
            before=before,
            after=(then or asked.get("then") or after) if done or asked.get("done") else after,
            age=_age(item.flag.received_at, self._clock()),
            may_decide=visitor.reviews and may_decide(item, request.state.user.name),
            problem=problem,
            form=form or {},
            done=done or asked.get("done") == "1",
            **self._state(request, item),
        )

    # Figures.

    async def trends(self, request: Request) -> Response:
        """Show how many flags there are, how many reviewers reject, and how they agree."""
        asked = request.query_params
        by = asked.get("by", "")
        by = by if by in _GROUPS else "category"
        days = int(asked.get("days", "")) if asked.get("days", "") in map(str, _DAYS) else 30
        rows = self._desk.register.rows
        figures = trends.daily(rows, _GROUPS[by], last=self._clock().date(), days=days)
        known = trends.models(rows)
        model = asked.get("model", "") if asked.get("model", "") in known else next(iter(known), "")
        found = trends.what_if(rows, model, _number(asked.get("threshold")))
        return self._render(
            request,
            "trends.html",
            by=by,
            groups=list(_GROUPS),
            days=days,
            day_choices=_DAYS,
            figures=figures,
            chart=charts.stacked(figures),
            by_category=trends.rejected(rows, lambda row: row.category),
            by_recommendation=trends.rejected(rows, lambda row: row.recommendation),
            agreement=trends.agreement(rows),
            statuses={status: sum(row.outcome.status is status for row in rows) for status in Status},
            models=known,
            model=model,
            what_if=found,
            histogram=charts.histogram(
                found.bins, lowest=found.lowest, threshold=found.threshold, current=found.current
            )
            if found
            else None,
        )

    async def problems(self, request: Request) -> Response:
        """List records that could not be read."""
        return self._render(request, "problems.html", problems=self._desk.problems)

    async def events(self, request: Request) -> Response:
        """Tell an open page what changes."""
        name = request.state.user.name
        register = self._desk.register

        def summary() -> dict[str, object]:
            return {
                "waiting": register.waiting(name),
                "arrived": len(register),
                "problems": len(self._desk.problems),
            }

        return StreamingResponse(
            self._desk.channel.events(summary), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form; of a field that comes twice, the last.

    Raises:
        HTTPException: it is too large, or no form.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            raise HTTPException(413, "The form is too large.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error


def _local(target: str | None) -> str:
    """Return a path of this site to go to; the queue for anything else."""
    parts = urlsplit(target or "/")
    safe = not parts.scheme and not parts.netloc and parts.path.startswith("/") and "\\" not in (target or "")
    return target if target and safe and not target.startswith("//") else "/"


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None
