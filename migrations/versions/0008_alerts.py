"""Alerts that were sent or are to be sent, freezes of a single agent, and access in an emergency."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    make_alerts()
    # null: the whole environment
    op.execute("alter table dbshield.freezes add column agent text")
    op.execute(
        "comment on table dbshield.freezes is 'who froze an environment or an agent, why and until when; lifted ones stay'"
    )
    make_emergencies()


def make_alerts() -> None:
    op.execute("""
        create table dbshield.alerts (
            id bigint generated always as identity,
            -- [alerts.NAME] of the configuration
            channel text not null,
            event text not null,
            environment text,
            -- what makes alerts alike, so that they become one message with a count
            subject text not null,
            title text not null,
            body text not null,
            count integer not null,
            first_at timestamptz not null,
            last_at timestamptz not null,
            -- not held back by the channel's rate
            urgent boolean not null,
            state text not null,
            attempts integer not null default 0,
            created_at timestamptz not null,
            -- when it may be tried next
            due_at timestamptz not null,
            -- when somebody began to send it; who died of it leaves it behind
            claimed_at timestamptz,
            ended_at timestamptz,
            error text,
            constraint alerts_pkey primary key (id),
            constraint alerts_count_check check (count > 0),
            constraint alerts_state_check check (state in ('pending', 'sent', 'failed')),
            constraint alerts_ended_check check ((state = 'pending') = (ended_at is null))
        )
    """)
    op.execute("create index alerts_pending_idx on dbshield.alerts (channel, due_at) where state = 'pending'")
    op.execute("create index alerts_ended_idx on dbshield.alerts (channel, ended_at)")
    op.execute("comment on table dbshield.alerts is 'what people are told, by whom it was sent and how often it was tried'")
    op.execute("""
        create table dbshield.alert_position (
            -- there is one row
            one boolean not null default true,
            -- the newest entry of the audit that alerts were made of
            position bigint not null,
            constraint alert_position_pkey primary key (one),
            constraint alert_position_one_check check (one)
        )
    """)
    op.execute("comment on table dbshield.alert_position is 'how far the audit was read for alerts'")


def make_emergencies() -> None:
    op.execute("""
        create table dbshield.emergencies (
            id text not null,
            environment text not null,
            person text not null,
            reason text not null,
            -- the role on the protected server, made for this alone, and the one whose rights it has
            role text not null,
            acts_as text not null,
            created_at timestamptz not null,
            created_by text not null,
            expires_at timestamptz not null,
            -- the role is there; null: it is being made, or could not be
            made_at timestamptz,
            ended_at timestamptz,
            ended_by text,
            -- sessions ended and role gone
            removed_at timestamptz,
            -- why it could not be removed, and when that is tried again
            error text,
            retry_at timestamptz,
            constraint emergencies_pkey primary key (id),
            constraint emergencies_id_check check (id ~ '^brk-[a-z2-7]{8}$'),
            constraint emergencies_environment_fkey foreign key (environment) references dbshield.environments (name),
            constraint emergencies_person_fkey foreign key (person) references dbshield.people (name),
            constraint emergencies_reason_check check (reason <> ''),
            constraint emergencies_lifetime_check check (expires_at > created_at and isfinite(expires_at)),
            constraint emergencies_ended_check check ((ended_at is null) = (ended_by is null))
        )
    """)
    op.execute("create index emergencies_living_idx on dbshield.emergencies (environment) where removed_at is null")
    op.execute("comment on table dbshield.emergencies is 'who went around the shield, when and why'")


def downgrade() -> None:
    op.execute("drop table dbshield.emergencies")
    op.execute("drop table dbshield.alert_position")
    op.execute("drop table dbshield.alerts")
    op.execute("delete from dbshield.freezes where agent is not null")
    op.execute("comment on table dbshield.freezes is 'who froze an environment, why and until when; lifted ones stay'")
    op.execute("alter table dbshield.freezes drop column agent")
