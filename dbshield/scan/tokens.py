"""Tokens of providers: the shapes that detect-secrets knows, and those of the places where databases and their backups live.

The incident's token was one of these: no connection string, and yet it deleted the database's volume. detect-secrets is used for
its patterns alone; its checks over the network are never run.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from dbshield.scan.found import Found, Power, literal

if TYPE_CHECKING:
    from detect_secrets.plugins.base import RegexBasedDetector

PIECE, OVERLAP = 8192, 512
"""Characters of a line that patterns see at once: some of them take quadratic time on lines of minified files."""

_DBSHIELD = re.compile(r"\bdbs_[a-z][a-z0-9-]{0,30}_[a-z2-7]{12}_[a-z2-7]{32}\b")
_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Supabase access token", re.compile(r"\bsbp_[0-9a-f]{40}\b")),
    ("Supabase secret key", re.compile(r"\bsb_secret_[A-Za-z0-9_-]{20,}\b")),
    ("Neon API key", re.compile(r"\bnapi_[a-z0-9]{40,}\b")),
    ("PlanetScale token", re.compile(r"\bpscale_(?:tkn|oauth|pw)_[A-Za-z0-9_.=-]{32,}")),
    ("DigitalOcean token", re.compile(r"\bdo[opr]_v1_[0-9a-f]{64}\b")),
    ("Fly.io token", re.compile(r"\bfo1_[\w-]{43}|\bFlyV1 fm[12][ar]?_[A-Za-z0-9+/=]{40,}")),
    ("Render API key", re.compile(r"\brnd_[A-Za-z0-9]{24,}\b")),
    ("Heroku API key", re.compile(r"\bHRKU-[0-9A-Za-z_-]{36,}")),
    ("Terraform Cloud token", re.compile(r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,}")),
    ("Pulumi token", re.compile(r"\bpul-[0-9a-f]{40}\b")),
    ("Doppler token", re.compile(r"\bdp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9.]{40,}")),
    ("Vault token", re.compile(r"\bhvs\.[A-Za-z0-9_-]{24,}")),
    ("Aiven token", re.compile(r"\baivenv1[A-Za-z0-9+/=]{40,}")),
    ("GitHub token", re.compile(r"\bgithub_pat_[A-Za-z0-9_]{50,}")),
)
_NAMED = re.compile(
    r"""\b([A-Za-z0-9_]{3,80}(?:TOKEN|KEY|SECRET|PAT))["']?\s{0,9}(?::=|=>|[:=])\s{0,9}["']?([A-Za-z0-9+/_.=~:-]{16,})""",
    re.IGNORECASE,
)
_PROVIDERS = frozenset(
    [
        "RAILWAY",
        "HEROKU",
        "RENDER",
        "FLY",
        "NEON",
        "SUPABASE",
        "DIGITALOCEAN",
        "CLOUDFLARE",
        "CF",
        "AIVEN",
        "HCLOUD",
        "HETZNER",
        "LINODE",
        "VULTR",
        "SCALEWAY",
        "SCW",
        "UPCLOUD",
        "OVH",
        "ARM",
        "AZURE",
        "CRUNCHY",
        "TIMESCALE",
        "COCKROACH",
        "PLANETSCALE",
        "PULUMI",
        "DOPPLER",
        "VAULT",
        "TF",
        "AWS",
        "GCP",
        "VERCEL",
        "NORTHFLANK",
        "KOYEB",
    ]
)
"""Where databases, their volumes and their backups live; a variable with one of these words in its name holds a key to them."""
_SERVICE_ACCOUNT = re.compile(r"\"private_key\"\s*:\s*\"(-----BEGIN [^\"]+)\"")
_PLUGINS: tuple[tuple[str, str, Power], ...] = (
    ("aws", "AWSKeyDetector", Power.INFRASTRUCTURE),
    ("azure_storage_key", "AzureStorageKeyDetector", Power.INFRASTRUCTURE),
    ("softlayer", "SoftlayerDetector", Power.INFRASTRUCTURE),
    ("ibm_cloud_iam", "IbmCloudIamDetector", Power.INFRASTRUCTURE),
    ("github_token", "GitHubTokenDetector", Power.INFRASTRUCTURE),
    ("gitlab_token", "GitLabTokenDetector", Power.INFRASTRUCTURE),
    ("private_key", "PrivateKeyDetector", Power.INFRASTRUCTURE),
    ("jwt", "JwtTokenDetector", Power.OTHER),
    ("artifactory", "ArtifactoryDetector", Power.OTHER),
    ("cloudant", "CloudantDetector", Power.OTHER),
    ("discord", "DiscordBotTokenDetector", Power.OTHER),
    ("mailchimp", "MailchimpDetector", Power.OTHER),
    ("npm", "NpmDetector", Power.OTHER),
    ("openai", "OpenAIDetector", Power.OTHER),
    ("pypi_token", "PypiTokenDetector", Power.OTHER),
    ("sendgrid", "SendGridDetector", Power.OTHER),
    ("slack", "SlackDetector", Power.OTHER),
    ("square_oauth", "SquareOAuthDetector", Power.OTHER),
    ("stripe", "StripeDetector", Power.OTHER),
    ("telegram_token", "TelegramBotTokenDetector", Power.OTHER),
    ("twilio", "TwilioKeyDetector", Power.OTHER),
)
"""Those with a shape of their own. Left out: what goes by entropy or by the word "secret" alone, which is mostly wrong."""


def find_tokens(line: str, number: int) -> Iterator[Found]:
    """The tokens in one line, each once."""
    seen: set[str] = set()
    for piece in _pieces(line):
        for what, secret, power in _tokens(piece):
            if secret not in seen:
                seen.add(secret)
                yield Found(line=number, what=what, power=power, secret=secret)


def may_have_tokens(block: str) -> bool:
    """Whether lines of the block, of at most PIECE characters, are worth looking at one by one."""
    return len(block) > PIECE or any(True for _ in _tokens(block))


def _tokens(text: str) -> Iterator[tuple[str, str, Power]]:
    for match in _DBSHIELD.finditer(text):
        yield "dbshield token", match[0], Power.PROXY
    for what, shape in _SHAPES:
        for match in shape.finditer(text):
            yield what, match[0], Power.INFRASTRUCTURE
    for match in _SERVICE_ACCOUNT.finditer(text):
        yield "service account key", match[1], Power.INFRASTRUCTURE
    for match in _NAMED.finditer(text):
        if not _PROVIDERS.isdisjoint(match[1].upper().split("_")) and (secret := literal(match[2])):
            yield match[1].upper(), secret, Power.INFRASTRUCTURE
    for plugin, what, power in _detectors():
        for secret in plugin.analyze_string(text):
            yield what, str(secret), power


@cache
def _detectors() -> tuple[tuple[RegexBasedDetector, str, Power], ...]:
    """The detectors of detect-secrets, loaded when the first line is read."""
    loaded = []
    for module, name, power in _PLUGINS:
        plugin: RegexBasedDetector = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)()
        loaded.append((plugin, str(plugin.secret_type), power))
    return tuple(loaded)


def _pieces(line: str) -> Iterator[str]:
    if len(line) <= PIECE:
        yield line
        return
    for start in range(0, len(line), PIECE - OVERLAP):
        yield line[start : start + PIECE]
