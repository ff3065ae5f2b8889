"""Which settings an agent may change, and to what."""

from __future__ import annotations

import pytest

from dbshield.policy.judge import Judge
from dbshield.policy.settings import refusal

PASS = """
set statement_timeout = 0
set local work_mem = '64MB'
set search_path = shop, public
set search_path = pg_catalog, shop
set search_path = shop, pg_temp
set search_path = ''
set search_path to default
select set_config('search_path', '', false)
select set_config('app.tenant', $1, true)
set names 'utf-8'
set client_encoding = UTF8
set standard_conforming_strings = on
set enable_seqscan = off
set time zone 'UTC'
set datestyle = iso, mdy
set myapp.tenant = '42'
set app.user_id = '42'
set local request.jwt.claims = '{"role": "x"}'
select set_config('request.jwt.claim.sub', $1, true)
set session rls.tenant_id = '7'
set app.settings.jwt_secret = 'x'
set hasura.user_id = '{}'
set hnsw.ef_search = 100
set local ivfflat.probes = 10
set pg_trgm.similarity_threshold = 0.5
set temp_tablespaces = ''
set vacuum_cost_delay = 10
reset standard_conforming_strings
set client_encoding to default
reset search_path
discard plans
discard temp
discard sequences
set default_transaction_read_only = off
set transaction isolation level serializable, read only
set session characteristics as transaction read write
set transaction snapshot 'x'
begin isolation level repeatable read read write deferrable
reset all
reset role
reset session_replication_role
set session authorization default
discard all
show all
SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'
""".strip().splitlines()

REFUSED = """
set session_replication_role = replica
set standard_conforming_strings = off
set standard_conforming_strings = 'OFF'
set client_encoding = sjis
set names 'latin1'
select set_config('search_path', 'evil, PG_CATALOG', false)
select set_config('Search_Path', 'pg_Temp, shop', false)
set plv8.start_proc = 'x'
set search_path = shop, pg_catalog
set search_path = pg_temp, shop
set search_path = pg_temp
set search_path = public, dbshield
set search_path = 'shop, pg_catalog'
select set_config('search_path', 'pg_temp, shop', false)
select set_config('search_path', $1, false)
select set_config($1, $2, false)
select set_config(name, 'off', false) from pg_settings
select pg_catalog.set_config('client_encoding', 'SJIS', true)
select set_config('STANDARD_conforming_strings', 'off', false)
set role app_owner
set role none
set session authorization app_owner
set track_counts = off
set event_triggers = off
set synchronous_commit = off
set zero_damaged_pages = on
set allow_system_table_mods = on
set local_preload_libraries = 'x'
set dynamic_library_path = 'x'
set backslash_quote = on
set transform_null_equals = on
set lo_compat_privileges = on
set plpgsql.extra_errors = 'none'
set cron.database_name = 'x'
set pg_anything.at_all = 1
set timescaledb.restoring = on
set citus.enable_ddl_propagation = off
set supautils.reserved_roles = ''
set rds.force_ssl = off
set anon.transparent_dynamic_masking = off
set postgis.gdal_enabled_drivers = 'ENABLE_ALL'
set http.curlopt_proxy = 'x'
set "jit.x-y" = 1
select set_config('DBShield.bypass', 'on', false)
set dbshield_bypass = on
set lc_messages = 'de_DE'
set timezone_abbreviations = 'x'
set search_path = pg_temp_3, shop
select * from set_config('session_replication_role', 'replica', false)
select 1 from t, lateral set_config(t.name, 'replica', false)
update pg_settings set setting = 'replica' where name = 'session_replication_role'
with w as (update pg_catalog.pg_settings set setting = 'off' where name = 'row_security' returning 1) select 1
alter role current_user in database d set search_path = x
alter role x reset all
alter system reset work_mem
set dbshield.bypass = on
set no_such_setting = 1
alter system set work_mem = '1GB'
alter role all set search_path = x
alter database d set search_path = x
""".strip().splitlines()


@pytest.mark.parametrize("text", PASS)
def test_a_setting_that_passes(judge: Judge, text: str) -> None:
    assert judge.judge(text.encode()).findings == ()


@pytest.mark.parametrize("text", REFUSED)
def test_a_setting_that_is_refused(judge: Judge, text: str) -> None:
    judgement = judge.judge(text.encode())
    assert judgement.verdict.word == "deny"
    assert {finding.rule for finding in judgement.findings} <= {"DS302", "DS303", "DS304", "DS307", "DS310", "DS405"}


def test_the_server_may_have_taken_a_word() -> None:
    assert refusal("acme.tenant", "1") is None
    assert refusal("acme.tenant", "1", reserved={"acme"}) is not None
    assert refusal("hnsw.ef_search", "1", reserved={"hnsw"}) is None
