//! An entry as one line of JSON, every field. Not a stable archive format: that is the log itself.
//!
//! Bytes are text when they are valid UTF-8, else `{"base64": "…"}`. A session is its ULID, a time RFC 3339 in UTC, a decision
//! the id a client was told. An execution carries `prepared`, the text of the statement it executes.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flow::record::{Entry, How, Malformed, Outcome, Statement, Verdict, What};

use super::read::{Prepared, Recorded};
use crate::ids;

/// Renders entries in the order of the record.
#[derive(Default)]
pub struct Lines {
    prepared: Prepared,
}

impl Lines {
    /// One line, without its end.
    ///
    /// # Errors
    /// Bytes that are no entry.
    pub fn line(&mut self, recorded: &Recorded) -> Result<String, Malformed> {
        let entry = recorded.entry()?;
        let prepared = self.prepared.text(&entry);
        Ok(render(recorded.seq, recorded.pending, &entry, prepared))
    }
}

/// One entry as one line, without its end. `prepared` is the text an execution executes, when known.
pub fn render(seq: u64, pending: bool, entry: &Entry<'_>, prepared: Option<&[u8]>) -> String {
    let mut line = Line::new();
    line.number("seq", seq);
    if pending {
        line.flag("pending", true);
    }
    line.text("time", &time(entry.unix_ns));
    line.text("kind", kind(&entry.what));
    if entry.session != [0; 16] {
        line.text("session", &ids::session_text(&entry.session));
    }
    match &entry.what {
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
            for (key, text) in [
                ("identity", identity),
                ("groups", groups),
                ("connection", connection),
                ("database", database),
                ("protocol", protocol),
                ("client", client),
                ("application", application),
                ("policy", policy),
            ] {
                line.text(key, text);
            }
            line.flag("tls", *tls);
        }
        What::Refused { identity, connection, client, sqlstate, reason } => {
            for (key, text) in [
                ("identity", identity),
                ("connection", connection),
                ("client", client),
                ("sqlstate", sqlstate),
                ("reason", reason),
            ] {
                line.text(key, text);
            }
        }
        What::Statement(s) => statement(&mut line, entry, s, prepared),
        What::Outcome(Outcome { number, rows, bytes, masked_cells, sqlstate, micros }) => {
            line.text("decision", &ids::decision(&entry.session, *number));
            for (key, n) in [
                ("number", number),
                ("rows", rows),
                ("bytes", bytes),
                ("masked_cells", masked_cells),
                ("micros", micros),
            ] {
                line.number(key, *n);
            }
            line.text("sqlstate", sqlstate);
        }
        What::Data { number, bytes, total } => {
            line.text("decision", &ids::decision(&entry.session, *number));
            line.number("number", *number);
            line.number("total", *total);
            line.bytes("bytes", bytes);
        }
        What::Closed { reason, statements, from_client, to_client } => {
            line.text("reason", reason);
            for (key, n) in
                [("statements", statements), ("from_client", from_client), ("to_client", to_client)]
            {
                line.number(key, *n);
            }
        }
        What::Gateway { event, detail } => {
            line.text("event", event);
            line.text("detail", detail);
        }
    }
    line.end()
}

fn statement(line: &mut Line, entry: &Entry<'_>, s: &Statement<'_>, prepared: Option<&[u8]>) {
    line.text("decision", &ids::decision(&entry.session, s.number));
    line.number("number", s.number);
    line.text("how", how(s.how));
    line.number("of", s.of);
    line.bytes("text", s.text);
    if let Some(text) = prepared {
        line.bytes("prepared", text);
    }
    line.number("length", s.length);
    line.key("parameters");
    line.out.push('[');
    for (n, parameter) in s.parameters.iter().enumerate() {
        if n > 0 {
            line.out.push(',');
        }
        match parameter {
            None => line.out.push_str("null"),
            Some(bytes) => line.bytes_value(bytes),
        }
    }
    line.out.push(']');
    line.text("verdict", verdict(s.verdict));
    line.text("rules", s.rules);
    line.text("policy", s.policy);
}

/// RFC 3339 in UTC, to the nanosecond as far as it is not zero.
pub fn time(unix_ns: u64) -> String {
    // Past the year 9999 the format ends; a clock that says so is shown as it is.
    jiff::Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or_else(|_| unix_ns.to_string(), |t| t.to_string())
}

pub fn kind(what: &What<'_>) -> &'static str {
    match what {
        What::Opened { .. } => "opened",
        What::Refused { .. } => "refused",
        What::Statement(_) => "statement",
        What::Outcome(_) => "outcome",
        What::Data { .. } => "data",
        What::Closed { .. } => "closed",
        What::Gateway { .. } => "gateway",
    }
}

pub fn how(how: How) -> &'static str {
    match how {
        How::Query => "query",
        How::Parse => "parse",
        How::Execute => "execute",
        How::FunctionCall => "function-call",
    }
}

pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Mask => "mask",
        Verdict::Block => "block",
        Verdict::Observe => "observe",
    }
}

/// A JSON object being written; fields in the order they are given.
struct Line {
    out: String,
}

impl Line {
    fn new() -> Line {
        Line { out: String::from("{") }
    }

    fn key(&mut self, key: &str) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        self.string(key);
        self.out.push(':');
    }

    fn string(&mut self, text: &str) {
        self.out.push_str(&serde_json::Value::from(text).to_string());
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        self.string(text);
    }

    fn number(&mut self, key: &str, n: u64) {
        self.key(key);
        self.out.push_str(&n.to_string());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
    }

    fn bytes(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.bytes_value(bytes);
    }

    fn bytes_value(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.string(text),
            Err(_) => {
                self.out.push_str("{\"base64\":\"");
                self.out.push_str(&BASE64_STANDARD.encode(bytes));
                self.out.push_str("\"}");
            }
        }
    }

    fn end(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

#[cfg(test)]
mod tests {
    use flow::record::Values;

    use super::*;

    fn line(entry: &Entry<'_>, prepared: Option<&[u8]>) -> String {
        render(7, false, entry, prepared)
    }

    #[test]
    fn every_field_is_there() {
        let session = crate::ids::parse_session("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let entry = Entry {
            session,
            unix_ns: 1_795_000_000_123_000_000,
            what: What::Statement(Statement {
                number: 3,
                how: How::Execute,
                of: 2,
                text: b"",
                length: 31,
                parameters: Values::split(3, b"\xff\xff\xff\xff\0\0\0\x03a\"\n\0\0\0\x02\xff\0").unwrap().0,
                verdict: Verdict::Mask,
                rules: "emails",
                policy: "3f1c",
            }),
        };
        let expected = concat!(
            r#"{"seq":7,"time":"2026-11-18T11:06:40.123Z","kind":"statement","session":"01ARZ3NDEKTSV4RRFFQ69G5FAV","#,
            r#""decision":"q69g5fav-3","number":3,"how":"execute","of":2,"text":"","prepared":"select $1","length":31,"#,
            r#""parameters":[null,"a\"\n",{"base64":"/wA="}],"verdict":"mask","rules":"emails","policy":"3f1c"}"#,
        );
        assert_eq!(line(&entry, Some(b"select $1")), expected);
        let _: serde_json::Value = serde_json::from_str(expected).unwrap();
    }

    #[test]
    fn the_gateways_own_entries_have_no_session() {
        let entry =
            Entry { session: [0; 16], unix_ns: 0, what: What::Gateway { event: "start", detail: "é\u{1}" } };
        assert_eq!(
            line(&entry, None),
            "{\"seq\":7,\"time\":\"1970-01-01T00:00:00Z\",\"kind\":\"gateway\",\"event\":\"start\",\"detail\":\"é\\u0001\"}"
        );
    }
}
