//! TLS on both legs, and the two oldest tricks against it: bytes before the handshake, and talking a peer out of it.
//!
//! The hostile server is a listener that speaks exactly as much as each trick needs.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use crate::gateway::{BOTH, Gateway, Io, Settings, verify_full};
use crate::servers::{self, UPSTREAM_PASSWORD, tls_files};
use crate::wire::{self, Client, PATIENCE, message, startup};

#[test]
fn bytes_before_a_clients_handshake_are_never_used() {
    for io in BOTH {
        let server = servers::postgres(15);
        let gateway = Gateway::shared(io, server);
        let login = startup(&[("user", "raw"), ("database", "postgres")]);
        for stuffing in [login.clone(), wire::query("select 1"), vec![0], vec![0x16, 3, 1]] {
            // In one segment, so that both are in the gateway's buffer together.
            let mut client = Client::connect(gateway.port);
            client.send(&[&wire::SSL_REQUEST[..], &stuffing].concat());
            let mut got = Vec::new();
            client.stream.set_read_timeout(Some(Duration::from_secs(5))).expect("deadline");
            let mut buffer = [0; 512];
            loop {
                match client.stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => got.extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
                    Err(e) => panic!("{io:?}: still open after {stuffing:?}: {e}"),
                }
            }
            assert!(!got.contains(&b'R') && !got.contains(&b'Z'), "{io:?}: answered stuffed bytes: {got:?}");
        }
        // And the ordinary way works on the same gateway.
        assert_eq!(Client::login(gateway.port, "raw", "postgres").value("select 1"), "1");
    }
}

/// A target that gives each connection to `play` and reports what that returns.
fn hostile(play: fn(TcpStream) -> Vec<u8>) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("deadline");
            if tx.send(play(stream)).is_err() {
                return;
            }
        }
    });
    (port, rx)
}

/// Everything the gateway says until it hangs up (or five seconds pass).
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        all.extend_from_slice(&buffer[..n]);
    }
    all
}

/// Logs in through the gateway: it must not succeed, and end in good time. The refusal, if there were words for it.
#[track_caller]
fn not_let_in(gateway: &Gateway) -> Option<wire::Message> {
    let mut client = Client::connect(gateway.port);
    client.send(&startup(&[("user", "raw"), ("database", "postgres")]));
    let mut refusal = None;
    let ended = loop {
        match client.try_next() {
            Ok(message) if message.tag == 'E' => refusal = Some(message),
            Ok(message) => assert_ne!(message.tag, 'Z', "the login succeeded"),
            Err(error) => break error,
        }
    };
    assert_ne!(ended.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor an end");
    refusal
}

#[track_caller]
fn refused(gateway: &Gateway) -> wire::Message {
    not_let_in(gateway).expect("an error that says why")
}

#[test]
fn a_target_without_tls_is_not_talked_to() {
    for io in BOTH {
        let (port, heard) = hostile(|mut stream| {
            let mut request = [0; 8];
            stream.read_exact(&mut request).expect("SSLRequest");
            stream.write_all(b"N").expect("answer");
            [request.to_vec(), rest(stream)].concat()
        });
        let mut settings = Settings::plain(io, port);
        settings.sslmode = verify_full();
        let gateway = Gateway::start(settings);
        let error = refused(&gateway);
        assert!(error.field('C').starts_with("08"), "{error:?}");
        let heard = heard.recv_timeout(PATIENCE).expect("the target was asked");
        assert_eq!(heard, wire::SSL_REQUEST, "{io:?}: said something in the clear after `N`");
    }
}

#[test]
fn bytes_before_a_targets_handshake_are_never_used() {
    for io in BOTH {
        // CVE-2021-23222: the answer to SSLRequest with a whole login behind it, in one segment.
        let (port, heard) = hostile(|mut stream| {
            let mut request = [0; 8];
            stream.read_exact(&mut request).expect("SSLRequest");
            let authenticated = message(b'R', &[0, 0, 0, 0]);
            let ready = message(b'Z', b"I");
            stream.write_all(&[&b"S"[..], &authenticated, &ready].concat()).expect("answer");
            rest(stream)
        });
        let mut settings = Settings::plain(io, port);
        settings.sslmode = verify_full();
        let gateway = Gateway::start(settings);
        // An attack, not a mistake: the connection may end without a word.
        if let Some(error) = not_let_in(&gateway) {
            assert!(error.field('C').starts_with("08"), "{error:?}");
        }
        let heard = heard.recv_timeout(PATIENCE).expect("the target was asked");
        let clear = heard.windows(4).any(|w| w == b"user") || heard.windows(8).any(|w| w == b"postgres");
        assert!(!clear, "{io:?}: logged in over a connection with stuffed bytes");
    }
}

#[test]
fn a_target_nobody_vouches_for_gets_no_credential() {
    let server = servers::postgres(15);
    let mut settings = Settings::new(Io::Uring, server);
    // The target's certificate is not signed by this one.
    settings.sslmode = format!("sslmode=verify-full&sslrootcert={}", tls_files().stranger_cert.display());
    let gateway = Gateway::start(settings);
    let error = refused(&gateway);
    assert!(error.field('C').starts_with("08"), "{error:?}");
    assert!(!error.field('M').contains(UPSTREAM_PASSWORD));
}

#[test]
fn a_password_is_never_sent_in_the_clear() {
    for io in BOTH {
        let (port, heard) = hostile(|mut stream| {
            let mut buffer = [0; 1024];
            let n = stream.read(&mut buffer).expect("startup");
            // AuthenticationCleartextPassword on a plain connection.
            stream.write_all(&message(b'R', &[0, 0, 0, 3])).expect("ask");
            [buffer[..n].to_vec(), rest(stream)].concat()
        });
        let gateway = Gateway::start(Settings::plain(io, port));
        refused(&gateway);
        let heard = heard.recv_timeout(PATIENCE).expect("the target was asked");
        assert!(
            !heard.windows(UPSTREAM_PASSWORD.len()).any(|w| w == UPSTREAM_PASSWORD.as_bytes()),
            "{io:?}: the credential crossed in the clear"
        );
    }
}

/// Runs one statement with libpq 18 and these connection options; the output, whether good or not.
fn libpq(gateway: &Gateway, options: &str) -> (bool, String) {
    let program = "import sys, psycopg\n\
        c = psycopg.connect(sys.argv[1])\n\
        print(c.execute('select 42').fetchone()[0], c.pgconn.ssl_in_use, c.pgconn.full_protocol_version)";
    let output = Command::new(servers::python())
        .args(["-c", program, options])
        .envs(gateway.env("app", "postgres", true))
        .output()
        .expect("start python");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    (output.status.success(), text)
}

#[test]
fn direct_tls_channel_binding_and_protocol_3_2() {
    for version in [15, 18] {
        let server = servers::postgres(version);
        for io in BOTH {
            let gateway = Gateway::shared(io, server);
            for (options, expected) in [
                ("sslnegotiation=direct", "42 True 30000"),
                ("sslnegotiation=postgres channel_binding=require", "42 True 30000"),
                ("min_protocol_version=3.2", "42 True 30002"),
                ("max_protocol_version=latest sslnegotiation=direct", "42 True 30002"),
            ] {
                let got = libpq(&gateway, options);
                assert_eq!(got, (true, expected.to_owned()), "{options} on {version}, {io:?}");
            }
            // The client verifies us: another CA is refused by libpq itself.
            let (fine, text) =
                libpq(&gateway, &format!("sslrootcert={}", tls_files().stranger_cert.display()));
            assert!(!fine && text.contains("certificate verify failed"), "{text}");
        }
    }
}
