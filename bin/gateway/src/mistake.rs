//! Mistakes in configuration files, as people read them: `file:line:col: message`, the line, and what to do.
//!
//! Invariant: what looks like a secret in a quoted line is replaced before it is shown.

use std::fmt;
use std::path::PathBuf;

use crate::yaml::{Spot, Wrong};

/// One file that was read, for quoting.
pub(crate) struct Source {
    /// As it was named by whoever named it.
    pub path: PathBuf,
    pub text: String,
}

/// One mistake, ready to print.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Mistake {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line as written, secrets replaced.
    #[serde(skip)]
    pub quote: Option<String>,
}

impl Mistake {
    pub(crate) fn new(sources: &[Source], wrong: &Wrong) -> Mistake {
        let Wrong { spot: Spot { file, line, column }, message, help } = wrong;
        let source = sources.get(*file);
        Mistake {
            file: source.map(|s| s.path.display().to_string()).unwrap_or_default(),
            line: *line,
            column: *column,
            message: message.clone(),
            help: help.clone(),
            quote: source.and_then(|s| s.text.lines().nth(line.checked_sub(1)?)).map(scrub),
        }
    }

    /// A mistake that no line of a file is to blame for.
    pub(crate) fn without_place(file: impl Into<String>, message: impl Into<String>) -> Mistake {
        Mistake { file: file.into(), line: 0, column: 0, message: message.into(), help: None, quote: None }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        } else {
            write!(f, "{}: {}", self.file, self.message)?;
        }
        if let Some(quote) = &self.quote {
            let number = self.line.to_string();
            let gap = " ".repeat(number.len());
            let column = self.column.saturating_sub(1).min(quote.chars().count());
            write!(f, "\n {number} | {quote}\n {gap} | {}^", " ".repeat(column))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   help: {help}")?;
        }
        Ok(())
    }
}

/// Replaces what may be a secret in a line of YAML: what follows a telling key, the password in a URL, a verifier.
fn scrub(line: &str) -> String {
    let mut line = line.to_owned();
    for key in ["password", "passwd", "secret", "verifier", "value", "token", "tokens"] {
        let mut from = 0;
        while let Some(at) = line.get(from..).and_then(|rest| rest.find(&format!("{key}:"))) {
            let start = from + at + key.len() + 1;
            let rest = line.get(start..).unwrap_or_default();
            let trimmed = rest.trim_start();
            from = start;
            // A mapping or list is quoted further; its own telling keys are found by the other rounds.
            if !trimmed.is_empty()
                && !trimmed.starts_with(['{', '[', '&', '*', '#'])
                && !trimmed.starts_with("${")
            {
                line.truncate(start);
                line.push_str(" ***");
                break;
            }
        }
    }
    if let Some(at) = line.find("SCRAM-SHA-256$") {
        line.truncate(at + "SCRAM-SHA-256$".len());
        line.push_str("***");
    }
    // postgres://user:password@host
    let mut from = 0;
    while let Some(at) = line.get(from..).and_then(|rest| rest.find("://")) {
        let start = from + at + 3;
        let rest = line.get(start..).unwrap_or_default();
        let end = rest.find(['/', ' ', '"', '\'', '?']).unwrap_or(rest.len());
        let authority = rest.get(..end).unwrap_or_default();
        if let Some((user, _)) = authority.rsplit_once('@')
            && let Some((name, secret)) = user.split_once(':')
            && !secret.starts_with("${")
        {
            let range = start + name.len() + 1..start + user.len();
            line.replace_range(range, "***");
        }
        from = start;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_line_and_help() {
        let sources = [Source {
            path: "a.yaml".into(),
            text: "version: 1\nlisteners: [{protocol: postgress}]\n".into(),
        }];
        let wrong = Wrong {
            spot: Spot { file: 0, line: 2, column: 24 },
            message: "no".into(),
            help: Some("did you mean `postgres`?".into()),
        };
        assert_eq!(
            Mistake::new(&sources, &wrong).to_string(),
            "a.yaml:2:24: no\n 2 | listeners: [{protocol: postgress}]\n   |                        ^\n   help: did you mean `postgres`?"
        );
    }

    #[test]
    fn secrets_in_quoted_lines_are_replaced() {
        for line in [
            "  password: hunter2",
            "  - {name: a, password: hunter2, allow: [x]}",
            "  upstream: postgres://gw:hunter2@db:5432/shop",
            "  - {upstream: \"postgres://gw:hunter2@db/shop\", password: {from: env, name: X}}",
            "  verifier: SCRAM-SHA-256$4096:hunter2$x:y",
            "  password: {verifier: hunter2}",
            "  - SCRAM-SHA-256$4096:hunter2$x:y",
        ] {
            assert!(!scrub(line).contains("hunter2"), "{}", scrub(line));
        }
        let fine = "  password: {from: env, name: LG_PASSWORD}";
        assert_eq!(scrub(fine), fine);
    }
}
