"""The web application: routes around the pages."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from monitor.console.gate import SecurityHeaders
from monitor.console.pages import STATIC, Pages
from monitor.errors import StoreUnavailable


class _Static(StaticFiles):
    """Files that browsers keep and ask after: an upgrade shows at once."""

    def file_response(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response


def build_app(pages: Pages, *, hosts: Sequence[str]) -> SecurityHeaders:
    """Return the ASGI application; requests to other `hosts` are refused."""
    users, posted = pages.for_users, pages.posted
    routes = [
        Route("/login", pages.login_page, methods=["GET"]),
        Route("/login", posted(pages.login, by="anybody"), methods=["POST"]),
        Route("/logout", posted(pages.logout, by="anybody"), methods=["POST"]),
        Route("/theme", posted(pages.theme, by="anybody"), methods=["POST"]),
        Route("/", users(pages.queue), methods=["GET"]),
        Route("/flags/{id}", users(pages.flag), methods=["GET"]),
        Route("/flags/{id}/state", users(pages.state), methods=["GET"]),
        Route("/flags/{id}/reveal", posted(pages.reveal, by="reviewers"), methods=["POST"]),
        Route("/flags/{id}/decision", posted(pages.decide, by="reviewers"), methods=["POST"]),
        Route("/trends", users(pages.trends), methods=["GET"]),
        Route("/problems", users(pages.problems), methods=["GET"]),
        Route("/events", users(pages.events), methods=["GET"]),
        Mount("/static", _Static(directory=STATIC), name="static"),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers={HTTPException: pages.error, StoreUnavailable: pages.error, Exception: pages.error},
    )
    return SecurityHeaders(app)
