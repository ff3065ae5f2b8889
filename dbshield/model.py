"""The words of the domain: who asks, what a statement does, and what is said about it.

Everything here is a value: frozen, slotted, keyword-only, and free of I/O. Layers pass these to each other and never change
what another layer made. A word that is not known here is stopped by whoever meets it, under a name of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final


@unique
class AccessLevel(StrEnum):
    """What an agent may do at most, from least to most."""

    READ = "read"
    WRITE = "write"
    MIGRATE = "migrate"


@unique
class Operation(StrEnum):
    """What one effect does to its object. The list is closed: a reader that meets anything else says UNKNOWN."""

    READ = "read"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    CREATE = "create"
    REPLACE = "replace"
    ALTER = "alter"
    DROP = "drop"
    CALL = "call"
    EXECUTE = "execute"
    SET = "set"
    LOCK = "lock"
    GRANT = "grant"
    TRANSACTION = "transaction"
    CURSOR = "cursor"
    NOTIFY = "notify"
    MAINTAIN = "maintain"
    FILE = "file"
    PROGRAM = "program"
    UNKNOWN = "unknown"


@unique
class ObjectKind(StrEnum):
    """What an effect acts on."""

    TABLE = "table"
    COLUMN = "column"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    INDEX = "index"
    SEQUENCE = "sequence"
    SCHEMA = "schema"
    DATABASE = "database"
    FUNCTION = "function"
    TYPE = "type"
    TRIGGER = "trigger"
    POLICY = "policy"
    RULE = "rule"
    CONSTRAINT = "constraint"
    EXTENSION = "extension"
    ROLE = "role"
    LARGE_OBJECT = "large object"
    SETTING = "setting"
    STATEMENT = "statement"
    SESSION = "session"
    OTHER = "other"


@unique
class Flag(StrEnum):
    """What else is known of an effect."""

    BOUNDED = "bounded"
    """A condition constrains at least one column of the rows it may touch."""
    CASCADE = "cascade"
    """Dependent objects go too."""
    TEMPORARY = "temporary"
    """The object lives in the session's own temporary schema."""
    CONCURRENT = "concurrent"
    IF_EXISTS = "if exists"
    REWRITE = "rewrite"
    """Stored values are rewritten in place."""
    LITERAL = "literal"
    """A rule had to read a literal to judge this effect, so the verdict holds for the exact text alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectName:
    """A name as the statement spells it, unquoted and folded as PostgreSQL folds it; `schema` is empty where none is given."""

    schema: str = ""
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One operation on one object."""

    operation: Operation
    kind: ObjectKind
    name: ObjectName
    flags: frozenset[Flag] = frozenset()
    detail: str = field(default="", repr=False)
    """What operation and kind leave open: which ALTER, the mode of a LOCK, the value of a SET. Not for logs."""

    @property
    def bounded(self) -> bool:
        return Flag.BOUNDED in self.flags

    def __str__(self) -> str:
        flags = "".join(f" {flag}" for flag in sorted(self.flags))
        return f"{self.operation} {self.kind} {self.name}{flags}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """The statement goes through as the client wrote it."""

    word = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The statement goes through while it changes at most `max_rows` rows in its transaction."""

    max_rows: int
    word = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A human decides."""

    word = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Nobody runs this through the shield."""

    word = "deny"


Verdict = Allow | Limit | Hold | Deny
"""Closed: match it with `assert_never`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that spoke: why, about which effect, and what the agent can do instead (at most 300 characters each)."""

    rule: str
    name: str
    verdict: Verdict
    message: str
    hint: str
    effect: Effect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A statement of a text whose changed rows are counted: its place in the text, from 0, and whether the rows that it
    inserts count too (COPY FROM), or only those that it updates and deletes. `planned` is true where functions may change rows
    that the server calls while it analyses and plans the statement, so that preparing and binding it are counted as well."""

    statement: int
    inserts: bool = False
    planned: bool = False


VALUE_BYTES: Final = 1 << 10
"""Bytes that the audit shows of one value."""
VALUE_MARGIN: Final = 128
"""Bytes that are kept beyond: a token is hidden before a value is cut, and half of one would not be known for what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundValue:
    """A value that a client bound to a parameter: the OID of its type as the client gave it (0: left to the server), its format
    (0 text, 1 binary), its beginning, with the margin where there is more, None for NULL, and its whole length in bytes."""

    type: int
    format: int
    value: bytes | None = field(repr=False)
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundValues:
    """The values of one execution, as far as they are kept; `left_out` is how many are not, None where that is not known."""

    values: tuple[BoundValue, ...]
    left_out: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the policy says of one text: the hardest verdict of its statements, and everything that led to it.

    `normal` is the text with its constants blanked, safe to log. `statements` counts the statements in the text (0 for an
    empty one). `shape_only` is true when no literal was read, so that every text of the same shape is judged alike.
    `counted` names, in order, the statements that a Limit is about; it is empty for every other verdict. `resets` is true when
    the text takes back what the session itself has set or prepared (RESET ALL, DISCARD ALL, DEALLOCATE ALL). `prepares` has the
    names that PREPARE gives to statements in the text. `observed` is set where the policy only observes: what it would have said,
    while `verdict` is Allow. `writes` is false only where it is certain that the text changes nothing: no rows, no definitions,
    no numbers of sequences. `values` is what was bound, where the audit shows that; no judge says it. `passes` is true where the
    session has nothing to do for the text but to let it by; it follows from the others.
    """

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    effects: tuple[Effect, ...] = ()
    normal: str = ""
    statements: int = 1
    shape_only: bool = True
    counted: tuple[Counted, ...] = ()
    resets: bool = False
    prepares: tuple[str, ...] = ()
    observed: Verdict | None = None
    writes: bool = True
    values: BoundValues | None = field(default=None, repr=False)
    passes: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", type(self.verdict) is Allow and not (self.resets or self.prepares))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScope:
    """What a token narrows of its agent's rights; what is empty narrows nothing.

    `access` is the most that it gives. `networks` are those it may be used from, as in 10.0.0.0/8, or "socket" for a Unix socket.
    `hours` are those in which it works, as in "Mon-Fri 08:00-18:00 Europe/Berlin".
    """

    access: AccessLevel | None = None
    databases: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    hours: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVerifier:
    """What is kept of a token: enough to check a SCRAM-SHA-256 proof, not enough to make one (RFC 5803).

    `expires_at` is in seconds since 1970, UTC.
    """

    token_id: str
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    expires_at: float
    scope: TokenScope = TokenScope()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The protected server as one agent reaches it. `host` is a name, an address, or the folder of a Unix socket.

    `sslmode` has libpq's words: disable, prefer, require, verify-ca, verify-full.
    """

    host: str
    port: int
    user: str
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    sslrootcert: str = ""

    @property
    def is_socket(self) -> bool:
        return self.host.startswith("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLogin:
    """All that a login of one agent needs. Every token of an agent shares `salt` and `iterations`, because SCRAM asks for
    them before it is known which token the client holds."""

    agent: str
    environment: str
    access: AccessLevel
    databases: tuple[str, ...]
    salt: bytes = field(repr=False)
    iterations: int
    tokens: tuple[TokenVerifier, ...]
    upstream: Upstream

    @property
    def user(self) -> str:
        """The user name that the client logs in with."""
        return f"{self.agent}.{self.environment}"
