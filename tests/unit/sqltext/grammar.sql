-- One statement a line: together they hold every node that PostgreSQL's grammar makes, and every field of it that can hold
-- an expression, a query or a name. test_every_field_is_walked.py puts a probe into each field in turn.
select distinct on (a, b) a as x, b.*, (c).d, e[1], e[1:2], $1, -f, 'x', 1, 1.5, null, true, b'1', x'ff' from only s.t as q (m, n) where a = 1 group by distinct a, grouping sets ((a), rollup (b), cube (c, d), ()) having count(*) > 1 window w as (partition by a order by b desc nulls last range between 1 preceding and 2 following), v as (w groups current row) order by a using <, b asc limit 5 offset 6 for update of q nowait for share skip locked
select a from t order by 1 fetch first 3 rows with ties
select into temp u from t
select * into unlogged table u from t
values (1, default), (2, 'x')
table t
select a from t union all select b from u except (select c from v limit 1) intersect select d from w order by 1
with recursive a (x) as materialized (select 1 union all select x + 1 from a) search depth first by x set o cycle x set c to true default false using p select * from a
with a as (insert into t values (1) returning *), b as (update t set a = 1 where b = 2 returning *), c as (delete from t where a = 1 returning *), d as (merge into t using u on t.a = u.a when matched then do nothing returning merge_action()) select 1 from a, b, c, d
select f(a, variadic b), f(x => 1, y := 2), count(*), count(distinct a order by b, c), sum(a) filter (where b > 1) over (partition by c order by d rows between unbounded preceding and current row exclude ties), percentile_cont(0.5) within group (order by a), rank() over w, s.f(all 1), nth_value(a, 2) over () from t window w as ()
select nth_value(a, 2) over (order by b range between interval '1' day preceding and f(c) following) from t
select a from t where exists (select 1) and a = any (select b from u) and a <> all (select 1) and a in (select 1) and a in (1, 2) and (a, b) = (select 1, 2) and a = (select 1) and a = array(select 1) and a operator(s.+) any (select 1) and a = any (array[1, 2]) and a = all (array[[1], [2]])
select case a when 1 then 2 else 3 end, case when a then b end, coalesce(a, b), nullif(a, b), greatest(a, b), least(a), row(1, 2), (1, 2), a is null, a is not null, a is true, a is not unknown, not a, a and b or c, a collate "C", a::int, cast(a as numeric(10, 2)[][3]), interval '1' day, interval(3) '1', date '2026-01-01', a at time zone 'UTC', a at local, current_timestamp(3), current_user, user, grouping(a), a between 1 and 2, a not between symmetric 1 and 2, a like 'x' escape 'y', a ilike b, a similar to c, a ~ d, a is distinct from b, a is not distinct from b, a is document, a is nfc normalized, overlay(a placing b from 1 for 2), position(a in b), substring(a from 1 for 2), substring(a similar b escape c), trim(leading a from b), extract(year from a), normalize(a, nfd), collation for (a), treat(a as b), @ a, a !~ b, a operator(pg_catalog.+) b, ((a).b[1]).c, (array[a])[1], (a, b) overlaps (c, d) from t
select xmlconcat(a, b), xmlelement(name x, xmlattributes(a as b, c), d), xmlforest(a as b, c), xmlparse(document a preserve whitespace), xmlpi(name x, a), xmlroot(a, version b, standalone yes), xmlserialize(content a as text indent), xmlexists(a passing by ref b) from t
select json(a format json encoding utf8 with unique keys), json_scalar(a), json_serialize(a returning text), json_object(a : b, c value d absent on null with unique returning jsonb), json_object(a, b), json_array(a, b null on null returning text), json_array(select 1 format json returning text), json_arrayagg(a order by b absent on null returning text) filter (where c) over (partition by d), json_objectagg(a : b with unique keys returning text) filter (where c) over (order by d), a is json object with unique keys, json_value(a, '$' passing b as c, d as e returning int default f on empty default g on error), json_query(a format json, h passing b as c returning jsonb with conditional wrapper keep quotes on scalar string empty array on empty default i on error), json_exists(a, '$' passing b as c true on error) from t
select * from a join b on x = y left join c using (m, n) as z natural join d cross join e full join (f right join g on true) as h on p(q), lateral (select 1) as i (j), f(1) with ordinality as k (l), lateral rows from (f(1), g(2) as (a int, b text collate "C")) as m, f(1) as (n int), s.t tablesample bernoulli (5) repeatable (6), t tablesample s.method (7, 8), xmltable(xmlnamespaces('u' as v, default 'w'), '/x' passing by value y columns a int path 'b' default c not null, o for ordinality) as xt, lateral json_table(a, '$' as p passing b as c columns (r for ordinality, d int path '$' default e on empty default f on error, g jsonb format json path '$' with wrapper omit quotes, h bool exists path '$' true on error, nested path '$' as q columns (i int path '$')) error on error) as jt (k)
insert into s.t as x (a, b[1], c.d) overriding user value select 1, 2, 3 on conflict (a collate "C" int_ops, (lower(b)), c) where d > 1 do update set a = excluded.a, (b, c) = (1, default), (d, e) = (select 1, 2) where x.f = 1 returning with (old as o, new as n) o.a, n.b as c
insert into t default values on conflict on constraint k do nothing
insert into t (a) values (1), (default)
update only s.t as x set a = 1, b[2] = 3, c.d = default, (e, f) = row(1, 2), (g, h) = (select 1, 2) from u, v as w where x.a = u.a returning old.a, new.*
update t set a = 1 where current of c
delete from only s.t as x using u, lateral f(x.a) where x.a = u.a returning with (new as n) *
merge into only s.t as x using (select 1 as a) as u on x.a = u.a when matched and x.b then update set c = d, (e, f) = (1, 2) when matched then delete when not matched by source and g then do nothing when not matched by target and h then insert (i, j) overriding system value values (k, default) when not matched then insert default values returning merge_action(), old.a
begin isolation level serializable read only deferrable
start transaction read write
commit and chain
savepoint a
release a
rollback to a
rollback
prepare transaction 'x'
commit prepared 'x'
rollback prepared 'x'
set work_mem = '1MB', b
set local time zone interval '1' hour to minute
set session characteristics as transaction isolation level repeatable read
set transaction snapshot 'x'
set role a
reset all
show all
set constraints all deferred
set constraints s.a, b immediate
discard all
explain (analyze, costs off, format json) select 1
explain create table t as select 1
explain declare c cursor for select 1
explain execute p (1, a)
explain refresh materialized view m
prepare p (int, text[]) as select $1
execute p (1, 'x', a + 1)
deallocate p
declare c insensitive scroll cursor with hold for select 1
fetch forward 5 from c
move all in c
close c
copy s.t (a, b) from stdin with (format csv, null 'x', force_null (a, b), force_quote *) where a > 1
copy t to 'x' csv header delimiter 'y'
copy (select 1) to program 'x'
copy binary t from program 'x'
lock table only s.t, u in access exclusive mode nowait
vacuum (full, parallel 2) s.t (a, b), u
analyze t (a)
reindex (verbose) table concurrently s.t
reindex system d
cluster verbose s.t using i
call s.p(1, x => 2, variadic y => a)
call s.p(1)
do language plpgsql $$ begin null; end $$
listen a
notify a, 'x'
unlisten *
checkpoint
load 'x'
refresh materialized view concurrently s.m with no data
truncate only s.t, u restart identity cascade
create temp table if not exists s.t (a int collate "C" default 1 not null constraint k check (a > 1) no inherit primary key with (fillfactor = 70) using index tablespace x, b text generated always as (a + 1) stored, c int generated by default as identity (start 1 increment 2 owned by s.t.c), d int unique nulls not distinct references s.u (e) match full on delete set null (d) on update cascade deferrable initially deferred, e int storage plain compression lz4, f int options (x 'y'), like s.v including all, check (f > 1) not valid, unique (a, b) include (c), foreign key (a, period b) references u (c, d), exclude using gist (a s.ops with s.&&, (lower(b)) with operator(s.=)) with (x = 1) where (c > 1), primary key (a, b without overlaps), not null d) inherits (s.w) with (fillfactor = 70, toast.x = 'y') on commit drop tablespace z
create table t partition of s.p (a default 1, check (b > 1)) for values in (1, 'x', null) partition by list ((lower(a)) collate "C" text_ops, b)
create table t partition of p for values from (minvalue, 1) to (maxvalue, a + 1)
create table t partition of p for values with (modulus 4, remainder 1) using heap
create table t partition of p default
create table t of s.y (a with options default 1, primary key (a))
create table t (a, b) using heap with (x = 1) on commit delete rows tablespace z as select 1, 2 with no data
create table t as execute p (1, a)
create materialized view if not exists m (a) using heap with (x = 1) tablespace z as select 1 with no data
create or replace temp recursive view v (a) with (security_barrier) as select 1
create view s.v as select 1 with local check option
create unique index concurrently if not exists i on only s.t using gin (a collate "C" s.ops (x = 1) desc nulls last, (lower(b)), lower(c)) include (d, e) nulls not distinct with (fillfactor = 70) tablespace z where f > 1
create sequence if not exists s.q as int start 1 increment by -2 cache 3 owned by s.t.a
alter sequence s.q restart 5 owned by none
create schema s authorization current_user create table t (a int) create view v as select 1 create index i on t (a) create sequence q create trigger g before insert on t execute function f() grant select on t to x
create function s.f(in a int default 1, out b text, variadic c int[] = array[1]) returns setof s.t.a%type language sql immutable parallel safe cost 5 rows 6 support s.g set work_mem = '1MB' security definer transform for type x as 'select 1'
create function f() returns table (a int, b text) language c as 'x', 'y'
create function f(a int) returns int language sql return a + 1
create or replace procedure p(inout a int) language sql begin atomic insert into t values (1); select 2; end
create constraint trigger g after insert or update of a, b on s.t from s.u deferrable initially deferred for each row when (new.a > 1) execute function s.f('x', 1)
create or replace trigger g after update of a, b on s.t referencing old table as o new table as n for each row when (new.a > 1) execute function s.f('x', 1)
create trigger g instead of delete on v for each statement execute procedure f()
create or replace rule r as on update to s.t where new.a > 1 do instead (insert into u values (1); delete from v where a = 1; notify x; select 1)
create policy p on s.t as restrictive for update to x, public using (a > 1) with check (b > 2)
alter policy p on s.t to x using (a > 1) with check (b > 2)
create domain s.d as text collate "C" default 'x' constraint k check (value > 'a') not null
alter domain s.d add constraint k check (value > 'b') not valid
alter domain d set default lower('x')
create type s.e as enum ('a', 'b')
alter type s.e add value if not exists 'c' before 'd'
alter type e rename value 'a' to 'b'
create type c as (a int collate "C", b s.d)
alter type c add attribute a int, drop attribute b cascade, alter attribute c type text collate "C"
create type r as range (subtype = float8, subtype_diff = s.f)
create type b (input = f, output = g, like = int, internallength = 4)
alter type b set (send = f, storage = plain)
create type shell
create aggregate s.a(int order by text) (sfunc = s.f, stype = int, initcond = '1')
create operator s.+ (function = s.f, leftarg = int, rightarg = s.t, commutator = operator(s.-), merges)
create operator class s.o default for type int using btree family s.f as operator 1 < (int, int) for order by s.f, function 1 (int, int) s.g(int, int), storage int
create operator family s.f using btree
alter operator family s.f using btree add operator 1 < (int, int), function 1 g(int, int)
alter operator family s.f using btree drop operator 1 (int, int)
alter operator s.+ (int, none) set (restrict = s.f, join = none)
create cast (s.a as text) with function s.f(s.a, out int) as assignment
create transform for s.a language sql (from sql with function f(internal), to sql with function g(internal))
create collation c (locale = 'x')
create collation c from "C"
create text search configuration s.c (copy = s.d)
create text search dictionary d (template = simple, x = 'y')
alter text search configuration s.c add mapping for a, b with s.d, e
alter text search dictionary s.d (x = 'y', z)
create conversion s.c for 'a' to 'b' from s.f
create access method m type index handler s.f
create trusted procedural language l handler s.f inline s.g validator s.h
create statistics if not exists s.x (dependencies, mcv) on a, (lower(b)), c from s.t
alter statistics s.x set statistics 5
create extension if not exists x with schema s version '1' cascade
alter extension x update to '2'
alter extension x add function s.f(int)
create event trigger e on ddl_command_end when tag in ('a', 'b') execute function s.f()
alter event trigger e enable always
create foreign data wrapper w handler s.f validator g options (a 'b')
alter foreign data wrapper w no handler options (set a 'b', drop c)
create server if not exists x type 'a' version 'b' foreign data wrapper w options (a 'b')
alter server x version 'c' options (add a 'b')
create user mapping if not exists for current_user server x options (a 'b')
alter user mapping for y server x options (set a 'b')
drop user mapping if exists for y server x
create foreign table s.f (a int options (b 'c') default 1 check (a > 1)) inherits (u) server x options (d 'e')
create foreign table f partition of p (a default 1) for values in (1) server x
import foreign schema a limit to (b, c) from server x into d options (e 'f')
create publication p for table s.t (a, b) where (a > 1), only u, tables in schema s, current_schema with (publish = 'insert')
create publication p for all tables
alter publication p set table s.t where (a > f(1)), tables in schema u
alter publication p set (publish = 'insert')
create subscription s connection 'x' publication a, b with (copy_data = false)
alter subscription s set publication a with (refresh = false)
drop subscription if exists s
create role r with login password 'x' connection limit 5 in role a, b admin c valid until 'y'
alter role r with nologin user d
alter role r in database d set work_mem = '1MB'
drop role if exists r, current_user
create database d with owner r template = x encoding 'UTF8' connection limit 5
alter database d with connection limit 5
alter database d set work_mem = '1MB'
alter database d refresh collation version
drop database if exists d with (force)
create tablespace x owner r location 'y' with (seq_page_cost = 1)
alter tablespace x set (a = 1)
alter table all in tablespace x owned by r, s set tablespace y nowait
drop tablespace x
alter system set work_mem = '1MB'
grant select (a, b), update on s.t, u to r, public with grant option granted by current_user
grant execute on function s.f(int, text) to r
grant usage on all tables in schema s to r
grant usage on type s.d, int to r
grant select on large object 1, 2 to r
grant set on parameter a, b to r
revoke grant option for all on schema s from r cascade
grant a, b to c with admin option, inherit false granted by d
revoke admin option for a from b restrict
alter default privileges for role r, s in schema t, u grant select on tables to v
reassign owned by r, current_user to s
drop owned by r, s cascade
comment on table s.t is 'x'
comment on function s.f(int) is null
comment on constraint k on domain s.d is 'x'
comment on cast (s.a as text) is 'x'
comment on operator s.+ (int, none) is 'x'
comment on large object 5 is 'x'
security label for p on table s.t is 'x'
drop table if exists s.t, u cascade
drop function s.f(int), g
drop operator s.+ (int, none)
drop cast if exists (s.a as text)
drop type s.a, b
drop trigger if exists g on s.t cascade
drop index concurrently i
drop operator class s.o using btree
drop transform for s.a language sql
drop schema a, b
alter function s.f(int) strict set a = b
alter function s.f(int) depends on extension x
alter function s.f(int) immutable reset all
alter function s.f(int) owner to r
alter function f set schema s
alter function f rename to g
alter trigger g on s.t depends on extension x
alter operator s.+ (int, none) owner to current_user
alter table s.t rename column a to b
alter table t rename constraint a to b
alter domain s.d rename constraint a to b
alter table s.t set schema u
alter large object 5 owner to r
alter collation s.c refresh version
alter table if exists only s.t add column if not exists a int default 1 check (b > 1), drop column c cascade, alter d type int collate "C" using d + 1, alter e set default f(1), alter e drop default, alter f set not null, alter g set statistics 5, alter h set (x = 1), alter i set storage plain, alter j add generated always as identity (start 1), alter j set generated by default restart 5, alter k set expression as (l + 1), alter m options (set a 'b'), add constraint n check (o > 1) not valid, add constraint p unique using index q, drop constraint r, alter constraint s deferrable, validate constraint t, owner to u, set tablespace v, set (w = 1), replica identity using index x, enable always trigger y, force row level security, inherit s.z, no inherit aa, of s.ab, set access method heap, cluster on ac, options (add a 'b')
alter table p attach partition s.q for values from (1) to (f(2))
alter table p detach partition s.q concurrently
alter view v alter a set default f(1)
alter index i alter column 1 set statistics 5
alter index i attach partition s.j
alter materialized view m set (x = 1)
alter foreign table f alter a options (set b 'c')
insert into t as x with w as (select 1) select * from w
with w as (select 1) insert into t select * from w
with w as (select 1) update t set a = 1 from w where t.a = w.a
with w as (select 1) delete from t using w where t.a = w.a
with w as (select 1) merge into t using w on t.a = w.a when matched then delete
select json_array(a returning text format json encoding utf8)
alter aggregate s.a(int) owner to r
