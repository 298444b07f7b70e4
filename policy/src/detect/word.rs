//! Findings made of words: e-mail addresses, keys and tokens, JSON web tokens.
//!
//! Candidates are `@`, the fixed beginnings of tokens (all of them searched at once), `=` and `:`. Sources: RFC 5321 and 6531 for
//! addresses (as people write them, not every quoting), RFC 7515 for tokens, each issuer's documentation for its prefixes.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::packed::{MatchKind, Searcher};
use aho_corasick::{AhoCorasick, Input, Span, packed};
use base64::Engine as _;
use memchr::memmem;

use super::{Cell, Detector, Detectors};

// ---------------------------------------------------------------------------------------------------------------- e-mail

/// Each byte is looked at by the `@` before it and the one behind it only.
pub(super) fn email(set: Detectors, cell: Cell<'_>, from: usize) -> Option<Range<usize>> {
    if !set.has(Detector::Email) {
        return None;
    }
    let (mut at, mut floor) = (from, from);
    loop {
        let sign = at + memchr::memchr(b'@', cell.text.get(at..)?)?;
        at = sign + 1;
        let length = domain(cell.text.get(at..)?);
        if length > 0 {
            let start = floor + local(cell.text.get(floor..sign)?);
            if start < sign {
                return Some(start..at + length);
            }
        }
        floor = at;
    }
}

/// Where the local part at the end of `text` begins.
fn local(text: &[u8]) -> usize {
    if let [quoted @ .., b'"'] = text {
        // "Ana Maria"@example.org
        return memchr::memrchr(b'"', quoted).unwrap_or(text.len());
    }
    let part = |b: &u8| b.is_ascii_alphanumeric() || b".!#$%&'*+-/=?^_`{|}~".contains(b) || *b >= 0x80;
    let start = text.iter().rposition(|b| !part(b)).map_or(0, |i| i + 1);
    // No local part begins with what separates or quotes in the texts around it.
    let lead = |b: &u8| b".!#$%&'*+-/=?^`{|}~".contains(b);
    let name = text.get(start..).unwrap_or_default();
    // name=ana@x.io, /ana@x.io, 'ana@x.io: the last of these before the address.
    let cut = name.iter().rposition(|b| b"!#$&'*/=?^`{|}".contains(b)).map_or(0, |i| i + 1);
    let rest = name.get(cut..).unwrap_or_default();
    start + cut + rest.iter().take_while(|b| lead(b)).count()
}

/// Length of the domain `text` begins with; 0: none. It has two labels at least, and the last is no number.
fn domain(text: &[u8]) -> usize {
    let part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'.' || *b >= 0x80;
    let long = text.iter().position(|b| !part(b)).unwrap_or(text.len());
    // The shortest is a.io.
    if long < 4 {
        return 0;
    }
    let text = text.get(..long).unwrap_or_default();
    // A second dot in a row, or one at the end, belongs to the sentence.
    let end = memmem::find(text, b"..").unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    let text = text.trim_ascii_end();
    let end = text.iter().rposition(|b| *b != b'.' && *b != b'-').map_or(0, |i| i + 1);
    let text = text.get(..end).unwrap_or_default();
    let Some(dot) = memchr::memrchr(b'.', text) else { return 0 };
    let last = text.get(dot + 1..).unwrap_or_default();
    let name = last.len() > 1 && !last.iter().all(u8::is_ascii_digit);
    if dot == 0 || !name { 0 } else { end }
}

// ---------------------------------------------------------------------------------------------------------------- tokens

/// What a token of one issuer looks like behind its beginning.
struct Token {
    start: &'static str,
    /// Fewest and most further characters.
    least: usize,
    most: usize,
    of: fn(u8) -> bool,
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}
fn url(b: u8) -> bool {
    word(b) || b == b'-'
}
fn dotted(b: u8) -> bool {
    url(b) || b == b'.'
}
fn base32(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}
fn path(b: u8) -> bool {
    word(b) || b == b'/'
}

const fn token(start: &'static str, least: usize, most: usize, of: fn(u8) -> bool) -> Token {
    Token { start, least, most, of }
}

const MANY: usize = usize::MAX;

/// The first two are not tokens of an issuer and are looked at by themselves.
const TOKENS: &[Token] = &[
    token("eyJ", 0, MANY, dotted),
    token("-----BEGIN ", 0, MANY, word),
    // Amazon
    token("AKIA", 16, 16, base32),
    token("ASIA", 16, 16, base32),
    token("ABIA", 16, 16, base32),
    token("ACCA", 16, 16, base32),
    // GitHub
    token("ghp_", 36, MANY, word),
    token("gho_", 36, MANY, word),
    token("ghu_", 36, MANY, word),
    token("ghs_", 36, MANY, word),
    token("ghr_", 36, MANY, word),
    token("github_pat_", 22, MANY, word),
    // GitLab
    token("glpat-", 20, MANY, dotted),
    token("gldt-", 20, MANY, dotted),
    token("glrt-", 20, MANY, dotted),
    token("glptt-", 20, MANY, dotted),
    // Slack
    token("xoxb-", 10, MANY, url),
    token("xoxp-", 10, MANY, url),
    token("xoxa-", 10, MANY, url),
    token("xoxr-", 10, MANY, url),
    token("xoxs-", 10, MANY, url),
    token("xoxe", 10, MANY, dotted),
    token("xapp-", 10, MANY, url),
    token("hooks.slack.com/services/", 20, MANY, path),
    // Stripe
    token("sk_live_", 16, MANY, word),
    token("sk_test_", 16, MANY, word),
    token("rk_live_", 16, MANY, word),
    token("rk_test_", 16, MANY, word),
    token("whsec_", 16, MANY, word),
    // Google
    token("AIza", 35, 35, url),
    token("ya29.", 20, MANY, url),
    token("GOCSPX-", 20, MANY, url),
    // Others with a beginning of their own
    token("sk-ant-", 20, MANY, url),
    token("sk-proj-", 20, MANY, url),
    token("npm_", 36, 36, word),
    token("pypi-AgE", 16, MANY, url),
    token("hf_", 34, 34, word),
    token("SG.", 40, MANY, dotted),
    token("dop_v1_", 64, 64, word),
    token("shpat_", 32, 32, word),
    token("AGE-SECRET-KEY-1", 58, 58, base32),
];

/// A vector search where the machine has one for so many literals (SSSE3, AVX2, NEON), else an automaton; both linear.
enum Starts {
    Vector(Box<Searcher>),
    Automaton(AhoCorasick),
}

static STARTS: LazyLock<Starts> = LazyLock::new(|| {
    let literals = TOKENS.iter().map(|t| t.start);
    let vector =
        packed::Config::new().match_kind(MatchKind::LeftmostFirst).builder().extend(literals.clone()).build();
    match vector {
        Some(searcher) => Starts::Vector(Box::new(searcher)),
        None => {
            Starts::Automaton(AhoCorasick::new(literals).expect("a few short literals fit any automaton"))
        }
    }
});

impl Starts {
    fn find(&self, text: &[u8], from: usize) -> Option<aho_corasick::Match> {
        let span = Span { start: from, end: text.len() };
        match self {
            Starts::Vector(searcher) => searcher.find_in(text, span),
            Starts::Automaton(automaton) => automaton.find(Input::new(text).span(span)),
        }
    }
}

pub(super) fn token_at(set: Detectors, cell: Cell<'_>, from: usize) -> Option<Range<usize>> {
    if !set.has(Detector::Key) && !set.has(Detector::Jwt) {
        return None;
    }
    let mut at = from;
    loop {
        let found = STARTS.find(cell.text, at)?;
        let (start, begun) = (found.start(), found.end());
        let end = match found.pattern().as_usize() {
            0 if set.has(Detector::Jwt) => web_token(cell, start),
            1 if set.has(Detector::Key) => private_key(cell, begun),
            n @ 2.. if set.has(Detector::Key) && !word(cell.back(start, 1)) => {
                TOKENS.get(n).and_then(|t| t.end(cell, begun))
            }
            _ => None,
        };
        if let Some(end) = end {
            return Some(start..end);
        }
        at = start + 1;
    }
}

impl Token {
    /// Where the token ends whose beginning ends at `at`. Looks at no more than it needs to refuse.
    fn end(&self, cell: Cell<'_>, at: usize) -> Option<usize> {
        let rest = cell.text.get(at..)?;
        let most = self.most.saturating_add(1).min(rest.len());
        let length = rest.iter().take(most).take_while(|b| (self.of)(**b)).count();
        // A full stop ends a sentence, not a token.
        let dots = rest.get(..length)?.iter().rev().take_while(|b| **b == b'.').count();
        let length = length - dots;
        (self.least..=self.most).contains(&length).then_some(at + length)
    }
}

/// A key block, to its end or, where that is missing, to the end of the text.
fn private_key(cell: Cell<'_>, at: usize) -> Option<usize> {
    let rest = cell.text.get(at..)?;
    let label = rest.get(..rest.len().min(64))?;
    let label = label.get(..memmem::find(label, b"-----")?)?;
    memmem::find(label, b"PRIVATE KEY")?;
    let body = at + label.len() + 5;
    let Some(end) = memmem::find(cell.text.get(body..)?, b"-----END ") else { return Some(cell.text.len()) };
    let end = body + end + 9;
    Some(memmem::find(cell.text.get(end..)?, b"-----").map_or(cell.text.len(), |i| end + i + 5))
}

/// Longest header that is decoded; a longer one is taken for one without a look.
const HEADER_MAX: usize = 1_024;

/// Three to five segments of base64url, the first of them a JSON object.
fn web_token(cell: Cell<'_>, start: usize) -> Option<usize> {
    if url(cell.back(start, 1)) {
        return None;
    }
    let (mut at, mut segments, mut first) = (start, 1, 0);
    loop {
        let rest = cell.text.get(at..)?;
        let length = rest.iter().position(|b| !url(*b)).unwrap_or(rest.len());
        if segments == 1 {
            first = length;
        }
        at += length;
        // The signature may be empty, and the key of an encrypted one.
        if segments == 5 || cell.at(at) != b'.' || (segments < 3 && length == 0 && segments != 2) {
            break;
        }
        // What follows the third may be the end of a sentence.
        if segments >= 3 && !url(cell.at(at + 1)) && cell.at(at + 1) != b'.' {
            break;
        }
        segments += 1;
        at += 1;
    }
    let header = cell.text.get(start..start + first)?;
    if segments < 3 || first < 10 {
        return None;
    }
    if first > HEADER_MAX {
        return Some(at);
    }
    let mut decoded = [0; HEADER_MAX];
    let length = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode_slice(header, &mut decoded).ok()?;
    let object = decoded.get(..length)?.trim_ascii_end();
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(object).is_ok();
    (json && object.ends_with(b"}")).then_some(at)
}

// -------------------------------------------------------------------------------------------------------- assigned secrets

/// `password=…`, `"secret": "…"`, `Authorization: Bearer …`, `postgres://user:…@host`.
pub(super) fn assigned(set: Detectors, cell: Cell<'_>, from: usize) -> Option<Range<usize>> {
    if !set.has(Detector::Key) {
        return None;
    }
    let mut at = from;
    loop {
        let sign = at + memchr::memchr2(b'=', b':', cell.text.get(at..)?)?;
        at = sign + 1;
        let found = match cell.text.get(at..at + 2) {
            Some(b"//") if cell.at(sign) == b':' => credentials(cell, at + 2),
            _ => value(cell, sign),
        };
        if found.is_some() {
            return found;
        }
    }
}

/// Furthest a name, the space around a sign, or what tells a value from a word is looked for.
const NEAR: usize = 64;

fn value(cell: Cell<'_>, sign: usize) -> Option<Range<usize>> {
    let near = sign.saturating_sub(NEAR).max(cell.floor);
    let before = cell.text.get(near..sign)?.trim_ascii_end();
    let before = before.strip_suffix(b"\"").or_else(|| before.strip_suffix(b"'")).unwrap_or(before);
    // Asked first, for texts are full of times: what every name of a secret ends with.
    if !matches!(before.last()?.to_ascii_lowercase(), b'd' | b'e' | b't' | b'n' | b'y' | b'l' | b's') {
        return None;
    }
    let name = before.get(before.iter().rposition(|b| !url(*b)).map_or(0, |i| i + 1)..)?;
    let header = name.eq_ignore_ascii_case(b"authorization");
    if !header && !is_secret_name(name) {
        return None;
    }
    let mut start = sign + 1;
    start += usize::from(matches!(cell.at(start), b'=' | b'>'));
    let space = |at: usize| {
        cell.text.get(at..).unwrap_or_default().iter().take(4).take_while(|b| b.is_ascii_whitespace()).count()
    };
    start += space(start);
    if cell.at(start) == b'[' {
        start += 1;
        start += space(start);
    }
    if header {
        let scheme = cell.text.get(start..start + 7).unwrap_or_default();
        for known in [&b"Bearer "[..], b"Basic ", b"Token "] {
            if scheme.get(..known.len()).is_some_and(|s| s.eq_ignore_ascii_case(known)) {
                start += known.len();
                break;
            }
        }
    }
    let quote = cell.at(start);
    let quoted = matches!(quote, b'"' | b'\'');
    start += usize::from(quoted);
    let rest = cell.text.get(start..)?;
    let ends = |b: &u8| match quoted {
        true => *b == quote || matches!(b, b'\n' | b'\r'),
        false => {
            b.is_ascii_whitespace()
                || matches!(b, b'"' | b'\'' | b'<' | b'>' | b',' | b';' | b'&' | b')' | b'}')
        }
    };
    let short = rest.iter().take(NEAR).position(ends);
    let seen = rest.get(..short.unwrap_or(NEAR.min(rest.len())))?;
    let known = header && seen.len() >= 8;
    if !(known || looks_secret(seen, quoted || cell.at(sign) == b'=')) {
        return None;
    }
    let length = short.or_else(|| rest.iter().position(ends)).unwrap_or(rest.len());
    Some(start..start + length)
}

/// The password of `//user:password@host`.
fn credentials(cell: Cell<'_>, start: usize) -> Option<Range<usize>> {
    let rest = cell.text.get(start..)?;
    let near = rest.get(..rest.len().min(4 * NEAR))?;
    let authority =
        near.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'"' | b'?' | b'#'));
    let user = near.get(..authority.unwrap_or(near.len()))?;
    let user = user.get(..memchr::memrchr(b'@', user)?)?;
    let colon = memchr::memchr(b':', user)?;
    (colon + 1 < user.len()).then_some(start + colon + 1..start + user.len())
}

/// A name whose value nobody should read.
pub(super) fn is_secret_name(name: &[u8]) -> bool {
    let ends = |word: &str| {
        name.len().checked_sub(word.len()).and_then(|at| name.get(at..)).is_some_and(|tail| {
            tail.iter()
                .zip(word.bytes())
                .all(|(b, w)| b.to_ascii_lowercase() == w || (*b == b'-' && w == b'_'))
        })
    };
    const NAMES: &[&str] = &[
        "password",
        "passwd",
        "passphrase",
        "passwort",
        "pwd",
        "secret",
        "token",
        "apikey",
        "api_key",
        "accesskey",
        "access_key",
        "secretkey",
        "secret_key",
        "privatekey",
        "private_key",
        "credential",
        "credentials",
    ];
    NAMES.iter().any(|n| ends(n)) || name.eq_ignore_ascii_case(b"pass") || ends("_pass")
}

/// Told from a word of prose: by what it is made of, or (`strong`: written as an assignment) by its length alone.
pub(super) fn looks_secret(value: &[u8], strong: bool) -> bool {
    const HARMLESS: &[&str] =
        &["null", "none", "true", "false", "undefined", "required", "redacted", "changeme"];
    if value.len() < 4
        || HARMLESS.iter().any(|w| value.eq_ignore_ascii_case(w.as_bytes()))
        || value.iter().all(|b| *b == b'*')
        || value.starts_with(b"${")
        || value.starts_with(b"{{")
    {
        return false;
    }
    let letters = value.iter().any(u8::is_ascii_alphabetic);
    let others = value.iter().any(|b| !b.is_ascii_alphabetic() && *b != b'.' && *b != b'-');
    strong || (value.len() >= 6 && letters && others && !value.contains(&b' ')) || value.len() >= 24
}
