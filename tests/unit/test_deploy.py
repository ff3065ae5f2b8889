"""The files to deploy with: every command line parses, every setting, path and port is one that the other files and the program
know. What a balancer, systemd and Kubernetes themselves say of them is asked where they are here."""

from __future__ import annotations

import ipaddress
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tools import find

from dbshield.config import load_config
from dbshield.config.text import template
from docs import tree

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/dbshield/bin/dbshield"
CONFIG = "/etc/dbshield/dbshield.toml"
ACCOUNT = 10001
STATE = "/var/lib/dbshield"
AGENTS, CONSOLE, METRICS = 6432, 7433, 9632
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    each
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for each in yaml.safe_load_all(path.read_text())
]
WORKLOADS = [each for each in MANIFESTS if "template" in each.get("spec", {})]
SETTINGS = [DEPLOY / "compose" / "dbshield.toml", DEPLOY / "kubernetes" / "dbshield.toml"]


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def lines_of(unit: Path, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{key}=")]


def test_there_is_a_unit_for_each_part() -> None:
    parts = [shlex.split(start)[1] for unit in UNITS for start in lines_of(unit, "ExecStart")]
    assert sorted(parts) == ["console", "executor", "proxy", "scheduler", "up"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_what_there_is(unit: Path) -> None:
    (start,) = lines_of(unit, "ExecStart")
    program, *words = shlex.split(start)
    assert program == PROGRAM
    assert list(tree.objections(tuple(words))) == []
    assert words[-2:] == ["--config", CONFIG]
    assert lines_of(unit, "ExecReload") in [[], ["/bin/kill -HUP $MAINPID"]]
    assert f"/etc/systemd/system/{unit.name}" in unit.read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_waits_longer_than_what_it_stops(unit: Path) -> None:
    model = load_config(SETTINGS[0])
    (stop,) = lines_of(unit, "TimeoutStopSec")
    longest = {"dbshield-executor": max(each.execution_timeout for each in model.environments.values())}
    assert float(stop) > longest.get(unit.stem, model.proxy.drain_timeout if unit.stem != "dbshield-console" else 0)


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_units_and_finds_them_hardened(tmp_path: Path) -> None:
    analyze = str(find("systemd-analyze"))
    places = []
    for unit in UNITS:
        place = tmp_path / unit.name
        # It looks whether the program is there.
        place.write_text(unit.read_text().replace(PROGRAM, str(Path(sys.executable).resolve())))
        places.append(str(place))
    verified = subprocess.run([analyze, "verify", "--man=no", *places], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    for checked in places:
        command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", checked]
        judged = subprocess.run(command, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout


def test_what_grows_is_rotated() -> None:
    text = (DEPLOY / "logrotate" / "dbshield").read_text()
    assert f"{STATE}/audit.jsonl {{" in text
    (reload,) = re.findall(r"systemctl reload (.+?) 2>", text)
    for name in reload.split():
        assert lines_of(DEPLOY / "systemd" / name, "ExecReload"), f"{name} cannot be reloaded"
    owners = {owner for unit in UNITS for owner in lines_of(unit, "User") + lines_of(unit, "Group")}
    assert owners == {"dbshield"}
    assert "su dbshield dbshield" in text
    assert all(lines_of(unit, "StateDirectory") == ["dbshield"] for unit in UNITS)


def test_the_page_puts_the_state_where_what_grows_is_rotated(tmp_path: Path) -> None:
    """The account is not root, for which the default would be a folder below its home."""
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    assert "install -d -o dbshield -g dbshield -m 750 /etc/dbshield\n" in page, "init writes the file as that account"
    (init,) = re.findall(r"sudo -u dbshield env (\S+) \S+/dbshield init --config (\S+)\n", page)
    assert init == (f"DBSHIELD_STATE={STATE}", CONFIG)
    (script,) = re.findall(rf"sed -i '(.+)' {CONFIG}\n", page)
    file = tmp_path / "dbshield.toml"
    file.write_text(template())
    subprocess.run(["sed", "-i", script, file], check=True)
    assert load_config(file).audit_file == Path(STATE) / "audit.jsonl"


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.parent.name)
def test_the_settings_are_valid_and_nothing_in_them_is_weak(path: Path) -> None:
    config = load_config(path)
    assert config.remarks() == ()
    assert [address.port for address in config.proxy.addresses] == [AGENTS]
    assert config.proxy.tls
    assert config.console.where is not None
    assert config.console.where.port == CONSOLE
    assert config.metrics.address is not None
    assert config.metrics.address.port == METRICS
    assert config.audit_file is None, "nothing rotates a file in a container"


def image() -> list[str]:
    """The image's lines, those that are continued as one."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_holds_together() -> None:
    lines = image()
    sources = [word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]]
    for word in sources:
        assert (ROOT / word).exists(), word
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(sources)
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert set(included["wheel"]["force-include"]) | set(included["wheel"]["packages"]) <= set(sources)
    assert f"USER {ACCOUNT}:{ACCOUNT}" in lines
    assert f"EXPOSE {AGENTS} {CONSOLE} {METRICS}" in lines
    assert f"VOLUME {STATE}" in lines
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry.endswith('"dbshield"]')
    (environment,) = [line for line in lines if line.startswith("ENV")]
    assert f"DBSHIELD_STATE={STATE}/state" in environment
    assert f"DBSHIELD_CONFIG={CONFIG}" in environment
    assert "--require-hashes -r requirements.lock" in "\n".join(lines)


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of the composition that are dbshield."""
    return ((name, service) for name, service in COMPOSE["services"].items() if service["image"] == "dbshield")


def test_the_composition_runs_what_there_is() -> None:
    commands = {name: tuple(service["command"]) for name, service in services()}
    assert set(commands.values()) == {("init",), ("proxy",), ("executor",), ("scheduler",), ("console",)}
    assert [name for name, words in commands.items() if words == ("proxy",)] == ["proxy1", "proxy2"]
    for words in commands.values():
        assert list(tree.objections(words)) == []
    for name, service in services():
        assert f"./dbshield.toml:{CONFIG}:ro" in service["volumes"], name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert (DEPLOY / "compose" / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_the_composition_names_what_it_has() -> None:
    for name, service in COMPOSE["services"].items():
        for other in service.get("depends_on", ()):
            assert other in COMPOSE["services"], name
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"]), name
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"]), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / "compose" / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is reached from elsewhere"
    read = set(re.findall(r"/run/secrets/(\w+)", (DEPLOY / "compose" / "dbshield.toml").read_text()))
    for name, service in services():
        assert read == set(service["secrets"]), name


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("path", [DEPLOY / "haproxy" / "haproxy.cfg", DEPLOY / "compose" / "haproxy.cfg"], ids=str)
def test_haproxy_takes_its_files(path: Path) -> None:
    checked = subprocess.run([str(find("haproxy")), "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    text = path.read_text()
    assert f"bind :{AGENTS}" in text
    assert f"check port {METRICS}" in text
    assert set(re.findall(r"server proxy\d \S+:(\d+)", text)) == {str(AGENTS)}
    assert "option httpchk GET /readyz" in text


def test_the_balancer_of_the_composition_is_the_one_that_was_tried() -> None:
    """Names instead of addresses, and whoever resolves them."""

    def said(path: Path) -> list[str]:
        lines = [line.strip() for line in path.read_text().splitlines()]
        return [re.sub(r"\d+\.0\.0\.1(\d)", r"proxy\1", line) for line in lines if line and not line.startswith("#")]

    tried, composed = said(DEPLOY / "haproxy" / "haproxy.cfg"), said(DEPLOY / "compose" / "haproxy.cfg")
    assert [line.replace("resolvers names init-addr none ", "") for line in composed if line not in RESOLVERS] == tried


def test_the_balancer_of_the_composition_is_believed_where_it_is() -> None:
    addresses = [each["ipv4_address"] for each in COMPOSE["services"]["balancer"]["networks"].values()]
    assert list(load_config(DEPLOY / "compose" / "dbshield.toml").proxy.balancers) == addresses
    for name, address in zip(COMPOSE["services"]["balancer"]["networks"], addresses, strict=True):
        (subnet,) = COMPOSE["networks"][name]["ipam"]["config"]
        assert ipaddress.ip_address(address) in ipaddress.ip_network(subnet["subnet"])
    assert "send-proxy-v2" in (DEPLOY / "compose" / "haproxy.cfg").read_text()


def test_the_page_shows_the_balancer_that_was_tried() -> None:
    page = (ROOT / "docs" / "how-to" / "several-proxies.md").read_text()
    assert f"```text\n{(DEPLOY / 'haproxy' / 'haproxy.cfg').read_text()}```" in page


RESOLVERS = ("resolvers names", "parse-resolv-conf")


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("manifest", WORKLOADS, ids=named)
def test_a_pod_runs_what_there_is_and_has_no_right_to_more(manifest: dict[str, Any]) -> None:
    spec = pod(manifest)
    (container,) = spec["containers"]
    assert list(tree.objections(tuple(container["args"]))) == []
    assert spec["securityContext"]["runAsUser"] == ACCOUNT
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in spec["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", ())}
    for each in (*spec["initContainers"], container):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
        assert each["image"] == "dbshield:latest", "the kustomization names the true one"
        assert "memory" in each["resources"]["limits"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["state"] == STATE
    assert mounted["configuration"] == str(Path(CONFIG).parent)
    assert "env" not in container, "secrets are files"


def test_the_key_is_where_the_settings_look_for_it() -> None:
    """A copy for its owner alone: dbshield takes no key that others may read, and a mounted secret is its group's too."""
    config = load_config(SETTINGS[1])
    for manifest in WORKLOADS:
        (first,) = pod(manifest)["initContainers"]
        assert first["command"][:3] == ["install", "-m", "600"]
        assert first["command"][-1] == str(config.secret_key)
    secrets = next(volume for volume in pod(WORKLOADS[0])["volumes"] if volume["name"] == "secrets")
    assert secrets["secret"]["secretName"] == "dbshield"


def test_two_proxies_are_probed_and_one_of_them_stays() -> None:
    by_name = {named(each): each for each in MANIFESTS}
    proxy = by_name["StatefulSet dbshield-proxy"]
    labels = proxy["spec"]["selector"]["matchLabels"]
    assert proxy["spec"]["replicas"] == 2
    assert proxy["spec"]["template"]["metadata"]["labels"] == labels
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = by_name[f"{kind} dbshield-proxy"]["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        assert selector.get("matchLabels", selector) == labels, kind
    assert by_name["PodDisruptionBudget dbshield-proxy"]["spec"]["maxUnavailable"] == 1
    (container,) = pod(proxy)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"postgresql": AGENTS, "metrics": METRICS}
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    assert [probes[name]["path"] for name in ("livenessProbe", "readinessProbe")] == ["/healthz", "/readyz"]
    config = load_config(SETTINGS[1])
    assert pod(proxy)["terminationGracePeriodSeconds"] > config.proxy.drain_timeout
    executor = by_name["StatefulSet dbshield-executor"]
    longest = max(each.execution_timeout for each in config.environments.values())
    assert pod(executor)["terminationGracePeriodSeconds"] > longest


def test_the_kustomization_names_every_file() -> None:
    folder = DEPLOY / "kubernetes"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    (generated,) = kustomization["configMapGenerator"]
    assert (generated["name"], generated["files"]) == ("dbshield", ["dbshield.toml"])
