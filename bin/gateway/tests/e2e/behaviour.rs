//! What rules do, seen from outside: masked on every path, blocked without breaking the session, cancelled, recorded.
//!
//! Every claim has its control: an identity that no rule touches sees what the other must not, in the same run.

use std::time::{Duration, Instant};

use crate::gateway::{BOTH, Gateway, Io, Settings, TOKEN};
use crate::servers::{self, PASSWORD, Server, UPSTREAM_PASSWORD, connection_env};
use crate::wire::{self, Client, Message, bind, describe, execute, parse, query, sync, tags};

/// Masks a column and blocks two classes of statements for the group `support`.
pub(crate) const RULES: &str = "\
\x20 - name: mask-email
    on: {connection: \"*\", columns: [public.customers.email], groups: [support]}
    mask: redact
  - name: no-destructive-ddl
    on: {connection: \"*\", statements: [drop, truncate], groups: [support]}
    block: DROP and TRUNCATE are not allowed here
  - name: where-it-belongs
    on: {connection: \"*\", statements: [delete], groups: [support]}
    missing_where: true
    block: DELETE needs a WHERE clause
";

/// What no masked identity may receive.
const NEEDLE: &[u8] = b"needle";

/// A database with masked and open columns.
fn shop(server: &Server) -> String {
    let database = servers::database(server);
    server.sql(
        &database,
        "create table customers (id int primary key, name text, email text, note text);
         insert into customers select i, 'name' || i, 'needle' || i || '@secret.example', 'open' from generate_series(1, 50) i;
         create view contacts as select id, email as contact from customers;
         create table victims (id int);
         insert into victims values (1), (2);
         analyze;",
    );
    database
}

fn contains(messages: &[Message], needle: &[u8]) -> bool {
    messages.iter().any(|m| m.body.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle)))
}

/// Bytes to send, and how many ReadyForQuery end the answer.
struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    /// Through a rule that masks, something must still come back.
    rows: bool,
}

fn reading() -> Vec<Case> {
    let simple = |what, sql: &str, rows| Case { what, bytes: query(sql), rows };
    let extended = |what, sql: &str, binary: bool, described: bool| {
        let mut bytes = [parse("", sql), bind("", "", binary)].concat();
        if described {
            bytes.extend(describe(b'P', ""));
        }
        bytes.extend([execute("", 0), sync()].concat());
        Case { what, bytes, rows: true }
    };
    vec![
        simple("star", "select * from customers order by id", true),
        simple("column", "select email from customers", true),
        simple("alias", "select c.email as harmless from customers c", true),
        extended("text, described", "select email, id from customers", false, true),
        extended("binary, described", "select id, email from customers", true, true),
        extended("text, not described", "select email from customers", false, false),
        extended("binary, not described", "select email, name from customers", true, false),
        simple("derived", "select upper(email), reverse(reverse(email)) from customers", false),
        simple("aggregate", "select string_agg(email, ',') from customers", false),
        simple("whole row", "select customers from customers", false),
        simple("json", "select to_jsonb(c) from customers c", false),
        simple("subquery", "select x from (select email as x from customers) s", false),
        simple("union", "select name from customers union all select email from customers", false),
        simple("view", "select contact from contacts", false),
        simple("returning", "update customers set note = note where id = 1 returning email", false),
        simple("copy text", "copy customers to stdout", true),
        simple("copy csv", "copy customers (email, id) to stdout with (format csv, header)", true),
        simple("copy binary", "copy customers to stdout with (format binary)", false),
        simple("copy query", "copy (select email from customers) to stdout", false),
        simple(
            "cursor",
            "begin; declare c cursor for select email from customers; fetch all c; commit",
            false,
        ),
        simple("error text", "select email::int from customers", false),
        simple(
            "notice",
            "do $$ begin raise notice '%', (select email from customers limit 1); end $$",
            false,
        ),
        simple(
            "statistics",
            "select most_common_vals::text, histogram_bounds::text from pg_stats where tablename = 'customers'",
            false,
        ),
        simple("xml", "select query_to_xml('select email from customers', true, true, '')", false),
        simple(
            "set_config",
            "select set_config('application_name', min(email), false) from customers",
            false,
        ),
        simple("notify", "listen n; select pg_notify('n', email) from customers where id = 1", false),
        simple("laundered", "create table loot as select email from customers; select * from loot", false),
        simple("prepared in SQL", "prepare p as select email from customers; execute p", false),
    ]
}

#[test]
fn a_masked_column_is_masked_on_every_path() {
    for (version, io) in [(15, Io::Uring), (18, Io::Epoll)] {
        let server = servers::postgres(version);
        let gateway = Gateway::start(Settings::new(io, server).rules(RULES));
        // The list can fail: without a rule the value crosses in every one of these cases.
        let open = shop(server);
        for Case { what, bytes, .. } in reading() {
            let mut client = Client::login(gateway.port, "raw", &open);
            client.send(&bytes);
            let mut got = client.until('Z');
            got.extend(client.query("select 1"));
            assert!(
                contains(&got, NEEDLE),
                "control `{what}` on {version}: the value did not cross: {got:?}"
            );
        }
        let database = shop(server);
        for Case { what, bytes, rows } in reading() {
            let mut client = Client::login(gateway.port, "raw_support", &database);
            client.send(&bytes);
            let mut got = client.until('Z');
            let answer = tags(&got);
            let _anything_left_is_searched_too = client.query("rollback");
            got.extend(client.query("select 'still here'"));
            assert!(!contains(&got, NEEDLE), "LEAK in `{what}` on {version}, {io:?}: {got:?}");
            assert!(contains(&got, b"still here"), "`{what}` broke the session: {got:?}");
            if rows {
                let data = got.iter().filter(|m| matches!(m.tag, 'D' | 'd')).count();
                assert!(
                    data >= 50,
                    "`{what}` on {version} should be masked, not refused: {answer}: {:?}",
                    got.first()
                );
            }
        }
    }
}

#[test]
fn an_encoding_that_hides_delimiters_hides_no_value() {
    // In SJIS `ポ` ends with the byte of `|`, and `表` with that of a backslash: fields move by one, and there are still as many.
    let copy = "copy (select 1, chr(12509), email, chr(34920), id from customers) to stdout (delimiter '|')";
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    // One that the server converts to is an error for what it does not have, and so tells of the value: none of these.
    for (encoding, refused) in [
        ("SJIS", true),
        ("BIG5", true),
        ("GBK", true),
        ("UTF8", false),
        ("EUC_JP", true),
        ("LATIN1", true),
        ("SQL_ASCII", false),
    ] {
        let login = |user| Client::login_with(gateway.port, user, &database, ("client_encoding", encoding));
        let needle = if encoding == "LATIN1" { b"no equivalent" } else { NEEDLE };
        assert!(contains(&login("raw").query(copy), needle), "control, {encoding}");
        let mut client = login("raw_support");
        for sql in [copy, "set client_encoding = 'UTF8'", "rollback", copy, "copy customers to stdout"] {
            let got = client.query(sql);
            assert!(!contains(&got, NEEDLE), "LEAK in {encoding}: {got:?}");
            if refused {
                assert!(contains(&got, b"client_encoding=UTF8"), "{encoding}: {got:?}");
            } else if sql.starts_with("copy") {
                assert_eq!(got.iter().filter(|m| m.tag == 'd').count(), 50, "{encoding}: {got:?}");
            }
        }
    }
}

#[test]
fn what_is_not_masked_arrives_unchanged() {
    let server = servers::postgres(18);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    let mut touched = Client::login(gateway.port, "raw_support", &database);
    let mut free = Client::login(gateway.port, "raw", &database);
    for sql in [
        "select id, name, note from customers order by id",
        "select count(*) from customers",
        "select v.id, c.name from victims v join customers c on c.id = v.id order by 1",
        "insert into victims values (77)",
        "update customers set name = 'new' where id = 3",
        "show server_version",
        "select current_user, version()",
        "copy victims to stdout",
        "select 1/0",
        "select no_such_column from victims",
    ] {
        assert_eq!(touched.query(sql), free.query(sql), "`{sql}` differs for an identity under rules");
    }
}

#[test]
fn one_name_by_two_spellings_is_one_statement() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    // The server keeps 63 bytes of a name.
    let name = |last: &str| "n".repeat(63) + last;
    let swap = |user| {
        let mut client = Client::login(gateway.port, user, &database);
        client.send(&[parse(&name("X"), "select name from customers"), sync()].concat());
        client.until('Z');
        let close = wire::message(b'C', &[b"S", name("Y").as_bytes(), b"\0"].concat());
        client.send(&[close, parse(&name("Y"), "select email || '' from customers"), sync()].concat());
        client.until('Z');
        client.send(&[bind("", &name("X"), false), execute("", 0), sync()].concat());
        client.until('Z')
    };
    assert!(contains(&swap("raw"), NEEDLE), "control");
    let got = swap("raw_support");
    assert!(!contains(&got, NEEDLE) && got.iter().filter(|m| m.tag == 'D').count() == 50, "{got:?}");
    // In an encoding of the server's two spellings may be one name: no such names under rules.
    for name in ["\u{e9}", "n\u{416}"] {
        let mut client = Client::login(gateway.port, "raw_support", &database);
        client.send(&[parse(name, "select 1"), sync()].concat());
        let refused = client.next();
        assert!(refused.tag == 'E' && refused.field('M').contains("ASCII"), "{refused:?}");
    }
}

#[test]
fn syncs_that_a_copy_may_swallow_do_not_move_the_answers() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    let done = || wire::message(b'c', b"");
    let secret = "select email || '' from customers";
    let extended = |sql: &str| [parse("", sql), bind("", "", false), execute("", 0)].concat();
    let cases = [
        // Swallowed: COPY reads on to the end of the data.
        [query("copy victims from stdin"), sync(), done(), query("select 1/0 from victims"), query(secret)]
            .concat(),
        [extended("copy victims from stdin"), sync(), done(), sync(), query("select 1"), query(secret)]
            .concat(),
        // Not swallowed: it fails behind CopyInResponse and before it reads. Nobody can tell whether the query will run: it ends here.
        [extended("copy contacts from stdin"), sync(), query(secret)].concat(),
        [extended("copy contacts from stdin"), sync(), done(), sync(), query("select 1"), query(secret)]
            .concat(),
        [query("copy contacts from stdin"), sync(), done(), query("select 1"), query(secret)].concat(),
    ];
    for (n, bytes) in cases.iter().enumerate() {
        for user in ["raw", "raw_support"] {
            let mut client = Client::login(gateway.port, user, &database);
            client.stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            client.send(bytes);
            let got: Vec<Message> = std::iter::from_fn(|| client.try_next().ok()).collect();
            let all = format!("case {n} for {user}: {}", tags(&got));
            if n != 2 && user == "raw" {
                assert!(contains(&got, NEEDLE), "control, {all}");
            }
            if user == "raw_support" {
                assert!(!contains(&got, NEEDLE), "LEAK in {all}: {got:?}");
                let masked =
                    got.iter().filter(|m| m.tag == 'D' && contains(std::slice::from_ref(m), b"***")).count();
                assert_eq!(masked, if n == 2 { 0 } else { 50 }, "{all}");
            }
        }
    }
}

#[test]
fn what_was_prepared_is_known_after_code_of_users_ran() {
    let server = servers::postgres(18);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    server.sql(
        &database,
        "create function tick() returns void language plpgsql as 'begin perform 1; end';
         create function swap() returns void language plpgsql as
             'begin execute ''deallocate all''; execute ''prepare n as select upper(email) from customers''; end';
         create function swap_and_fail() returns void language plpgsql as 'begin perform swap(); raise exception ''no''; end';",
    );
    let counting = "select count(*), upper(max(name)) from customers where id > $1::int - 1";
    let run = || {
        let parameter = [&b"\0n\0\0\0\0\x01\0\0\0\x011\0\0"[..]].concat();
        [wire::message(b'B', &parameter), execute("", 0), sync()].concat()
    };
    let mut client = Client::login(gateway.port, "raw_support", &database);
    client.send(&[parse("n", counting), sync()].concat());
    client.until('Z');
    for code in ["select 1", "select tick()", "select swap()", "select swap_and_fail()"] {
        client.query(code);
        client.send(&run());
        let got = client.until('Z');
        assert_eq!(tags(&got), "2 D C Z", "after {code}: {got:?}");
        assert!(contains(&got, b"NAME9") && contains(&got, b"50"), "after {code}: {got:?}");
        assert!(!contains(&got, NEEDLE));
    }
}

#[test]
fn a_table_made_past_the_gateway_is_known_before_anything_is_asked_about_it() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    let mut client = Client::login(gateway.port, "raw_support", &database);
    let made =
        "drop table elsewhere cascade; create table customers (id int primary key, name text, email text);
        insert into customers values (1, 'ana', 'needle@secret.example')";
    server.sql(&database, "alter table customers rename to elsewhere");
    // Its own DDL brings the catalogue up to now: the table is not in it.
    client.query("create table between_times (id int)");
    assert_eq!(client.value("select count(*) from between_times"), "0");
    server.sql(&database, made);
    for question in
        ["select count(*) from customers where email like 'n%'", "select id from customers order by email"]
    {
        let answer = client.query(question);
        assert_eq!(answer[0].field('C'), "42501", "{question}: {}", crate::wire::tags(&answer));
    }
    let answer = client.query("select name, email from customers");
    assert!(!contains(&answer, NEEDLE) && contains(&answer, b"ana"), "{}", crate::wire::tags(&answer));
}

#[test]
fn a_dump_through_a_mask_is_a_masked_copy() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Epoll, server).rules(RULES));
    let database = shop(server);
    server.sql(
        &database,
        "create function shout(what text, times int default 2) returns text language sql as 'select repeat(upper(what), times)';
         create type size as enum ('small', 'large'); create domain amount as int check (value > 0);
         alter table victims add size size default 'small', add amount amount default 1;
         create index on customers (lower(name)); comment on table victims is 'whom it hit'",
    );
    let dump = |user: &str, args: &[&str]| {
        let env = match user {
            "gw" => connection_env("127.0.0.1", server.port, "gw", UPSTREAM_PASSWORD, &database, false),
            user => gateway.env(user, &database, true),
        };
        let output =
            std::process::Command::new("pg_dump").args(args).envs(env).output().expect("start pg_dump");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_dump {args:?}: {errors}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        // Each run draws a key of its own.
        text.lines().filter(|l| !l.contains("restrict ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(dump("ana", &["-s"]), dump("gw", &["-s"]));
    let (masked, whole) = (dump("ana", &[]), dump("gw", &[]));
    assert!(whole.contains("needle") && !masked.contains("needle"));
    assert_eq!(masked.lines().count(), whole.lines().count());
    let copy = servers::database(server);
    server.sql(&copy, &masked);
    assert_eq!(server.sql(&copy, "select count(*), min(email), max(email) from customers"), "50|***|***");
}

#[test]
fn meeting_masked_values_by_writing_is_counted() {
    const RULES: &str = "\
\x20 - name: mask-people
    on: {connection: \"*\", columns: [people.email, people.ssn], groups: [support]}
    mask: redact
    probes: 4
";
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = servers::database(server);
    server.sql(
        &database,
        "create table people (id int generated always as identity primary key, email text unique, ssn text, name text) ;
         create unique index people_lower_ssn on people (lower(ssn)) where name is not null;
         create table letters (id int primary key, recipient text references people (email));
         insert into people (email, ssn, name) select 'p' || i || '@x', 'S' || i, 'n' || i from generate_series(1, 50) i",
    );
    let mut client = Client::login(gateway.port, "raw_support", &database);
    // What meets nothing costs nothing.
    for i in 0..20 {
        let new =
            client.query(&format!("insert into people (email, ssn, name) values ('new{i}@x', 'N{i}', 'n')"));
        assert_eq!(new[0].tag, 'C', "{}", crate::wire::tags(&new));
    }
    assert_eq!(client.query("insert into letters values (1, 'p1@x')")[0].tag, 'C');
    let mut state = |sql: &str| {
        let answer = client.query(sql);
        if answer[0].tag == 'E' { answer[0].field('C') } else { String::new() }
    };
    assert_eq!(state("insert into people (email) values ('p1@x')"), "23505");
    assert_eq!(state("update people set ssn = 's2' where id = 1"), "23505");
    assert_eq!(state("insert into letters values (2, 'nobody@x')"), "23503");
    // Its own column of no rule: another matter.
    assert_eq!(state("insert into letters values (1, 'p1@x')"), "23505");
    // More rows than can be counted.
    let rows: Vec<String> = (0..300).map(|i| format!("('p{i}@x', 'n')")).collect();
    let many =
        format!("insert into people (email, name) values {} on conflict (email) do nothing", rows.join(", "));
    assert_eq!(state(&many), "42501");
    // Asked beforehand, so refused beforehand: a fifth value.
    let two = "insert into people (email) values ('a@x'), ('b@x') on conflict (email) do nothing";
    assert_eq!(state(two), "54000");
    // That was the fourth; now nothing goes that could meet one.
    assert_eq!(state("insert into people (email) values ('z@x')"), "54000");
    assert_eq!(state("copy people (email) from stdin"), "54000");
    assert_eq!(state("insert into letters values (3, 'p3@x')"), "54000");
    assert_eq!(state("select name from people where id = 1"), "");
    assert_eq!(
        server.sql(&database, "select count(*) from people where email in ('a@x', 'b@x', 'z@x')"),
        "0"
    );
}

#[test]
fn a_blocked_statement_leaves_the_session_usable() {
    for (version, io) in [(15, Io::Epoll), (18, Io::Uring)] {
        let server = servers::postgres(version);
        let gateway = Gateway::start(Settings::new(io, server).rules(RULES));
        let database = shop(server);
        let mut client = Client::login(gateway.port, "raw_support", &database);
        let refused = client.query("drop table victims");
        assert_eq!(tags(&refused), "E Z");
        let error = &refused[0];
        assert_eq!((error.field('S').as_str(), error.field('C').as_str()), ("ERROR", "42501"), "{error:?}");
        assert_eq!(error.field('n'), "no-destructive-ddl", "the rule is in a field of its own");
        for field in ['M', 'D', 'H'] {
            assert!(!error.field(field).is_empty(), "field {field} helps nobody: {error:?}");
        }
        assert_eq!(refused[1].body, b"I", "no transaction was open");
        assert_eq!(client.value("select count(*) from victims"), "2");
        assert_eq!(client.query("delete from victims")[0].field('n'), "where-it-belongs");
        assert_eq!(tags(&client.query("delete from victims where id = 999")), "C Z");
        // Hidden among others: nothing of the message runs.
        let among = client.query("insert into victims values (3); truncate victims; select 1");
        assert_eq!(tags(&among), "E Z", "{among:?}");
        assert_eq!(client.value("select count(*) from victims"), "2");
        // In a transaction it is what any error is.
        client.query("begin");
        client.query("insert into victims values (4)");
        let refused = client.query("drop table victims");
        assert_eq!((tags(&refused).as_str(), refused[1].body.as_slice()), ("E Z", &b"E"[..]), "aborted");
        assert_eq!(client.query("select 1")[0].field('C'), "25P02");
        assert_eq!(client.query("rollback")[1].body, b"I");
        assert_eq!(client.value("select count(*) from victims"), "2");
        // Savepoints survive it.
        client.query("begin; savepoint s");
        client.query("drop table victims");
        assert_eq!(tags(&client.query("rollback to s")), "C Z");
        assert_eq!(client.value("select 'in the transaction'"), "in the transaction");
        client.query("commit");
        assert_eq!(server.sql(&database, "select count(*) from victims"), "2");
    }
}

#[test]
fn a_pipeline_gets_exactly_the_replies_of_a_failed_statement() {
    for (version, io) in [(15, Io::Uring), (18, Io::Epoll)] {
        let server = servers::postgres(version);
        let gateway = Gateway::start(Settings::new(io, server).rules(RULES));
        let database = shop(server);
        let one =
            |sql: &str| [parse("", sql), bind("", "", false), describe(b'P', ""), execute("", 0)].concat();
        // The same pipeline with a statement the server itself refuses is the model for ours.
        type One<'a> = &'a dyn Fn(&str) -> Vec<u8>;
        let shapes: [fn(One<'_>, &str) -> Vec<u8>; 6] = [
            |one, bad| [one("select 1"), one(bad), one("select 3"), sync(), one("select 4"), sync()].concat(),
            |one, bad| [one(bad), sync(), one(bad), sync(), one("select 4"), sync()].concat(),
            |one, bad| {
                [parse("s", bad), sync(), bind("", "s", false), sync(), one("select 1"), sync()].concat()
            },
            |one, bad| {
                [parse("s", bad), describe(b'S', "s"), sync(), query("select 5"), one("select 4"), sync()]
                    .concat()
            },
            |one, bad| {
                [one("begin"), one(bad), sync(), one("rollback"), sync(), one("select 4"), sync()].concat()
            },
            |one, bad| [one("select 1"), query(bad), one("select 2"), sync(), sync(), sync()].concat(),
        ];
        for (number, shape) in shapes.iter().enumerate() {
            let answers = |port: u16, user: &str, bad: &str| {
                let mut client = Client::login(port, user, &database);
                // A last query marks the end whatever came before.
                client.send(&[shape(&one, bad), query("select 'the end'")].concat());
                let mut all = Vec::new();
                while !contains(&all, b"the end") {
                    all.extend(client.until('Z'));
                }
                let codes = all.iter().filter(|m| m.tag == 'E').map(|m| m.field('C')).collect::<Vec<_>>();
                let states =
                    all.iter().filter(|m| m.tag == 'Z').map(|m| char::from(m.body[0])).collect::<String>();
                (tags(&all), states, codes)
            };
            let direct = answers(server.port, "raw", "drop nonsense");
            let through = answers(gateway.port, "raw_support", "drop table victims");
            assert_eq!(
                (&through.0, &through.1),
                (&direct.0, &direct.1),
                "pipeline {number} on {version}, {io:?}"
            );
            let expected: Vec<_> =
                direct.2.iter().map(|c| if c == "42601" { "42501" } else { c.as_str() }).collect();
            assert_eq!(through.2, expected, "pipeline {number}");
        }
        assert_eq!(server.sql(&database, "select count(*) from victims"), "2");
        // A driver that flushes instead of syncing learns of it at once.
        let mut client = Client::login(gateway.port, "raw_support", &database);
        client.send(&[parse("", "drop table victims"), wire::message(b'H', b"")].concat());
        assert_eq!(client.next().field('C'), "42501");
        client.send(&sync());
        assert_eq!(client.next().tag, 'Z');
    }
}

#[test]
fn a_cancel_reaches_the_right_session_whichever_worker_took_it() {
    for io in BOTH {
        let server = servers::postgres(15);
        let gateway = Gateway::start(Settings::new(io, server));
        let mut bystander = Client::login(gateway.port, "raw", "postgres");
        bystander.send(&query("select pg_sleep(6), 'undisturbed'"));
        // Two workers share the port by hash: of eight connections some come to the other worker, but for one run in 128.
        for round in 0..8 {
            let mut client = Client::login(gateway.port, "raw", "postgres");
            assert!(client.key.len() >= 8, "no key to cancel with");
            client.send(&query("select pg_sleep(60)"));
            server.eventually(
                "postgres",
                "select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%' and state = 'active'",
                "1",
                Duration::from_secs(5),
            );
            if round == 0 {
                // A wrong secret does nothing.
                let mut wrong = client.key.clone();
                *wrong.last_mut().expect("not empty") ^= 1;
                let mut stranger = Client::connect(gateway.port);
                stranger.send(&wire::cancel(&wrong));
                assert!(stranger.closed());
                std::thread::sleep(Duration::from_millis(300));
                assert_eq!(
                    server.sql(
                        "postgres",
                        "select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%'"
                    ),
                    "1"
                );
            }
            let began = Instant::now();
            let mut canceller = Client::connect(gateway.port);
            canceller.send(&wire::cancel(&client.key));
            assert!(canceller.closed(), "a cancel request gets no answer but the end");
            let answer = client.until('Z');
            assert_eq!(answer.iter().find(|m| m.tag == 'E').expect("an error").field('C'), "57014");
            assert!(began.elapsed() < Duration::from_secs(3), "{io:?}: {:?}", began.elapsed());
            assert_eq!(client.value("select 'alive'"), "alive");
        }
        assert!(contains(&bystander.until('Z'), b"undisturbed"), "somebody else's statement was cancelled");
    }
}

#[test]
fn the_record_has_every_statement_and_no_secret() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    let psql = |user: &str, password: &str, tls: bool, sql: &str| {
        let env = servers::connection_env("127.0.0.1", gateway.port, user, password, &database, tls);
        let output =
            std::process::Command::new("psql").args(["-X", "-A", "-t", "-c", sql]).envs(env).output();
        let output = output.expect("start psql");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let one = psql("ana", PASSWORD, true, "select 'recorded-one', name from customers where id = 1");
    assert!(one.contains("recorded-one|name1"), "{one}");
    assert!(one.contains("as ana on"), "psql is told at login which session this is: {one}");
    assert!(psql("ana", PASSWORD, false, "drop table victims /* recorded-two */").contains("ERROR"));
    let three = psql("agent", TOKEN, true, "select 'recorded-three'");
    assert!(three.starts_with("recorded-three\n"), "{three}");
    let without_tls = psql("agent", TOKEN, false, "select 'never'");
    assert!(
        without_tls.contains("FATAL") && !without_tls.contains("never"),
        "a token without TLS: {without_tls}"
    );
    assert!(psql("ana", "wrong-password-1f", true, "select 1").contains("FATAL"));
    assert!(psql("nobody", "wrong-password-2f", true, "select 1").contains("FATAL"));
    let record = gateway.record_with("recorded-three");
    for part in [
        "recorded-one",
        "recorded-two",
        "recorded-three",
        "no-destructive-ddl",
        "\"ana\"",
        "\"agent\"",
        "\"nobody\"",
    ] {
        assert!(record.contains(part), "{part} is not in the record:\n{record}");
    }
    for line in record.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "not a JSON line: {line}");
    }
    let argv = std::fs::read(format!("/proc/{}/cmdline", gateway.pid())).expect("the gateway runs");
    let mut stored = Vec::new();
    files(&gateway.state(), &mut stored);
    assert!(!stored.is_empty(), "nothing was stored in {}", gateway.state().display());
    for secret in [PASSWORD, UPSTREAM_PASSWORD, TOKEN, "wrong-password-1f", "wrong-password-2f"] {
        assert!(!gateway.log().contains(secret), "{secret} is in the log:\n{}", gateway.log());
        assert!(!record.contains(secret), "{secret} is in the record");
        for (name, bytes) in stored.iter().chain([&("argv".to_owned(), argv.clone())]) {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} is in {name}");
        }
    }
}

fn files(folder: &std::path::Path, all: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).expect("the state folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, all);
        } else {
            all.push((path.display().to_string(), std::fs::read(&path).expect("readable")));
        }
    }
}

#[test]
fn a_decision_is_explained_by_the_rules_of_its_time() {
    let server = servers::postgres(15);
    let mut gateway = Gateway::start(Settings::new(Io::Epoll, server).rules(RULES));
    let database = shop(server);
    let mut client = Client::login(gateway.port, "raw_support", &database);
    let refusal = client.query("drop table victims");
    let text: String = refusal.iter().map(|m| String::from_utf8_lossy(&m.body).into_owned()).collect();
    let decision: String = text
        .split("decision ")
        .nth(1)
        .expect("a refusal names its decision")
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    gateway.reload(&RULES.replace("DROP and TRUNCATE are not allowed here", "other words"));
    gateway.record_with("\"reload\"");
    let told = gateway.ask(&["why", &decision]);
    for part in [
        "drop table victims",
        "verdict   refused",
        "rule      no-destructive-ddl  lockgate.yaml:",
        "DROP and TRUNCATE are not allowed here",
    ] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
    assert!(!told.contains("other words"), "{told}");
}

#[test]
fn what_was_learned_is_what_may_be_sent() {
    let server = servers::postgres(15);
    let database = shop(server);
    let mut gateway = Gateway::start(Settings::new(Io::Epoll, server).rules(RULES));
    let as_raw = |gateway: &Gateway| Client::login(gateway.port, "raw_support", &database);
    let code = |messages: &[Message]| messages.iter().find(|m| m.tag == 'E').map(|m| m.field('C'));
    let prepared = |id: &str| {
        let sql = format!("select id, name from customers where id = {id}");
        [parse("", &sql), bind("", "", false), execute("", 0), sync()].concat()
    };
    let list = "insert into victims values (7), (8)";

    let run = |client: &mut Client, id: &str| {
        client.send(&prepared(id));
        client.until('Z')
    };

    // Observe.
    let mut client = as_raw(&gateway);
    for sql in [
        "select name from customers where id = 1",
        "SELECT name FROM customers WHERE id=2",
        list,
        "begin; commit",
    ] {
        assert_eq!(code(&client.query(sql)), None, "{sql}");
    }
    assert_eq!(code(&run(&mut client, "3")), None);
    assert_eq!(code(&client.query("drop table victims")).as_deref(), Some("42501"));
    drop(client);
    gateway.record_with("\"closed\"");

    // Propose.
    let nobody = gateway.refuses(&["suggest", "--as", "nobody"]);
    assert!(
        nobody.0 == 1 && nobody.1.contains("nothing to learn from") && nobody.1.contains("raw_support"),
        "{nobody:?}"
    );
    let proposal = gateway.ask(&["suggest", "--as", "raw_support", "--since", "1d"]);
    for part in [
        "mode: observe\n",
        "  - name: learned-raw_support\n",
        "        # 2 times, last 20",
        ", read customers\n        - 'select name from customers where id = ?'\n",
        "        - 'insert into victims values (?)'\n",
        "        - 'select id, name from customers where id = ?'\n",
        "        - 'begin'\n",
        "1 refused statements: ",
    ] {
        assert!(proposal.contains(part), "`{part}` is not in:\n{proposal}");
    }
    assert!(!proposal.contains("drop table"), "{proposal}");
    let often = gateway.ask(&["suggest", "--as", "raw_support", "--min-count", "2"]);
    assert!(often.contains("shapes seen fewer than 2 times") && !often.contains("- 'begin'"), "{often}");

    // In observe mode nothing changes but the record; then enforce.
    let rules = proposal.split_once("rules:\n").expect("rules").1.to_owned();
    let observed = rules.replace("learned-raw_support\n", "learned-raw_support\n    mode: observe\n");
    for (rules, other) in [(observed, None), (rules, Some("42501"))] {
        let before = gateway.record().matches("\"reload\"").count();
        gateway.reload(&(RULES.to_owned() + &rules));
        let began = Instant::now();
        while gateway.record().matches("\"reload\"").count() == before {
            assert!(began.elapsed() < Duration::from_secs(5), "no reload:\n{}", gateway.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut client = as_raw(&gateway);
        let (old, new) =
            ("select name from customers where id = 44 -- again", "select note from customers where id = 44");
        for _ in 0..3 {
            assert!(contains(&client.query(old), b"name44"));
            let answer = client.query(new);
            assert_eq!(code(&answer).as_deref(), other, "{new}");
            if other.is_some() {
                let hint = answer.iter().find(|m| m.tag == 'E').map(|m| m.field('H')).unwrap_or_default();
                assert!(hint.contains("lockgate suggest"), "{hint}");
            }
            assert!(contains(&run(&mut client, "45"), b"name45"));
            assert_eq!(code(&client.query("insert into victims values (1), (2), (3), (4)")), None);
            assert_eq!(code(&client.query("begin; select note from customers; commit")).as_deref(), other);
        }
    }
    gateway.record_with("learned-raw_support");
}
