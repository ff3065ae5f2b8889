"""A page for each rule, which refusals lead to. It is made from the rule's own documentation and says nothing about this
installation, so it is open to everybody who reaches the console: an agent has no password."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dbshield.console.frame import render
from dbshield.policy.catalogue import RULES
from dbshield.policy.rules.examples import examples


async def list_(request: Request) -> Response:
    return await render(request, "rules.html", {"rules": RULES, "examples": examples})


async def show(request: Request) -> Response:
    wanted = request.path_params["id"].upper()
    found = next((rule for rule in RULES if rule.id == wanted), None)
    if found is None:
        raise HTTPException(404)
    return await render(request, "rule.html", {"rule": found, "doc": examples(type(found))})


ROUTES: Final[list[BaseRoute]] = [Route("/rules", list_), Route("/rules/{id}", show)]
