"""The catalogue of backups and drills."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table dbshield.backup_keys (
            -- the first 8 bytes of the key's SHA-256, in hexadecimal digits
            id text not null,
            public_key bytea not null,
            created_at timestamptz not null default now(),
            created_by text not null,
            -- signatures made before still count
            retired_at timestamptz,
            constraint backup_keys_pkey primary key (id),
            constraint backup_keys_id_check check (id ~ '^[0-9a-f]{16}$'),
            constraint backup_keys_public_key_check check (octet_length(public_key) = 32)
        )
    """)
    op.execute(
        "comment on table dbshield.backup_keys is 'public keys (Ed25519) whose signatures on manifests and drills are believed'"
    )
    op.execute("""
        create table dbshield.snapshots (
            id text not null,
            environment text not null,
            plan text not null,
            engine text not null,
            kind text not null,
            destination text not null,
            state text not null,
            began timestamptz not null,
            ended timestamptz,
            error text,
            -- before compression, and as they lie at the destination
            bytes bigint,
            stored_bytes bigint,
            objects integer,
            lsn text,
            timeline integer,
            server_version integer,
            system_identifier bigint,
            -- what was signed is the canonical JSON of this, so that a lost manifest can be written anew
            manifest jsonb,
            manifest_sha256 bytea,
            signature bytea,
            signing_key text,
            -- counts and fingerprints; at the destination this is sealed like the data
            record jsonb,
            parent text,
            -- the verdict of the newest drill
            drilled text,
            pruned_at timestamptz,
            constraint snapshots_pkey primary key (id),
            constraint snapshots_environment_fkey foreign key (environment) references dbshield.environments (name),
            constraint snapshots_signing_key_fkey foreign key (signing_key) references dbshield.backup_keys (id),
            constraint snapshots_parent_fkey foreign key (parent) references dbshield.snapshots (id),
            constraint snapshots_id_check check (id ~ '^[0-9]{8}t[0-9]{6}z-[a-z2-7]{8}$'),
            constraint snapshots_plan_check check (plan ~ '^[a-z][a-z0-9-]{0,30}$'),
            constraint snapshots_engine_check check (engine in ('logical', 'physical', 'pgbackrest')),
            constraint snapshots_kind_check check (kind in ('full', 'incremental')),
            constraint snapshots_state_check check (state in ('running', 'complete', 'failed')),
            constraint snapshots_manifest_sha256_check check (octet_length(manifest_sha256) = 32),
            constraint snapshots_signature_check check (octet_length(signature) = 64),
            constraint snapshots_drilled_check check (drilled in ('passed', 'failed', 'error')),
            constraint snapshots_ended_check check ((state = 'running') = (ended is null)),
            constraint snapshots_error_check check ((state = 'failed') = (error is not null)),
            constraint snapshots_complete_check check (
                state <> 'complete' or (manifest is not null and manifest_sha256 is not null and signature is not null
                    and signing_key is not null and bytes is not null and stored_bytes is not null and objects > 0)
            )
        )
    """)
    op.execute("create index snapshots_newest_idx on dbshield.snapshots (environment, began desc)")
    op.execute("create index snapshots_parent_idx on dbshield.snapshots (parent)")
    op.execute(
        "comment on table dbshield.snapshots is"
        " 'backups; what was interrupted is failed, never complete; pruned ones stay, since drills name them'"
    )
    # a failed backup never becomes a good one, and a good one keeps what was signed
    op.execute("""
        create function dbshield.keep_snapshot() returns trigger language plpgsql as $$
        begin
            if old.state <> 'running' and (
                new.state <> old.state
                or (new.id, new.environment, new.plan, new.engine, new.kind, new.destination, new.began, new.ended, new.error)
                    is distinct from
                    (old.id, old.environment, old.plan, old.engine, old.kind, old.destination, old.began, old.ended, old.error)
                or (new.manifest, new.manifest_sha256, new.signature, new.signing_key, new.record, new.parent)
                    is distinct from
                    (old.manifest, old.manifest_sha256, old.signature, old.signing_key, old.record, old.parent)
            ) then
                raise exception 'the snapshot % is %, and stays as it is', old.id, old.state
                    using errcode = 'integrity_constraint_violation';
            end if;
            return new;
        end
        $$
    """)
    op.execute("""
        create trigger keep before update on dbshield.snapshots
        for each row execute function dbshield.keep_snapshot()
    """)
    op.execute("""
        create table dbshield.drills (
            id bigint generated always as identity,
            snapshot text not null,
            began timestamptz not null,
            ended timestamptz not null,
            verdict text not null,
            checks jsonb not null,
            rpo_seconds double precision,
            rto jsonb not null,
            report text,
            signature bytea,
            signing_key text,
            constraint drills_pkey primary key (id),
            constraint drills_snapshot_fkey foreign key (snapshot) references dbshield.snapshots (id),
            constraint drills_signing_key_fkey foreign key (signing_key) references dbshield.backup_keys (id),
            constraint drills_verdict_check check (verdict in ('passed', 'failed', 'error')),
            constraint drills_signature_check check (octet_length(signature) = 64),
            constraint drills_ended_check check (ended >= began),
            constraint drills_signed_check check ((signature is null) = (signing_key is null))
        )
    """)
    op.execute("create index drills_snapshot_idx on dbshield.drills (snapshot)")
    op.execute(
        "comment on table dbshield.drills is 'restores of snapshots into throwaway clusters:"
        " every check with its measure, RTO by phase, RPO from the canary'"
    )


def downgrade() -> None:
    op.execute("drop table dbshield.drills")
    op.execute("drop table dbshield.snapshots")
    op.execute("drop function dbshield.keep_snapshot()")
    op.execute("drop table dbshield.backup_keys")
