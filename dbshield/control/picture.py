"""The configuration as it may be kept and compared: what agents may do in clear, everything else so that no secret is in it.

Numbers and switches stand there as they are. Of a text there is a digest under the installation's key: it may be a URL with a
password, and without a key a short password could be found by trying. So it can be told that a text changed, and not what it was.
Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dbshield.config import Config
from dbshield.config.policy import PolicyConfig
from dbshield.control.tokens import hidden

DIGEST: Final = 32
"""Hexadecimal digits of a digest: 128 bits, which nobody meets by chance."""
SEVERAL: Final = ("environments", "backup", "alerts")
"""Sections of which there are as many as somebody wrote, each with a name."""
KEY: Final = "control.key_file"
"""The setting that is told where pictures were made under different keys, so that their texts cannot be compared."""

Changes = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """`policies` has the settings of each environment's policy, `settings` all others by their keys as in `proxy.workers`, a text
    as {"text": digest}. `key` names the key of the digests, empty where there was none and texts are left open. `defaults` are
    the keys that have the value which this version gives them, and is not kept."""

    policies: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    key: str
    defaults: frozenset[str] = frozenset()

    def text(self) -> str:
        """For keeping: JSON, ASCII alone."""
        return hidden(json.dumps({"policies": self.policies, "settings": self.settings}, separators=(",", ":")))


def read(text: str, key: str) -> Picture:
    """A picture that was kept. Raises ValueError where it is none."""
    said = json.loads(text)
    if not isinstance(said, dict) or not all(isinstance(said.get(name), dict) for name in ("policies", "settings")):
        raise ValueError("this is no picture of a configuration")
    if not all(isinstance(policy, dict) for policy in said["policies"].values()):
        raise ValueError("this is no picture of what agents may do")
    return Picture(policies=said["policies"], settings=said["settings"], key=key)


def picture_of(config: Config, key: bytes | None) -> Picture:
    """The picture under this key; without one texts are left open."""
    policies = {name: set(PolicyConfig.model_fields) for name in config.environments}
    tree = config.model_dump(mode="json", exclude={"environments": policies})
    given = config.model_dump(mode="json", exclude_defaults=True)
    return Picture(
        policies={
            name: environment.model_dump(mode="json", include=set(PolicyConfig.model_fields))
            for name, environment in config.environments.items()
        },
        settings={name: _kept(name, value, key) for name, value in _leaves(tree, "")},
        key=hashlib.sha256(key).hexdigest()[:8] if key is not None else "",
        defaults=frozenset(name for name, _ in _leaves(config.model_dump(mode="json"), "")) - _prefixes(given, ""),
    )


def _kept(name: str, value: Any, key: bytes | None) -> Any:
    if _is_plain(value):
        return value
    if key is None:
        return {"text": None}
    return {"text": hmac.new(key, f"{name}\0{json.dumps(value)}".encode(), "sha256").hexdigest()[:DIGEST]}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _prefixes(tree: Mapping[str, Any], prefix: str) -> set[str]:
    """The keys of a tree, those of its tables too."""
    found = set()
    for key, value in tree.items():
        found.add(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found |= _prefixes(value, f"{prefix}{key}.")
    return found


def policy_changes(old: Picture, new: Picture) -> dict[str, Changes]:
    """By environment, the settings of its policy that differ, each with its old and its new value; a value is None where the
    environment is not there."""
    changes: dict[str, Changes] = {}
    for environment in sorted({*old.policies, *new.policies}):
        before, after = old.policies.get(environment, {}), new.policies.get(environment, {})
        changed = {
            key: (before.get(key), after.get(key))
            for key in PolicyConfig.model_fields
            if before.get(key) != after.get(key)
            and not (before and key not in before and f"environments.{environment}.{key}" in new.defaults)
        }
        if changed:
            changes[environment] = changed
    return changes


def setting_changes(old: Picture, new: Picture, sections: Collection[str] = ()) -> dict[str, tuple[Any, Any] | None]:
    """The settings that differ and are no policy, by their keys; of these sections alone where any are named. Numbers and
    switches with their old and new value, None where one is not there; of anything else only that it changed."""
    before, after = _of(old.settings, sections), _of(new.settings, sections)
    comparable = bool(new.key) and old.key == new.key
    changed: dict[str, tuple[Any, Any] | None] = {}
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if one == other or (key not in before and key in new.defaults and _has_section(before, key)):
            # What a newer version brings along, at its default, was changed by nobody.
            continue
        if _is_plain(one) and _is_plain(other):
            changed[key] = (one, other)
        elif comparable or _is_plain(one) or _is_plain(other):
            changed[key] = None
    if old.key and new.key and not comparable:
        changed[KEY] = None
    return changed


def _of(settings: Mapping[str, Any], sections: Collection[str]) -> Mapping[str, Any]:
    return {key: value for key, value in settings.items() if not sections or key.partition(".")[0] in sections}


def _has_section(settings: Mapping[str, Any], key: str) -> bool:
    """Whether the section that a key belongs to was there; the others always are."""
    section, _, rest = key.partition(".")
    if section not in SEVERAL:
        return True
    begin = f"{section}.{rest.partition('.')[0]}."
    return any(each.startswith(begin) for each in settings)


def overlaid(below: Picture, above: Picture, sections: Collection[str]) -> Picture:
    """The first one, with what the second one says of these sections. Both have to be under one key."""
    kept = {key: value for key, value in below.settings.items() if key.partition(".")[0] not in sections}
    return Picture(policies=below.policies, settings={**kept, **_of(above.settings, sections)}, key=below.key)
