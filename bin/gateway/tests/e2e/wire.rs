//! A raw PostgreSQL client and the frames of a raw server, for what no driver would ever send.
//!
//! Not a driver: no login but `trust`, no TLS. Every read has a deadline: a test that hangs is a test that fails.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// How long any answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One message: its tag and what follows the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: char,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The field `code` of an ErrorResponse or NoticeResponse.
    pub(crate) fn field(&self, code: char) -> String {
        assert!(matches!(self.tag, 'E' | 'N'), "{self:?} has no fields");
        let mut fields = self.body.split(|b| *b == 0);
        let found = fields
            .find_map(|f| f.split_first().filter(|(c, _)| char::from(**c) == code).map(|(_, text)| text));
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// Process and secret of BackendKeyData.
    pub(crate) key: Vec<u8>,
}

impl Client {
    /// Connects and logs in without proof.
    pub(crate) fn login(port: u16, user: &str, database: &str) -> Client {
        Client::login_with(port, user, database, ("application_name", "raw"))
    }

    /// With one more parameter at start-up.
    pub(crate) fn login_with(port: u16, user: &str, database: &str, parameter: (&str, &str)) -> Client {
        let mut client = Client::connect(port);
        client.send(&startup(&[("user", user), ("database", database), parameter]));
        for message in client.until('Z') {
            match message.tag {
                'E' => panic!("login of {user} failed: {}: {}", message.field('C'), message.field('M')),
                'K' => client.key = message.body,
                _ => {}
            }
        }
        client
    }

    pub(crate) fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a deadline");
        stream.set_write_timeout(Some(PATIENCE)).expect("set a deadline");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream, key: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub(crate) fn next(&mut self) -> Message {
        self.try_next().unwrap_or_else(|e| panic!("no message came: {e}"))
    }

    pub(crate) fn try_next(&mut self) -> io::Result<Message> {
        read_message(&mut self.stream)
    }

    /// Everything up to and with the first message tagged `last`, or the end of the stream after an error.
    pub(crate) fn until(&mut self, last: char) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            match self.try_next() {
                Ok(message) => {
                    let done = message.tag == last;
                    all.push(message);
                    if done {
                        return all;
                    }
                }
                Err(error) => {
                    assert!(all.iter().any(|m| m.tag == 'E'), "the stream ended ({error}) after {all:?}");
                    return all;
                }
            }
        }
    }

    /// A simple query, and everything up to ReadyForQuery.
    pub(crate) fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until('Z')
    }

    /// First cell of the first row of a simple query.
    pub(crate) fn value(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let row = messages.iter().find(|m| m.tag == 'D');
        let row = row.unwrap_or_else(|| panic!("`{sql}` gave no row: {}", tags(&messages)));
        String::from_utf8_lossy(cells(row).first().and_then(Option::as_deref).unwrap_or_default())
            .into_owned()
    }

    /// True when the other end closed (or reset) without another byte.
    pub(crate) fn closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

pub(crate) fn read_message(stream: &mut TcpStream) -> io::Result<Message> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length.checked_sub(4).ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut body)?;
    Ok(Message { tag: char::from(head[0]), body })
}

/// The tags in order, a run of rows counted once: `1 2 T D C Z`.
pub(crate) fn tags(messages: &[Message]) -> String {
    let mut tags: Vec<char> = messages.iter().map(|m| m.tag).collect();
    tags.dedup_by(|a, b| *a == 'D' && *b == 'D');
    tags.iter().map(char::to_string).collect::<Vec<_>>().join(" ")
}

/// The cells of a DataRow.
pub(crate) fn cells(row: &Message) -> Vec<Option<Vec<u8>>> {
    assert_eq!(row.tag, 'D');
    let mut rest = &row.body[2..];
    let mut cells = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                cells.push(None);
                rest = after;
            }
            Ok(length) => {
                let (cell, after) = after.split_at(length);
                cells.push(Some(cell.to_vec()));
                rest = after;
            }
        }
    }
    cells
}

pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).expect("a message fits").to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut bytes = u32::try_from(body.len() + 4).expect("fits").to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

/// SSLRequest.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

pub(crate) fn cancel(key: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(8 + key.len()).expect("fits").to_be_bytes().to_vec();
    bytes.extend_from_slice(&[4, 210, 22, 46]);
    bytes.extend_from_slice(key);
    bytes
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Binds without parameters; `binary`: every result column.
pub(crate) fn bind(portal: &str, name: &str, binary: bool) -> Vec<u8> {
    let formats: &[u8] = if binary { &[0, 1, 0, 1] } else { &[0, 0] };
    message(b'B', &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0\0\0", formats].concat())
}

/// `what` is `S` for a statement or `P` for a portal.
pub(crate) fn describe(what: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[what], name.as_bytes(), b"\0"].concat())
}

pub(crate) fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows_max.to_be_bytes()].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}
