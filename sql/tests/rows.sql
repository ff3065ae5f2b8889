-- What the row guard and the truncate guard say to an agent, and that they say nothing to others.
set session authorization agent_write;
delete from shop.order_items where order_id between 1 and 50;
delete from shop.order_items where order_id between 51 and 101;
begin;
update shop.products set stock = 0 where id <= 60;
savepoint a;
update shop.products set stock = 1 where id <= 40;
rollback to a;
-- What was taken back counts as well.
update shop.products set stock = 2 where id = 1;
rollback;
-- The next transaction begins at zero.
update shop.products set stock = 2 where id <= 100;
-- A cascade counts what it takes: one customer has orders, and they have lines.
delete from shop.customers where id between 1000 and 1040;
-- By a view, into a partition, by MERGE, and over an existing row.
update shop.active_customers set name = '';
update shop.events_2026_02 set kind = '';
merge into shop.order_items as t using shop.orders as o on t.order_id = o.id when matched then delete;
insert into shop.orders select * from shop.orders on conflict (id) do update set total = 0;
-- The owner's function, which anybody may call.
select shop.wipe_customers();
truncate shop.order_items;
reset session authorization;
set session authorization app_owner;
delete from shop.order_items where order_id between 51 and 200;
truncate shop.events;
reset session authorization;
-- A superuser is in every group, and no agent.
delete from archive.orders_2025;
-- The rows of a foreign table, by itself or as a part of another one, are counted by nobody.
create extension postgres_fdw;
do $$ begin
    execute format('create server here foreign data wrapper postgres_fdw options (host %L, port %L, dbname %L)',
        split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database());
end $$;
create user mapping for public server here options (user 'postgres', password_required 'false');
create foreign table archive.far (order_id integer, line integer) server here options (schema_name 'shop', table_name 'order_items');
create table archive.far_parts (order_id integer, line integer) partition by range (order_id);
create foreign table archive.far_part partition of archive.far_parts for values from (1) to (9000)
    server here options (schema_name 'shop', table_name 'order_items');
grant all on archive.far, archive.far_parts to agent_write;
set session authorization agent_write;
select count(*) > 0 as reads from archive.far;
delete from archive.far where order_id = 6000;
delete from archive.far_parts where order_id = 6000;
reset session authorization;
set session authorization app_owner;
select count(*) as lines from shop.order_items where order_id = 6000;
reset session authorization;
