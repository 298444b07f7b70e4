-- psql: what people type. Output (with errors) must be the same direct and through the gateway, byte for byte.
-- Started as psql -X -a -f; the database is empty and its own.
\set VERBOSITY verbose
\pset pager off
\set ON_ERROR_STOP 0
create table customers (id serial primary key, name text not null, email text unique, born date, balance numeric(12,2));
insert into customers (name, email, born, balance) select 'c' || i, 'c' || i || '@example.org', date '1970-01-01' + i, i * 1.25 from generate_series(1, 300) i;
\d customers
\dt
\di
select * from customers where id in (1, 2, 299) order by id;
select count(*), sum(balance), min(born), max(email) from customers;
-- several statements in one message, and one of them wrong: the implicit transaction is undone
insert into customers (name) values ('one') \; insert into customers (nam) values ('two') \; select 1;
select count(*) from customers;
-- an error inside a transaction, then the commands that are ignored, then the next transaction works
begin;
select 1 / 0;
select 'ignored';
rollback;
begin;
savepoint s;
select * from no_such_table;
rollback to s;
update customers set name = 'changed' where id = 7 returning id, name;
commit;
select name from customers where id = 7;
\errverbose
-- notices, warnings, parameter status
do $$ begin raise notice 'a notice with % and %', 1, 'two'; raise warning 'a warning' using hint = 'a hint', detail = 'a detail'; end $$;
set application_name = 'psql through';
show application_name;
set client_encoding = 'LATIN1';
select 'caf' || chr(233) = convert_from('\x636166e9', 'LATIN1');
set client_encoding = 'UTF8';
set timezone = 'Asia/Kolkata';
select timestamptz '2026-01-01 00:00:00+00';
set datestyle = 'German';
select date '2026-02-03';
reset datestyle;
-- prepared in SQL, described without running, executed from output
prepare by_id(int) as select name from customers where id = $1;
execute by_id(3);
execute by_id('x');
deallocate by_id;
select id, name, balance * 2 as twice from customers \gdesc
select format('select %s as n', i) from generate_series(1, 3) i \gexec
select id as got from customers where id = 5 \gset
\echo :got
-- cursors, by name and by FETCH_COUNT
begin;
declare c scroll cursor for select id from customers order by id;
fetch 2 c;
move 100 c;
fetch backward 1 c;
close c;
commit;
\set FETCH_COUNT 100
select id from customers where id % 60 = 0 order by id;
\set FETCH_COUNT 0
-- COPY both ways, in three formats, with an error in the middle
copy (select id, name, null::text, E'tab\there' from customers where id < 4 order by id) to stdout;
copy (select id, name, 'a "quoted", one' from customers where id < 3 order by id) to stdout with (format csv, header, force_quote *);
copy customers (name, email) from stdin;
in1	in1@example.org
in2	\N
\.
copy customers (name, email) from stdin with (format csv);
csv1,"csv1@example.org"
"with ""quotes"" and
a line break",
\.
copy customers (id, name) from stdin;
1	duplicate
\.
copy customers (id, name) from stdin;
not a number	x
\.
select name, email from customers where id > 300 order by id;
copy no_such_table to stdout;
-- large objects, arrays, json, unusual names, empty and null
\lo_list
select array[1, null, 3], '{"a": [1, 2, {"b": null}]}'::jsonb, row(1, 'x', null), ''::text, null::text, E'\\x00ff'::bytea;
create table "Größe ""q"" 名" ("ü $1" int);
insert into "Größe ""q"" 名" values (1);
select * from "Größe ""q"" 名";
select repeat('x', 200000) = repeat('x', 200000), length(repeat('ab', 500000));
select string_agg(md5(i::text), '') = '' from generate_series(1, 20000) i;
select from customers where id = 1;
select;
;
select 1 as "no terminator"
\g
explain (costs off) select * from customers where id = 1;
vacuum customers;
begin \; vacuum customers;
rollback;
truncate customers;
drop table customers;
\crosstabview
\conninfo_is_not_a_command
