//! Nothing is allocated per statement: what a session and a worker need is there after the first few. Counted by an allocator that
//! watches the test's thread, for every way to ask, under masks and with everything recorded.
#[cfg(test)]
mod support;

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use flow::record::Entry;
    use flow::{Event, Fault, Flow, Now, Out, Peer, Phase, Recorder, Service, Session, Side, Step};

    use crate::support::{directory, encode};

    struct Watching;

    thread_local! {
        static WATCHED: Cell<bool> = const { Cell::new(false) };
        static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
        static LIVE: Cell<i64> = const { Cell::new(0) };
    }

    fn note(allocations: u64, bytes: i64) {
        if WATCHED.try_with(Cell::get).unwrap_or(false) {
            let _gone = ALLOCATIONS.try_with(|a| a.set(a.get() + allocations));
            let _gone = LIVE.try_with(|l| l.set(l.get() + bytes));
        }
    }

    // SAFETY: every call goes to the system's allocator unchanged; counting touches const thread-locals only. What is not written here
    // (realloc) goes through alloc and dealloc.
    unsafe impl GlobalAlloc for Watching {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            note(1, layout.size() as i64);
            // SAFETY: the caller's promise is passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            note(0, -(layout.size() as i64));
            // SAFETY: the caller's promise is passed on.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Watching = Watching;

    /// Allocations of `work` and the bytes it left allocated.
    fn counted(work: impl FnOnce()) -> (u64, i64) {
        ALLOCATIONS.set(0);
        LIVE.set(0);
        WATCHED.set(true);
        work();
        WATCHED.set(false);
        (ALLOCATIONS.get(), LIVE.get())
    }

    /// Encodes what it is given, as the real one does.
    struct Encoding(Vec<u8>);

    impl Recorder for Encoding {
        fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
            self.0.clear();
            entry.encode(&mut self.0);
            Ok(())
        }
    }

    /// A session, and the buffers of the worker it is on.
    struct Wire {
        session: Box<dyn Session>,
        back: Out,
        on: Out,
    }

    impl Wire {
        fn event(&mut self, side: Side, event: Event, mut input: &[u8]) {
            let mut event = Some(event);
            while let Some(now) = event.take() {
                self.back.clear();
                self.on.clear();
                let time = Now { mono_ns: 1, unix_ns: 1 };
                let mut flow = Flow::new(side, input, &mut self.back, &mut self.on, time);
                let step = self.session.on(now, &mut flow).unwrap();
                let taken = flow.taken();
                input = input.get(taken..).unwrap_or_default();
                match step {
                    Step::Read { .. } => assert!(input.is_empty(), "all of it is whole messages"),
                    Step::Dial(_) => event = Some(Event::Dialled(Ok(()))),
                    other => panic!("{other:?}"),
                }
            }
        }

        fn say(&mut self, side: Side, messages: &[u8]) {
            self.event(side, Event::Received, messages);
        }
    }

    fn messages(said: &str) -> Vec<u8> {
        said.split(" | ").flat_map(encode).collect()
    }

    const MASKED: &str = r#"{"rules":[{"name":"m","on":{"columns":["customers.email"]},"mask":"redact"},
        {"name":"no-drop","on":{"statements":["drop"]},"block":"no"}]}"#;

    struct Gateway(Box<dyn flow::Acceptor>);

    fn gateway(rules: &str) -> Gateway {
        let gate = postgres::Gate::new(Arc::new(ArcSwap::from_pointee(directory(rules))), |_| {
            Box::new(Encoding(Vec::new()))
        });
        Gateway(gate.worker(0))
    }

    impl Gateway {
        fn log_in(&mut self) -> Wire {
            let loopback = [127, 0, 0, 1];
            let peer = Peer { address: (loopback, 999).into(), listener: (loopback, 7432).into(), tls: None };
            let mut wire = Wire { session: self.0.accept(peer), back: Out::default(), on: Out::default() };
            wire.event(Side::Client, Event::Opened, &[]);
            wire.say(Side::Client, &messages(r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#));
            wire.say(
                Side::Server,
                &messages(r#"R u32:0 | S "client_encoding" "UTF8" | K u32:7 u32:8 | Z s:I"#),
            );
            assert_eq!(wire.session.phase(), Phase::Idle);
            wire
        }
    }

    const CLEAN: &str = "col:id,16400,1,23,0";
    const BOTH: &str = "col:id,16400,1,23,0 col:email,16400,3,25,0";

    #[test]
    fn no_statement_allocates_once_it_was_seen() {
        let prepare = r#"P "get_customer" "select id from customers where id = $1" i16:0 | S"#;
        let execute = r#"B "" "get_customer" i16:0 i16:1 i32:2 s:42 i16:0 | D s:P b:00 | E "" i32:0"#;
        let executed = format!(r#"2 | T i16:1 {CLEAN} | D i16:1 cell:1 | C "SELECT 1""#);
        let long = "a_name_of_a_prepared_statement_that_is_too_long_to_be_kept_in_line";
        let pipeline = format!("{} | S", [execute; 40].join(" | "));
        let pipelined = format!("{} | Z s:I", vec![executed.as_str(); 40].join(" | "));
        let parsing = r#"P "" "select id, email from customers where id = $1" i16:0 | B "" "" i16:0 i16:1 i32:2 s:42 i16:0 | D s:P b:00 | E "" i32:0 | S"#;
        // The client asks for a description, and so do we: the second answer is ours.
        let parsed = format!(
            r#"1 | 2 | T i16:2 {BOTH} | T i16:2 {BOTH} | D i16:2 cell:1 cell:ana@x.io | C "SELECT 1" | Z s:I"#
        );
        let cases: [(&str, &str, String, String); 7] = [
            (
                "simple",
                "",
                r#"Q "select id from customers where id = 42""#.into(),
                format!(r#"T i16:1 {CLEAN} | D i16:1 cell:1 | C "SELECT 1" | Z s:I"#),
            ),
            (
                "simple, masked",
                "",
                r#"Q "select * from customers where id = 42""#.into(),
                format!(r#"T i16:2 {BOTH} | D i16:2 cell:1 cell:ana@x.io | C "SELECT 1" | Z s:I"#),
            ),
            ("prepared", prepare, format!("{execute} | S"), format!("{executed} | Z s:I")),
            (
                "prepared, long name",
                prepare,
                format!("{} | S", execute.replace("get_customer", long)),
                format!("{executed} | Z s:I"),
            ),
            ("pipelined", prepare, pipeline, pipelined),
            ("parsed each time, masked", "", parsing.into(), parsed),
            (
                "written",
                "",
                r#"Q "update orders set item = 'x' where id = 42""#.into(),
                r#"C "UPDATE 1" | Z s:I"#.into(),
            ),
        ];
        for rules in [MASKED, r#"{"rules":[]}"#] {
            for (what, before, asked, answered) in &cases {
                let mut wire = gateway(rules).log_in();
                let masks = rules == MASKED;
                if !before.is_empty() {
                    wire.say(
                        Side::Client,
                        &messages(&before.replace(
                            "get_customer",
                            if what.contains("long") { long } else { "get_customer" },
                        )),
                    );
                    wire.say(Side::Server, &messages("1 | Z s:I"));
                }
                let asked = messages(asked);
                // Without rules nobody but the client describes.
                let once = format!("T i16:2 {BOTH} | ");
                let answered =
                    if masks { answered.clone() } else { answered.replacen(&once.repeat(2), &once, 1) };
                let answered = messages(&answered);
                let mut again = |times| {
                    for _ in 0..times {
                        wire.say(Side::Client, &asked);
                        wire.say(Side::Server, &answered);
                    }
                };
                again(5);
                let (allocations, left) = counted(|| again(100));
                assert_eq!((allocations, left), (0, 0), "{what}, masks: {masks}");
                let text = String::from_utf8_lossy(wire.on.bytes(&answered)).into_owned();
                assert_eq!(text.contains("***"), masks && what.contains("masked"), "{what}: {text}");
            }
        }
    }

    #[test]
    fn an_idle_session_keeps_little() {
        for (rules, most) in [(MASKED, 800), (r#"{"rules":[]}"#, 800)] {
            let mut gateway = gateway(rules);
            let query = messages(r#"Q "select id from customers where id = 42""#);
            let answer = messages(&format!(r#"T i16:1 {CLEAN} | D i16:1 cell:1 | C "SELECT 1" | Z s:I"#));
            let one = |gateway: &mut Gateway| {
                let mut wire = gateway.log_in();
                for _ in 0..3 {
                    wire.say(Side::Client, &query);
                    wire.say(Side::Server, &answer);
                }
                // These are the worker's.
                (wire.back, wire.on) = (Out::default(), Out::default());
                wire
            };
            // What the worker keeps for all of them is there after the first.
            let mut kept: Vec<Wire> = (0..64).map(|_| one(&mut gateway)).collect();
            kept.reserve(16);
            let (allocations, left) = counted(|| (0..16).for_each(|_| kept.push(one(&mut gateway))));
            println!(
                "{} bytes per idle session, {} allocations for its login and three queries",
                left / 16,
                allocations / 16
            );
            assert!(left / 16 < most, "{} bytes", left / 16);
        }
    }
}
