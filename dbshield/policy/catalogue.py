"""Every rule there is, in the order in which they speak. An id is never used twice, and never again for something else."""

from __future__ import annotations

from dbshield.policy.rules.audit import Unaudited
from dbshield.policy.rules.availability import AdvisoryLock, HeavyLock, OtherSessions, PreparedTransaction, RewriteTable
from dbshield.policy.rules.base import Rule
from dbshield.policy.rules.control import (
    BecomeAnother,
    BeyondAccess,
    Catalogue,
    DefinedBehaviour,
    Extension,
    Files,
    ForeignServer,
    Privileges,
    Programs,
    Replication,
    Server,
    Setting,
)
from dbshield.policy.rules.frozen import Frozen
from dbshield.policy.rules.guard import EventTrigger, GuardSetting, OwnSchema, RowSecurity, TableTriggers
from dbshield.policy.rules.hidden import (
    CallProcedure,
    ChangingFunction,
    DefineFunction,
    DoBlock,
    DynamicSql,
    ListedFunction,
    OtherLanguage,
    SlyFunction,
    TakenName,
    TransactionInBody,
    UnknownFunction,
)
from dbshield.policy.rules.limits import (
    CursorWithHold,
    HourlyRows,
    ReachedProtected,
    ResetAtWork,
    SessionRule,
    Stale,
    TooManyRows,
    Uncounted,
)
from dbshield.policy.rules.objects import (
    AlterSequence,
    ChangeColumnType,
    ChangePartition,
    ChangeStorage,
    DropClusterWide,
    DropColumn,
    DropConstraint,
    DropObject,
    DropOwned,
    EmptyMaterializedView,
    MoveAway,
)
from dbshield.policy.rules.protected import ProtectedTable
from dbshield.policy.rules.rows import DeleteWithoutBound, Truncate, UpdateWithoutBound
from dbshield.policy.rules.unreadable import (
    Characters,
    Disagreement,
    FunctionMessage,
    NotListed,
    ReaderFailed,
    SecondReader,
    SyntaxFault,
    TextRule,
    TooDeep,
    TooLong,
)

EFFECT_RULES: tuple[Rule, ...] = (
    DropObject(),
    DropOwned(),
    DropClusterWide(),
    DropColumn(),
    DropConstraint(),
    ChangeColumnType(),
    MoveAway(),
    ChangePartition(),
    ChangeStorage(),
    AlterSequence(),
    EmptyMaterializedView(),
    DeleteWithoutBound(),
    UpdateWithoutBound(),
    Truncate(),
    ProtectedTable(),
    BeyondAccess(),
    Privileges(),
    BecomeAnother(),
    Setting(),
    Files(),
    Programs(),
    Catalogue(),
    Extension(),
    ForeignServer(),
    Server(),
    Replication(),
    DefinedBehaviour(),
    Frozen(),
    Unaudited(),
    EventTrigger(),
    TableTriggers(),
    RowSecurity(),
    OwnSchema(),
    GuardSetting(),
    HeavyLock(),
    RewriteTable(),
    PreparedTransaction(),
    AdvisoryLock(),
    OtherSessions(),
    DoBlock(),
    DefineFunction(),
    DynamicSql(),
    OtherLanguage(),
    TransactionInBody(),
    ChangingFunction(),
    TakenName(),
    CallProcedure(),
    ListedFunction(),
    SlyFunction(),
    UnknownFunction(),
)
"""Rules about one effect."""

NOT_LISTED = NotListed()
"""What is said of an effect that no rule spoke about and that is not on the allow-list."""

TEXT_RULES: tuple[TextRule, ...] = (
    SyntaxFault(),
    Disagreement(),
    SecondReader(),
    TooLong(),
    TooDeep(),
    Characters(),
    ReaderFailed(),
    FunctionMessage(),
)
"""Rules about a text that cannot be read; one for each member of Trouble."""

CURSOR_WITH_HOLD = CursorWithHold()
"""What is said of a cursor whose query changes rows when nobody counts any more."""

SESSION_RULES: tuple[SessionRule, ...] = (
    TooManyRows(),
    HourlyRows(),
    ReachedProtected(),
    Uncounted(),
    ResetAtWork(),
    Stale(),
    CURSOR_WITH_HOLD,
)
"""Rules about what a statement does while it runs; the session speaks them."""

RULES: tuple[Rule, ...] = tuple(sorted((*EFFECT_RULES, NOT_LISTED, *TEXT_RULES, *SESSION_RULES), key=lambda rule: rule.id))
"""Every rule, by id."""

BY_TROUBLE = {rule.trouble: rule for rule in TEXT_RULES}
