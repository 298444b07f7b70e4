//! The engine against real sockets on loopback, every test on both drivers. Sessions here are a few lines each: what is tested is
//! the machine, not a protocol.

#[cfg(test)]
#[macro_use]
mod support;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use engine::{Engine, Io, Settings, StartError, Workers};
    use flow::access::{Address, Target};
    use flow::session::Deadline;
    use flow::{Answer, Ask, Desk, DialError, Event, Fault, Flow, Phase, Reply, Side, Step};
    use policy::Pass;
    use rustls::pki_types::ServerName;

    use crate::support::*;

    on_both_drivers! {
        bytes_pass_whole_whatever_their_cut
        a_session_sees_as_much_together_as_it_asked_for
        asking_for_too_much_is_a_bug_of_the_session
        asking_for_what_was_shown_is_a_bug_of_the_session
        a_slow_reader_stops_the_target_and_loses_nothing
        a_client_that_never_reads_its_answers_is_not_read_from
        two_writers_to_one_side_keep_their_order
        a_client_that_vanishes_is_told_to_the_session
        a_target_that_refuses_is_told_to_the_session
        a_target_that_dies_is_told_to_the_session
        a_target_that_does_not_answer_times_out
        a_name_and_a_unix_socket_are_dialled
        last_words_arrive_though_bytes_were_unread
        a_session_may_go_on_without_its_client
        a_session_may_have_another_beside_it
        what_goes_wrong_beside_a_session_is_told_to_it
        one_session_beside_another_and_no_more
        a_session_beside_another_has_ten_seconds
        a_session_beside_another_may_outlive_it
        an_answer_comes_back_from_another_thread
        a_dropped_question_is_answered_failed
        untaken_bytes_are_shown_again_when_the_other_side_moved
        a_stream_that_gathers_keeps_nothing_back
        login_has_a_deadline
        idling_has_a_deadline
        draining_waits_for_the_busy_and_stops_accepting
        draining_kills_who_does_not_go
        a_panicking_session_ends_alone
        too_many_clients_are_turned_away
        both_workers_accept
        tls_on_both_legs
        tls_is_resumed_on_both_legs
        tls_may_come_first
        tls_cut_off_is_closed
        nothing_is_trusted_that_came_before_tls
        a_target_with_a_wrong_certificate_is_refused
    }

    fn bytes_pass_whole_whatever_their_cut(io: Io) {
        let target = echo();
        let gate = Gate::start(io, move |_| relay(target));
        let mut client = gate.connect();
        for size in [1, 2, 5, 100, 4096, 16 << 10, (16 << 10) + 1, 300_000] {
            let sent = noise(size);
            let mut reader = client.try_clone().unwrap();
            let expected = sent.clone();
            let read = std::thread::spawn(move || {
                let mut got = vec![0; expected.len()];
                reader.read_exact(&mut got).unwrap();
                assert!(got == expected, "{} bytes came back changed", expected.len());
            });
            for piece in sent.chunks((size / 7).max(1)) {
                client.write_all(piece).unwrap();
            }
            read.join().unwrap();
        }
        drop(client);
        gate.eventually(|s| s.open == 0);
        let total: u64 = [1, 2, 5, 100, 4096, 16 << 10, (16 << 10) + 1, 300_000].iter().sum();
        let stats = gate.engine.stats()[0];
        assert_eq!((stats.from_clients, stats.from_targets, stats.faults), (total, total, 0));
    }

    fn a_session_sees_as_much_together_as_it_asked_for(io: Io) {
        // Frames of a length and a body; each is answered by one byte once it is there in one piece.
        let gate = Gate::start(io, |_| {
            session(Phase::Idle, |event, flow| {
                if !matches!(event, Event::Received) {
                    return usual(&event);
                }
                loop {
                    let Some((head, _)) = flow.input().split_first_chunk::<4>() else {
                        return Ok(Step::Read { need: 4 });
                    };
                    let len = 4 + u32::from_le_bytes(*head) as usize;
                    if flow.input().len() < len {
                        return Ok(Step::Read { need: len });
                    }
                    let sum = flow.input()[4..len].iter().fold(0u8, |a, b| a.wrapping_add(*b));
                    flow.discard(len);
                    flow.send(Side::Client, &[sum]);
                }
            })
        });
        let mut client = gate.connect();
        for size in [0_usize, 1, 100, 16 << 10, 70_000, 300_000, 1 << 20] {
            let body = noise(size);
            let mut frame = u32::try_from(size).unwrap().to_le_bytes().to_vec();
            frame.extend_from_slice(&body);
            let twice = [frame.clone(), frame].concat();
            for piece in twice.chunks((size / 3).max(3)) {
                client.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            let sum = body.iter().fold(0u8, |a, b| a.wrapping_add(*b));
            let mut answers = [0; 2];
            client.read_exact(&mut answers).unwrap();
            assert_eq!(answers, [sum; 2], "frame of {size}");
        }
    }

    fn asking_for_too_much_is_a_bug_of_the_session(io: Io) {
        let gate = Gate::start(io, |_| {
            session(Phase::Idle, |event, _| match event {
                Event::Received => Ok(Step::Read { need: 3 << 20 }),
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(read_to_end(&mut client), b"");
        gate.eventually(|s| s.faults == 1 && s.open == 0);
    }

    fn asking_for_what_was_shown_is_a_bug_of_the_session(io: Io) {
        let gate = Gate::start(io, |_| {
            session(Phase::Idle, |event, _| match event {
                Event::Received => Ok(Step::Read { need: 1 }),
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        client.write_all(b"xyz").unwrap();
        assert_eq!(read_to_end(&mut client), b"");
        gate.eventually(|s| s.faults == 1 && s.open == 0);
    }

    fn a_slow_reader_stops_the_target_and_loses_nothing(io: Io) {
        const TOTAL: usize = 64 << 20;
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let target = target(move |mut stream| {
            let block = noise(64 << 10);
            let mut at = 0;
            while at < TOTAL {
                let n = stream.write(&block[at % block.len()..]).unwrap();
                at += n;
                count.store(at, Ordering::SeqCst);
            }
        });
        let gate = Gate::start(io, move |_| relay(target));
        let mut client = gate.connect();
        // Wait until nothing moves any more.
        let mut before = usize::MAX;
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(300));
        }
        // What we hold is one read buffer; the rest is the kernel's socket buffers (tcp_rmem, tcp_wmem: up to 6 + 4 MiB twice).
        let taken_in = usize::try_from(gate.engine.stats()[0].from_targets).unwrap();
        assert!(before < 32 << 20, "{before} bytes left the target though nobody reads");
        assert!(taken_in < 16 << 20, "{taken_in} bytes were taken in though nobody reads");
        let block = noise(64 << 10);
        let (mut at, mut buffer) = (0, vec![0; 50_000]);
        loop {
            let n = client.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            for byte in &buffer[..n] {
                assert_eq!(*byte, block[at % block.len()], "byte {at}");
                at += 1;
            }
        }
        assert_eq!(at, TOTAL);
    }

    fn a_client_that_never_reads_its_answers_is_not_read_from(io: Io) {
        // Answers ten bytes for one, to the side that spoke: without back-pressure this grows without end.
        let gate = Gate::start(io, |_| {
            session(Phase::Idle, |event, flow| {
                if !matches!(event, Event::Received) {
                    return usual(&event);
                }
                let answer = flow.input().repeat(10);
                flow.discard(usize::MAX);
                flow.send(Side::Client, &answer);
                Ok(Step::READ)
            })
        });
        let client = gate.connect();
        client.set_nonblocking(true).unwrap();
        let block = vec![b'q'; 64 << 10];
        let (mut sent, mut quiet) = (0_usize, 0);
        while quiet < 50 {
            match (&client).write(&block) {
                Ok(n) => (sent, quiet) = (sent + n, 0),
                Err(_) => {
                    quiet += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        assert!(sent < 32 << 20, "{sent} bytes were taken from a client that reads nothing");
        client.set_nonblocking(false).unwrap();
        let mut client = client;
        client.shutdown(Shutdown::Write).unwrap();
        let got = read_to_end(&mut client);
        assert_eq!(got.len(), sent * 10);
    }

    fn two_writers_to_one_side_keep_their_order(io: Io) {
        // The target streams 'a' without end; each byte from the client is answered to the client as b"[xyz]" in between.
        let target = target(|mut stream| {
            let block = vec![b'a'; 32 << 10];
            while stream.write_all(&block).is_ok() {}
        });
        let gate = Gate::start(io, move |_| {
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(target.plain())),
                Event::Received if flow.speaker() == Side::Client => {
                    for _ in 0..flow.input().len() {
                        flow.send(Side::Client, b"[xyz]");
                    }
                    flow.discard(usize::MAX);
                    Ok(Step::READ)
                }
                Event::Received => forward_all(flow),
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        let asker = client.try_clone().unwrap();
        let asking = std::thread::spawn(move || {
            for _ in 0..200 {
                (&asker).write_all(b"??").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let (mut seen, mut inside, mut buffer) = (0, 0_usize, vec![0; 10_000]);
        while seen < 400 {
            let n = client.read(&mut buffer).unwrap();
            assert!(n > 0);
            for byte in &buffer[..n] {
                match (inside, byte) {
                    (0, b'a') => {}
                    (at, byte) => {
                        assert_eq!(*byte, b"[xyz]"[at], "a block was cut in two");
                        inside = (at + 1) % 5;
                        seen += usize::from(inside == 0);
                    }
                }
            }
        }
        asking.join().unwrap();
    }

    fn a_client_that_vanishes_is_told_to_the_session(io: Io) {
        let (tell, told) = channel();
        let target = target(move |mut stream| {
            let mut all = Vec::new();
            let _reset_or_end = stream.read_to_end(&mut all);
            tell.send(all).unwrap();
        });
        let gate = Gate::start(io, move |_| relay(target));
        let mut client = gate.connect();
        client.write_all(b"half a mess").unwrap();
        gate.eventually(|s| s.from_clients == 11);
        drop(client);
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), b"half a mess");
        gate.eventually(|s| s.open == 0 && s.faults == 0);
    }

    fn a_target_that_refuses_is_told_to_the_session(io: Io) {
        // Bound and not listening: refused, and nobody else can get the port meanwhile (the gate itself did, and dialled itself).
        let kind = rustix::net::SocketType::STREAM;
        let fd = rustix::net::socket(rustix::net::AddressFamily::INET, kind, None).unwrap();
        rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        let unheard = TcpListener::from(fd);
        let closed = unheard.local_addr().unwrap();
        let gate = Gate::start(io, move |_| dial_and_tell(plain(closed)));
        let said = String::from_utf8(read_to_end(&mut gate.connect())).unwrap();
        assert!(said.contains("refused") && said.contains(&closed.to_string()), "{said}");
    }

    fn a_target_that_dies_is_told_to_the_session(io: Io) {
        let target = target(|mut stream| {
            stream.write_all(b"hello").unwrap();
        });
        let gate = Gate::start(io, move |_| {
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(target.plain())),
                Event::Received => forward_all(flow),
                Event::Closed(side) => {
                    flow.send(Side::Client, format!("; {side:?} is gone").as_bytes());
                    Ok(Step::CLOSE)
                }
                other => usual(&other),
            })
        });
        assert_eq!(read_to_end(&mut gate.connect()), b"hello; Server is gone");
        gate.eventually(|s| s.open == 0);
    }

    fn a_target_that_does_not_answer_times_out(io: Io) {
        // A listener whose queue is full leaves further handshakes unanswered.
        let fd = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
        let fd = fd.unwrap();
        rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::listen(&fd, 0).unwrap();
        let full = TcpListener::from(fd);
        let address = full.local_addr().unwrap();
        let _queued = TcpStream::connect(address).unwrap();
        let gate = Gate::start(io, move |_| {
            let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
            dial_and_tell(Arc::new(Target { address, tls: None, dial_ms: 300 }))
        });
        let since = Instant::now();
        let said = String::from_utf8(read_to_end(&mut gate.connect())).unwrap();
        assert_eq!(said, "no answer within 300 ms");
        assert!(since.elapsed() > Duration::from_millis(290) && since.elapsed() < Duration::from_secs(3));
    }

    fn a_name_and_a_unix_socket_are_dialled(io: Io) {
        let echo = echo();
        let folder = std::env::temp_dir().join(format!("lg-engine-{}-{io:?}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let _absent = std::fs::remove_file(&path);
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = unix.accept().unwrap();
            let mut got = [0; 4];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(b"unix").unwrap();
        });
        let port = echo.address.port();
        for (address, answer) in [
            (Address::Tcp { host: "localhost".to_owned(), port }, b"ping"),
            (Address::Tcp { host: "localhost".to_owned(), port }, b"ping"),
            (Address::Unix(path.clone()), b"unix"),
        ] {
            let target = Arc::new(Target { address, tls: None, dial_ms: 5_000 });
            let gate = Gate::start(io, move |_| relay_to(target.clone()));
            let mut client = gate.connect();
            client.write_all(b"ping").unwrap();
            let mut got = [0; 4];
            client.read_exact(&mut got).unwrap();
            assert_eq!(&got, answer);
        }
        let nowhere = Address::Tcp { host: "no-such-host.invalid".to_owned(), port };
        let gate = Gate::start(io, move |_| {
            dial_and_tell(Arc::new(Target { address: nowhere.clone(), tls: None, dial_ms: 9_000 }))
        });
        let said = String::from_utf8(read_to_end(&mut gate.connect())).unwrap();
        assert!(said.starts_with("cannot resolve no-such-host.invalid"), "{said}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn last_words_arrive_though_bytes_were_unread(io: Io) {
        let gate = Gate::start(io, |_| {
            session(Phase::Login, |event, flow| match event {
                Event::Received => {
                    flow.send(Side::Client, b"no entry");
                    Ok(Step::CLOSE)
                }
                other => usual(&other),
            })
        });
        for _ in 0..20 {
            let mut client = gate.connect();
            client.write_all(&noise(2000)).unwrap();
            // Bytes that the gate never looks at: closing on them would reset the connection and lose the answer.
            for _ in 0..20 {
                if client.write_all(&noise(20_000)).is_err() {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(read_to_end(&mut client), b"no entry");
        }
        gate.eventually(|s| s.open == 0);
    }

    fn a_session_may_go_on_without_its_client(io: Io) {
        let (tell, told) = channel();
        let target = target(move |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            tell.send(all).unwrap();
        });
        let gate = Gate::start(io, move |_| {
            session(Phase::Login, move |event, flow| match event {
                Event::Received => {
                    flow.discard(usize::MAX);
                    let errand = session(Phase::Busy, move |event, flow| match event {
                        Event::Opened => {
                            assert_eq!((flow.speaker(), flow.input()), (Side::Server, &b""[..]));
                            Ok(Step::Dial(target.plain()))
                        }
                        Event::Dialled(Ok(())) => {
                            flow.send(Side::Server, b"cancel 42");
                            Ok(Step::CLOSE)
                        }
                        other => usual(&other),
                    });
                    Ok(Step::Close { then: Some(errand) })
                }
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        client.write_all(b"please cancel").unwrap();
        assert_eq!(read_to_end(&mut client), b"");
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), b"cancel 42");
        assert!(gate.engine.drain(Duration::from_secs(5)));
    }

    /// Sends `said` to the target, and is over when that closes.
    fn errand(target: Arc<Target>, said: &'static [u8]) -> Made {
        session(Phase::Login, move |event, flow| match event {
            Event::Opened => Ok(Step::Dial(target.clone())),
            Event::Dialled(Ok(())) => {
                flow.send(Side::Server, said);
                Ok(Step::READ)
            }
            other => usual(&other),
        })
    }

    /// Forwards both ways; a `!` from the client is taken by starting what `beside` makes, and what comes behind it waits until that is
    /// over.
    fn accompanied(
        target: Arc<Target>,
        mut beside: impl FnMut() -> Made + 'static,
    ) -> Box<dyn flow::Session> {
        let mut out = false;
        session(Phase::Busy, move |event, flow| match (event, flow.speaker()) {
            (Event::Opened, _) => Ok(Step::Dial(target.clone())),
            (Event::Parted, speaker) => {
                assert_eq!((speaker, flow.input(), out), (Side::Server, &b""[..], true));
                out = false;
                flow.send(Side::Client, b"?");
                Ok(Step::READ)
            }
            (Event::Received, Side::Client) if out => Ok(Step::READ),
            (Event::Received, Side::Client) => {
                let Some(at) = flow.input().iter().position(|b| *b == b'!') else { return forward_all(flow) };
                flow.forward(at, Pass::housekeeping());
                flow.discard(1);
                out = true;
                Ok(Step::Beside(beside()))
            }
            (Event::Received, Side::Server) => forward_all(flow),
            (other, _) => usual(&other),
        })
    }

    #[track_caller]
    fn hears(client: &mut TcpStream, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    fn a_session_may_have_another_beside_it(io: Io) {
        let (tell, told) = channel();
        let (go, wait) = channel::<()>();
        let (tell, wait) = (Mutex::new(tell), Mutex::new(wait));
        let beside = target(move |mut stream| {
            let mut said = [0; 5];
            stream.read_exact(&mut said).unwrap();
            tell.lock().unwrap().send(said).unwrap();
            wait.lock().unwrap().recv().unwrap();
        });
        let echo = echo();
        let gate =
            Gate::start(io, move |_| accompanied(echo.plain(), move || errand(beside.plain(), b"hello")));
        let mut client = gate.connect();
        for _ in 0..3 {
            client.write_all(b"one!two").unwrap();
            hears(&mut client, b"one");
            assert_eq!(&told.recv_timeout(Duration::from_secs(5)).unwrap(), b"hello");
            // What the client says meanwhile is left lying, and shown when the other one is over.
            client.write_all(b"three").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(client.read(&mut [0]).is_err(), "nothing was said yet");
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            go.send(()).unwrap();
            hears(&mut client, b"?twothree");
        }
        drop(client);
        gate.eventually(|s| s.open == 0 && s.faults == 0);
    }

    fn what_goes_wrong_beside_a_session_is_told_to_it(io: Io) {
        let nobody = plain(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let echo = echo();
        let gate = Gate::start(io, move |_| {
            let nobody = nobody.clone();
            let mut turn = 0;
            accompanied(echo.plain(), move || {
                turn += 1;
                match turn {
                    1 => session(Phase::Busy, |_, _| panic!("on purpose, for the test")),
                    2 => session(Phase::Busy, |_, _| Err(Fault::Bug("on purpose, for the test"))),
                    3 => session(Phase::Busy, |_, _| Ok(Step::CLOSE)),
                    // It cannot be dialled; it has nothing to wait for; it starts TLS with nobody.
                    4 => errand(nobody.clone(), b""),
                    5 => session(Phase::Busy, |_, _| Ok(Step::READ)),
                    _ => session(Phase::Busy, |_, _| Ok(Step::StartTls(Side::Server))),
                }
            })
        });
        let mut client = gate.connect();
        for _ in 0..6 {
            client.write_all(b"!a").unwrap();
            hears(&mut client, b"?a");
        }
        gate.eventually(|s| s.panics == 1 && s.faults == 3 && s.open == 1);
    }

    fn one_session_beside_another_and_no_more(io: Io) {
        let (quiet, echo) = (target(|mut stream| drop(stream.read(&mut [0]))), echo());
        let gate = Gate::start(io, move |_| {
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(echo.plain())),
                Event::Received => {
                    flow.discard(1);
                    Ok(Step::Beside(errand(quiet.plain(), b"")))
                }
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        client.write_all(b"11").unwrap();
        assert_eq!(read_to_end(&mut client), b"");
        gate.eventually(|s| s.faults == 1 && s.open == 0);
        // One beside has none beside itself; the first one does not notice.
        let gate = Gate::start(io, move |_| {
            accompanied(echo.plain(), move || {
                session(Phase::Busy, move |_, _| Ok(Step::Beside(errand(quiet.plain(), b""))))
            })
        });
        let mut client = gate.connect();
        client.write_all(b"!x").unwrap();
        hears(&mut client, b"?x");
        gate.eventually(|s| s.faults == 1 && s.open == 1);
    }

    fn a_session_beside_another_has_ten_seconds(io: Io) {
        let (quiet, echo) = (target(|mut stream| drop(stream.read_to_end(&mut Vec::new()))), echo());
        let gate =
            Gate::start(io, move |_| accompanied(echo.plain(), move || errand(quiet.plain(), b"hello")));
        let mut client = gate.connect();
        let began = Instant::now();
        client.write_all(b"!x").unwrap();
        hears(&mut client, b"?x");
        let waited = began.elapsed();
        assert!((Duration::from_secs(9)..Duration::from_secs(12)).contains(&waited), "{waited:?}");
    }

    fn a_session_beside_another_may_outlive_it(io: Io) {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let beside = target(move |mut stream| {
            let mut said = [0; 5];
            stream.read_exact(&mut said).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            tell.lock().unwrap().send(said).unwrap();
        });
        let echo = echo();
        let gate =
            Gate::start(io, move |_| accompanied(echo.plain(), move || errand(beside.plain(), b"hello")));
        let mut client = gate.connect();
        client.write_all(b"x!").unwrap();
        hears(&mut client, b"x");
        drop(client);
        gate.eventually(|s| s.open == 0);
        assert!(gate.engine.drain(Duration::from_secs(5)), "the one beside is waited for");
        assert_eq!(&told.try_recv().unwrap(), b"hello");
        assert_eq!(gate.engine.stats()[0].faults, 0);
    }

    struct Slow;
    impl Desk for Slow {
        fn ask(&self, ask: Ask, reply: Reply) {
            let Ask::Catalogue { newer_than, .. } = ask else { panic!("another question") };
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(newer_than));
                reply(Answer::Failed(format!("asked {newer_than}")));
            });
        }
    }

    fn an_answer_comes_back_from_another_thread(io: Io) {
        let echo = echo();
        let gate = Gate::with(io, Settings { desk: Arc::new(Slow), ..settings() }, move |_| {
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(echo.plain())),
                Event::Received if flow.speaker() == Side::Client => {
                    let ms = u64::from(flow.input()[0]);
                    Ok(Step::Ask(catalogue_question(ms)))
                }
                Event::Received => forward_all(flow),
                Event::Answered(answer) => {
                    // The input that led to the question is shown again.
                    assert_eq!((flow.speaker(), flow.input().len() % 3), (Side::Client, 0));
                    flow.discard(usize::MAX);
                    flow.send(Side::Client, format!("{answer:?}").as_bytes());
                    Ok(Step::READ)
                }
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        for ms in [0_u8, 1, 30, 100, 0, 0, 7] {
            client.write_all(&[ms; 3]).unwrap();
            let expected = format!("Failed(\"asked {ms}\")");
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), expected);
        }
        // A client may leave while the question is out.
        client.write_all(&[200; 3]).unwrap();
        drop(client);
        assert!(gate.engine.drain(Duration::from_secs(5)));
    }

    struct Rude;
    impl Desk for Rude {
        fn ask(&self, _: Ask, reply: Reply) {
            drop(reply);
        }
    }

    fn a_dropped_question_is_answered_failed(io: Io) {
        let gate = Gate::with(io, Settings { desk: Arc::new(Rude), ..settings() }, |_| {
            session(Phase::Busy, |event, flow| match event {
                Event::Opened => Ok(Step::Ask(catalogue_question(0))),
                Event::Answered(answer) => {
                    flow.send(Side::Client, format!("{answer:?}").as_bytes());
                    Ok(Step::CLOSE)
                }
                other => usual(&other),
            })
        });
        let said = String::from_utf8(read_to_end(&mut gate.connect())).unwrap();
        assert!(said.contains("unanswered"), "{said}");
    }

    fn untaken_bytes_are_shown_again_when_the_other_side_moved(io: Io) {
        // One question at a time: while an answer is owed, the client's bytes are left lying.
        let echo = echo();
        let gate = Gate::start(io, move |_| {
            let mut owed = false;
            session(Phase::Busy, move |event, flow| match (event, flow.speaker()) {
                (Event::Opened, _) => Ok(Step::Dial(echo.plain())),
                (Event::Received, Side::Client) => {
                    if !owed && !flow.input().is_empty() {
                        owed = true;
                        flow.forward(1, Pass::housekeeping());
                    }
                    Ok(Step::READ)
                }
                (Event::Received, Side::Server) => {
                    owed = false;
                    forward_all(flow)
                }
                (other, _) => usual(&other),
            })
        });
        let mut client = gate.connect();
        let sent = noise(500);
        client.write_all(&sent).unwrap();
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
    }

    fn a_stream_that_gathers_keeps_nothing_back(io: Io) {
        // Fast, so that gathering begins; then a little at a time, each answered for, so that anything held back would hang.
        let target = target(|mut stream| {
            for _ in 0..3 {
                let block = vec![b'r'; 8192];
                for _ in 0..1000 {
                    stream.write_all(&block).unwrap();
                }
                for _ in 0..20 {
                    stream.write_all(b"tail").unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                }
            }
        });
        let gate = Gate::start(io, move |_| {
            session(Phase::Streaming, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(target.plain())),
                Event::Received => forward_all(flow),
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        let mut block = vec![0; 8192 * 1000];
        for _ in 0..3 {
            client.read_exact(&mut block).unwrap();
            assert!(block.iter().all(|b| *b == b'r'));
            let since = Instant::now();
            for _ in 0..20 {
                let mut tail = [0; 4];
                client.read_exact(&mut tail).unwrap();
                assert_eq!(&tail, b"tail");
                client.write_all(b".").unwrap();
            }
            // One wait of a millisecond may be there, not one for each.
            assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        }
    }

    fn login_has_a_deadline(io: Io) {
        let gate = Gate::with(io, limits(300, 0, 100), |_| {
            session(Phase::Login, |event, flow| match event {
                Event::Expired(Deadline::Login) => {
                    flow.send(Side::Client, b"too slow");
                    Ok(Step::READ) // even a session that forgets to close is closed
                }
                other => usual(&other),
            })
        });
        let since = Instant::now();
        let mut client = gate.connect();
        let mut dribble = client.try_clone().unwrap();
        std::thread::spawn(move || {
            while dribble.write_all(b".").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        assert_eq!(read_to_end(&mut client), b"too slow");
        assert!(since.elapsed() >= Duration::from_millis(300) && since.elapsed() < Duration::from_secs(3));
        gate.eventually(|s| s.open == 0);
    }

    fn idling_has_a_deadline(io: Io) {
        let gate = Gate::with(io, limits(0, 1_200, 100), |_| {
            session(Phase::Idle, |event, flow| match event {
                Event::Received => {
                    flow.discard(usize::MAX);
                    Ok(Step::READ)
                }
                Event::Expired(Deadline::Idle) => {
                    flow.send(Side::Client, b"idle");
                    Ok(Step::CLOSE)
                }
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        let since = Instant::now();
        for _ in 0..20 {
            client.write_all(b"still here").unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(read_to_end(&mut client), b"idle");
        assert!(since.elapsed() >= Duration::from_millis(2_600), "{:?}", since.elapsed());
    }

    fn draining_waits_for_the_busy_and_stops_accepting(io: Io) {
        let echo = echo();
        let gate = Gate::start(io, move |_| {
            let mut draining = false;
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(echo.plain())),
                Event::Received if flow.speaker() == Side::Server && draining => {
                    let _end = forward_all(flow)?;
                    flow.send(Side::Client, b" bye");
                    Ok(Step::CLOSE)
                }
                Event::Received => forward_all(flow),
                Event::Drain => {
                    draining = true;
                    Ok(Step::READ)
                }
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        client.write_all(b"a").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let address = gate.address();
        std::thread::scope(|scope| {
            let drained = scope.spawn(|| gate.engine.drain(Duration::from_secs(20)));
            std::thread::sleep(Duration::from_millis(300));
            assert!(TcpStream::connect(address).is_err(), "still accepting");
            assert!(!drained.is_finished());
            client.write_all(b"last").unwrap();
            assert_eq!(read_to_end(&mut client), b"last bye");
            assert!(drained.join().unwrap());
        });
        gate.engine.join();
        assert_eq!(gate.engine.stats()[0].open, 0);
    }

    fn draining_kills_who_does_not_go(io: Io) {
        let gate = Gate::start(io, |_| {
            session(Phase::Busy, |event, flow| match event {
                Event::Drain | Event::Opened => Ok(Step::READ),
                Event::Kill => {
                    flow.send(Side::Client, b"killed");
                    Ok(Step::CLOSE)
                }
                other => usual(&other),
            })
        });
        let mut clients: Vec<_> = (0..50).map(|_| gate.connect()).collect();
        gate.eventually(|s| s.open == 50);
        let since = Instant::now();
        assert!(!gate.engine.drain(Duration::from_millis(300)));
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        for client in &mut clients {
            assert_eq!(read_to_end(client), b"killed");
        }
        assert_eq!(gate.engine.stats()[0].open, 0);
    }

    fn a_panicking_session_ends_alone(io: Io) {
        let echo = echo();
        let gate = Gate::start(io, move |_| {
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(echo.plain())),
                Event::Received if flow.input().starts_with(b"boom") => panic!("on purpose, for the test"),
                Event::Received => forward_all(flow),
                other => usual(&other),
            })
        });
        let mut healthy = gate.connect();
        let mut sick = gate.connect();
        sick.write_all(b"boom").unwrap();
        assert_eq!(read_to_end(&mut sick), b"");
        healthy.write_all(b"fine").unwrap();
        let mut got = [0; 4];
        healthy.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"fine");
        gate.eventually(|s| s.panics == 1 && s.faults == 1 && s.open == 1);
    }

    fn too_many_clients_are_turned_away(io: Io) {
        let gate = Gate::with(io, limits(60_000, 0, 3), |_| session(Phase::Busy, |event, _| usual(&event)));
        let mut kept: Vec<_> = (0..3).map(|_| gate.connect()).collect();
        gate.eventually(|s| s.open == 3);
        assert_eq!(read_to_end(&mut gate.connect()), b"");
        gate.eventually(|s| s.refused == 1);
        kept.pop();
        gate.eventually(|s| s.open == 2);
        let _fourth = gate.connect();
        gate.eventually(|s| s.open == 3 && s.accepted == 4);
    }

    fn both_workers_accept(io: Io) {
        let echo = echo();
        let gate =
            Gate::with(io, Settings { workers: Workers::Count(2), ..settings() }, move |_| relay(echo));
        let mut clients: Vec<_> = (0..200).map(|_| gate.connect()).collect();
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let accepted: Vec<u64> = gate.engine.stats().iter().map(|s| s.accepted).collect();
        // The kernel deals by a hash of the addresses: a fair coin falls below 60 of 200 once in 100 million times.
        assert!(accepted.len() == 2 && accepted.iter().all(|n| *n > 60), "{accepted:?}");
        assert_eq!(accepted.iter().sum::<u64>(), 200);
        // A second engine on the same port must not share it in silence.
        let again =
            Settings { io, listeners: vec![listener(gate.address(), move |_| relay(echo))], ..settings() };
        assert!(matches!(Engine::start(again), Err(StartError::Listen { .. })));
    }

    /// Asks for TLS in band on both legs, one byte each, like SSLRequest, and says `ready` when both are open.
    fn in_band_tls(io: Io, ca: &Authority, target: SocketAddr) -> Gate {
        let upstream = ca.client_config();
        Gate::with_tls(io, ca.server_tls(), move |peer| {
            assert!(peer.tls.is_some());
            let target = Arc::new(Target {
                address: Address::Tcp { host: "127.0.0.1".to_owned(), port: target.port() },
                tls: Some(flow::access::ClientTls {
                    config: upstream.clone(),
                    name: ServerName::try_from("localhost").unwrap(),
                }),
                dial_ms: 5_000,
            });
            let mut inside = false;
            session(Phase::Busy, move |event, flow| match (event, flow.speaker()) {
                (Event::Received, Side::Client) if !inside => {
                    assert_eq!(flow.input(), b"S");
                    flow.discard(1);
                    flow.send(Side::Client, b"s");
                    Ok(Step::StartTls(Side::Client))
                }
                (Event::TlsStarted(Side::Client, _), _) => {
                    inside = true;
                    Ok(Step::Dial(target.clone()))
                }
                (Event::Dialled(result), _) => {
                    result.unwrap();
                    flow.send(Side::Server, b"S");
                    Ok(Step::READ)
                }
                (Event::Received, Side::Server) if flow.input() == b"s" => {
                    flow.discard(1);
                    Ok(Step::StartTls(Side::Server))
                }
                (Event::TlsStarted(Side::Server, _), side) => {
                    assert_eq!(side, Side::Server);
                    flow.send(Side::Client, b"ready");
                    Ok(Step::READ)
                }
                (Event::Received, _) => forward_all(flow),
                (other, _) => usual(&other),
            })
        })
    }

    fn tls_when_ready(
        gate: &Gate,
        config: Arc<rustls::ClientConfig>,
    ) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut plain = gate.connect();
        plain.write_all(b"S").unwrap();
        plain.read_exact(&mut [0]).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(config, name).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, plain);
        let mut ready = [0; 5];
        tls.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready");
        tls
    }

    fn tls_is_resumed_on_both_legs(io: Io) {
        use rustls::HandshakeKind::{Full, Resumed};
        let ca = Authority::new();
        let (kinds, seen) = channel();
        let target = ca.tls_target(move |mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            kinds.send(stream.conn.handshake_kind()).unwrap();
            stream.write_all(b"y").unwrap();
            echo_until_end(&mut stream);
        });
        let gate = in_band_tls(io, &ca, target);
        let config = ca.client_config();
        for expected in [Some(Full), Some(Resumed)] {
            let mut tls = tls_when_ready(&gate, config.clone());
            tls.write_all(b"x").unwrap();
            tls.read_exact(&mut [0]).unwrap();
            assert_eq!((tls.conn.handshake_kind(), seen.recv().unwrap()), (expected, expected));
        }
    }

    fn tls_on_both_legs(io: Io) {
        let ca = Authority::new();
        let target = ca.tls_target(|mut stream| echo_until_end(&mut stream));
        let gate = in_band_tls(io, &ca, target);
        let mut tls = tls_when_ready(&gate, ca.client_config());
        for size in [1, 100, 16 << 10, 40_000] {
            let sent = noise(size);
            tls.write_all(&sent).unwrap();
            let mut got = vec![0; size];
            tls.read_exact(&mut got).unwrap();
            assert!(got == sent, "{size} bytes came back changed");
        }
        // Bulk with both directions full: a writer thread is not possible on one rustls stream, so write more than we read.
        let sent = noise(60_000);
        for _ in 0..50 {
            tls.write_all(&sent).unwrap();
            let mut got = vec![0; sent.len()];
            tls.read_exact(&mut got).unwrap();
            assert!(got == sent);
        }
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        assert_eq!(read_tls_to_end(&mut tls).unwrap(), b"");
        gate.eventually(|s| s.open == 0 && s.faults == 0);
    }

    fn tls_may_come_first(io: Io) {
        let ca = Authority::new();
        let gate = Gate::with_tls(io, ca.server_tls(), |_| direct_tls_echo());
        for message in [&b"x"[..], &noise(30_000)] {
            let name = ServerName::try_from("localhost").unwrap();
            let connection = rustls::ClientConnection::new(ca.client_config(), name).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, gate.connect());
            tls.write_all(message).unwrap();
            let mut got = vec![0; message.len()];
            tls.read_exact(&mut got).unwrap();
            assert_eq!(got, message);
        }
        // Not TLS at all: the connection ends, nothing is echoed in the clear.
        let mut client = gate.connect();
        client.write_all(b"\x16rubbish that is not a ClientHello at all").unwrap();
        let got = read_to_end(&mut client);
        assert!(!got.windows(7).any(|w| w == b"rubbish"));
        gate.eventually(|s| s.open == 0);
    }

    fn tls_cut_off_is_closed(io: Io) {
        let ca = Authority::new();
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let gate = Gate::with_tls(io, ca.server_tls(), move |_| {
            let tell = tell.lock().unwrap().clone();
            session(Phase::Busy, move |event, flow| match event {
                Event::Received if flow.input().first() == Some(&0x16) => Ok(Step::StartTls(Side::Client)),
                Event::Received => {
                    flow.send(Side::Client, b"ok");
                    flow.discard(usize::MAX);
                    Ok(Step::READ)
                }
                Event::Closed(side) => {
                    tell.send(side).unwrap();
                    Ok(Step::CLOSE)
                }
                other => usual(&other),
            })
        });
        let name = ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(ca.client_config(), name).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, gate.connect());
        tls.write_all(b"hello").unwrap();
        tls.read_exact(&mut [0; 2]).unwrap();
        // No close_notify, just the end of the stream.
        tls.sock.shutdown(Shutdown::Both).unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), Side::Client);
        // And in the middle of a handshake.
        let mut client = gate.connect();
        client.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        drop(client);
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), Side::Client);
        gate.eventually(|s| s.open == 0 && s.faults == 0);
    }

    fn nothing_is_trusted_that_came_before_tls(io: Io) {
        let ca = Authority::new();
        let gate = Gate::with_tls(io, ca.server_tls(), |_| {
            session(Phase::Login, |event, flow| match event {
                Event::Received => {
                    // A request for TLS, with a statement stuffed in behind it.
                    assert_eq!(flow.input().first(), Some(&b'S'));
                    flow.discard(1);
                    flow.send(Side::Client, b"s");
                    Ok(Step::StartTls(Side::Client))
                }
                Event::TlsStarted(..) => panic!("started TLS over stuffed bytes"),
                other => usual(&other),
            })
        });
        let mut client = gate.connect();
        client.write_all(b"Sdrop table").unwrap();
        assert_eq!(read_to_end(&mut client), b"s");
        gate.eventually(|s| s.open == 0 && s.faults == 1 && s.panics == 0);

        // The same from the target's side.
        let target = target(|mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(b"sERROR: stuffed").unwrap();
            let _end = stream.read(&mut [0; 100]);
        });
        let config = ca.client_config();
        let gate = Gate::start(io, move |_| {
            let target = Arc::new(Target {
                address: Address::Tcp { host: "127.0.0.1".to_owned(), port: target.address.port() },
                tls: Some(flow::access::ClientTls {
                    config: config.clone(),
                    name: ServerName::try_from("localhost").unwrap(),
                }),
                dial_ms: 5_000,
            });
            session(Phase::Login, move |event, flow| match (event, flow.speaker()) {
                (Event::Opened, _) => Ok(Step::Dial(target.clone())),
                (Event::Dialled(_), _) => {
                    flow.send(Side::Server, b"S");
                    Ok(Step::READ)
                }
                (Event::Received, Side::Server) => {
                    if flow.input().len() < 15 {
                        return Ok(Step::Read { need: 15 });
                    }
                    flow.discard(1);
                    Ok(Step::StartTls(Side::Server))
                }
                (Event::TlsStarted(..), _) => panic!("started TLS over stuffed bytes"),
                (other, _) => usual(&other),
            })
        });
        assert_eq!(read_to_end(&mut gate.connect()), b"");
        gate.eventually(|s| s.open == 0 && s.faults == 1 && s.panics == 0);
    }

    fn a_target_with_a_wrong_certificate_is_refused(io: Io) {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let target = theirs.tls_target_direct();
        let config = ours.client_config();
        let gate = Gate::start(io, move |_| {
            let target = Arc::new(Target {
                address: Address::Tcp { host: "127.0.0.1".to_owned(), port: target.port() },
                tls: Some(flow::access::ClientTls {
                    config: config.clone(),
                    name: ServerName::try_from("localhost").unwrap(),
                }),
                dial_ms: 5_000,
            });
            session(Phase::Login, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(target.clone())),
                Event::Dialled(Ok(())) => Ok(Step::StartTls(Side::Server)),
                Event::Dialled(Err(DialError::Tls(why))) => {
                    flow.send(Side::Client, why.as_bytes());
                    Ok(Step::CLOSE)
                }
                Event::TlsStarted(..) => Err(Fault::Bug("trusted a stranger")),
                other => usual(&other),
            })
        });
        let said = String::from_utf8(read_to_end(&mut gate.connect())).unwrap();
        assert!(said.contains("certificate"), "{said}");
    }

    fn dial_and_tell(target: Arc<Target>) -> Box<dyn flow::Session> {
        session(Phase::Login, move |event, flow: &mut Flow<'_>| match event {
            Event::Opened => Ok(Step::Dial(target.clone())),
            Event::Dialled(Err(error)) => {
                flow.send(Side::Client, error.to_string().as_bytes());
                Ok(Step::CLOSE)
            }
            other => usual(&other),
        })
    }

    fn direct_tls_echo() -> Box<dyn flow::Session> {
        let mut inside = false;
        session(Phase::Busy, move |event, flow| match event {
            Event::Received if !inside => {
                assert_eq!(flow.input().first(), Some(&0x16));
                Ok(Step::StartTls(Side::Client))
            }
            Event::TlsStarted(Side::Client, _) => {
                inside = true;
                Ok(Step::READ)
            }
            Event::Received => {
                let answer = flow.input().to_vec();
                flow.discard(usize::MAX);
                flow.send(Side::Client, &answer);
                Ok(Step::READ)
            }
            other => usual(&other),
        })
    }
}
