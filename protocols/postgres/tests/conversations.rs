//! Every file of `tests/conversations` is a conversation: who said what, and what came out at the other ends. Each is run whole, at
//! every cut of every message, and byte by byte; the outcome must be the same. `UPDATE_EXPECT=1` rewrites what came out.
//!
//! Lines: `client > …` and `server > …` are said to the gateway, `server < …` and `client < …` is what it said. A message is its
//! tag and fields: `"text"` is NUL-terminated, `i16:1`, `i32:-1`, `u32:0`, `b:00ff` raw hex, `s:text` without NUL, `cell:text` length and
//! bytes, `null` a NULL cell, `col:name,table,attribute,type,format`. `start` is a start-up packet. `#` comments.
//!
//! `courier > sets out`: the session beside this one has had its patience; `courier < …` is what it sends to its target.
//! `courier > arrives at nobody`: so, and cannot be connected. `courier > is let go`: its target closed.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test's helper")]

mod support;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use flow::access::Published;
use flow::drive::Drive;
use flow::record::{Entry, What};
use flow::{Event, Fault, Peer, Recorder, Service, Side};

use support::{directory, encode};

/// Keeps what was recorded, as one line each.
#[derive(Clone, Default)]
struct Ledger {
    lines: Arc<Mutex<Vec<String>>>,
    /// It has no room so many times; `usize::MAX`: ever again, and refuses.
    full: Arc<AtomicUsize>,
}

impl Ledger {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Recorder for Ledger {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        if self.full.load(Relaxed) == usize::MAX
            && matches!(entry.what, What::Statement(_) | What::Data { .. })
        {
            return Err(Fault::Unrecorded);
        }
        let line = match &entry.what {
            What::Opened { identity, connection, .. } => format!("opened {identity} {connection}"),
            What::Refused { identity, sqlstate, .. } => format!("refused {identity} {sqlstate}"),
            What::Statement(s) => {
                let parameters: Vec<_> =
                    s.parameters.iter().map(|p| p.map(String::from_utf8_lossy)).collect();
                format!(
                    "statement {} {:?} of {} {:?} {} {:?} {parameters:?}",
                    s.number,
                    s.how,
                    s.of,
                    s.verdict,
                    s.rules,
                    String::from_utf8_lossy(s.text)
                )
            }
            What::Outcome(o) => {
                format!("outcome {} rows {} masked {} {:?}", o.number, o.rows, o.masked_cells, o.sqlstate)
            }
            What::Data { number, bytes, .. } => format!("data {number} {:?}", String::from_utf8_lossy(bytes)),
            What::Closed { reason, .. } => format!("closed {reason}"),
            What::Gateway { event, detail } => format!("gateway {event}: {detail}"),
        };
        self.lines.lock().unwrap().push(line);
        Ok(())
    }

    fn has_room(&mut self, _bytes: usize) -> bool {
        match self.full.load(Relaxed) {
            0 => true,
            usize::MAX => false,
            n => {
                self.full.store(n - 1, Relaxed);
                false
            }
        }
    }
}

struct Gateway {
    drive: Drive,
    courier: Option<Drive>,
    ledger: Ledger,
}

fn gateway(rules: &str) -> Gateway {
    let ledger = Ledger::default();
    let published: Published = Arc::new(ArcSwap::from_pointee(directory(rules)));
    let keep = ledger.clone();
    let gate = postgres::Gate::new(published, move |_| Box::new(keep.clone()));
    let peer =
        Peer { address: ([127, 0, 0, 1], 999).into(), listener: ([127, 0, 0, 1], 7432).into(), tls: None };
    let session = gate.worker(0).accept(peer);
    Gateway { drive: Drive::new(session), courier: None, ledger }
}

/// Messages, one per line, bytes that are not printable as `.`; random things (keys, decision ids) blanked.
fn decode(mut bytes: &[u8], first: bool) -> Vec<String> {
    let mut lines = Vec::new();
    while !bytes.is_empty() {
        let (tag, header) = if first && bytes[0] == 0 {
            ("start".to_owned(), 0)
        } else {
            (char::from(bytes[0]).to_string(), 1)
        };
        let length = u32::from_be_bytes(bytes[header..header + 4].try_into().unwrap()) as usize;
        let body = &bytes[header + 4..header + length];
        let mut text = String::new();
        for b in body {
            match b {
                0x20..=0x7e => text.push(char::from(*b)),
                b'\n' => text.push_str("\\n"),
                b'\t' => text.push_str("\\t"),
                _ => text.push('.'),
            }
        }
        if tag == "K" {
            text = "(key)".into();
        }
        lines.push(format!("{tag} {}", blank_decision(&text)).trim_end().to_owned());
        bytes = &bytes[header + length..];
    }
    lines
}

fn blank_decision(text: &str) -> String {
    let mut out = text.to_owned();
    if let Some(at) = text.find("decision ") {
        let id: String =
            text[at + 9..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let number = id.rsplit('-').next().unwrap_or_default().to_owned();
        out = out.replace(&id, &format!("ID-{number}"));
    }
    out
}

/// Says one thing, cut as `cut` wants, and returns what came out.
fn say(gw: &mut Gateway, side: Side, bytes: &[u8], cut: Option<usize>, output: &mut String) {
    match cut {
        None => gw.drive.feed(side, bytes),
        Some(0) => bytes.iter().for_each(|b| gw.drive.feed(side, &[*b])),
        Some(at) => {
            let at = at.min(bytes.len());
            gw.drive.feed(side, &bytes[..at]);
            gw.drive.feed(side, &bytes[at..]);
        }
    }
    heard(gw, output);
}

/// What came out since.
fn heard(gw: &mut Gateway, output: &mut String) {
    for (side, name) in [(Side::Server, "server"), (Side::Client, "client")] {
        let out = gw.drive.take(side);
        for line in decode(&out, side == Side::Server) {
            writeln!(output, "{name} < {line}").unwrap();
        }
    }
    if let Some(fault) = gw.drive.closed.take() {
        writeln!(output, "closed {}", fault.map(|f| f.to_string()).unwrap_or_default()).unwrap();
        gw.drive.closed = Some(None);
    }
}

/// The session beside this one does something.
fn courier(gw: &mut Gateway, does: &str, output: &mut String) {
    if let Some(session) = gw.drive.beside.take() {
        // It is waiting: the answer to its first question is that it has waited enough.
        gw.courier = Some(match does {
            "arrives at nobody" => Drive::nowhere(session),
            _ => Drive::new(session),
        });
    }
    let Some(courier) = &mut gw.courier else {
        writeln!(output, "courier < there is none").unwrap();
        return;
    };
    for line in decode(&courier.take(Side::Server), true) {
        writeln!(output, "courier < {line}").unwrap();
    }
    if does == "is let go" {
        courier.event(Side::Server, Event::Closed(Side::Server));
    }
    if courier.closed.is_some() {
        writeln!(output, "courier < is over").unwrap();
        gw.courier = None;
        gw.drive.part();
    }
    heard(gw, output);
}

/// Runs a conversation; returns it with what came out this time.
fn run(text: &str, cut: Option<usize>) -> String {
    let mut rules = String::from(r#"{"rules":[]}"#);
    let mut output = String::new();
    let mut gw: Option<Gateway> = None;
    for line in text.lines() {
        if let Some(json) = line.strip_prefix("rules ") {
            rules = json.to_owned();
        }
        let (side, said) = match line.split_once(" > ") {
            Some(("client", said)) => (Side::Client, said),
            Some(("server", said)) => (Side::Server, said),
            Some(("courier", does)) => {
                writeln!(output, "{line}").unwrap();
                courier(gw.get_or_insert_with(|| gateway(&rules)), does, &mut output);
                continue;
            }
            _ if ["server <", "client <", "courier <"].iter().any(|said| line.starts_with(said)) => continue,
            _ if line.starts_with("closed") || line.starts_with("record ") => continue,
            _ => {
                writeln!(output, "{line}").unwrap();
                continue;
            }
        };
        writeln!(output, "{line}").unwrap();
        let gw = gw.get_or_insert_with(|| gateway(&rules));
        // Several messages in one go are separated by " | ".
        let bytes: Vec<u8> = said.split(" | ").flat_map(encode).collect();
        say(gw, side, &bytes, cut, &mut output);
    }
    for line in gw.map(|g| g.ledger.lines()).unwrap_or_default() {
        writeln!(output, "record {line}").unwrap();
    }
    output
}

#[test]
fn conversations_come_out_the_same_wherever_they_are_cut() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    let mut seen = 0;
    let wrong = Rc::new(RefCell::new(Vec::new()));
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let whole = run(&text, None);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &whole).unwrap();
        } else if whole != text {
            wrong.borrow_mut().push(format!("{}:\n{whole}", path.display()));
        }
        let longest = text.lines().map(str::len).max().unwrap_or(0) + 64;
        for cut in 0..longest {
            let again = run(&text, Some(cut));
            assert_eq!(again, whole, "{} cut at {cut}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 8, "the conversations are missing");
    assert!(wrong.borrow().is_empty(), "{}", wrong.borrow().join("\n"));
}

/// A session that is logged in, whose questions to the side path are counted.
fn logged_in(rules: &str) -> (Gateway, Rc<RefCell<Vec<String>>>) {
    let mut gw = gateway(rules);
    let asked = Rc::new(RefCell::new(Vec::new()));
    let keep = asked.clone();
    gw.drive.desk = Box::new(move |ask| {
        keep.borrow_mut().push(format!("{ask:?}"));
        flow::Answer::Done
    });
    gw.drive.feed(Side::Client, &encode(r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#));
    gw.drive.feed(Side::Server, &encode("R u32:0"));
    gw.drive.feed(Side::Server, &encode("Z s:I"));
    gw.drive.take(Side::Server);
    gw.drive.take(Side::Client);
    (gw, asked)
}

const MASKED: &str = r#"{"rules":[{"name":"m","on":{"columns":["customers.email"]},"mask":"redact"}]}"#;

#[test]
fn a_statement_waits_for_room_in_the_record_and_only_then_goes_on() {
    let said = [
        r#"Q "select id from customers""#,
        r#"P "" "select id from orders" i16:0 | B "" "" i16:0 i16:0 i16:0 | E "" i32:0 | S"#,
        r#"d s:a-line"#,
    ];
    for said in said {
        let bytes: Vec<u8> = said.split(" | ").flat_map(encode).collect();
        for (full, waits) in [(0, 0), (1, 1), (5, 5)] {
            let (mut gw, asked) = logged_in(MASKED);
            gw.ledger.full.store(full, Relaxed);
            gw.drive.feed(Side::Client, &bytes);
            assert_eq!(asked.borrow().len(), waits, "{said}");
            assert!(asked.borrow().iter().all(|a| a.starts_with("Pause(")));
            assert!(!gw.drive.take(Side::Server).is_empty() && gw.drive.closed.is_none());
            let lines = gw.ledger.lines();
            assert!(
                lines.iter().skip(1).any(|l| l.starts_with("statement 1") || l.starts_with("data")),
                "{lines:?}"
            );
        }
    }
}

#[test]
fn a_record_that_stays_full_refuses_the_statement_after_a_quarter_of_a_second() {
    let (mut gw, asked) = logged_in(MASKED);
    gw.ledger.full.store(usize::MAX, Relaxed);
    gw.drive.feed(Side::Client, &encode(r#"Q "select id from customers""#));
    let ms = |a: &String| a.trim_start_matches("Pause(").trim_end_matches(" ms)").parse::<u64>().unwrap();
    assert!((200..300).contains(&asked.borrow().iter().map(ms).sum::<u64>()), "{:?}", asked.borrow());
    let sent = String::from_utf8_lossy(&gw.drive.take(Side::Server)).into_owned();
    assert!(sent.contains("lockgate: refused") && !sent.contains("customers"), "{sent}");
    // The session goes on, and so does the record.
    gw.drive.feed(Side::Server, &encode(r#"E "SERROR" "VERROR" "C42601" "Mno" b:00"#));
    gw.drive.feed(Side::Server, &encode("Z s:I"));
    assert!(String::from_utf8_lossy(&gw.drive.take(Side::Client)).contains("the record cannot be written"));
    gw.ledger.full.store(0, Relaxed);
    gw.drive.feed(Side::Client, &encode(r#"Q "select id from orders""#));
    assert!(String::from_utf8_lossy(&gw.drive.take(Side::Server)).contains("orders"));
}

#[test]
fn the_rest_of_a_long_message_is_forwarded_only_as_it_is_recorded() {
    let (mut gw, asked) = logged_in(r#"{"rules":[]}"#);
    let line = vec![b'x'; 200_000];
    let mut copy = b"d".to_vec();
    copy.extend_from_slice(&(line.len() as u32 + 4).to_be_bytes());
    copy.extend_from_slice(&line);
    gw.drive.feed(Side::Client, &copy[..100_000]);
    let first = gw.drive.take(Side::Server).len();
    assert_eq!(first, 100_000);
    gw.ledger.full.store(3, Relaxed);
    gw.drive.feed(Side::Client, &copy[100_000..]);
    assert_eq!(asked.borrow().len(), 3);
    assert_eq!(gw.drive.take(Side::Server).len(), copy.len() - first);
    gw.ledger.full.store(usize::MAX, Relaxed);
    gw.drive.feed(Side::Client, &copy[..100_000]);
    assert_eq!(gw.drive.take(Side::Server).len(), 0, "nothing unrecorded goes on");
    assert!(matches!(gw.drive.closed, Some(Some(Fault::Unrecorded))));
}

#[test]
fn what_was_prepared_under_an_older_policy_is_not_remembered() {
    let rules = |columns: &str| {
        format!(r#"{{"rules":[{{"name":"mask","on":{{"columns":[{columns}]}},"mask":"redact"}}]}}"#)
    };
    let (wide, narrow) = (rules(r#""customers.email","customers.name""#), rules(r#""customers.email""#));
    for reload in [false, true] {
        let published: Published = Arc::new(ArcSwap::from_pointee(directory(&narrow)));
        let gate = postgres::Gate::new(published.clone(), |_| Box::new(Ledger::default()));
        let peer =
            Peer { address: ([127, 0, 0, 1], 999).into(), listener: ([127, 0, 0, 1], 999).into(), tls: None };
        let mut drive = Drive::new(gate.worker(0).accept(peer));
        let mut say = |side, said: &str| {
            said.split(" | ").for_each(|message| drive.feed(side, &encode(message)));
            drive.take(Side::Client)
        };
        say(Side::Client, r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#);
        say(Side::Server, "R u32:0 | Z s:I");
        say(Side::Client, r#"Q "prepare p as select upper(name) from customers""#);
        if reload {
            published.store(Arc::new(directory(&wide)));
        }
        // Judged by the policy in force, while the PREPARE is still on its way.
        say(Side::Client, r#"Q "select 1""#);
        say(
            Side::Server,
            r#"C "PREPARE" | Z s:I | T i16:1 col:?,0,0,23,0 | D i16:1 cell:1 | C "SELECT 1" | Z s:I"#,
        );
        say(Side::Client, r#"Q "execute p""#);
        let answer =
            say(Side::Server, r#"T i16:1 col:upper,0,0,25,0 | D i16:1 cell:ANA | C "SELECT 1" | Z s:I"#);
        let shown = |value: &[u8]| answer.windows(value.len()).any(|w| w == value);
        assert_eq!((shown(b"ANA"), shown(b"***")), (!reload, reload));
    }
}

/// Sessions of one worker, each with a result that was cut and goes on.
fn cut_sessions(rules: &str, login: &str, sessions: usize) -> Vec<Drive> {
    let published: Published = Arc::new(ArcSwap::from_pointee(directory(rules)));
    let gate = postgres::Gate::new(published, |_| Box::new(Ledger::default()));
    let mut worker = gate.worker(0);
    let address = ([127, 0, 0, 1], 999).into();
    let say = |drive: &mut Drive, side, said: &str| {
        said.split(" | ").for_each(|message| drive.feed(side, &encode(message)));
    };
    let session = |_| {
        let mut drive = Drive::new(worker.accept(Peer { address, listener: address, tls: None }));
        say(&mut drive, Side::Client, r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#);
        say(&mut drive, Side::Server, login);
        say(&mut drive, Side::Client, r#"Q "select id from orders""#);
        say(&mut drive, Side::Server, r#"T i16:1 "id" i32:0 i16:0 i32:23 i16:4 i32:-1 i16:0"#);
        say(&mut drive, Side::Server, "D i16:1 cell:1 | D i16:1 cell:2");
        drive
    };
    (0..sessions).map(session).collect()
}

const FEW: &str =
    r#"{"rules":[{"name":"few","on":{"tables":["orders"]},"rows":{"per_result":1},"block":"no"}]}"#;

#[test]
fn couriers_of_a_worker_are_numbered_and_what_they_cannot_cancel_is_read_away() {
    let login = "R u32:0 | K i32:77 i32:1234 | Z s:I";
    let mut drives = cut_sessions(FEW, login, 40);
    let mut couriers: Vec<_> = drives.iter_mut().map(|d| Drive::new(d.beside.take().unwrap())).collect();
    let sent = |courier: &mut Drive| !courier.take(Side::Server).is_empty();
    let out: Vec<bool> = couriers.iter_mut().map(sent).collect();
    assert_eq!((out.iter().filter(|out| **out).count(), out.len()), (flow::limits::COURIERS_MAX, 40));
    assert!(couriers[39].closed.is_some() && couriers[39].dialled.is_empty());
    // One that had to stay at home: the result is read away, and the session goes on.
    let last = &mut drives[39];
    for _ in 0..2 {
        last.part();
        let second = Drive::new(last.beside.take().unwrap());
        assert!(second.closed.is_some() && second.dialled.is_empty());
    }
    last.part();
    last.take(Side::Client);
    last.feed(Side::Server, &encode("D i16:1 cell:3"));
    last.feed(Side::Client, &encode(r#"Q "select 1""#));
    assert!(last.take(Side::Client).is_empty() && last.closed.is_none() && last.beside.is_none());
    last.take(Side::Server);
    last.feed(Side::Server, &encode(r#"C "SELECT 3""#));
    last.feed(Side::Server, &encode("Z s:I"));
    assert_eq!(last.take(Side::Client), encode("Z s:I"));
    assert_eq!(last.take(Side::Server), encode(r#"Q "select 1""#));
    // One came back: there is room for another.
    couriers[0].event(Side::Server, Event::Closed(Side::Server));
    couriers.remove(0);
    last.feed(Side::Server, &encode(r#"C "SELECT 1""#));
    last.feed(Side::Server, &encode("Z s:I"));
    last.feed(Side::Client, &encode(r#"Q "select id from orders""#));
    last.feed(Side::Server, &encode("D i16:1 cell:1"));
    last.feed(Side::Server, &encode("D i16:1 cell:2"));
    assert!(sent(&mut Drive::new(last.beside.take().unwrap())));
}

#[test]
fn a_result_cut_while_the_last_courier_leaves_gets_one_of_its_own() {
    let mut drives = cut_sessions(FEW, "R u32:0 | K i32:77 i32:1234 | Z s:I", 1);
    let drive = &mut drives[0];
    for message in [r#"C "SELECT 3""#, "Z s:I"] {
        drive.feed(Side::Server, &encode(message));
    }
    drive.feed(Side::Client, &encode(r#"Q "select id from orders""#));
    // It was called off and is over, and nobody told the session yet.
    drop(drive.beside.take());
    drive.feed(Side::Server, &encode("D i16:1 cell:1"));
    drive.feed(Side::Server, &encode("D i16:1 cell:2"));
    assert!(drive.beside.is_none());
    drive.part();
    let mut courier = Drive::new(drive.beside.take().unwrap());
    assert!(!courier.take(Side::Server).is_empty());
}

#[test]
fn a_target_without_keys_is_sent_no_cancel() {
    let mut drives = cut_sessions(FEW, "R u32:0 | Z s:I", 1);
    assert!(drives[0].beside.is_none());
    drives[0].take(Side::Client);
    drives[0].feed(Side::Server, &encode(r#"C "SELECT 3""#));
    drives[0].feed(Side::Server, &encode("Z s:I"));
    assert_eq!(drives[0].take(Side::Client), encode("Z s:I"));
}

proptest::proptest! {
    /// Whatever a client or server says, a session ends in a step or a fault: it never panics, and before a login is complete nothing
    /// but a start-up packet of our own making goes to the server.
    #[test]
    fn arbitrary_bytes_never_panic(
        pieces in proptest::collection::vec((proptest::bool::ANY, proptest::collection::vec(proptest::num::u8::ANY, 0..80)), 0..12),
        logged_in in proptest::bool::ANY,
    ) {
        let mut gw = gateway(r#"{"rules":[{"name":"m","on":{"columns":["customers.email"]},"mask":"redact"}]}"#);
        if logged_in {
            gw.drive.feed(Side::Client, &encode(r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#));
            gw.drive.feed(Side::Server, &encode("R u32:0"));
            gw.drive.feed(Side::Server, &encode("Z s:I"));
        }
        for (client, bytes) in pieces {
            gw.drive.feed(if client { Side::Client } else { Side::Server }, &bytes);
        }
    }
}
