#!/bin/sh
# pgbench: initialisation (COPY), then each protocol mode, then a script with every kind of reply in one pipeline.
# Prints only what does not depend on speed.
set -eu
pgbench -i -s 1 -q 2>&1 | grep -cE '^done in' | sed 's/^/initialised /'
keep() { grep -E '^(transaction type|query mode|number of transactions actually|number of failed)'; }
for mode in simple extended prepared; do
    pgbench -n -M $mode -c 4 -j 2 -t 100 2>&1 | keep
    pgbench -n -S -M $mode -c 4 -j 2 -t 250 2>&1 | keep
done
# -C: a new connection for every transaction.
pgbench -n -S -C -c 2 -t 10 2>&1 | keep
script=$(mktemp)
trap 'rm -f "$script"' EXIT
cat > "$script" <<'S'
\set aid random(1, 100000)
\startpipeline
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 1, current_timestamp);
end;
\endpipeline
S
for mode in extended prepared; do
    pgbench -n -M $mode -f "$script" -c 4 -j 2 -t 50 2>&1 | keep | grep -v 'transaction type'
done
psql -X -A -t -c "select 'history ' || count(*) from pgbench_history" \
    -c "select 'balanced ' || ((select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers))"
