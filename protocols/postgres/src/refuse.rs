//! Our own words: ErrorResponse and NoticeResponse, and the stand-ins that make the server say no at the right place.
//!
//! A refused statement is replaced by a *stand-in* the server itself rejects at the same place in the stream, and the server's
//! error by ours. So pipelined replies stay in order, an open transaction becomes aborted exactly as after any error, the server
//! skips to Sync by itself, and the database's log shows the decision.

use flow::access::DenyDetail;
use policy::Block;

use crate::message::{put_string, write};

/// An error in the making. Fields: PostgreSQL documentation, "Error and Notice Message Fields".
pub(crate) struct Words<'a> {
    pub(crate) severity: &'a str,
    pub(crate) sqlstate: &'a str,
    pub(crate) message: &'a str,
    pub(crate) detail: &'a str,
    pub(crate) hint: &'a str,
}

impl Words<'_> {
    pub(crate) fn error(&self, out: &mut Vec<u8>) {
        self.message(out, b'E', &[]);
    }

    pub(crate) fn notice(&self, out: &mut Vec<u8>) {
        self.message(out, b'N', &[]);
    }

    fn message(&self, out: &mut Vec<u8>, tag: u8, more: &[(u8, &str)]) {
        write(out, tag, |out| {
            let own = [
                (b'S', self.severity),
                (b'V', self.severity),
                (b'C', self.sqlstate),
                (b'M', self.message),
                (b'D', self.detail),
                (b'H', self.hint),
            ];
            for (code, text) in own.iter().chain(more).filter(|(_, text)| !text.is_empty()) {
                out.push(*code);
                put_string(out, text.as_bytes());
            }
            out.push(0);
        });
    }
}

/// Ends a session: FATAL with this SQLSTATE.
pub(crate) fn fatal(out: &mut Vec<u8>, sqlstate: &str, message: &str, hint: &str) {
    Words { severity: "FATAL", sqlstate, message, detail: "", hint }.error(out);
}

/// The ErrorResponse for a refused statement.
pub(crate) fn blocked(out: &mut Vec<u8>, block: &Block, decision: &str, detail: DenyDetail) {
    refusal(out, block, decision, detail, "The statement did not reach the database.");
}

/// The ErrorResponse that ends a result at its last allowed row.
pub(crate) fn cut(out: &mut Vec<u8>, block: &Block, decision: &str, detail: DenyDetail) {
    refusal(
        out,
        block,
        decision,
        detail,
        "The statement reached the database, which may have been told to cancel it; the rows past the limit were not sent.",
    );
}

fn refusal(out: &mut Vec<u8>, block: &Block, decision: &str, detail: DenyDetail, reached: &str) {
    let builtin = block.place.is_empty();
    let message = match detail {
        DenyDetail::Minimal => format!("blocked by policy (decision {decision})"),
        _ if builtin => format!("refused by the gateway: {}", block.message),
        _ => format!("blocked by policy \"{}\": {}", block.rule, block.message),
    };
    let rule = match detail {
        DenyDetail::Full if !builtin => format!("rule {} ({}), ", block.rule, block.place),
        DenyDetail::Full | DenyDetail::Rule => format!("rule {}, ", block.rule),
        DenyDetail::Minimal => String::new(),
    };
    let detail_text = format!("{rule}decision {decision}. {reached}");
    let hint = if detail == DenyDetail::Minimal { "" } else { &block.hint };
    let (file, line) = block.place.rsplit_once(':').unwrap_or(("", ""));
    let show = |on: bool, text: &str| if on { text.to_owned() } else { String::new() };
    let (full, named) = (detail == DenyDetail::Full, detail != DenyDetail::Minimal);
    let more = [
        (b's', show(named, block.schema.as_deref().unwrap_or_default())),
        (b't', show(named, block.table.as_deref().unwrap_or_default())),
        (b'c', show(named, block.column.as_deref().unwrap_or_default())),
        (b'n', show(named, &block.rule)),
        (b'F', show(full, file)),
        (b'L', show(full, line)),
        (b'R', decision.to_owned()),
    ];
    let more: Vec<(u8, &str)> = more.iter().map(|(c, t)| (*c, t.as_str())).collect();
    Words { severity: "ERROR", sqlstate: block.sqlstate, message: &message, detail: &detail_text, hint }
        .message(out, b'E', &more);
}

/// The text of a stand-in: never valid SQL (a lone quoted identifier), carries the decision into the database's log.
fn stand_in_text(decision: &str) -> String {
    format!("\"lockgate: refused, decision {decision}\"")
}

/// Replaces a refused Query (or a refused FunctionCall: both answer with an error and ReadyForQuery).
pub(crate) fn stand_in_query(out: &mut Vec<u8>, decision: &str) {
    write(out, b'Q', |out| put_string(out, stand_in_text(decision).as_bytes()));
}

/// Replaces a refused message of the extended protocol. For Parse, `name` is the client's own, so that the unnamed statement
/// dies as it would after any failed Parse; for others it is one nobody uses.
pub(crate) fn stand_in_parse(out: &mut Vec<u8>, name: &[u8], decision: &str) {
    write(out, b'P', |out| {
        put_string(out, name);
        put_string(out, stand_in_text(decision).as_bytes());
        out.extend_from_slice(&[0, 0]);
    });
}

/// Rewrites an ErrorResponse or NoticeResponse of a statement that may have seen a masked value: severity, SQLSTATE and the
/// names of schema objects stay, every text that could carry a value goes.
///
/// Errors of class 42 with a position and no context come from the parser, before any row was read: they quote the statement
/// and stay.
///
/// With `strangers`, code of users may have written the names as well (RAISE … USING COLUMN = …, which is also told by its routine).
pub(crate) fn withhold(out: &mut Vec<u8>, tag: u8, body: &[u8], strangers: bool) {
    let field = |code| crate::message::error_field(body, code);
    let strangers = strangers || field(b'R') == Some(b"exec_stmt_raise");
    let state = field(b'C').unwrap_or(b"XX000");
    let from_parser =
        state.starts_with(b"42") && field(b'P').is_some() && field(b'W').is_none() && field(b'q').is_none();
    write(out, tag, |out| {
        for (code, text) in crate::message::error_fields(body) {
            match code {
                b'M' if !from_parser => {
                    out.push(b'M');
                    out.extend_from_slice(
                        b"text withheld by the gateway: it could carry a masked value (SQLSTATE ",
                    );
                    out.extend_from_slice(state);
                    out.extend_from_slice(b")\0");
                }
                b'D' | b'W' | b'q' | b'p' => {}
                b'H' if !from_parser => {}
                b's' | b't' | b'c' | b'd' | b'n' if strangers => {}
                _ => {
                    out.push(code);
                    put_string(out, text);
                }
            }
        }
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::error_field;

    #[test]
    fn a_block_says_what_which_rule_whether_it_reached_and_what_next() {
        let block = Block {
            rule: "no-ddl".into(),
            place: "policy/shop.yaml:12".into(),
            message: "DROP TABLE is not allowed on shop".into(),
            sqlstate: "42501",
            schema: None,
            table: Some("payments".into()),
            column: None,
            hint: "Ask the owners of shop".into(),
        };
        let mut out = Vec::new();
        blocked(&mut out, &block, "abc-1", DenyDetail::Full);
        let body = &out[5..];
        assert_eq!(error_field(body, b'n'), Some(&b"no-ddl"[..]));
        assert_eq!(error_field(body, b'R'), Some(&b"abc-1"[..]));
        assert_eq!(error_field(body, b'F'), Some(&b"policy/shop.yaml"[..]));
        assert_eq!(error_field(body, b't'), Some(&b"payments"[..]));
        let detail = String::from_utf8_lossy(error_field(body, b'D').unwrap()).into_owned();
        assert!(detail.contains("did not reach the database"), "{detail}");
        let mut minimal = Vec::new();
        blocked(&mut minimal, &block, "abc-1", DenyDetail::Minimal);
        assert!(!String::from_utf8_lossy(&minimal).contains("no-ddl"));
    }

    #[test]
    fn withheld_text_keeps_the_state_and_loses_the_value() {
        let body =
            b"SERROR\0VERROR\0C22P02\0Minvalid input syntax for type integer: \"917-00-1234\"\0Wctx 917\0\0";
        let mut out = Vec::new();
        withhold(&mut out, b'E', body, false);
        assert!(!out.windows(3).any(|w| w == b"917"));
        assert_eq!(error_field(&out[5..], b'C'), Some(&b"22P02"[..]));
        let mut parser = Vec::new();
        withhold(&mut parser, b'E', b"SERROR\0C42703\0Mcolumn \"nope\" does not exist\0P8\0\0", false);
        assert!(parser.windows(4).any(|w| w == b"nope"));
    }

    #[test]
    fn code_of_users_names_nothing() {
        let raised = |routine: &str| format!("SERROR\0C23514\0Mx\0c666-87-6365\0nana@x.io\0R{routine}\0\0");
        let told = |strangers, routine| {
            let mut out = Vec::new();
            withhold(&mut out, b'E', raised(routine).as_bytes(), strangers);
            (error_field(&out[5..], b'c').is_some(), error_field(&out[5..], b'n').is_some())
        };
        assert_eq!(told(false, "ExecConstraints"), (true, true));
        assert_eq!(told(true, "ExecConstraints"), (false, false));
        assert_eq!(told(false, "exec_stmt_raise"), (false, false));
    }
}
