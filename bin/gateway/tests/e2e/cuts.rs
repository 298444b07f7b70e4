//! Results that are cut at a row limit while the server still has billions of rows to send: it is told to stop, and only that
//! statement of the session ever is.

use std::time::{Duration, Instant};

use crate::gateway::{Gateway, Io, Settings};
use crate::servers::{self, Server};
use crate::wire::{Client, Message, bind, describe, execute, parse, query, sync, tags};

const RULES: &str = "\
\x20 - name: few-rows
    on: {connection: \"*\", groups: [support]}
    rows: {per_result: 10}
    block: no bulk reads here
";

/// Server and driver; to the target plain, in TLS and over a Unix socket.
fn cases() -> [(&'static Server, Settings); 4] {
    let plain = |version, io| {
        let server = servers::postgres(version);
        (server, Settings::plain(io, server.port).rules(RULES))
    };
    let tls = servers::postgres(15);
    let (server, mut unix) = plain(15, Io::Uring);
    unix.sslmode = format!("sslmode=disable&host={}", servers::RUN.join("pg15").display());
    [
        plain(15, Io::Epoll),
        plain(18, Io::Uring),
        (tls, Settings::new(Io::Uring, tls).rules(RULES)),
        (server, unix),
    ]
}

fn shop(server: &Server) -> String {
    let database = servers::database(server);
    server.sql(&database, "create table one (id int); insert into one values (1); create table log (id int)");
    database
}

/// So many rows, sent as they are made.
fn rows(count: u64) -> String {
    format!("select generate_series(1, {count}) from one")
}

const FOREVER: u64 = 2_000_000_000;

/// Ten rows and the error of the limit; the transaction's state.
#[track_caller]
fn is_cut(answer: &[Message]) -> u8 {
    let rows = answer.iter().filter(|m| matches!(m.tag, 'D' | 'd')).count();
    let errors: Vec<_> = answer.iter().filter(|m| m.tag == 'E').map(|m| m.field('C')).collect();
    assert_eq!((rows, errors.as_slice()), (10, &["54000".to_owned()][..]), "{}", tags(answer));
    answer.last().expect("ReadyForQuery").body[0]
}

#[test]
fn a_cut_result_is_cancelled_on_the_database() {
    for (server, settings) in cases() {
        let gateway = Gateway::start(settings);
        let database = shop(server);
        let mut client = Client::login(gateway.port, "raw_support", &database);
        let sql = rows(FOREVER);
        let extended = [parse("", &sql), bind("", "", true), describe(b'P', ""), execute("", 0), sync()];
        let asks = [
            (query(&sql), b'I'),
            (query(&format!("copy ({sql}) to stdout")), b'I'),
            (extended.concat(), b'I'),
            (query("begin"), b'T'),
            (query(&sql), b'E'),
            (query("rollback"), b'I'),
        ];
        for (bytes, state) in asks {
            let began = Instant::now();
            client.send(&bytes);
            let answer = client.until('Z');
            if answer.len() > 2 {
                assert_eq!(is_cut(&answer), state);
            }
            assert_eq!(answer.last().expect("ReadyForQuery").body, [state]);
            let next = if state == b'E' { client.query("select") } else { client.query("select 'next'") };
            assert_eq!(next.iter().any(|m| m.tag == 'E'), state == b'E', "{}", tags(&next));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
        // A cursor is read in parts, and stays.
        client.query(&format!("begin; declare c cursor for {sql}"));
        assert_eq!(is_cut(&client.query("fetch 11 from c")), b'T');
        client.query("rollback");
        let idle = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'gw' and state <> 'idle'";
        server.eventually(&database, idle, "0", Duration::from_secs(3));
        let record = gateway.record_with("statement 10: the database ended it with SQLSTATE 57014");
        let count = |what: &str| record.lines().filter(|l| l.contains(what)).count();
        assert_eq!(count("a cancel request was sent to the database"), 4, "{record}");
        assert_eq!(count("the database ended it with SQLSTATE 57014"), 4, "{record}");
        assert_eq!(count("it ran to its end on the database"), 1, "{record}");
        drop(client);
        server.eventually(
            &database,
            "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'raw'",
            "0",
            Duration::from_secs(3),
        );
    }
}

#[test]
fn a_crowd_is_cancelled_one_after_the_other() {
    let server = servers::postgres(15);
    let mut settings = Settings::plain(Io::Uring, server.port).rules(RULES);
    settings.workers = 1;
    let gateway = Gateway::start(settings);
    let database = shop(server);
    let login = |_| Client::login(gateway.port, "raw_support", &database);
    let mut clients: Vec<Client> = (0..40).map(login).collect();
    let began = Instant::now();
    clients.iter_mut().for_each(|client| client.send(&query(&rows(FOREVER))));
    for client in &mut clients {
        assert_eq!(is_cut(&client.until('Z')), b'I');
        assert_eq!(client.value("select 'next'"), "next");
    }
    println!("40 results that never end, cut at once, were over in {:?}", began.elapsed());
}

#[test]
fn no_statement_behind_a_cut_is_ever_cancelled() {
    for (server, settings) in cases() {
        let gateway = Gateway::start(settings);
        let database = shop(server);
        let mut client = Client::login(gateway.port, "raw_support", &database);
        // Some are over before anybody asks, some while the request is on its way, some never.
        let counts = [20, 2_000, 40_000, 150_000, 400_000, 1_500_000, FOREVER];
        for (round, count) in counts.iter().cycle().take(200).enumerate() {
            let sql = rows(*count);
            // Directly behind: at once in one write, as soon as the error is heard, or when the session is ready.
            let next = query(&format!("select pg_sleep(0.005), 'next {round}'"));
            let mut answer = match round % 3 {
                0 if *count < FOREVER => {
                    client.send(&[query(&sql), next].concat());
                    client.until('Z')
                }
                1 => {
                    client.send(&query(&sql));
                    let mut answer = client.until('E');
                    client.send(&next);
                    answer.extend(client.until('Z'));
                    answer
                }
                _ => {
                    let answer = client.query(&sql);
                    client.send(&next);
                    answer
                }
            };
            assert_eq!(is_cut(&answer), b'I', "round {round}");
            answer = client.until('Z');
            assert_eq!(tags(&answer), "T D C Z", "round {round} of {count}: {answer:?}");
        }
        let record = gateway.record_with("\"number\":400,\"rows\"");
        let count = |what: &str| record.lines().filter(|l| l.contains(what)).count();
        let (sent, ended) = (count("a cancel request was sent"), count("the database ended it with"));
        println!("{sent} cancel requests sent for 200 cuts, {ended} hit");
        // Every result that never ends was cancelled; none was that was behind another.
        assert!(sent >= 200 / 7 && ended >= 200 / 7 && ended <= sent, "{sent} sent, {ended} hit");
        assert_eq!(count("row limit") - sent, 400, "each cut, and what became of it");
    }
}

#[test]
fn the_record_knows_whether_a_cut_write_took_effect() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = shop(server);
    let mut client = Client::login(gateway.port, "raw_support", &database);
    for (number, count) in [(1, 20), (2, 1_500_000), (3, 20)] {
        server.sql(&database, "truncate log");
        let sql = format!("insert into log select generate_series(1, {count}) returning id");
        assert_eq!(is_cut(&client.query(&sql)), b'I');
        let record = gateway.record_with(&format!("\"row limit\",\"detail\":\"statement {number}: "));
        let last = record.lines().rfind(|l| l.contains("row limit")).expect("what became of it");
        let stored = server.sql(&database, "select count(*) from log");
        let asked = record.contains(&format!("statement {number}: a cancel request was sent"));
        println!("of {count} rows {stored} were stored; asked to cancel: {asked}; {last}");
        let ended = last.contains("the database ended it with SQLSTATE 57014");
        assert!(ended || last.contains("it ran to its end on the database"), "{last}");
        assert_eq!(stored, if ended { "0".to_owned() } else { count.to_string() }, "{last}");
    }
}
