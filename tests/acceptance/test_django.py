"""Django as its users run it, with the proxy and the guard at once: migrations that add, the work of models, one that destroys.

docs/how-to/migrations.md says what is shown here. Django keeps its settings in the process, so each run is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from support import servers
from support.roles import ENVIRONMENT, keep_to_itself
from support.shield import Shield, running_shield

from dbshield.guard.install import Options, install

pytestmark = pytest.mark.one_server(by="module")

PROCESS_TIMEOUT = 120.0
OWNER = "app_owner"
START_AGAIN = """do $$ declare name text; begin
    for name in select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' loop
        execute format('drop table %s cascade', name);
    end loop;
end $$"""

SETTINGS = """
import json, os

given = json.loads(os.environ["DATABASE"])
options = {"sslmode": "disable", "server_side_binding": True} if "password" in given else {"options": "-c role=app_owner"}
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "CONN_HEALTH_CHECKS": True, "CONN_MAX_AGE": None, "OPTIONS": options,
    **{key: given.get(word, "") for key, word in
       {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password", "NAME": "dbname"}.items()},
}}
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "django.contrib.admin",
    "django.contrib.messages", "django.contrib.postgres", "library",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "for a test"
USE_TZ = True
"""

MODELS = """
import uuid

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)
    born = models.DateField(null=True)
    motto = models.CharField(max_length=50, default="")


class Book(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    title = models.CharField(max_length=200, db_index=True)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")
    price = models.DecimalField(max_digits=8, decimal_places=2)
    extra = models.JSONField(default=dict)
    words = ArrayField(models.CharField(max_length=30), default=list)
    search = SearchVectorField(null=True)

    class Meta:
        indexes = [GinIndex(fields=["search"])]
        constraints = [models.CheckConstraint(condition=models.Q(price__gte=0), name="no_gift")]
"""

LATER = (
    MODELS.replace('motto = models.CharField(max_length=50, default="")', "motto = models.CharField(max_length=50, null=True)")
    .replace("born =", "rank = models.IntegerField(default=3)\n    seen = models.DateTimeField(db_default=Now())\n    born =")
    .replace("price =", 'tags = models.ManyToManyField("Tag")\n    price =')
    .replace('"no_gift")]', '"no_gift"), models.UniqueConstraint(fields=["author", "title"], name="one_title")]')
    .replace("from django.db import models", "from django.db import models\nfrom django.db.models.functions import Now")
    + """

class Tag(models.Model):
    slug = models.SlugField(unique=True)
"""
)

BY_HAND = """
from django.contrib.postgres.operations import AddIndexConcurrently, TrigramExtension
from django.db import migrations, models


def fill(apps, editor):
    Author = apps.get_model("library", "Author")
    Author.objects.bulk_create([Author(name=f"Author {i}") for i in range(150)])
    Author.objects.filter(name="Author 0").update(rank=1)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("library", "0002_later")]
    operations = [
        TrigramExtension(),
        migrations.RunPython(fill),
        AddIndexConcurrently("author", models.Index(fields=["rank"], name="author_rank")),
    ]
"""

LAST = LATER.replace(
    "\n\nclass Book",
    """
    class Meta:
        indexes = [models.Index(fields=["rank"], name="author_rank")]


class Book""",
)
GONE = LAST.replace(
    "    words = ArrayField(models.CharField(max_length=30), default=list)\n",
    "    note = models.TextField(null=True)\n",
)

COMMANDS = """
import os, sys

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
from django.core.management import call_command

django.setup()
for words in sys.argv[1:]:
    call_command(*words.split())
"""

WORK = """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django

django.setup()
from django.contrib.auth.models import Group, Permission, User
from django.contrib.postgres.aggregates import ArrayAgg
from django.contrib.postgres.search import SearchQuery, SearchVector
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import Avg, Count, Exists, F, OuterRef, Prefetch, Q, Window
from django.db.models.functions import Lower, Rank, TruncMonth
from library.models import Author, Book, Tag

people = [Author(name=f"A{i}") for i in range(300)]
Author.objects.bulk_create(people)
Author.objects.bulk_create([Author(name=f"A{i}") for i in range(20)], ignore_conflicts=True)
Author.objects.bulk_create(
    [Author(name=f"A{i}", rank=9) for i in range(20)], update_conflicts=True, update_fields=["rank"], unique_fields=["name"])
ann = Author.objects.get_or_create(name="Ann")[0]
tags = [Tag.objects.get_or_create(slug=f"t{i}")[0] for i in range(4)]
for i in range(30):
    book = Book.objects.create(title=f"B{i}", author=ann, price=i, extra={"k": i, "in": {"a": [1]}}, words=["x", "y"])
book.tags.set(tags)
book.tags.remove(tags[0])

assert Author.objects.prefetch_related(Prefetch("books", Book.objects.filter(price__gt=3))).get(name="Ann").books.count() == 26
assert Book.objects.filter(extra__in__a__contains=[1], extra__k__gte=1, words__contains=["x"]).count() == 29
assert Book.objects.aggregate(a=Avg("price"), b=Count("author", distinct=True), c=ArrayAgg("title"))["b"] == 1
ranked = Book.objects.annotate(r=Window(Rank(), order_by=F("price").desc()), l=Lower("title")).select_related("author")
assert [book.r for book in ranked.order_by("-price")[:2]] == [1, 2]
assert Author.objects.filter(Exists(Book.objects.filter(author=OuterRef("pk"))), ~Q(name__iregex="^b")).count() == 1
assert "Scan" in Book.objects.filter(price__gt=3).explain(analyze=True)
Book.objects.filter(price__lt=20).update(search=SearchVector("title"))
assert Book.objects.filter(search=SearchQuery("b7")).count() == 1
assert sum(1 for _ in Author.objects.iterator(chunk_size=50)) >= 301  # a cursor of the server's
Author.objects.annotate(m=TruncMonth("seen")).values("m").annotate(n=Count("id")).get()

with transaction.atomic():
    Author.objects.select_for_update(nowait=True).get(name="Ann")
    list(Author.objects.select_for_update(skip_locked=True, of=("self",))[:5])
    try:
        with transaction.atomic():
            Author.objects.create(name="Ann")
    except IntegrityError:
        Author.objects.create(name="Ann again")
    Author.objects.filter(name="Ann again").update(rank=F("rank") + 1)
for person in people[:60]:
    person.rank = 5
Author.objects.bulk_update(people[:60], ["rank"])
Book.objects.filter(price__gte=25).delete()
Author.objects.get(name="Ann again").delete()
group = Group.objects.create(name="staff")
group.permissions.set(Permission.objects.all()[:5])
assert User.objects.create_user("kim", password="pw").has_perm("library.add_book") is False

with connection.cursor() as cursor:
    for table in connection.introspection.table_names(cursor, include_views=True):
        connection.introspection.get_table_description(cursor, table)
        connection.introspection.get_constraints(cursor, table)
assert connection.is_usable()
call_command("inspectdb", "library_book", stdout=open(os.devnull, "w"))
print("done")
"""


class Project:
    """A Django project in a folder, before the databases of a shield's agents, or of whoever owns the tables."""

    def __init__(self, folder: Path, shield: Shield) -> None:
        self.folder = folder
        self.shield = shield
        (folder / "library" / "migrations").mkdir(parents=True)
        for package in ("library", "library/migrations"):
            (folder / package / "__init__.py").touch()
        for file, text in (("settings.py", SETTINGS), ("manage.py", COMMANDS), ("work.py", WORK)):
            (folder / file).write_text(text)

    def models(self, text: str) -> None:
        (self.folder / "library" / "models.py").write_text(text)

    def run(self, agent: str, *words: str, file: str = "manage.py") -> subprocess.CompletedProcess[str]:
        """Run a file of the project as an agent, or as the owner of the tables."""
        shield = self.shield
        given = conninfo_to_dict(shield.server.dsn(shield.database)) if agent == OWNER else shield.parameters(agent)
        return subprocess.run(
            [sys.executable, file, *words],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "DATABASE": json.dumps(given), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=PROCESS_TIMEOUT,
        )

    def good(self, agent: str, *words: str, file: str = "manage.py") -> str:
        done = self.run(agent, *words, file=file)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def value(self, query: str) -> Any:
        with self.shield.server.connect(self.shield.database) as admin:
            row = admin.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def takes_null(self, table: str, column: str) -> bool | None:
        """None where there is no such column."""
        found = self.value(
            f"select max((not attnotnull)::int) from pg_attribute where attrelid = '{table}'::regclass and attname = '{column}'"
        )
        return None if found is None else bool(found)


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """With what comes with Django migrated by the owner, and two migrations of its own by an agent."""
    with servers.own_server(request.param, f"django-{request.param}") as server:
        keep_to_itself(server)
        folder = servers.here() / f"{server.cluster.folder.name}-shield"
        with running_shield(server, "django", folder, agents=()) as shield:
            with server.connect("django") as admin:
                admin.execute("alter schema public owner to app_owner")
                install(admin, Options(environment=ENVIRONMENT))
            for access in ("write", "migrate"):
                words = ("create", access, "--access", access, "--environment", ENVIRONMENT, "--json")
                shield._dsn[access] = json.loads(shield.cli("agent", *words, "--dsn", server.dsn("django")))["dsn"]
            yield Project(tmp_path_factory.mktemp("django"), shield)


def test_the_first_migrate_of_a_new_project_is_the_owners(project: Project) -> None:
    """contenttypes.0002 drops a column that Django made a moment before; the agent leaves it as it was."""
    project.models("")
    stopped = project.run("migrate", "migrate -v0")
    assert "DS104" in stopped.stderr
    assert "Leave the column in place" in stopped.stderr
    assert project.value("select count(*) from django_migrations where name = '0002_remove_content_type_name'") == 0
    assert project.value(
        "select attnotnull from pg_attribute where attrelid = 'django_content_type'::regclass and attname = 'name'"
    )
    with project.shield.server.connect(project.shield.database) as admin:
        admin.execute(START_AGAIN)
    project.good(OWNER, "migrate -v0 contenttypes", "migrate -v0 auth")
    project.good("migrate", "migrate -v0")
    assert project.value("select count(*) from django_migrations where app in ('admin', 'sessions')") == 4


def test_migrations_that_add_pass(project: Project) -> None:
    """What Django writes for new models, fields, relations, indexes and constraints, and for a column that may be NULL."""
    project.models(MODELS)
    project.good("migrate", "makemigrations -v0 library", "migrate -v0")
    project.models(LATER)
    project.good("migrate", "makemigrations -v0 library -n later", "migrate -v0")
    (project.folder / "library" / "migrations" / "0003_by_hand.py").write_text(BY_HAND)
    project.models(LAST)
    project.good("migrate", "migrate -v0", "makemigrations --check --dry-run -v0")
    assert project.value("select count(*) from library_author") == 150
    assert project.value(
        "select not attnotnull from pg_attribute where attrelid = 'library_author'::regclass and attname = 'motto'"
    )
    assert project.value("select count(*) from pg_attrdef where adrelid = 'library_author'::regclass") == 1, "seen alone has one"


def test_models_work_as_ever(project: Project) -> None:
    assert project.good("write", file="work.py") == "done\n"
    assert project.value("select count(*) from library_book") == 25


def test_a_migration_that_destroys_has_not_happened(project: Project) -> None:
    project.models(GONE)
    stopped = project.run("migrate", "makemigrations -v0 library -n gone", "migrate -v0")
    assert "DS104" in stopped.stderr
    assert project.value("select count(*) from django_migrations where name like '%gone'") == 0
    assert project.value("select count(*) from library_book where words = '{x,y}'") == 25
    assert project.value("select to_regclass('library_tag') is not null")
    assert project.takes_null("library_book", "note") is None
