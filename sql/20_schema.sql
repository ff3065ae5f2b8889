-- The schema of the guard and what it remembers. No agent has any right here; the guard's functions read it as their owner.
create schema if not exists dbshield;
revoke all on schema dbshield from public;

-- What is installed here, and for which environment: a proxy whose configuration says otherwise has the wrong address.
create table if not exists dbshield.installation (
    one boolean primary key default true check (one),
    version integer not null,
    environment text not null,
    system_identifier text not null,
    installed_by text not null default session_user,
    installed_at timestamptz not null default pg_catalog.now()
);

-- The schemas whose tables are guarded; '*' stands for every one that is not the system's.
create table if not exists dbshield.protected (schema_name text primary key);

-- How many rows an agent may update and delete in one transaction, where it is not 100.
create table if not exists dbshield.limits (
    role_name text primary key,
    max_rows bigint not null check (max_rows >= 0)
);

-- Where agents may log in from (PostgreSQL 17 and later): a network, or 'socket'. While there is none, from everywhere.
create table if not exists dbshield.addresses (
    address text primary key check (address = 'socket' or address::pg_catalog.cidr is not null)
);

-- What the structure was before the schema change that an agent is making right now. A row lives as long as one statement.
create table if not exists dbshield.changing (
    backend integer primary key,
    depth integer not null,
    facts text[] not null,
    attached text[] not null
);
alter table dbshield.changing add column if not exists tag text not null default '';

-- The sessions in which the guard itself is making triggers right now.
create table if not exists dbshield.working (backend integer primary key);

revoke all on all tables in schema dbshield from public;
