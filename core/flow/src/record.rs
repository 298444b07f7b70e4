//! What a session reports for the record, and the bytes it is reported in.
//!
//! An entry is one self-contained run of bytes: `kind u8 · session 16 bytes · time u64 (Unix ns, LE) · fields`. A text or byte
//! field is `length u32 LE · bytes`. The side path frames, checks and chains entries; this file only knows what is in one.
//! No entry type can carry a credential: there is no field for one.

use crate::session::Fault;

/// Where a worker hands over entries. Returns only when the entry would survive a `kill -9` of this process.
pub trait Recorder {
    /// # Errors
    /// [`Fault::Unrecorded`] when the record cannot take it: what was to be recorded must not happen.
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault>;
}

/// A ULID's 16 bytes, big-endian: sorts by time.
pub type SessionId = [u8; 16];

/// One line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub session: SessionId,
    pub unix_ns: u64,
    pub what: What<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// A client logged in.
    Opened {
        identity: &'a str,
        groups: &'a str,
        connection: &'a str,
        database: &'a str,
        protocol: &'a str,
        client: &'a str,
        application: &'a str,
        tls: bool,
        policy: &'a str,
    },
    /// A client did not get in. `identity` is what it claimed.
    Refused {
        identity: &'a str,
        connection: &'a str,
        client: &'a str,
        sqlstate: &'a str,
        reason: &'a str,
    },
    /// A statement, before it is forwarded (or instead of it).
    Statement(Statement<'a>),
    /// What became of statement `number`.
    Outcome(Outcome<'a>),
    /// Data the client sent for statement `number` (COPY FROM STDIN), before it is forwarded. `total` counts from the first.
    Data {
        number: u64,
        bytes: &'a [u8],
        total: u64,
    },
    Closed {
        reason: &'a str,
        statements: u64,
        from_client: u64,
        to_client: u64,
    },
    /// Something about the gateway itself: start, reload, stop.
    Gateway {
        event: &'a str,
        detail: &'a str,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Counts from 1 in its session; `session-number` names the decision.
    pub number: u64,
    pub how: How,
    /// For an execution: the number of the statement that prepared it (0: none). Then `text` is empty.
    pub of: u64,
    /// As received. Of a text too long to be held this is the beginning; the rest follows in [`What::Data`] entries of the same number,
    /// each recorded before it is forwarded.
    pub text: &'a [u8],
    /// Of the whole text.
    pub length: u64,
    /// SHA-256 of the whole text where it is not kept whole; empty today: every text that runs is.
    pub digest: &'a [u8],
    /// As bound; `None` is NULL.
    pub parameters: Vec<Option<&'a [u8]>>,
    pub verdict: Verdict,
    /// Rules that decided or, in observe mode, would have; comma-separated names.
    pub rules: &'a str,
    /// Revision of the policy that decided.
    pub policy: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum How {
    /// Simple query.
    Query = 0,
    /// A prepared statement's text; runs nothing yet.
    Parse = 1,
    Execute = 2,
    FunctionCall = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    Allow = 0,
    /// Some output is masked (or may be: known once the result's shape is).
    Mask = 1,
    Block = 2,
    /// Allowed, and a rule in observe mode would have done otherwise.
    Observe = 3,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    pub number: u64,
    pub rows: u64,
    /// Bytes of result sent to the client.
    pub bytes: u64,
    pub masked_cells: u64,
    /// Empty: success. `skipped`: the server skipped it after an earlier error. Else the SQLSTATE.
    pub sqlstate: &'a str,
    pub micros: u64,
}

/// These bytes are not an entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a record entry: {0}")]
pub struct Malformed(pub &'static str);

impl<'a> Entry<'a> {
    /// Appends the entry's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match &self.what {
            What::Opened { .. } => 1,
            What::Refused { .. } => 2,
            What::Statement(_) => 3,
            What::Outcome(_) => 4,
            What::Data { .. } => 5,
            What::Closed { .. } => 6,
            What::Gateway { .. } => 7,
        };
        out.push(kind);
        out.extend_from_slice(&self.session);
        out.extend_from_slice(&self.unix_ns.to_le_bytes());
        match &self.what {
            What::Opened {
                identity,
                groups,
                connection,
                database,
                protocol,
                client,
                application,
                tls,
                policy,
            } => {
                for text in [identity, groups, connection, database, protocol, client, application, policy] {
                    put(out, text.as_bytes());
                }
                out.push(u8::from(*tls));
            }
            What::Refused { identity, connection, client, sqlstate, reason } => {
                for text in [identity, connection, client, sqlstate, reason] {
                    put(out, text.as_bytes());
                }
            }
            What::Statement(s) => {
                out.extend_from_slice(&s.number.to_le_bytes());
                out.push(s.how as u8);
                out.extend_from_slice(&s.of.to_le_bytes());
                put(out, s.text);
                out.extend_from_slice(&s.length.to_le_bytes());
                put(out, s.digest);
                out.extend_from_slice(&count(s.parameters.len()).to_le_bytes());
                for p in &s.parameters {
                    match p {
                        None => out.extend_from_slice(&u32::MAX.to_le_bytes()),
                        Some(p) => put(out, p),
                    }
                }
                out.push(s.verdict as u8);
                put(out, s.rules.as_bytes());
                put(out, s.policy.as_bytes());
            }
            What::Outcome(o) => {
                for n in [o.number, o.rows, o.bytes, o.masked_cells, o.micros] {
                    out.extend_from_slice(&n.to_le_bytes());
                }
                put(out, o.sqlstate.as_bytes());
            }
            What::Data { number, bytes, total } => {
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&total.to_le_bytes());
                put(out, bytes);
            }
            What::Closed { reason, statements, from_client, to_client } => {
                for n in [statements, from_client, to_client] {
                    out.extend_from_slice(&n.to_le_bytes());
                }
                put(out, reason.as_bytes());
            }
            What::Gateway { event, detail } => {
                put(out, event.as_bytes());
                put(out, detail.as_bytes());
            }
        }
    }

    /// # Errors
    /// [`Malformed`] names the field that is missing or wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Entry<'a>, Malformed> {
        let mut r = Reader { bytes };
        let kind = r.u8("kind")?;
        let session = r.array::<16>("session")?;
        let unix_ns = r.u64("time")?;
        let what = match kind {
            1 => What::Opened {
                identity: r.text("identity")?,
                groups: r.text("groups")?,
                connection: r.text("connection")?,
                database: r.text("database")?,
                protocol: r.text("protocol")?,
                client: r.text("client")?,
                application: r.text("application")?,
                policy: r.text("policy")?,
                tls: r.u8("tls")? != 0,
            },
            2 => What::Refused {
                identity: r.text("identity")?,
                connection: r.text("connection")?,
                client: r.text("client")?,
                sqlstate: r.text("sqlstate")?,
                reason: r.text("reason")?,
            },
            3 => What::Statement(Statement {
                number: r.u64("number")?,
                how: match r.u8("how")? {
                    0 => How::Query,
                    1 => How::Parse,
                    2 => How::Execute,
                    3 => How::FunctionCall,
                    _ => return Err(Malformed("how")),
                },
                of: r.u64("of")?,
                text: r.bytes("text")?,
                length: r.u64("length")?,
                digest: r.bytes("digest")?,
                parameters: {
                    let n = r.u32("parameter count")?;
                    // Each takes at least four bytes: a count the bytes cannot hold allocates nothing.
                    if r.bytes.len() / 4 < n as usize {
                        return Err(Malformed("parameter count"));
                    }
                    (0..n).map(|_| r.nullable("parameter")).collect::<Result<_, _>>()?
                },
                verdict: match r.u8("verdict")? {
                    0 => Verdict::Allow,
                    1 => Verdict::Mask,
                    2 => Verdict::Block,
                    3 => Verdict::Observe,
                    _ => return Err(Malformed("verdict")),
                },
                rules: r.text("rules")?,
                policy: r.text("policy")?,
            }),
            4 => What::Outcome(Outcome {
                number: r.u64("number")?,
                rows: r.u64("rows")?,
                bytes: r.u64("bytes")?,
                masked_cells: r.u64("masked cells")?,
                micros: r.u64("micros")?,
                sqlstate: r.text("sqlstate")?,
            }),
            5 => What::Data { number: r.u64("number")?, total: r.u64("total")?, bytes: r.bytes("bytes")? },
            6 => What::Closed {
                statements: r.u64("statements")?,
                from_client: r.u64("from client")?,
                to_client: r.u64("to client")?,
                reason: r.text("reason")?,
            },
            7 => What::Gateway { event: r.text("event")?, detail: r.text("detail")? },
            _ => return Err(Malformed("kind")),
        };
        if r.bytes.is_empty() {
            Ok(Entry { session, unix_ns, what })
        } else {
            Err(Malformed("trailing bytes"))
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX - 1)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&count(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(Malformed(field))?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(field).map(|[b]| b)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn nullable(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.u32(field)?;
        if len == u32::MAX {
            return Ok(None);
        }
        let (head, rest) = self.bytes.split_at_checked(len as usize).ok_or(Malformed(field))?;
        self.bytes = rest;
        Ok(Some(head))
    }

    fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        self.nullable(field)?.ok_or(Malformed(field))
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| Malformed(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Entry<'static>> {
        let e = |what| Entry { session: [7; 16], unix_ns: 1_234_567, what };
        vec![
            e(What::Opened {
                identity: "ana",
                groups: "support,eu",
                connection: "shop",
                database: "app",
                protocol: "postgres",
                client: "127.0.0.1:5",
                application: "psql",
                tls: true,
                policy: "3f1c",
            }),
            e(What::Refused {
                identity: "x",
                connection: "shop",
                client: "c",
                sqlstate: "28P01",
                reason: "no",
            }),
            e(What::Statement(Statement {
                number: 3,
                how: How::Execute,
                of: 2,
                text: b"\xff\0select",
                length: 9,
                digest: b"d",
                parameters: vec![None, Some(b""), Some(b"abc")],
                verdict: Verdict::Observe,
                rules: "a,b",
                policy: "3f1c",
            })),
            e(What::Outcome(Outcome {
                number: 3,
                rows: 1,
                bytes: 2,
                masked_cells: 3,
                sqlstate: "42501",
                micros: 4,
            })),
            e(What::Data { number: 3, bytes: b"a\tb\n", total: 4 }),
            e(What::Closed { reason: "client", statements: 3, from_client: 1, to_client: 2 }),
            e(What::Gateway { event: "reload", detail: "ok" }),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for entry in all() {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            assert_eq!(Entry::decode(&bytes), Ok(entry));
        }
    }

    #[test]
    fn no_cut_and_no_changed_byte_panics() {
        for entry in all() {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..cut]).is_err());
            }
            for i in 0..bytes.len() {
                for b in [0, 1, 0x7f, 0xff] {
                    let mut changed = bytes.clone();
                    changed[i] = b;
                    let _ = Entry::decode(&changed);
                }
            }
        }
    }
}
