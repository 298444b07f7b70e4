//! TLS as the engine drives it: rustls' buffered connections, records written to and read from plain buffers.
//!
//! Both ends are in here, so a unit is one record sealed and the same record opened: what a relayed record costs with TLS on both legs.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::{Loop, Running};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "tls/record-of-200-B", unit: "record", make: |size| records(size.pick(200, 20)) },
    Loop { name: "tls/record-of-16-KiB", unit: "record", make: |size| records(size.pick(16 << 10, 20)) },
];

/// Two ends that shook hands.
fn connected() -> (ClientConnection, ServerConnection) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a root");
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a server's configuration");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("a Vec takes all");
        }
        take(&wire, |from| server.read_tls(from));
        server.process_new_packets().expect("the client's handshake");
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("a Vec takes all");
        }
        take(&wire, |from| client.read_tls(from));
        client.process_new_packets().expect("the server's handshake");
    }
    (client, server)
}

/// Hands over all of `bytes`, in as many reads as that takes.
fn take(mut bytes: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !bytes.is_empty() {
        read(&mut bytes).expect("bytes in memory can be read");
    }
}

fn records(length: usize) -> Running {
    let (mut client, mut server) = connected();
    let plain = vec![b'x'; length];
    let (mut wire, mut read) = (Vec::new(), vec![0; length]);
    Running::new(1, move |seen| {
        wire.clear();
        server.writer().write_all(&plain).expect("the connection buffers it");
        while server.wants_write() {
            server.write_tls(&mut wire).expect("a Vec takes all");
        }
        let mut rest = wire.as_slice();
        let mut got = 0;
        while got < length {
            client.read_tls(&mut rest).expect("bytes in memory can be read");
            client.process_new_packets().expect("the server's records");
            let Some(room) = read.get_mut(got..) else { break };
            got += client.reader().read(room).unwrap_or(0);
        }
        assert_eq!(got, length, "all of it arrives");
        seen.bytes(&read);
    })
    .bytes(length)
}
