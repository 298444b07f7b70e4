"""asyncpg: its own protocol code, binary everywhere, COPY, cursors, listeners, statement cache, cancellation by timeout.

Prints what it saw; the output must be the same direct and through the gateway. JUDGED: see with_psycopg.py.
"""

import asyncio
import datetime
import decimal
import io
import os
import ssl
import uuid

import asyncpg


JUDGED = "JUDGED" in os.environ


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


def tls():
    if os.environ["PGSSLMODE"] == "disable":
        return False
    return ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])


async def failure(awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as e:
        return (type(e).__name__, e.sqlstate, None if JUDGED else str(e))
    except asyncio.TimeoutError:
        return "TimeoutError"
    raise AssertionError("no error")


async def types_of_ours(c):
    # The driver asks the catalogue about them, around a set_config('jit', $1): refused under rules today.
    show("types", tuple(await c.fetchrow(
        "select $1::uuid, $2::int[], $3::jsonb, $4::mood, $5::bytea, $6::interval, $7::inet, $8::mood[]",
        uuid.UUID(int=9), [1, None], '{"a": 1}', "ok", b"\0\1", datetime.timedelta(hours=5), "10.0.0.1", ["sad", "ok"])))
    show("composite", tuple(await c.fetchval("select t from t")))


async def pools():
    # A pool sends CLOSE ALL between two users of a connection; under rules the gateway then forgets what it knew of prepared
    # statements, and masks what they derive.
    pool = await asyncpg.create_pool(ssl=tls(), min_size=2, max_size=5)
    show("pool", sum(await asyncio.gather(*(pool.fetchval("select $1::int", i) for i in range(200)))))
    await pool.close()


async def notifications(c, other):
    got = asyncio.Queue()
    await c.add_listener("chan", lambda *a: got.put_nowait(a[2:]))
    await other.execute("select pg_notify('chan', 'one'); select pg_notify('chan', 'two')")
    show("notified", [await asyncio.wait_for(got.get(), 20) for _ in range(2)])
    logged = []
    c.add_log_listener(lambda _, m: logged.append((m.severity, m.message)))
    await c.execute("do $$ begin raise notice 'hello'; end $$")
    await c.fetchval("select 1")
    show("logged", logged)


async def main():
    c = await asyncpg.connect(ssl=tls(), timeout=20)
    await c.execute("create table t (id int primary key, v text, n numeric, at timestamptz); create type mood as enum ('sad', 'ok')")
    row = (1, "ü", decimal.Decimal("1.50"), datetime.datetime(2026, 11, 20, tzinfo=datetime.timezone.utc))
    show("insert", await c.execute("insert into t values ($1, $2, $3, $4)", *row))
    show("fetch", [tuple(r) for r in await c.fetch("select * from t")])
    if not JUDGED:
        await types_of_ours(c)
    await c.executemany("insert into t values ($1, $2)", [(i, str(i)) for i in range(2, 1000)])
    show("count", await c.fetchval("select count(*) from t"))
    show("script", await c.execute("select 1; select 2; update t set v = 'u' where id < 4"))
    st = await c.prepare("select v, id * 2 as double from t where id = $1")
    show("prepared", ([a.name for a in st.get_attributes()], [p.name for p in st.get_parameters()]))
    show("prepared", [tuple(await st.fetchrow(i)) for i in (1, 500, 999)])
    async with c.transaction():
        seen = 0
        async for record in c.cursor("select id from t order by id", prefetch=37):
            seen += record["id"]
        show("cursor", seen)
        cur = await c.cursor("select id from t order by id")
        await cur.forward(10)
        show("portal", [r[0] for r in await cur.fetch(3)])
    out = io.BytesIO()
    show("copy out", await c.copy_from_query("select id, v from t where id < $1 order by id", 4, output=out))
    show("copied", out.getvalue())
    out = io.BytesIO()
    await c.copy_from_table("t", columns=["id", "v"], output=out, format="binary")
    show("copied binary", len(out.getvalue()))
    show("copy in", await c.copy_to_table("t", source=io.BytesIO(b"2000,a\n2001,b\n"), columns=["id", "v"], format="csv"))
    show("copy records", await c.copy_records_to_table("t", columns=["id", "v"], records=[(i, "r") for i in range(3000, 4000)]))
    show("unique", await failure(c.execute("insert into t(id) values (1)")))
    show("syntax", await failure(c.fetch("select from where")))
    show("wrong type", (await failure(c.fetch("select $1::int / 0", 1)))[:2])
    tr = c.transaction()
    await tr.start()
    show("in transaction", (await failure(c.execute("select 1/0")))[:2])
    show("aborted", (await failure(c.fetchval("select 1")))[:2])
    await tr.rollback()
    show("timeout", await failure(c.fetch("select pg_sleep(30)", timeout=0.5)))
    show("alive", await c.fetchval("select 'alive'"))
    other = await asyncpg.connect(ssl=tls())
    if not JUDGED:
        await notifications(c, other)
    show("setting", c.get_settings().application_name)
    await c.execute("set application_name = 'renamed'")
    show("setting", c.get_settings().application_name)
    # A changed type under a prepared statement: the server says so, the driver prepares again.
    await c.fetch("select * from t where id = 1")
    await other.execute("alter table t add column extra int default 5")
    show("after alter", tuple(await c.fetchrow("select * from t where id = 1")))
    await c.reset()
    await other.close()
    if not JUDGED:
        await pools()
    await c.execute("drop table t; drop type mood")
    await c.close()


asyncio.run(main())
