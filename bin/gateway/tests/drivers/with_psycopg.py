"""psycopg 3 (libpq 18): text and binary, pipeline mode, COPY both ways, cursors, notify, cancel, prepared, async.

Prints what it saw; the output must be the same direct and through the gateway. A failed assertion is a failed test.
JUDGED: for an identity that a mask rule on some other table touches; leaves out what is refused then (code, NOTIFY payloads,
other sessions' statements) and error texts, which may be withheld.
"""

import asyncio
import datetime
import decimal
import logging
import os
import threading
import time
import uuid

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

TLS = os.environ["PGSSLMODE"] != "disable"
JUDGED = "JUDGED" in os.environ
logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings carry addresses and ports


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


def connect(**more):
    return psycopg.connect("", connect_timeout=20, **more)


def failure(f):
    try:
        f()
    except psycopg.Error as e:
        return (type(e).__name__, e.sqlstate, e.diag.message_primary if e.diag and not JUDGED else None)
    raise AssertionError("no error")


def values(c):
    row = (
        1, 2**40, decimal.Decimal("12345678901234567890.123"), 1.5, True, "ünïcode\n", b"\x00\xff",
        datetime.date(2026, 11, 20), datetime.datetime(2026, 11, 20, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=1, seconds=2), uuid.UUID(int=7), [1, None, 3], ["a", "b,c", None], Jsonb({"a": [1, None]}), None,
    )
    c.execute("set timezone to 'UTC'")
    holes = sql.SQL("select %s::int4, %s::int8, %s::numeric, %s::float8, %s::bool, %s::text, %s::bytea, %s::date, "
                    "%s::timestamptz, %s::interval, %s::uuid, %s::int4[], %s::text[], %s::jsonb, %s::text")
    for binary in (False, True):
        with c.cursor(binary=binary) as cur:
            got = cur.execute(holes, row, binary=binary).fetchone()
            show(f"values binary={binary}", got)
            show("types", [d.type_code for d in cur.description])
    with psycopg.ClientCursor(c) as cur:  # simple protocol
        show("simple", cur.execute("select %s, %s", (1, "it's")).fetchone())
        cur.execute("select 1; select 2, 3; insert into t(v) values ('multi') returning v")
        show("several results", [cur.fetchall()] + [cur.fetchall() for _ in iter(cur.nextset, None)])


def prepared(c):
    looked_up = [c.execute("select v from t where id = %s", (i,)).fetchone() for i in range(8)]  # prepared at the fifth
    show("lookups", looked_up)
    if not JUDGED:
        assert c.execute("select count(*) from pg_prepared_statements").fetchone()[0] >= 1
    show("prepare=True", c.execute("select %s::int + 1", (41,), prepare=True).fetchone())
    c.execute("deallocate all")
    with c.cursor() as cur:
        cur.executemany("insert into many(a, b) values (%s, %s) returning a", [(i, f"r{i}") for i in range(500)], returning=True)
        n = 1
        while cur.nextset():
            n += 1
        show("executemany", n)


def transactions(c):
    with c.transaction():
        c.execute("insert into t(v) values ('kept')")
        show("nested", failure(lambda: nested(c)))
    show("rows", c.execute("select v from t order by id").fetchall())
    show("syntax", failure(lambda: c.execute("selec 1")))
    show("duplicate", failure(lambda: c.execute("insert into t(id, v) values (1, 'x')")))
    show("after errors", c.execute("select 1").fetchone())
    c.autocommit = False
    show("in transaction", failure(lambda: c.execute("select 1/0")))
    show("status", c.info.transaction_status.name)
    show("ignored", failure(lambda: c.execute("select 1")))
    c.rollback()
    show("status", c.info.transaction_status.name)
    c.autocommit = True


def nested(c):
    with c.transaction():
        c.execute("insert into t(v) values ('lost')")
        c.execute("select * from no_such")


def pipeline(c):
    with c.pipeline() as p:
        curs = [c.execute("select %s::int * 2", (i,)) for i in range(300)]
        p.sync()
        show("pipeline sum", sum(cur.fetchone()[0] for cur in curs))
    seen = []
    try:
        with c.pipeline() as p:
            good = c.execute("insert into many(a, b) values (-1, 'before') returning a")
            bad = c.execute("select 1/%s", (0,))
            skipped = c.execute("insert into many(a, b) values (-2, 'after') returning a")
            p.sync()
            later = c.execute("select 'after the sync'")
            for cur in (good, bad, skipped, later):
                try:
                    seen.append(cur.fetchall())
                except psycopg.Error as e:
                    seen.append((type(e).__name__, e.sqlstate))
    except psycopg.Error as e:
        seen.append(("at exit", type(e).__name__, e.sqlstate))
    show("pipeline with an error", seen)
    show("what it left", c.execute("select a from many where a < 0 order by a").fetchall())
    with c.pipeline():
        with c.transaction():
            for i in range(50):
                c.execute("insert into many(a, b) values (%s, %s)", (1000 + i, "p" * 2000))
    show("pipelined inserts", c.execute("select count(*) from many where a >= 1000").fetchone())


def copying(c):
    with c.cursor() as cur:
        with cur.copy("copy copied (id, v, n) from stdin") as copy:
            for i in range(5000):
                copy.write_row((i, f"row {i}\t\\ \n", None if i % 3 else decimal.Decimal(i)))
        show("copied in", cur.rowcount)
        with cur.copy("copy copied (id, v, n) from stdin (format binary)") as copy:
            copy.set_types(["int4", "text", "numeric"])
            for i in range(5000, 6000):
                copy.write_row((i, "b" * (i % 50), decimal.Decimal(1)))
        with cur.copy("copy (select id, v, n from copied where id in (0, 1, 3, 5999) order by id) to stdout") as copy:
            show("text", b"".join(copy))
        with cur.copy("copy (select id, v, n from copied where id in (0, 5001) order by id) to stdout (format binary)") as copy:
            show("binary", b"".join(copy))
        with cur.copy("copy (select * from copied order by id) to stdout (format csv, header)") as copy:
            csv = b"".join(copy)
        show("csv", (len(csv), csv[:40]))
        show("bad row", failure(lambda: bad_copy(cur)))
        show("given up", failure(lambda: cancelled_copy(cur)))
        show("abandoned", failure(lambda: abandoned_copy(cur))[0])
    show("after copying", c.execute("select count(*) from copied").fetchone())


def bad_copy(cur):
    with cur.copy("copy copied (id, v, n) from stdin") as copy:
        for i in range(2000):
            copy.write(b"%d\tx\tnot a number\n" % i)


def cancelled_copy(cur):
    with cur.copy("copy copied (id, v, n) from stdin") as copy:
        copy.write(b"1\tx\t1\n")
        raise psycopg.errors.DataError("changed my mind")


def abandoned_copy(cur):
    with cur.copy("copy (select g, repeat('x', 1000) from generate_series(1, 100000) g) to stdout") as copy:
        copy.read()
        raise psycopg.errors.DataError("seen enough")  # psycopg cancels the rest


def cursors(c):
    with c.transaction():
        with c.cursor(name="named", scrollable=True) as cur:
            cur.itersize = 70
            cur.execute("select id from copied where id between 1 and 500 order by id")
            show("named cursor", sum(r[0] for r in cur))
            cur.scroll(10, mode="absolute")
            show("scrolled", cur.fetchone())
        with c.cursor(name="binary", binary=True) as cur:
            cur.execute("select id, n from copied where id between 5001 and 5005 order by id")
            show("binary cursor", cur.fetchmany(2))
    with c.cursor() as cur:
        show("stream", sum(r[0] for r in cur.stream("select g from generate_series(1, 20000) g")))
    with c.cursor() as cur:
        show("chunks", sum(r[0] for r in cur.stream("select g from generate_series(1, 20000) g", size=300)))


def notifications(c):
    notices = []
    c.add_notice_handler(lambda d: notices.append((d.severity, d.message_primary)))
    c.execute("do $$ begin for i in 1..3 loop raise notice 'n%', i; end loop; end $$")
    show("notices", notices)
    c.execute("listen chan")
    with connect(autocommit=True) as other:
        for i in range(3):
            other.execute("select pg_notify('chan', %s)", (f"payload {i}",))
    show("notified", [(n.channel, n.payload) for n in c.notifies(timeout=20, stop_after=3)])
    show("nothing more", list(c.notifies(timeout=0.1)))
    c.execute("unlisten *")


def cancelling(c):
    t = threading.Timer(0.5, c.cancel_safe)
    t.start()
    began = time.monotonic()
    show("cancelled", failure(lambda: c.execute("select pg_sleep(30)"))[:2])
    assert time.monotonic() - began < 10
    t.join()
    show("after the cancel", c.execute("select 'alive'").fetchone())


def big(c):
    for binary in (False, True):
        with c.cursor(binary=binary) as cur:
            text = "x" * 3_000_000
            got = cur.execute("select %s::text || 'y', %s::bytea", (text, b"\x01" * 2_000_000)).fetchone()
            show("big", (len(got[0]), got[0][-1], len(got[1])))
    with c.cursor() as cur:
        cur.execute("select repeat('a', i) from generate_series(1, 1200) i")
        show("rows of every length", sum(len(r[0]) for r in cur))
    show("wide", len(c.execute("select " + ", ".join(f"{i} as c{i}" for i in range(1600))).fetchone()))
    show("no columns", c.execute("select from generate_series(1, 3)").rowcount)


async def asynchronous():
    async with await psycopg.AsyncConnection.connect("", autocommit=True) as c:
        async with c.pipeline():
            curs = [await c.execute("select %s::int", (i,)) for i in range(20)]
        show("async", [(await cur.fetchone())[0] for cur in curs])


def main():
    with connect(autocommit=True) as c:
        assert c.pgconn.ssl_in_use == TLS, "TLS is not what was asked for"
        c.execute("create table t (id serial primary key, v text); create table many (a int, b text); "
                  "create table copied (id int, v text, n numeric); insert into t(v) values ('first')")
        for step in (values, prepared, transactions, pipeline, copying, cursors, notifications, cancelling, big):
            if JUDGED and step is notifications:
                continue
            print(f"-- {step.__name__}", flush=True)
            step(c)
        show("search_path", c.execute("show search_path").fetchone())
        c.execute("drop table t, many, copied")
    asyncio.run(asynchronous())
    show("parameters", [connect(application_name="mine", options="-c statement_timeout=12345").execute(q).fetchone()[0]
                        for q in ("show statement_timeout",)])
    if TLS:
        with connect(channel_binding="require") as c:
            show("channel binding", c.execute("select 1").fetchone())
    show("no such database", failure(lambda: connect(dbname="no_such_database"))[0])
    show("wrong password", failure(lambda: connect(password="wrong"))[0])


main()
