-- Statements as mappers and benchmarks write them, against `customers` (three masked columns: email, ssn, card) and `orders`.
-- One per line; `--` begins a comment. Every one must run.
-- SQLAlchemy
SELECT customers.id, customers.name, customers.city, customers.email FROM customers WHERE customers.email = $1::VARCHAR LIMIT $2::INTEGER
SELECT anon_1.customers_id, anon_1.customers_email, orders_1.id FROM (SELECT customers.id AS customers_id, customers.email AS customers_email FROM customers ORDER BY customers.name LIMIT 5) AS anon_1 LEFT OUTER JOIN orders AS orders_1 ON anon_1.customers_id = orders_1.customer_id ORDER BY anon_1.customers_id
SELECT count(*) AS count_1 FROM (SELECT customers.id AS customers_id, customers.email AS customers_email FROM customers) AS anon_1
INSERT INTO customers (name, email) SELECT p0::VARCHAR, p1::VARCHAR FROM (VALUES ($1::VARCHAR, $2::VARCHAR, 0), ($3::VARCHAR, $4::VARCHAR, 1)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING customers.id, customers.id AS id__1
INSERT INTO customers (id, name, email) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email RETURNING id
INSERT INTO "customers" ("id","name","email") VALUES ($1,$2,$3) ON CONFLICT ("id") DO UPDATE SET "id"=EXCLUDED."id","name"=EXCLUDED."name","email"=EXCLUDED."email" RETURNING "id","name","email","ssn","card","city";
SELECT orders.customer_id, count(*) AS n FROM orders GROUP BY orders.customer_id
WITH RECURSIVE tree(id, parent) AS (SELECT id, customer_id FROM orders WHERE id = 1 UNION ALL SELECT o.id, o.customer_id FROM orders o JOIN tree t ON o.customer_id = t.id) SELECT tree.id FROM tree
SELECT EXISTS (SELECT 1 FROM customers WHERE customers.email = $1) AS anon_1
select pg_catalog.version()
select current_schema()
show standard_conforming_strings
show transaction isolation level
SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p']) AND pg_catalog.pg_class.relpersistence != 't' AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid) AND pg_catalog.pg_namespace.nspname != 'pg_catalog'
SELECT pg_catalog.pg_attribute.attname AS name, pg_catalog.format_type(pg_catalog.pg_attribute.atttypid, pg_catalog.pg_attribute.atttypmod) AS format_type, (SELECT pg_catalog.pg_get_expr(pg_catalog.pg_attrdef.adbin, pg_catalog.pg_attrdef.adrelid) AS pg_get_expr_1 FROM pg_catalog.pg_attrdef WHERE pg_catalog.pg_attrdef.adrelid = pg_catalog.pg_attribute.attrelid AND pg_catalog.pg_attrdef.adnum = pg_catalog.pg_attribute.attnum AND pg_catalog.pg_attribute.atthasdef) AS "default" FROM pg_catalog.pg_attribute WHERE pg_catalog.pg_attribute.attnum > 0
-- Django
SELECT "customers"."id", "customers"."name", "customers"."email" FROM "customers" WHERE "customers"."email" = 'a@b.c' LIMIT 21
SELECT "customers"."id", "customers"."email", COUNT("orders"."id") AS "n" FROM "customers" LEFT OUTER JOIN "orders" ON ("customers"."id" = "orders"."customer_id") GROUP BY "customers"."id" ORDER BY "customers"."name" ASC
SELECT COUNT(*) AS "__count" FROM "customers" WHERE ("customers"."city" = 'x' AND "customers"."email" IS NOT NULL)
SELECT 1 AS "a" FROM "customers" WHERE ("customers"."email" = 'x' AND NOT ("customers"."id" = 3)) LIMIT 1
SELECT "customers"."id" FROM "customers" WHERE "customers"."email" IN ('a', 'b') FOR UPDATE
UPDATE "customers" SET "email" = 'x', "name" = 'y' WHERE "customers"."id" = 1
DELETE FROM "orders" WHERE "orders"."customer_id" IN (1, 2)
SELECT "orders"."id", ROW_NUMBER() OVER (PARTITION BY "orders"."customer_id" ORDER BY "orders"."id" ASC) AS "rank" FROM "orders"
SELECT "orders"."id", "customers"."email" FROM "orders" INNER JOIN "customers" ON ("orders"."customer_id" = "customers"."id") ORDER BY "orders"."id" ASC LIMIT 3
SAVEPOINT "s1_x1"
RELEASE SAVEPOINT "s1_x1"
SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid)
-- Prisma
SELECT "public"."customers"."id", "public"."customers"."email" FROM "public"."customers" WHERE ("public"."customers"."email" = $1 AND 1=1) LIMIT $2 OFFSET $3
SELECT "public"."customers"."id", "public"."customers"."name" FROM "public"."customers" WHERE "public"."customers"."id" IN ($1,$2,$3) ORDER BY "public"."customers"."id" ASC OFFSET $4
SELECT COUNT(*) FROM (SELECT "public"."customers"."id" FROM "public"."customers" WHERE 1=1 OFFSET $1) AS "sub"
INSERT INTO "public"."customers" ("name","email") VALUES ($1,$2) RETURNING "public"."customers"."id", "public"."customers"."name", "public"."customers"."email"
SELECT "t0"."id", "t0"."email", "o"."__prisma_data__" AS "orders" FROM "public"."customers" AS "t0" LEFT JOIN LATERAL (SELECT COALESCE(JSONB_AGG("__prisma_data__"), '[]') AS "__prisma_data__" FROM (SELECT JSONB_BUILD_OBJECT('id', "t1"."id", 'item', "t1"."item") AS "__prisma_data__" FROM "public"."orders" AS "t1" WHERE "t0"."id" = "t1"."customer_id") AS "t2") AS "o" ON TRUE WHERE "t0"."email" = $1 LIMIT $2
-- Drizzle
select "id", "name", "email" from "customers" where "customers"."email" = $1 limit $2
select "customers"."id", "customers"."email", "o"."data" as "orders" from "customers" left join lateral (select coalesce(json_agg(json_build_array("o"."id", "o"."item")), '[]'::json) as "data" from "orders" "o" where "o"."customer_id" = "customers"."id") "o" on true
-- ActiveRecord
SELECT "customers".* FROM "customers" WHERE "customers"."email" = $1 LIMIT $2
SELECT DISTINCT "customers".* FROM "customers" INNER JOIN "orders" ON "orders"."customer_id" = "customers"."id" WHERE "orders"."amount" > $1
SELECT 1 AS one FROM "customers" WHERE "customers"."email" = $1 AND "customers"."id" != $2 LIMIT $3
SELECT COUNT(*) FROM "customers"
SELECT "customers"."city" AS customers_city, COUNT(*) AS count_all FROM "customers" GROUP BY "customers"."city"
SELECT "customers"."id" AS t0_r0, "customers"."email" AS t0_r1, "orders"."id" AS t1_r0 FROM "customers" LEFT OUTER JOIN "orders" ON "orders"."customer_id" = "customers"."id" WHERE "customers"."id" IN ($1, $2)
SET client_min_messages TO 'warning'
SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4')
SELECT a.attname FROM (SELECT indrelid, indkey, generate_subscripts(indkey, 1) idx FROM pg_index WHERE indrelid = '"customers"'::regclass AND indisprimary) i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[i.idx] ORDER BY i.idx
-- Hibernate
select c1_0.id,c1_0.city,c1_0.email,c1_0.name from customers c1_0 where c1_0.email=$1
select c1_0.id,c1_0.email,c1_0.name,count(o1_0.id) from customers c1_0 left join orders o1_0 on c1_0.id=o1_0.customer_id group by c1_0.id,c1_0.email,c1_0.name
select c1_0.id,o1_0.customer_id,o1_0.id,o1_0.item from customers c1_0 left join orders o1_0 on c1_0.id=o1_0.customer_id where c1_0.id=$1
select nextval('customers_seq')
update customers set city=$1,email=$2,name=$3 where id=$4
-- pgbench
SELECT abalance FROM pgbench_accounts WHERE aid = 1
-- Metabase, dashboards
SELECT "public"."customers"."id" AS "id", "public"."customers"."email" AS "email" FROM "public"."customers" LIMIT 2000
SELECT DATE_TRUNC('month', "public"."customers"."created") AS "created", COUNT(*) AS "count" FROM "public"."customers" GROUP BY DATE_TRUNC('month', "public"."customers"."created") ORDER BY DATE_TRUNC('month', "public"."customers"."created") ASC
SELECT SUM("source"."amount") AS "sum" FROM (SELECT "public"."orders"."amount" AS "amount", "public"."customers"."email" AS "email" FROM "public"."orders" LEFT JOIN "public"."customers" ON "public"."orders"."customer_id" = "public"."customers"."id") AS "source"
-- psql, pgAdmin, DBeaver
SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(customers)$' COLLATE pg_catalog.default AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull FROM pg_catalog.pg_attribute a WHERE a.attrelid = '16401' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
SELECT c2.relname, i.indisprimary, pg_catalog.pg_get_indexdef(i.indexrelid, 0, true) FROM pg_catalog.pg_class c, pg_catalog.pg_class c2, pg_catalog.pg_index i WHERE c.oid = '16401' AND c.oid = i.indrelid AND i.indexrelid = c2.oid ORDER BY i.indisprimary DESC, c2.relname
SELECT db.oid AS did, db.datname, pg_catalog.has_database_privilege(db.oid, 'CREATE') AS cancreate FROM pg_catalog.pg_database db WHERE datallowconn ORDER BY datname
SELECT db.oid, db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate ORDER BY db.datname
SELECT n.oid, n.*, d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = n.oid AND d.objsubid = 0 ORDER BY nspname
SELECT c.oid, c.*, d.description, pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr FROM pg_catalog.pg_class c LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = 0 WHERE c.relnamespace = 2200 AND c.relkind NOT IN ('i', 'I', 'c')
SELECT session_user, current_database()
SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3
-- pg_dump
SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'
SELECT oid, lomowner, lomacl, acldefault('L', lomowner) AS acldefault FROM pg_largeobject_metadata
