"""The judge: one text in, one judgement out. It never raises, and what it cannot read it stops.

One judge serves every session with the same policy in one environment and database, so it holds their verdict cache. A text is
looked up as it is, then by its shape (its tokens with the constants blanked), and only then read. What may be kept by shape, and
why that is safe, stands in docs/decisions/0006-verdict-cache.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace

from dbshield.model import (
    AccessLevel,
    Allow,
    Counted,
    Effect,
    Finding,
    Judgement,
    Limit,
    ObjectKind,
    ObjectName,
    Operation,
)
from dbshield.policy import counting
from dbshield.policy.allowed import allowed_access
from dbshield.policy.cache import VerdictCache
from dbshield.policy.catalogue import BY_TROUBLE, CURSOR_WITH_HOLD, EFFECT_RULES, NOT_LISTED
from dbshield.policy.functions import Function, FunctionCatalogue, argument, created_in, harder, redefines
from dbshield.policy.made import Made, Names, inserted_in, made_in, makes, meet, used_in
from dbshield.policy.policy import Policy
from dbshield.policy.rules.base import Context, Rule
from dbshield.policy.rules.frozen import writes
from dbshield.policy.settings import KNOWN_TEXTS
from dbshield.sqltext import normal
from dbshield.sqltext.agreement import agree, needs_second_reader
from dbshield.sqltext.native import GrammarError
from dbshield.sqltext.postgres import QUERIES, read
from dbshield.sqltext.statement import Statement, Trouble, Unreadable

MAX_CACHED_TEXT = 16 << 10
"""Longer texts are judged each time: they are bulk data, and seldom come twice."""

CACHE_BYTES = 32 << 20
"""What the verdicts of one judge may hold of memory unless it is told otherwise, shared between texts and shapes."""

MAX_INSERTED = 10_000
"""Names of relations that kept verdicts insert into; beyond that all verdicts are forgotten, and the names with them."""

MAX_CREATED = 1_000
"""Created functions that a judge knows before the catalogue shows them."""

SHAPED = frozenset(QUERIES.values())
"""Kinds whose verdict may be kept by shape: libpg_query blanks every constant of these, and of no others."""

RULES_FOR: dict[Operation, tuple[Rule, ...]] = {
    operation: tuple(rule for rule in EFFECT_RULES if operation in rule.operations) for operation in Operation
}


class Judge:
    """Judges texts by one policy. `hits` counts verdicts from the cache, `misses` those that were worked out."""

    def __init__(
        self,
        *,
        policy: Policy,
        functions: FunctionCatalogue,
        cache_entries: int = 10_000,
        max_statement_bytes: int = 1 << 20,
        full: bool = False,
    ) -> None:
        """With `full`, what is written down of a text is the text as it was sent, constants and all."""
        self.policy = policy
        self.full = full
        self.functions = functions
        self.max_statement_bytes = max_statement_bytes
        self.hits = 0
        self.misses = 0
        self._defining = policy.for_definitions()
        self._catalogue = functions
        self._created: dict[str, Function] = {}
        self._made = Made()
        self._given = counting.Given(policy, functions, self._made)
        self._inserted: set[str] = set()
        """Into which relations the texts insert whose verdicts are kept; which they read as well, where that may change rows."""
        self.on_redefined: Callable[[], None] | None = None
        """Called when a text passes that changes functions, or what calls one, unless it passed before."""
        self.on_made: Callable[[Set[str]], None] | None = None
        """Called when a text passes that makes or changes relations, with those of their names that were not known for it: what
        was said of an INSERT there holds no more."""
        self._texts = VerdictCache(max_entries=cache_entries, max_bytes=CACHE_BYTES // 2)
        self._shapes = VerdictCache(max_entries=cache_entries, max_bytes=CACHE_BYTES // 2)

    @property
    def access(self) -> AccessLevel:
        return self.policy.access

    def judge(self, text: bytes) -> Judgement:
        """The judgement of the text of a Query or Parse message, without its NUL."""
        found = self._texts.young.get(text)
        if found is not None:
            self.hits += 1
            return found
        return self._in_full(self._look_further(text), text) if self.full else self._look_further(text)

    def judge_function(self, oid: int, arguments: Sequence[bytes | None], formats: Sequence[int] = ()) -> Judgement:
        """The judgement of a FunctionCall message: its function's OID, its arguments, and their formats (0 text, 1 binary;
        none at all means text, a single one is for all of them)."""
        function = self.functions.numbered(oid)
        if function is None:
            return self._function_stopped(f"function call {oid}", message=f"function number {oid}")
        values = (argument(value, index, formats) for index, value in enumerate(arguments))
        effect = Effect(
            operation=Operation.CALL,
            kind=ObjectKind.FUNCTION,
            name=ObjectName(schema=function.schema, name=function.name),
            detail="\n".join(values) if function.name in {"set_config", "lo_open"} else "",
        )
        statement = Statement(kind="function call", effects=(effect,))
        logged = f"function call {function.schema}.{function.name}"
        judgement = self._judgement((statement,), logged, shape_only=False)
        if judgement.counted:
            # The session wraps statements to count what they change; there is no way to wrap this message.
            hint = "Call the function by name in a SELECT: there the rows that it changes are counted."
            return self._function_stopped(logged, message=f"{function.schema}.{function.name} may change rows", hint=hint)
        return self._final(judgement)

    def _function_stopped(self, logged: str, *, message: str, hint: str = "") -> Judgement:
        finding = BY_TROUBLE[Trouble.UNKNOWN].finding(None, message=message, hint=hint)
        return self._final(Judgement(verdict=finding.verdict, findings=(finding,), normal=logged, shape_only=False))

    def judge_length(self, length: int) -> Judgement:
        """The judgement of a text that is not even taken in, because it has `length` bytes."""
        return self._unreadable(Unreadable(Trouble.TOO_LONG, f"{length} bytes, {self.max_statement_bytes} are read"), b"")

    def use(self, functions: FunctionCatalogue) -> None:
        """Judge by this catalogue from now on; every verdict that was kept is forgotten."""
        self._catalogue = functions
        for name in [name for name in self._created if functions.named("", name)]:
            del self._created[name]
        self.functions = functions = functions.with_created(self._created.values())
        self._given = counting.Given(self.policy, functions, self._made)
        self._forget_all()

    def _forget_all(self) -> None:
        self._texts.clear()
        self._shapes.clear()
        self._inserted.clear()

    def forget(self, names: Set[str]) -> None:
        """Forget what was said of an INSERT into relations of these names, or of reading them where that may change rows; ANY
        stands for all of them."""
        if meet(names, self._inserted):
            self._inserted -= names
            reads = self.functions.reaches
            for kept in (self._texts, self._shapes):
                kept.forget(lambda judgement: (reads or judgement.writes) and meet(names, self._concerned(judgement)))

    def _concerned(self, judgement: Judgement) -> frozenset[str]:
        """The names of the relations on which a judgement rests."""
        return used_in(judgement) if self.functions.reaches else inserted_in(judgement)

    def only_reads(self, judgement: Judgement) -> bool:
        """Whether a text that was found to do nothing but read does so still, as far as relations tell."""
        return not self._given.reaches or not any(map(self._given.writes_early, judgement.effects))

    def confirms(self, judgement: Judgement, before: object) -> bool:
        """Whether what `before` said holds here too: the policy is the same, and so is all that is known of the functions that
        were called and of the relations that were written to. So a new function in the database does not take anybody's prepared
        statements away."""
        if not isinstance(before, Judge) or self.policy != before.policy or any(map(redefines, judgement.effects)):
            return False
        ours, theirs, made = self.functions, before.functions, self._made
        return (
            all(
                ours.named(effect.name.schema, effect.name.name) == theirs.named(effect.name.schema, effect.name.name)
                for effect in judgement.effects
                if effect.operation is Operation.CALL
            )
            and not any(
                effect.operation is Operation.INSERT
                and not judgement.counted
                and (ours.fires(effect.name.name) or effect.name.name in made)
                for effect in judgement.effects
            )
            and (bool(judgement.counted) or self.only_reads(judgement))
        )

    def share(self, created: dict[str, Function], made: Made) -> None:
        """Keep the functions that were created, and the names of the relations that were made, which the catalogue does not show
        yet, with other judges of the database."""
        self._created, self._made = created, made
        self.use(self._catalogue)

    def limit_length(self, max_statement_bytes: int) -> None:
        """Read texts of up to so many bytes from now on."""
        if max_statement_bytes != self.max_statement_bytes:
            self.max_statement_bytes = max_statement_bytes
            self._forget_all()

    def bound(self, cache_bytes: int) -> None:
        """Hold verdicts of so many bytes at most from now on."""
        self._texts.bound(cache_bytes // 2)
        self._shapes.bound(cache_bytes // 2)

    # -- the slower ways

    def _look_further(self, text: bytes) -> Judgement:
        found = self._texts.get(text)
        if found is not None:
            self.hits += 1
            return found
        shape: bytes | None = None
        quick = normal.quick_shape(text)
        if quick is not None:
            found = self._shapes.get(quick)
            if found is not None:
                self.hits += 1
                return found
        try:
            self._check_length(text)
            normal.check_characters(text)
            try:
                shape = normal.shape(text)
            except GrammarError:
                shape = None  # Reading says why.
            if shape is not None:
                found = self._shapes.get(shape)
                if found is not None:
                    self.hits += 1
                    if shape == text:  # no constants in it, so it comes again; a text with new ones each time would push it out
                        self._keep(text, found)
                    elif quick is not None:
                        self._shapes.put(quick, found)
                    return found
            self.misses += 1
            judgement = self._final(self._read(text, shape))
            self._learn(judgement)
        except Unreadable as trouble:
            judgement = self._unreadable(trouble, text)
        except RecursionError:
            judgement = self._unreadable(Unreadable(Trouble.TOO_DEEP, "deeper than what can be walked"), text)
        except Exception as error:  # noqa: BLE001 - the law of this class: whatever happens, the text is stopped
            judgement = self._unreadable(Unreadable(Trouble.READER_FAILED, type(error).__name__), text)
        if shape is not None and judgement.shape_only and not makes(judgement):
            self._shapes.put(shape, judgement)
            if quick is not None:
                self._shapes.put(quick, judgement)
        self._keep(text, judgement)
        return judgement

    def _learn(self, judgement: Judgement) -> None:
        """Know the functions that a text creates at once: the next one may call them, and the server's catalogue shows them only
        when they are committed. Their bodies were read, so it does no harm if they never come to be."""
        if not isinstance(judgement.verdict, (Allow, Limit)):
            return
        created = {
            function.name: harder(function, self._created.get(function.name)) for function in created_in(judgement.effects)
        }
        if created and len(self._created) + len(created) <= MAX_CREATED:
            self._created |= created
            self.use(self._catalogue)
        self.note(made_in(judgement.effects))
        if self.on_redefined is not None and any(map(redefines, judgement.effects)):
            self.on_redefined()

    def note(self, made: Set[str]) -> None:
        """What passes now makes or changes relations of these names. Where nobody asks, one text says nothing of another."""
        if self.on_made is not None and made:
            new = self._made.add(made)
            if new:
                self.forget(new)
                self.on_made(new)

    def _in_full(self, judgement: Judgement, text: bytes) -> Judgement:
        if not self._is_text(text) or judgement.normal.encode() == text:
            return judgement
        judgement = replace(judgement, normal=text.decode("utf-8"))
        self._keep(text, judgement)
        return judgement

    def _is_text(self, text: bytes) -> bool:
        """Whether it is what the server would take for a text at all; of anything else the redacted form is written down."""
        try:
            return len(text) <= self.max_statement_bytes and bool(text.decode("utf-8"))
        except UnicodeDecodeError:
            return False

    def _check_length(self, text: bytes) -> None:
        if len(text) > self.max_statement_bytes:
            raise Unreadable(Trouble.TOO_LONG, f"{len(text)} bytes, {self.max_statement_bytes} are read")

    def _keep(self, text: bytes, judgement: Judgement) -> None:
        """What makes a relation is judged each time, so that its name is noted each time."""
        if len(text) <= MAX_CACHED_TEXT and not makes(judgement):
            if len(self._inserted) > MAX_INSERTED:
                self._forget_all()
            self._inserted |= self._concerned(judgement)
            self._texts.put(text, judgement)

    def _read(self, text: bytes, shape: bytes | None) -> Judgement:
        statements = read(text)
        shaped = all(statement.kind in SHAPED for statement in statements)
        logged = normal.written(shape) if shape is not None and shaped else normal.redacted(text[:MAX_CACHED_TEXT])
        shape_only = shape is not None and shaped and not any(statement.literal for statement in statements)
        judgement = self._judgement(statements, logged, shape_only=shape_only)
        if text in KNOWN_TEXTS:
            return replace(judgement, verdict=Allow(), findings=(), counted=())
        if isinstance(judgement.verdict, (Allow, Limit)) and any(map(needs_second_reader, statements)):
            try:
                agree(text, statements)
            except Unreadable as trouble:
                finding = BY_TROUBLE[trouble.trouble].finding(None, message=trouble.message)
                return replace(judgement, verdict=finding.verdict, findings=(finding,), counted=())
        return judgement

    def _judgement(self, statements: tuple[Statement, ...], logged: str, *, shape_only: bool) -> Judgement:
        findings: list[Finding] = []
        effects: dict[Effect, None] = {}
        counted: list[Counted] = []
        given = self._given
        for place, statement in enumerate(statements):
            own = (*statement.effects, *self._row_calls(statement))
            effects.update(dict.fromkeys(own))
            if made_in(own):
                # It, or what stands behind it in the same text, may insert there.
                given = counting.Given(self.policy, self.functions, Names(self._made.names | made_in(effects)))
            spoken = self._findings(own, statement)
            findings += spoken
            count = counting.count(place, statement.kind, own, spoken, given)
            if counting.too_late(count, own) and not counting.stopping(spoken):
                findings.append(CURSOR_WITH_HOLD.finding(None, message="a cursor with hold over what may change rows"))
            if count is not None:
                counted.append(count)
        stopped = counting.stopping(findings)
        if stopped:
            counted.clear()
        verdict = counting.hardest(stopped) if stopped else Limit(max_rows=self.policy.max_rows) if counted else Allow()
        return Judgement(
            verdict=verdict,
            findings=stopped or tuple(findings),
            effects=tuple(effects),
            normal=logged,
            statements=len(statements),
            shape_only=shape_only,
            counted=tuple(counted),
            resets=counting.resets(effects),
            prepares=counting.prepares(effects),
            writes=bool(counted) or self._writes(effects),
        )

    def _final(self, judgement: Judgement) -> Judgement:
        """What leaves the judge. The one place where a policy that only observes comes in."""
        return counting.observed(judgement) if self.policy.observes else judgement

    def _writes(self, effects: Iterable[Effect]) -> bool:
        context = Context(policy=self.policy, functions=self.functions)
        return any(writes(effect, context) for effect in effects)

    def _row_calls(self, statement: Statement) -> tuple[Effect, ...]:
        """`row.name` is a call where a function of that name takes such a row, and so are syntax that the server does not know,
        and an operator or a cast that is somebody's function."""
        names = statement.attributes & self.functions.row_functions
        return tuple(
            Effect(operation=Operation.CALL, kind=ObjectKind.FUNCTION, name=called)
            for name in sorted(names)
            for called in self.functions.called_by(name)
        )

    def _findings(self, effects: tuple[Effect, ...], statement: Statement) -> list[Finding]:
        policy = self._defining if counting.defines(statement.kind) else self.policy
        context = Context(policy=policy, functions=self.functions, kind=statement.kind)
        findings: list[Finding] = []
        for effect in effects:
            before = len(findings)
            for rule in RULES_FOR[effect.operation]:
                finding = rule.judge(effect, context)
                if finding is not None:
                    findings.append(overridden(finding, policy))
            if len(findings) == before and allowed_access(effect) is None:
                finding = NOT_LISTED.judge(effect, context)
                if finding is not None:
                    findings.append(overridden(finding, policy))
        return findings

    def _unreadable(self, trouble: Unreadable, text: bytes) -> Judgement:
        self.misses += 1
        finding = BY_TROUBLE[trouble.trouble].finding(None, message=trouble.message)
        logged = normal.redacted(text) if len(text) <= MAX_CACHED_TEXT else ""
        return self._final(Judgement(verdict=finding.verdict, findings=(finding,), normal=logged, shape_only=False))


def overridden(finding: Finding, policy: Policy) -> Finding:
    """The finding with the verdict that the configuration gives it, if it has something to say about it."""
    override = policy.override(finding) if policy.overrides else None
    return finding if override is None else replace(finding, verdict=policy.verdict(override.verdict))
