"""The console on a real control database, asked without a network, for tests that need no browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from dbshield.config import Config, EnvironmentConfig
from dbshield.config.console import ConsoleConfig
from dbshield.console.app import build
from dbshield.console.frame import Parts
from dbshield.control import passwords
from dbshield.control.people import People
from dbshield.control.person_roles import Role
from dbshield.store.database import Database
from support.control import ENVIRONMENTS
from support.people import Phone, vault_in

SITE = "http://127.0.0.1:7433"
PASSWORD = "correct horse battery staple"
FORM = "application/x-www-form-urlencoded"


class ConsoleDesk:
    """A console whose clock the test sets, and the people who use it."""

    def __init__(
        self,
        database: Database,
        dsn: str,
        folder: Path,
        *,
        environments: Mapping[str, EnvironmentConfig] = ENVIRONMENTS,
        **console: Any,
    ) -> None:
        self.database = database
        self.now = datetime.now(UTC)
        self.source = "192.0.2.7"
        self.vault = vault_in(folder)
        self.people = People(database, self.vault)
        self.phones: dict[str, Phone] = {}
        config = Config(state=folder, environments=dict(environments), console=ConsoleConfig(**console))
        self.app = build(Parts(config=config, database=database, dsn=dsn, vault=self.vault, clock=lambda: self.now))
        self._runner = asyncio.Runner()
        # A quarter of a second for each password, which is what they are for, and not what these tests are about.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(passwords, "LOG_N", 10)
        self._patch.setattr(passwords, "P", 1)

    def close(self) -> None:
        self._patch.undo()
        self._runner.close()

    def enrol(self, name: str, role: Role, *, vouch: str = "", password: str | None = PASSWORD) -> Phone:
        """Somebody with a phone and a password. Each code that is used takes half a minute of the clock."""
        voucher = None
        if vouch:
            self.later()
            voucher = self.phones[vouch].vouch(self.now)
        phone = Phone(name, self.people.add(name, by="test", now=self.now, vouch=voucher, role=role).secret)
        self.people.confirm(name, phone.code(self.now), now=self.now)
        self.phones[name] = phone
        if password is not None:
            self.later()
            self.people.set_password(name, password, phone.code(self.now), by="test", now=self.now)
        return phone

    def later(self, **length: float) -> None:
        """So much later; without a length, so much that the last code is none any more."""
        self.now += timedelta(**length) if length else timedelta(seconds=31)

    def code(self, name: str) -> str:
        """A code that was not used."""
        self.later()
        return self.phones[name].code(self.now)

    def browser(self, site: str = SITE) -> Browser:
        return Browser(self, site)

    def ask(self, method: str, url: str, cookies: httpx.Cookies, headers: Mapping[str, str], body: str = "") -> httpx.Response:
        """One request; what the application raises is raised here."""

        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.source, 50_000))
            async with httpx.AsyncClient(transport=transport, cookies=cookies) as client:
                answer = await client.request(method, url, headers=headers, content=body or None)
                cookies.update(client.cookies)
                return answer

        return self._runner.run(once())

    def signed_in(self, name: str) -> Browser:
        browser = self.browser()
        answer = browser.sign_in(name, PASSWORD, self.code(name))
        assert answer.status_code == 303, answer.text
        return browser


class Browser:
    """What a browser does with forms: it has the page's token, and says where it comes from."""

    def __init__(self, desk: ConsoleDesk, site: str) -> None:
        self.desk = desk
        self.site = site
        self.cookies = httpx.Cookies()
        self.token = ""

    def get(self, path: str, **headers: str) -> httpx.Response:
        answer = self.desk.ask("GET", f"{self.site}{path}", self.cookies, headers)
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', answer.text)
        if found is not None:
            self.token = found[1]
        return answer

    def post(self, path: str, fields: Mapping[str, str], **headers: str | None) -> httpx.Response:
        """A header that is None is left out."""
        body = urlencode({"csrf": self.token, **fields})
        said = {"origin": self.site, "content-type": FORM, "sec-fetch-site": "same-origin", **headers}
        given = {name: text for name, text in said.items() if text is not None}
        return self.desk.ask("POST", f"{self.site}{path}", self.cookies, given, body)

    def sign_in(self, name: str, password: str, code: str, **fields: str) -> httpx.Response:
        self.get("/sign-in")
        return self.post("/sign-in", {"name": name, "password": password, "code": code, **fields})
