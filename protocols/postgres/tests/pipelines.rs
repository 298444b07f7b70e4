//! Pipelines against a server that is a model of PostgreSQL: whatever a client sends and wherever things fail, a masked value never
//! arrives in clear, and what is proved clean costs no description.
//!
//! The model knows what a name stands for *when it is used*; the gateway must have guessed that before. Source of its rules:
//! `src/backend/tcop/postgres.c` (what an error skips), `src/backend/commands/prepare.c` (SQL's PREPARE shares names
//! with the protocol), `src/backend/commands/portalcmds.c` (so do cursors).

#[cfg(test)]
mod support;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::VecDeque;
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use flow::drive::Drive;
    use flow::record::Entry;
    use flow::{Fault, Peer, Recorder, Service, Side};
    use proptest::prelude::*;

    use crate::support::{directory, encode};

    struct Nowhere;

    impl Recorder for Nowhere {
        fn append(&mut self, _entry: &Entry<'_>) -> Result<(), Fault> {
            Ok(())
        }
    }

    const SECRET: &str = "ana@secret.example";

    /// What a statement's rows are.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Text {
        Clean,
        Secret,
        /// Refused by the parser.
        Wrong,
        /// `DEALLOCATE ALL`: takes prepared statements away behind the protocol's back.
        Deallocate,
        /// Gives the name `a` to a statement, behind the protocol's back.
        Prepare,
        /// Gives the name `b` to a portal likewise.
        Declare,
        /// Takes it away again.
        Close,
        /// Runs, and fails.
        Fails,
        /// Code of users, which gives the name `a` to another statement.
        Gives,
        /// Code of users, which fails after it gave the name `a` to another statement. That is not undone.
        Code,
    }

    impl Text {
        const ALL: [Text; 10] = [
            Text::Clean,
            Text::Secret,
            Text::Wrong,
            Text::Deallocate,
            Text::Prepare,
            Text::Declare,
            Text::Close,
            Text::Fails,
            Text::Code,
            Text::Gives,
        ];

        fn sql(self) -> &'static str {
            match self {
                Text::Clean => "select id from customers",
                // An expression: where it comes from shows in its text only.
                Text::Secret => "select lower(email) from customers",
                Text::Wrong => "select id fro customers",
                Text::Deallocate => "deallocate all",
                Text::Prepare => "prepare a as select lower(email) from customers",
                Text::Close => "close all",
                Text::Declare => "declare b cursor for select lower(email) from customers",
                Text::Fails => "select id from orders",
                Text::Code => "select tidy()",
                Text::Gives => "select give()",
            }
        }

        fn of(sql: &str) -> Text {
            Text::ALL.into_iter().find(|t| t.sql() == sql).unwrap_or(Text::Wrong)
        }

        fn description(self) -> Option<&'static str> {
            match self {
                Text::Clean => Some("T i16:1 col:id,16400,1,23,0"),
                Text::Fails => Some("T i16:1 col:id,16500,1,23,0"),
                Text::Secret => Some("T i16:1 col:lower,0,0,25,0"),
                Text::Code | Text::Gives => Some("T i16:1 col:void,0,0,2278,0"),
                Text::Wrong | Text::Deallocate | Text::Prepare | Text::Declare | Text::Close => None,
            }
        }
    }

    #[derive(Default)]
    struct Server {
        statements: HashMap<String, Text>,
        portals: HashMap<String, Text>,
        skipping: bool,
        input: Vec<u8>,
        described: usize,
    }

    impl Server {
        /// Answers the next whole message; `None`: there is none.
        fn answer(&mut self) -> Option<Vec<u8>> {
            let length = u32::from_be_bytes(self.input.get(1..5)?.try_into().unwrap()) as usize;
            if self.input.len() < 1 + length {
                return None;
            }
            let message: Vec<u8> = self.input.drain(..1 + length).collect();
            let strings: Vec<String> =
                message[5..].split(|b| *b == 0).map(|s| String::from_utf8_lossy(s).into_owned()).collect();
            let tag = message[0];
            if tag == b'S' {
                self.skipping = false;
                self.portals.clear();
                return Some(encode("Z s:I"));
            }
            if self.skipping {
                return Some(Vec::new());
            }
            let answer = match tag {
                b'P' => {
                    let (name, text) = (strings[0].clone(), Text::of(&strings[1]));
                    if name.is_empty() {
                        self.statements.remove("");
                    }
                    if text == Text::Wrong || self.statements.contains_key(&name) {
                        None
                    } else {
                        self.statements.insert(name, text);
                        Some(encode("1"))
                    }
                }
                b'B' => self.statements.get(&strings[1]).copied().map(|text| {
                    self.portals.insert(strings[0].clone(), text);
                    encode("2")
                }),
                b'D' => {
                    self.described += 1;
                    // `P` and the name are one string.
                    self.portals.get(&strings[0][1..]).map(|t| encode(t.description().unwrap_or("n")))
                }
                b'C' => {
                    if strings[0].starts_with('S') {
                        self.statements.remove(&strings[0][1..]);
                    } else {
                        self.portals.remove(&strings[0][1..]);
                    }
                    Some(encode("3"))
                }
                b'E' => self.portals.get(&strings[0]).copied().and_then(|text| self.run(text)),
                b'Q' => {
                    let text = Text::of(&strings[0]);
                    self.statements.remove("");
                    let description = text.description().map(encode).unwrap_or_default();
                    let run = if text == Text::Wrong { None } else { self.run(text) };
                    self.portals.clear();
                    let mut out = match run {
                        Some(rows) => [description, rows].concat(),
                        None => error(),
                    };
                    out.extend(encode("Z s:I"));
                    return Some(out);
                }
                _ => panic!("{}", char::from(tag)),
            };
            Some(answer.unwrap_or_else(|| {
                self.skipping = true;
                error()
            }))
        }

        fn run(&mut self, text: Text) -> Option<Vec<u8>> {
            match text {
                Text::Clean => Some(rows("42")),
                Text::Secret => Some(rows(SECRET)),
                Text::Deallocate => {
                    self.statements.clear();
                    Some(encode(r#"C "DEALLOCATE ALL""#))
                }
                Text::Prepare if self.statements.contains_key("a") => None,
                Text::Prepare => {
                    self.statements.insert("a".into(), Text::Secret);
                    Some(encode(r#"C "PREPARE""#))
                }
                Text::Close => {
                    self.portals.clear();
                    Some(encode(r#"C "CLOSE CURSOR ALL""#))
                }
                Text::Declare if self.portals.contains_key("b") => None,
                Text::Declare => {
                    self.portals.insert("b".into(), Text::Secret);
                    Some(encode(r#"C "DECLARE CURSOR""#))
                }
                Text::Wrong | Text::Fails => None,
                Text::Gives => {
                    self.statements.insert("a".into(), Text::Secret);
                    Some(rows(""))
                }
                Text::Code => {
                    self.statements.insert("a".into(), Text::Secret);
                    None
                }
            }
        }
    }

    fn error() -> Vec<u8> {
        encode(r#"E "SERROR" "VERROR" "C42601" "Mno" b:00"#)
    }

    fn rows(cell: &str) -> Vec<u8> {
        [encode(&format!("D i16:1 cell:{cell}")), encode(r#"C "SELECT 1""#)].concat()
    }

    /// What the client sends, as words.
    fn message() -> impl Strategy<Value = String> {
        let name = || prop::sample::select(vec!["", "", "a", "b"]);
        let text = prop::sample::select(Text::ALL.to_vec());
        prop_oneof![
            3 => (name(), text.clone()).prop_map(|(n, t)| format!(r#"P "{n}" "{}" i16:0"#, t.sql())),
            5 => (name(), name()).prop_map(|(p, s)| format!(r#"B "{p}" "{s}" i16:0 i16:0 i16:0"#)),
            6 => name().prop_map(|p| format!(r#"E "{p}" i32:0"#)),
            1 => (prop::sample::select(vec!["S", "P"]), name()).prop_map(|(k, n)| format!(r#"C s:{k} s:{n} b:00"#)),
            1 => name().prop_map(|p| format!(r#"D s:P s:{p} b:00"#)),
            // Parsed, bound and executed in one go.
            5 => text.clone().prop_map(|t| {
                format!(r#"P "" "{}" i16:0 | B "" "" i16:0 i16:0 i16:0 | E "" i32:0"#, t.sql())
            }),
            // Executed by its name.
            3 => name().prop_map(|s| format!(r#"B "" "{s}" i16:0 i16:0 i16:0 | E "" i32:0"#)),
            1 => text.prop_map(|t| format!(r#"Q "{}""#, t.sql())),
            3 => Just("S".to_owned()),
        ]
    }

    fn gateway() -> Drive {
        session(&gate(r#"{"rules":[{"name":"m","on":{"columns":["customers.email"]},"mask":"redact"}]}"#))
    }

    fn gate(rules: &str) -> postgres::Gate {
        let published = Arc::new(ArcSwap::from_pointee(directory(rules)));
        postgres::Gate::new(published, |_| Box::new(Nowhere))
    }

    fn session(gate: &postgres::Gate) -> Drive {
        let loopback = [127, 0, 0, 1];
        let peer = Peer { address: (loopback, 999).into(), listener: (loopback, 7432).into(), tls: None };
        let mut drive = Drive::new(gate.worker(0).accept(peer));
        drive.feed(Side::Client, &encode(r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#));
        drive.feed(Side::Server, &encode("R u32:0"));
        drive.feed(Side::Server, &encode("Z s:I"));
        drive.take(Side::Server);
        drive.take(Side::Client);
        drive
    }

    /// Runs a conversation in which the server answers `pace` messages after each of the client's; returns what the client got and how
    /// many descriptions the server gave.
    fn converse(said: &[String], paces: &[usize]) -> (Vec<u8>, usize) {
        let (mut drive, mut server) = (gateway(), Server::default());
        let mut got = Vec::new();
        let mut said: VecDeque<Vec<u8>> =
            said.iter().map(|m| m.split(" | ").flat_map(encode).collect()).collect();
        said.push_back(encode("S"));
        let mut paces = paces.iter().cycle();
        loop {
            let message = said.pop_front();
            if let Some(message) = &message {
                drive.feed(Side::Client, message);
            }
            server.input.extend(drive.take(Side::Server));
            let pace = if message.is_some() { *paces.next().unwrap_or(&0) } else { usize::MAX };
            let mut answered = false;
            for _ in 0..pace {
                let Some(answer) = server.answer() else { break };
                answered = true;
                drive.feed(Side::Server, &answer);
                got.extend(drive.take(Side::Client));
                server.input.extend(drive.take(Side::Server));
            }
            assert!(drive.closed.is_none(), "the session ended: {:?}", drive.closed);
            if message.is_none() && !answered {
                return (got, server.described);
            }
        }
    }

    fn count(got: &[u8], cell: &str) -> usize {
        got.windows(cell.len()).filter(|w| *w == cell.as_bytes()).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_pipeline_shows_a_masked_value(
            said in prop::collection::vec(message(), 1..60),
            paces in prop::collection::vec(prop_oneof![3 => Just(0_usize), 2 => 1..4_usize, 1 => Just(50)], 1..20),
        ) {
            let (got, _) = converse(&said, &paces);
            prop_assert_eq!(count(&got, SECRET), 0);
        }
    }

    #[test]
    fn an_execute_that_fails_leaves_what_was_sent_behind_it_described() {
        // The third execution is of a portal that went with its transaction.
        let parse = r#"P "" "select id from customers" i16:0"#;
        let bind = r#"B "" "" i16:0 i16:0 i16:0"#;
        let mut said = vec![parse.to_owned(); 15];
        said.push(format!(r#"{parse} | {bind} | E "" i32:0"#));
        for m in [
            bind,
            r#"P "a" "select id from customers" i16:0"#,
            bind,
            "S",
            r#"E "" i32:0"#,
            "S",
            r#"B "a" "" i16:0 i16:0 i16:0"#,
            r#"E "a" i32:0"#,
        ] {
            said.push(m.to_owned());
        }
        converse(&said, &[0, 50, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
    }

    #[test]
    fn a_name_that_sql_gave_away_is_not_free() {
        // The second Parse fails, because the name is taken: what is bound then is what SQL prepared.
        for named in ["C s:P s: b:00", "C s:S s: b:00"] {
            let said = [
                r#"P "" "prepare a as select lower(email) from customers" i16:0 | B "" "" i16:0 i16:0 i16:0 | E "" i32:0"#,
                named,
                r#"P "a" "select id from customers" i16:0"#,
                "S",
                r#"B "" "a" i16:0 i16:0 i16:0 | E "" i32:0"#,
            ];
            for paces in 0..4_u32.pow(5) {
                let paces: Vec<_> = (0..5).map(|n| (paces / 4_u32.pow(n)) as usize % 4).collect();
                let (got, _) = converse(&said.map(str::to_owned), &paces);
                assert_eq!((count(&got, SECRET), count(&got, "***")), (0, 1), "{paces:?}");
            }
        }
    }

    #[test]
    fn what_code_of_users_may_have_taken_away_is_prepared_again() {
        let prepare = |text: Text| format!(r#"P "a" "{}" i16:0"#, text.sql());
        let run = r#"B "" "a" i16:0 i16:0 i16:0 | E "" i32:0"#;
        for code in [Text::Gives, Text::Code] {
            let code = format!(r#"P "" "{}" i16:0 | B "" "" i16:0 i16:0 i16:0 | E "" i32:0"#, code.sql());
            let said = [&prepare(Text::Clean), "S", run, "S", &code, "S", run, run, "S", run, "S"];
            let (got, described) = converse(&said.map(str::to_owned), &[usize::MAX]);
            assert_eq!((count(&got, "\0\u{2}42"), count(&got, SECRET)), (4, 0));
            assert_eq!(described, 1, "the code");
            // What we prepare is not heard of.
            assert_eq!((count(&got, "1\0\0\0\u{4}"), count(&got, "3\0\0\0\u{4}")), (2, 0));
        }
    }

    #[test]
    fn the_model_serves_and_the_gateway_masks() {
        let said = |m: &[&str]| m.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>();
        let execution = |text: Text| {
            [
                format!(r#"P "" "{}" i16:0"#, text.sql()),
                r#"B "" "" i16:0 i16:0 i16:0"#.into(),
                r#"E "" i32:0"#.into(),
            ]
        };
        let (clean, secret) = (execution(Text::Clean), execution(Text::Secret));
        let (got, _) = converse(&[&clean[..], &secret, &said(&["S"]), &clean].concat(), &[0]);
        assert_eq!((count(&got, "42"), count(&got, "***"), count(&got, SECRET)), (2, 1, 0));
    }

    #[test]
    fn a_write_that_never_answers_is_counted() {
        let insert = r#"Q "insert into customers (id, email) values (1, 'a')""#;
        // Whoever waits for a row of another session has met it, and need not hear the error.
        type End = fn(&mut Drive);
        let ends: [End; 2] = [
            |drive| drive.event(Side::Client, flow::Event::Closed(Side::Client)),
            |drive| drive.feed(Side::Server, &encode("E s:SFATAL b:00 s:C57P01 b:00 s:Mended b:0000")),
        ];
        for end in ends {
            let gate = gate(
                r#"{"rules":[{"name":"m","on":{"columns":["customers.email"]},"mask":"redact","probes":1}]}"#,
            );
            let mut drive = session(&gate);
            drive.feed(Side::Client, &encode(insert));
            assert_eq!(count(&drive.take(Side::Server), "insert"), 1);
            end(&mut drive);
            let mut drive = session(&gate);
            drive.feed(Side::Client, &encode(insert));
            assert_eq!(count(&drive.take(Side::Server), "insert"), 0, "its budget is used up");
        }
    }

    #[test]
    fn a_pipeline_of_any_length_is_described_only_where_it_must_be() {
        let many = |of: &[&str], times: usize| -> Vec<String> {
            of.iter().map(|m| (*m).to_owned()).cycle().take(of.len() * times).collect()
        };
        let prepare = |t: Text| vec![format!(r#"P "a" "{}" i16:0"#, t.sql()), "S".to_owned()];
        let bind = r#"B "" "a" i16:0 i16:0 i16:0"#;
        let parse = format!(r#"P "" "{}" i16:0"#, Text::Clean.sql());
        let unnamed = r#"B "" "" i16:0 i16:0 i16:0"#;
        let execute = r#"E "" i32:0"#;
        for pace in [0, 2] {
            let clean = [prepare(Text::Clean), many(&[bind, execute], 500)].concat();
            let (got, described) = converse(&clean, &[pace]);
            assert_eq!((count(&got, "SELECT 1"), described), (500, 0), "prepared");
            let (got, described) = converse(&many(&[&parse, unnamed, execute], 500), &[pace]);
            assert_eq!((count(&got, "SELECT 1"), described), (500, 0), "parsed each time");
            let secret = [prepare(Text::Secret), many(&[bind, execute], 500)].concat();
            let (got, described) = converse(&secret, &[pace]);
            assert_eq!((count(&got, "***"), described), (500, 500), "masked");
        }
    }
}
