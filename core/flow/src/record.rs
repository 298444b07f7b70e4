//! What a session reports for the record, and the bytes it is reported in.
//!
//! An entry is one self-contained run of bytes: `kind u8 · session 16 bytes · time u64 (Unix ns) · fields`, integers little-endian.
//! Of a statement and an outcome, which every query makes, the fields of fixed size and the lengths come first and the bytes behind
//! them, so that the front is a handful of stores; elsewhere a text or byte field is `length u32 · bytes`. The side path frames,
//! checks and chains entries; this file only knows what is in one.
//! No entry type can carry a credential: there is no field for one.

use crate::session::Fault;

/// Where a worker hands over entries. Returns only when the entry would survive a `kill -9` of this process.
pub trait Recorder {
    /// # Errors
    /// [`Fault::Unrecorded`] when the record cannot take it: what was to be recorded must not happen.
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault>;

    /// Whether an entry of up to `bytes` of content would be taken at once, with room to spare for what became of the statements
    /// before it. A session whose entry would not be waits ([`crate::Ask::Pause`]) and keeps nobody else from their work.
    fn has_room(&mut self, _bytes: usize) -> bool {
        true
    }
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
    /// Something about the gateway itself (start, reload, stop), or of its own doing in a session (`row limit`: a result was cut, a cancel
    /// request was sent for it, how the database ended it).
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
    /// As bound.
    pub parameters: Values<'a>,
    pub verdict: Verdict,
    /// Rules that decided or, in observe mode, would have; comma-separated names.
    pub rules: &'a str,
    /// Revision of the policy that decided.
    pub policy: &'a str,
}

/// Parameter values as one run of bytes: for each `length i32 big-endian (-1: NULL) · value`. That is how PostgreSQL's clients send
/// them, so recording them is one copy.
///
/// Invariant: `bytes` holds exactly `count` of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// `count` values at the beginning of `bytes`, and what is behind them.
    ///
    /// # Errors
    /// [`Malformed`]: fewer than that are there, or a length is negative.
    pub fn split(count: u32, bytes: &'a [u8]) -> Result<(Values<'a>, &'a [u8]), Malformed> {
        let mut rest = bytes;
        for _ in 0..count {
            let (_, after) = Values::first(rest).ok_or(Malformed("parameter"))?;
            rest = after;
        }
        let bytes = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
        Ok((Values { count, bytes }, rest))
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Bytes of all of them, lengths included.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// In order; `None` is NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (value, after) = Values::first(rest)?;
            rest = after;
            Some(value)
        })
    }

    /// The same values with at most `max` bytes of each; `room` holds them where one was longer.
    pub fn shortened<'b>(self, max: usize, room: &'b mut Vec<u8>) -> Values<'b>
    where
        'a: 'b,
    {
        // None can be longer than all of them together.
        if self.bytes.len() <= max || self.iter().flatten().all(|v| v.len() <= max) {
            return self;
        }
        room.clear();
        for value in self.iter() {
            let value = value.map(|v| v.get(..max).unwrap_or(v));
            let length = value.map_or(-1, |v| i32::try_from(v.len()).unwrap_or(i32::MAX));
            room.extend_from_slice(&length.to_be_bytes());
            room.extend_from_slice(value.unwrap_or_default());
        }
        Values { count: self.count, bytes: room }
    }

    fn first(bytes: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        match i32::from_be_bytes(*length) {
            -1 => Some((None, rest)),
            length => {
                let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                Some((Some(value), rest))
            }
        }
    }
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
            What::Statement(s) => return self.encode_statement(s, out),
            What::Outcome(o) => return self.encode_outcome(o, out),
            What::Opened { .. } => 1,
            What::Refused { .. } => 2,
            What::Data { .. } => 5,
            What::Closed { .. } => 6,
            What::Gateway { .. } => 7,
        };
        let mut bytes = [0; FRONT];
        self.front(kind, &mut Fixed(&mut bytes));
        out.extend_from_slice(&bytes);
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
            What::Statement(_) | What::Outcome(_) => {}
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

    /// What every entry begins with.
    #[inline]
    fn front(&self, kind: u8, fixed: &mut Fixed<'_>) {
        fixed.put([kind]);
        fixed.put(self.session);
        fixed.put(self.unix_ns.to_le_bytes());
    }

    fn encode_statement(&self, s: &Statement<'_>, out: &mut Vec<u8>) {
        let mut bytes = [0; FRONT + 46];
        let mut fixed = Fixed(&mut bytes);
        self.front(3, &mut fixed);
        fixed.put(s.number.to_le_bytes());
        fixed.put(s.of.to_le_bytes());
        fixed.put(s.length.to_le_bytes());
        fixed.put([s.how as u8, s.verdict as u8]);
        fixed.put(count(s.text.len()).to_le_bytes());
        fixed.put(s.parameters.count.to_le_bytes());
        fixed.put(count(s.parameters.bytes.len()).to_le_bytes());
        fixed.put(count(s.rules.len()).to_le_bytes());
        fixed.put(count(s.policy.len()).to_le_bytes());
        fixed.end();
        out.extend_from_slice(&bytes);
        for bytes in [s.text, s.parameters.bytes, s.rules.as_bytes(), s.policy.as_bytes()] {
            if !bytes.is_empty() {
                out.extend_from_slice(bytes);
            }
        }
    }

    fn encode_outcome(&self, o: &Outcome<'_>, out: &mut Vec<u8>) {
        let mut bytes = [0; FRONT + 40];
        let mut fixed = Fixed(&mut bytes);
        self.front(4, &mut fixed);
        for n in [o.number, o.rows, o.bytes, o.masked_cells, o.micros] {
            fixed.put(n.to_le_bytes());
        }
        fixed.end();
        out.extend_from_slice(&bytes);
        // To the entry's end: nothing follows it.
        out.extend_from_slice(o.sqlstate.as_bytes());
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
            3 => What::Statement(r.statement()?),
            4 => What::Outcome(Outcome {
                number: r.u64("number")?,
                rows: r.u64("rows")?,
                bytes: r.u64("bytes")?,
                masked_cells: r.u64("masked cells")?,
                micros: r.u64("micros")?,
                sqlstate: utf8(std::mem::take(&mut r.bytes), "sqlstate")?,
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

    fn take(&mut self, length: u32, field: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(length as usize).ok_or(Malformed(field))?;
        self.bytes = rest;
        Ok(head)
    }

    fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        let length = self.u32(field)?;
        self.take(length, field)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, Malformed> {
        utf8(self.bytes(field)?, field)
    }

    fn statement(&mut self) -> Result<Statement<'a>, Malformed> {
        let (number, of, length) = (self.u64("number")?, self.u64("of")?, self.u64("length")?);
        let how = match self.u8("how")? {
            0 => How::Query,
            1 => How::Parse,
            2 => How::Execute,
            3 => How::FunctionCall,
            _ => return Err(Malformed("how")),
        };
        let verdict = match self.u8("verdict")? {
            0 => Verdict::Allow,
            1 => Verdict::Mask,
            2 => Verdict::Block,
            3 => Verdict::Observe,
            _ => return Err(Malformed("verdict")),
        };
        let text = self.u32("text length")?;
        let (values, values_bytes) = (self.u32("parameter count")?, self.u32("parameter length")?);
        let (rules, policy) = (self.u32("rules length")?, self.u32("policy length")?);
        let text = self.take(text, "text")?;
        let (parameters, rest) = Values::split(values, self.take(values_bytes, "parameters")?)?;
        if !rest.is_empty() {
            return Err(Malformed("parameters"));
        }
        let rules = utf8(self.take(rules, "rules")?, "rules")?;
        let policy = utf8(self.take(policy, "policy")?, "policy")?;
        Ok(Statement { number, how, of, text, length, parameters, verdict, rules, policy })
    }
}

fn utf8<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed(field))
}

/// Kind, session and time.
const FRONT: usize = 1 + 16 + 8;

/// Room for fields of fixed size, one after the other. In an array of known size every place is known to the compiler, and a field
/// is a store.
struct Fixed<'a>(&'a mut [u8]);

impl Fixed<'_> {
    #[inline(always)]
    fn put<const M: usize>(&mut self, field: [u8; M]) {
        if let Some((room, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut::<M>() {
            *room = field;
            self.0 = rest;
        }
    }

    fn end(self) {
        debug_assert!(self.0.is_empty(), "the fields fill their room");
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
                parameters: Values::split(3, b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x03abc").unwrap().0,
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
    fn values_are_read_in_order_and_shortened_one_by_one() {
        let bytes = b"\0\0\0\x04abcd\xff\xff\xff\xff\0\0\0\x01erest";
        let (values, rest) = Values::split(3, bytes).unwrap();
        assert_eq!((rest, values.len(), values.size()), (&b"rest"[..], 3, 17));
        assert_eq!(values.iter().collect::<Vec<_>>(), [Some(&b"abcd"[..]), None, Some(b"e")]);
        let mut room = Vec::new();
        let short = values.shortened(2, &mut room);
        assert_eq!(short.iter().collect::<Vec<_>>(), [Some(&b"ab"[..]), None, Some(b"e")]);
        assert_eq!(values.shortened(17, &mut Vec::new()), values);
        for bad in [&b"\0\0\0\x02a"[..], b"\xff\xff\xff\xfe", b"\0\0\0", b"\x7f\xff\xff\xffa", b""] {
            assert!(Values::split(1, bad).is_err());
        }
        assert!(Values::split(u32::MAX, bytes).is_err());
    }

    #[test]
    fn no_cut_and_no_changed_byte_panics() {
        for entry in all() {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            for cut in 0..bytes.len() {
                // The text at the end of an outcome ends with it: the frame knows the length.
                let text = matches!(entry.what, What::Outcome(_)) && cut >= FRONT + 40;
                assert!(Entry::decode(&bytes[..cut]).is_err() || text);
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
