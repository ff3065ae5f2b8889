"""What happens now."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbshield.console.frame import Page, allowed, render
from dbshield.control.person_roles import Role


@allowed(Role.VIEWER)
async def show(request: Request) -> Response:
    return await render(request, "now.html")


PAGE = Page(title="Now", path="/", routes=[Route("/", show)])
