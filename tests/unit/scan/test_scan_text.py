"""What is found in texts of every kind, where it leads, and what is left alone."""

from __future__ import annotations

import base64
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.scan.found import Found, Power
from dbshield.scan.text import find

SECRET = "s3cr3t-Pa55"  # pragma: allowlist secret


def databases(text: str, name: str = "notes.txt") -> list[Found]:
    return [found for found in find(text, name) if found.power is Power.DATABASE]


ONE_LINE = [
    ("postgresql://app:s3cr3t-Pa55@db.example.com:5433/shop", "app@db.example.com:5433/shop"),
    ("DATABASE_URL=postgres://app:s3cr3t-Pa55@db.example.com/shop?sslmode=require", "app@db.example.com/shop"),
    ('url: "postgresql+asyncpg://app:s3cr3t-Pa55@[2001:db8::1]:5432/shop",', "app@2001:db8::1:5432/shop"),
    ("jdbc:postgresql://db.example.com/shop?user=app&password=s3cr3t-Pa55&ssl=true", "app@db.example.com/shop"),
    ("see (postgres://app:s3cr3t-Pa55@db.example.com/shop).", "app@db.example.com/shop"),
    ("postgres://app:s3cr3t%2DPa55@h1:5433,h2:5434/shop", "app@h1:5433,h2:5434/shop"),
    ("postgresql:///shop?host=/run/postgresql&user=app&password=s3cr3t-Pa55", "app@/run/postgresql/shop"),
    ("psql 'host=db.example.com port=5433 dbname=shop user=app password=s3cr3t-Pa55'", "app@db.example.com:5433/shop"),
    (
        "conn = psycopg.connect(host='db.example.com', dbname=\"shop\", user='app', password='s3cr3t-Pa55')",
        "app@db.example.com/shop",
    ),
    ("Host=db.example.com;Port=5433;Database=shop;Username=app;Password=s3cr3t-Pa55", "app@db.example.com:5433/shop"),
    ("host=a,b port=1,2 password='s3cr3t-Pa55'", "a:1,b:2"),
    ("db.example.com:5432:shop:app:s3cr3t-Pa55", "app@db.example.com:5432/shop"),
    ("alter role app login password 's3cr3t-Pa55';", "app@?"),
    ("CREATE USER \"app\" WITH ENCRYPTED PASSWORD 's3cr3t-Pa55'", "app@?"),
    ("docker run -e POSTGRES_PASSWORD=s3cr3t-Pa55 postgres", "?"),
    ("PGPASSWORD=s3cr3t-Pa55 PGHOST=db.example.com psql", "db.example.com"),
    ("postgresql://app:s3cr3t-Pa55@db.example.com:${DB_PORT}/shop", "app@db.example.com/shop"),
    ("POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:-s3cr3t-Pa55}", "?"),
    (r'{"url":"postgres:\/\/app:s3cr3t-Pa55@db.example.com\/shop"}', "app@db.example.com/shop"),
    ("DATABASE_URL=pgsql://app:s3cr3t-Pa55@db.example.com/shop", "app@db.example.com/shop"),
    ("url: ecto://app:s3cr3t-Pa55@db.example.com/shop", "app@db.example.com/shop"),
    ("url=jdbc:postgresql:shop?user=app&password=s3cr3t-Pa55", "app@?/shop"),
    ('<Resource url="jdbc:postgresql://db.example.com/shop" username="app" password="s3cr3t-Pa55"/>', "app@db.example.com/shop"),
    ("create user mapping for me server far options (user 'app', password 's3cr3t-Pa55');", "app@?"),
    ("alter role app password $x$s3cr3t-Pa55$x$", "app@?"),
    ("alter role app password E's3cr3t-Pa55'", "app@?"),
    ("setenv PGPASSWORD s3cr3t-Pa55", "?"),
    ("ENV PGPASSWORD s3cr3t-Pa55", "?"),
    ('$env:PGPASSWORD = "s3cr3t-Pa55"', "?"),
    ("os.environ['PGPASSWORD'] = 's3cr3t-Pa55'", "?"),
    ('- "PGPASSWORD=s3cr3t-Pa55"', "?"),
    ("helm install x --set postgresql.auth.password=s3cr3t-Pa55", "?"),
    ("environment: {POSTGRES_USER: app, POSTGRES_PASSWORD: s3cr3t-Pa55}", "app@?"),
    (r'["psycopg.connect(host=\"db.example.com\", user=\"app\", password=\"s3cr3t-Pa55\")\n"]', "app@db.example.com"),
]


@pytest.mark.parametrize(("line", "target"), ONE_LINE)
def test_a_credential_in_one_line_is_found_with_where_it_leads(line: str, target: str) -> None:
    found = databases(f"first\n{line}\nlast\n")
    assert [(one.line, str(one.target), one.secret) for one in found] == [(2, target, SECRET)]


@pytest.mark.parametrize("line", [line for line, _ in ONE_LINE])
def test_it_is_found_in_windows_files_and_deep_in_long_lines_too(line: str) -> None:
    assert [one.secret for one in databases(f"a\r\n{line}\r\n")] == [SECRET]
    if "://" in line:
        assert [one.secret for one in databases(f'{"x, " * 30_000}"{line}" {"y, " * 30_000}')] == [SECRET]


FILES = {
    ".pgpass": ("# mine\n*:*:*:app:s3cr3t-Pa55\n", "app@*"),
    "pg_service.conf": (
        "[shop]\nhost=db.example.com\nport=5433\ndbname=shop\nuser=app\npassword=s3cr3t-Pa55\n",
        "app@db.example.com:5433/shop",
    ),
    ".env": (
        "DB_HOST=db.example.com\nDB_PORT=5433\nDB_NAME=shop\nDB_USER=app\nDB_PASSWORD=s3cr3t-Pa55 # old\n",
        "app@db.example.com:5433/shop",
    ),
    "staging.env": ("export STAGING_DB_HOST='db.example.com'\nexport STAGING_DB_PASSWORD=\"s3cr3t-Pa55\"\n", "db.example.com"),
    "compose.yaml": (
        "services:\n  db:\n    environment:\n"
        "      POSTGRES_USER: app\n      POSTGRES_PASSWORD: s3cr3t-Pa55\n      POSTGRES_DB: shop\n",
        "app@?/shop",
    ),
    "compose2.yaml": (
        "services:\n  db:\n    environment:\n      - PGHOST=db.example.com\n      - PGUSER=app\n      - PGPASSWORD=s3cr3t-Pa55\n",
        "app@db.example.com",
    ),
    "pod.yaml": (
        "env:\n  - name: PGHOST\n    value: db.example.com\n  - name: PGPASSWORD\n    value: 's3cr3t-Pa55'\n",
        "db.example.com",
    ),
    "secret.yaml": (
        "kind: Secret\ndata:\n  PGHOST: " + base64.b64encode(b"db.example.com").decode() + "\n"
        "  PGPASSWORD: " + base64.b64encode(SECRET.encode()).decode() + "\n",
        "db.example.com",
    ),
    "secret2.yaml": (
        "kind: Secret\ndata:\n  url: " + base64.b64encode(b"postgres://app:s3cr3t-Pa55@db.example.com/shop").decode() + "\n",
        "app@db.example.com/shop",
    ),
    "main.tf": (
        'provider "postgresql" {\n  host     = "db.example.com"\n  port     = 5432\n'
        '  username = "app"\n  password = "s3cr3t-Pa55"\n}\n',
        "app@db.example.com:5432",
    ),
    "variables.tf": ('variable "db_password" {\n  type    = string\n  default = "s3cr3t-Pa55"\n}\n', "?"),
    "settings.json": (
        '{"database": {\n  "host": "db.example.com",\n  "port": 5432,\n  "user": "app",\n  "password": "s3cr3t-Pa55"\n}}\n',
        "app@db.example.com:5432",
    ),
    "settings.py": ('DB_HOST = "db.example.com"\nDB_PASSWORD = "s3cr3t-Pa55"\nDB_USER = get_user()\n', "db.example.com"),
    "boot.properties": (
        "spring.datasource.url=jdbc:postgresql://db.example.com:5433/shop\n"
        "spring.datasource.username=app\nspring.datasource.password=s3cr3t-Pa55\n",
        "app@db.example.com:5433/shop",
    ),
    "persistence.xml": (
        '<property name="javax.persistence.jdbc.url" value="jdbc:postgresql://db.example.com/shop"/>\n'
        '<property name="javax.persistence.jdbc.password" value="s3cr3t-Pa55"/>\n',
        "db.example.com/shop",
    ),
    "database.yml": (
        "production:\n  adapter: postgresql\n  host: db.example.com\n  username: app\n  password: s3cr3t-Pa55\n",
        "app@db.example.com",
    ),
    "django.py": (
        "DATABASES = {'default': {\n  'ENGINE': 'django.db.backends.postgresql',\n  'USER': 'app',\n"
        "  'PASSWORD': 's3cr3t-Pa55',\n  'HOST': 'db.example.com'}}\n",
        "app@db.example.com",
    ),
    "values.yaml": ("postgresql:\n  auth:\n    username: app\n    password: s3cr3t-Pa55\n", "app@?"),
    "config.toml": ('[database]\nhost = "db.example.com"\npassword = "s3cr3t-Pa55"\n', "db.example.com"),
    "terraform.tfstate": (
        '{"resources":[{"instances":[{"attributes":{"address":"db.example.com","engine":"postgres",'
        '"password":"s3cr3t-Pa55","port":5432,"username":"app"}}]}]}\n',
        "app@db.example.com:5432",
    ),
    "minified.json": (
        '{"database":{"host":"db.example.com","port":5432,"user":"app","password":"s3cr3t-Pa55"}}\n',
        "app@db.example.com:5432",
    ),
    "userlist.txt": ('"hashed" "md5d8578edf8458ce06fbc5bb76a58c5ca4"\n"app" "s3cr3t-Pa55"\n', "app@?"),
    "application.properties": ("spring.datasource.db.password=s3cr3t-Pa55\nspring.datasource.db.username=app\n", "app@?"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_credential_whose_parts_stand_in_lines_of_their_own_is_found(name: str) -> None:
    text, target = FILES[name]
    found = [one for one in databases(text, name) if one.certain]
    assert [(str(one.target), one.secret) for one in found] == [(target, SECRET)]
    line = text.splitlines()[found[0].line - 1]
    assert SECRET in line or base64.b64encode(SECRET.encode()).decode() in line or "cG9zdGdyZXM6" in line


IN_BASE64 = {
    "an item": "items:\n- kind: Secret\n  data:\n    PGPASSWORD: {s3cr3t-Pa55}\n",
    "one line": '{"kind":"Secret","data":{"POSTGRES_PASSWORD":"{s3cr3t-Pa55}"}}\n',
    "flow": "kind: Secret\ndata: {POSTGRES_PASSWORD: {s3cr3t-Pa55}}\n",
    "folded": "kind: Secret\ndata:\n  url: >-\n    {postgres://app:s3cr3t-Pa55@db.example.com/shop}\n",
    "a file": "kind: Secret\ndata:\n  .env: {DB_HOST=db.example.com\nDB_PASSWORD=s3cr3t-Pa55\n}\n",
    "a password file": "kind: Secret\ndata:\n  .pgpass: {db.example.com:5432:shop:app:s3cr3t-Pa55\n}\n",
}


@pytest.mark.parametrize("manifest", IN_BASE64)
def test_what_a_manifest_holds_in_base64_is_read(manifest: str) -> None:
    text = re.sub(
        r"\{([^{}]*s3cr3t-Pa55[^{}]*)\}", lambda match: base64.b64encode(match[1].encode()).decode(), IN_BASE64[manifest]
    )
    assert SECRET not in text
    assert [one.secret for one in databases(text, "x.yaml") if one.certain] == [SECRET]


CUT = ["'", '"', "`", "<", ">", "\\", " "]


@pytest.mark.parametrize("sign", CUT)
def test_no_part_of_a_password_is_taken_for_a_host(sign: str) -> None:
    """The sign ends the URL for the scan, and the password for nobody."""
    for text in (
        f"DATABASE_URL=postgres://app:one@two{sign}three@db.example.com/shop",
        f"url: 'postgres://app:one@two/x{sign}three@db.example.com/shop'",
    ):
        found = databases(text, ".env")
        assert found
        assert not [one for one in found if "two" in str(one.target) or "three" in str(one.target)]
    assert [str(one.target) for one in databases('["postgres://app:one@db/shop","me@example.com"]', "x.json")] == ["app@db/shop"]


def test_a_password_file_is_read_as_libpq_reads_it() -> None:
    """Signs are escaped, and a password ends at the next colon."""
    text = "2001\\:db8\\:\\:1:5432:shop:app:s3cr3t\\:Pa55\nh:*:*:*:one1:more\n"
    found = databases(text, "/home/me/.pgpass")
    assert [(str(one.target), one.secret) for one in found] == [("app@2001:db8::1:5432/shop", "s3cr3t:Pa55"), ("h", "one1")]
    assert databases("a:12:b:c:d:e") == []


def test_parts_of_two_credentials_are_not_mixed() -> None:
    text = "[staging]\nhost=a\npassword=one1\n[production]\nhost=b\npassword=two2\n"
    assert [(str(one.target), one.secret) for one in databases(text, "pg_service.conf")] == [("a", "one1"), ("b", "two2")]
    text = "staging:\n  db_host: a\n  db_password: one1\nproduction:\n  db_host: b\n  db_password: two2\n"
    assert [(str(one.target), one.secret) for one in databases(text, "x.yml")] == [("a", "one1"), ("b", "two2")]
    text = "A_DB_HOST=a\nB_DB_HOST=b\nA_DB_PASSWORD=one1\nB_DB_PASSWORD=two2\n"
    assert [(str(one.target), one.secret) for one in databases(text, ".env")] == [("a", "one1"), ("b", "two2")]


HARMLESS = [
    ("x.md", "Set `postgresql://USER:<password>@HOST/DB` in the file."),
    ("dbshield.toml", "# postgresql://USER@HOST:PORT/DATABASE"),
    ("x.md", "postgres://USER:${PASSWORD}@HOST:PORT/DB and postgres://app:{password}@{host}:{port}/shop in it."),
    ("x.sql", "create role backup login password '…';"),
    ("x.toml", 'upstream = "postgresql://dbshield@db.example.com/shop"\npassword_env = "PGPASS"\npassword_file = "/run/x"'),
    ("x.yml", "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD}"),
    ("x.yml", "DATABASE_URL: postgres://app:${PGPASSWORD}@db/shop"),
    ("x.tpl", "postgres://{{ user }}:{{ password }}@{{ host }}/shop"),
    (".env", "DB_PASSWORD=\nDB_HOST=db.example.com"),
    ("x.py", "DB_PASSWORD = os.environ['DB_PASSWORD']\npassword: str | None = None\nconnect(password=password, host=host)"),
    ("x.py", "db_password = read_secret(path)"),
    ("x.log", "src/main.c:12:5: error: expected ;"),
    ("x.sql", "create role app login; alter role app password null;"),
    ("x.env", "MYSQL_PASSWORD=root\nSMTP_PASSWORD=abc\nREDIS_HOST=x"),
]


@pytest.mark.parametrize(("name", "text"), HARMLESS)
def test_what_is_no_credential_is_left_alone(name: str, text: str) -> None:
    assert [one for one in find(text, name) if one.certain] == []


TOKENS = [
    ("RAILWAY_TOKEN=0f3a8c51-7b6e-4e0e-9d6a-2f1c0b9a8d7e", "RAILWAY_TOKEN", Power.INFRASTRUCTURE),
    ('"NEON_API_KEY": "abcdefghij0123456789"', "NEON_API_KEY", Power.INFRASTRUCTURE),
    ("token sbp_" + "0a" * 20, "Supabase access token", Power.INFRASTRUCTURE),
    ("dop_v1_" + "0a" * 32, "DigitalOcean token", Power.INFRASTRUCTURE),
    ("key AKIAQWERTYUIOPASDFGH", "AWS Access Key", Power.INFRASTRUCTURE),
    ("-----BEGIN RSA PRIVATE KEY-----", "Private Key", Power.INFRASTRUCTURE),
    ("sk_live_" + "a1" * 12, "Stripe Access Key", Power.OTHER),
    ("dbs_staging_" + "a" * 12 + "_" + "b" * 32, "dbshield token", Power.PROXY),
]


@pytest.mark.parametrize(("line", "what", "power"), TOKENS)
def test_a_providers_token_is_found(line: str, what: str, power: Power) -> None:
    assert [(one.line, one.what, one.power) for one in find(f"\n{line}\n", "x")] == [(2, what, power)]


def test_a_known_password_is_found_wherever_it_stands() -> None:
    (found,) = find("he said: use s3cr3t-Pa55, it works\n", "chat.txt", {SECRET: "password of production"})
    assert (found.what, found.line) == ("password of production", 1)
    assert find("short", "x", {"short": "password of x"}) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:s3c@r3t@db.example.com/shop",
        "postgresql://app:s3/cr3t@db.example.com/shop",
        "postgresql://app:s3?cr3t@db.example.com/shop",
        "postgresql://app:s3?c=r3t@db.example.com/shop",
        "postgresql://app:12?34@db.example.com/shop",
        "postgresql://app:s3#cr3t@db.example.com/shop",
        "postgresql://app:s3:cr3t@db.example.com/shop",
    ],
)
def test_no_part_of_a_badly_written_password_is_shown(url: str) -> None:
    (found,) = databases(url)
    password = url.split("app:")[1].rsplit("@", 1)[0]
    shown = f"{found!r} {found.target} {found.fingerprint}"
    for part in password.replace("/", "?").replace("@", "?").replace("=", "?").split("?"):
        assert len(part) < 2 or part not in shown.replace("5432", "")
    assert "db.example.com" in shown


def test_a_fingerprint_tells_equal_secrets_and_nothing_else() -> None:
    first, second = (databases(f"postgres://a:{secret}@h/d")[0] for secret in ("one11", "two22"))
    assert first.fingerprint == databases("PGPASSWORD=one11")[0].fingerprint != second.fingerprint
    assert len(first.fingerprint) == 8
    assert "one11" not in repr(first)


@given(st.text(max_size=300))
def test_no_text_breaks_the_scan(text: str) -> None:
    for name in (".pgpass", ".env", "x.yaml", "pg_service.conf", "x.py"):
        for found in find(text, name):
            assert 1 <= found.line <= max(1, len(text.splitlines()))
            assert found.secret


@pytest.mark.parametrize(
    "piece", ["postgres://", "a:1:", "host=", "password = '", "x" * 50 + ",", "create role a ", "\\", "TF_A_", "eyJ"]
)
def test_long_lines_take_little_time(piece: str) -> None:
    """Quadratic patterns would take minutes for these; a file may be 10 MB."""
    begin = time.process_time()
    find(piece * (200_000 // len(piece)), "x.env")
    assert time.process_time() - begin < 20
