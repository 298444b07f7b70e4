//! The masks. Each documents `before -> after`.
//!
//! Not a decision which column is masked. Invariants: what a mask writes is valid for the column's type in the wire format asked
//! for, or NULL; `null`, `fixed` and `redact` do not depend on the value, not even on its length; nothing but `out` is allocated
//! per cell (but for JSON strings with escapes, to look for findings in them). Binary layouts: PostgreSQL's *send / *recv functions (int.c, numeric.c, timestamp.c, jsonb.c, …).

mod definition;
mod json;

use std::fmt;
use std::sync::Arc;

use ring::hmac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::detect::Detectors;
use crate::facts::Format;
use definition::{Holder, Scrubbed};

pub use definition::{Text, fuzz_definition};
pub(crate) use json::Path;
pub use json::fuzz_json;

/// A mask as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mask {
    /// `ana@x.io -> NULL`
    Null,
    /// `ana@x.io -> hidden`; for a type the text is not a value of: NULL.
    Fixed(Fixed),
    /// `ana@x.io -> ***`; for types that are not text: NULL.
    Redact,
    /// `4111111111111111 -> ************1111`; never more than half of a value, otherwise `***`; not text: NULL.
    Partial(Partial),
    /// `ana@x.io -> 5f0c…` (32 hex digits of a keyed hash, equal for equal values); not text: NULL.
    Hash,
}

/// `fixed: text`, or `fixed: {text: …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Fixed {
    Text(String),
    Field(FixedText),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedText {
    pub text: String,
}

impl Fixed {
    pub fn text(&self) -> &str {
        match self {
            Fixed::Text(text) | Fixed::Field(FixedText { text }) => text,
        }
    }
}

/// How many characters stay readable at each end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Partial {
    #[serde(default)]
    pub keep_first: u16,
    #[serde(default)]
    pub keep_last: u16,
}

/// The key of `hash`. Zeroed by ring's own type only when dropped memory is reused; never printed.
#[derive(Clone)]
pub struct HashKey(Arc<hmac::Key>);

impl HashKey {
    /// Any bytes; 32 random ones are best. The same key gives the same hashes after a restart.
    pub fn new(secret: &[u8]) -> HashKey {
        HashKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(redacted)")
    }
}

impl PartialEq for HashKey {
    fn eq(&self, other: &HashKey) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
impl Eq for HashKey {}

/// What rules make of one column: a mask for all of it, or for what is inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    Whole(Mask),
    Inside {
        /// Places in a JSON text, each with its mask.
        json: Vec<(Path, Mask)>,
        detect: Detectors,
    },
}

impl Treatment {
    /// These places are few enough to be walked.
    pub(crate) fn fits(json: &[(Path, Mask)]) -> bool {
        json::Places::new(json, None).is_some()
    }

    /// Both at once: shows no more than either.
    pub(crate) fn join(&mut self, other: &Treatment) {
        match (&mut *self, other) {
            (Treatment::Whole(mask), Treatment::Whole(new)) if stricter(new, mask) => *mask = new.clone(),
            (Treatment::Whole(_), _) => {}
            (Treatment::Inside { .. }, Treatment::Whole(_)) => *self = other.clone(),
            (Treatment::Inside { json, detect }, Treatment::Inside { json: more, detect: others }) => {
                json.extend(more.iter().filter(|m| !json.contains(m)).cloned().collect::<Vec<_>>());
                *detect = detect.with(*others);
            }
        }
    }

    /// Ready for a column of this type; `None`: no value of it can hold what is looked for.
    pub(crate) fn cell(&self, key: Option<&HashKey>, type_oid: u32, format: Format) -> Option<Cell> {
        let (paths, detect) = match self {
            Treatment::Whole(mask) => return Some(Cell::new(mask, key, type_oid, format)),
            Treatment::Inside { json, detect } => (json, *detect),
        };
        let whole = Cell::redact(type_oid);
        let json = matches!(type_oid, JSON | JSONB);
        if paths.is_empty() && holds_no_text(type_oid) {
            return None;
        }
        if !(json || type_oid == XML || (is_text(type_oid) && type_oid != CHAR))
            || (type_oid == XML && !paths.is_empty())
        {
            return Some(whole);
        }
        let places =
            if paths.is_empty() { Some(json::Places::default()) } else { json::Places::new(paths, key) };
        let Some(places) = places else { return Some(whole) };
        let shape = match type_oid {
            XML => Shape::Xml,
            JSONB if format == Format::Binary => Shape::Json { version: true },
            _ if json || !paths.is_empty() => Shape::Json { version: false },
            _ => Shape::Text,
        };
        let kind = Kind::Inside(Arc::new(Inside { shape, text: is_text(type_oid), places, detect }));
        Some(Cell { kind, nulls: false })
    }
}

/// A mask made ready for one column: its type and wire format are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    kind: Kind,
    /// It stands for NULL too.
    nulls: bool,
}

/// What is replaced in a value, when it has it.
#[derive(Debug, PartialEq, Eq)]
struct Inside {
    shape: Shape,
    /// Any text is a value of the column's type.
    text: bool,
    places: json::Places,
    detect: Detectors,
}

#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Text,
    /// `version`: a byte that says 1 comes first (jsonb_send).
    Json {
        version: bool,
    },
    /// A text in which something is found becomes NULL: `***` might not be well-formed where it would stand.
    Xml,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Null,
    Bytes(Arc<[u8]>),
    Partial(Partial),
    Hash(HashKey),
    Inside(Arc<Inside>),
    /// Constants in a text that defines something.
    Definition(Text, Holder),
}

/// What became of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masked {
    /// The bytes were appended to the output.
    Written,
    /// The cell becomes NULL; nothing was appended.
    Null,
    /// There was nothing to mask in it; nothing was appended.
    Kept,
}

/// A value longer than this is masked whole, and not looked into: no row may hold up a worker.
pub const LOOKED_INTO_MAX: usize = 1 << 20;

/// What text of any length becomes when nothing of it may stay.
const REDACTED: &[u8] = b"***";

impl Cell {
    /// Full redaction for a column of this type.
    pub fn redact(type_oid: u32) -> Cell {
        let kind = match type_oid {
            CHAR => Kind::Bytes(Arc::from(&b"*"[..])),
            _ if is_text(type_oid) => Kind::Bytes(Arc::from(REDACTED)),
            _ => Kind::Null,
        };
        Cell { kind, nulls: false }
    }

    /// Full redaction of what is computed. Whether that is NULL tells of what it is computed from: NULL is masked like a value.
    pub fn computed(type_oid: u32) -> Cell {
        Cell { nulls: true, ..Cell::redact(type_oid) }
    }

    /// For a text that defines something, in a column of this type: what could be a value in it is replaced.
    pub(crate) fn definition(text: Text, type_oid: u32, format: Format) -> Cell {
        match Holder::of(type_oid, format) {
            Some(holder) => Cell { kind: Kind::Definition(text, holder), nulls: false },
            None => Cell::redact(type_oid),
        }
    }

    pub(crate) fn new(mask: &Mask, key: Option<&HashKey>, type_oid: u32, format: Format) -> Cell {
        let text = is_text(type_oid) && type_oid != CHAR;
        let kind = match mask {
            Mask::Null => Kind::Null,
            Mask::Fixed(fixed) => match encode(fixed.text(), type_oid, format) {
                Some(bytes) => Kind::Bytes(bytes.into()),
                None => Kind::Null,
            },
            Mask::Partial(partial) if text => Kind::Partial(*partial),
            // compile() refuses hash rules without a key; should one get here, nothing is shown.
            Mask::Hash if text && let Some(key) = key => Kind::Hash(key.clone()),
            Mask::Redact | Mask::Partial(_) | Mask::Hash => Cell::redact(type_oid).kind,
        };
        Cell { kind, nulls: false }
    }

    /// Appends what stands for a value that nobody looks at, because its mask does not or it is longer than [`LOOKED_INTO_MAX`].
    pub fn unseen(&self, out: &mut Vec<u8>) -> Masked {
        let text = match &self.kind {
            Kind::Null => false,
            Kind::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                return Masked::Written;
            }
            Kind::Partial(_) | Kind::Hash(_) => true,
            Kind::Inside(inside) => inside.text,
            Kind::Definition(_, holder) => *holder == Holder::Text,
        };
        if !text {
            return Masked::Null;
        }
        out.extend_from_slice(REDACTED);
        Masked::Written
    }

    /// True when NULL is masked too: [`Cell::apply`] is then to be given it as an empty value.
    pub fn masks_nulls(&self) -> bool {
        self.nulls
    }

    /// True when the result does not depend on the value: it may be dropped unread, whatever its length, and
    /// [`Cell::apply`] be given nothing.
    pub fn ignores_value(&self) -> bool {
        matches!(self.kind, Kind::Null | Kind::Bytes(_))
    }

    /// True for what only replaces parts of some values: [`Cell::leaves`] is worth asking.
    pub fn looks_inside(&self) -> bool {
        matches!(self.kind, Kind::Inside(_))
    }

    /// True when the value certainly stays as it is, without writing it anywhere. Quick where most values do.
    pub fn leaves(&self, value: &[u8]) -> bool {
        let Kind::Inside(inside) = &self.kind else { return false };
        inside.places.is_empty()
            && (inside.shape == Shape::Text || memchr::memchr(b'\\', value).is_none())
            && !inside.detect.finds(value)
    }

    /// True for the lines of a plan, one a row: [`Cell::apply_line`] is to be asked.
    pub fn is_line(&self) -> bool {
        matches!(self.kind, Kind::Definition(Text::Plan, Holder::Text))
    }

    /// [`Cell::apply`] to the next line of a plan. `torn`: a line before was not understood, because a constant goes on behind it, say:
    /// where that ends is not known for certain, and nothing of what follows stays.
    pub fn apply_line(&self, value: &[u8], torn: &mut bool, out: &mut Vec<u8>) -> Masked {
        let before = out.len();
        if !*torn {
            let kept = match value.len() <= LOOKED_INTO_MAX {
                true => definition::scrub(Text::Plan, Holder::Text, value, out),
                false => Scrubbed::Whole,
            };
            match kept {
                Scrubbed::Written => return Masked::Written,
                Scrubbed::Kept => return Masked::Kept,
                Scrubbed::Whole => *torn = true,
            }
        }
        out.truncate(before);
        out.extend_from_slice(REDACTED);
        Masked::Written
    }

    /// Appends what stands for `value` to `out`. Never fails; valid for the column's type and format.
    pub fn apply(&self, value: &[u8], out: &mut Vec<u8>) -> Masked {
        if value.len() > LOOKED_INTO_MAX {
            return self.unseen(out);
        }
        match &self.kind {
            Kind::Null => return Masked::Null,
            Kind::Bytes(bytes) => out.extend_from_slice(bytes),
            Kind::Partial(partial) => partial.apply(value, out),
            Kind::Hash(key) => {
                push_hex(hmac::sign(&key.0, value).as_ref(), out);
            }
            Kind::Inside(inside) => return inside.apply(value, out),
            Kind::Definition(text, holder) => match definition::scrub(*text, *holder, value, out) {
                Scrubbed::Written => {}
                Scrubbed::Kept => return Masked::Kept,
                Scrubbed::Whole if *holder == Holder::Text => out.extend_from_slice(REDACTED),
                Scrubbed::Whole => return Masked::Null,
            },
        }
        Masked::Written
    }
}

impl Inside {
    fn apply(&self, value: &[u8], out: &mut Vec<u8>) -> Masked {
        let before = out.len();
        let version = match self.shape {
            Shape::Text if self.detect.mask(value, out) => return Masked::Written,
            Shape::Xml if self.detect.finds(value) => return Masked::Null,
            Shape::Text | Shape::Xml => return Masked::Kept,
            Shape::Json { version } => version,
        };
        let json = match value.split_first() {
            Some((1, json)) if version => Some(json),
            _ => (!version).then_some(value),
        };
        out.extend(version.then_some(1));
        match json.and_then(|json| json::mask(json, &self.places, self.detect, out)) {
            Some(true) => return Masked::Written,
            Some(false) => {
                out.truncate(before);
                return Masked::Kept;
            }
            // Not understood is not shown.
            None => out.truncate(before),
        }
        if !self.text {
            return Masked::Null;
        }
        out.extend_from_slice(REDACTED);
        Masked::Written
    }
}

/// Sixteen bytes of a keyed hash as text.
fn push_hex(tag: &[u8], out: &mut Vec<u8>) {
    for byte in tag.iter().take(16) {
        for nibble in [byte >> 4, byte & 15] {
            out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        }
    }
}

impl Partial {
    fn apply(self, value: &[u8], out: &mut Vec<u8>) {
        // Bytes that are no UTF-8 (another client encoding) have no characters we could count.
        let Ok(text) = std::str::from_utf8(value) else {
            out.extend_from_slice(REDACTED);
            return;
        };
        let (first, last) = (usize::from(self.keep_first), usize::from(self.keep_last));
        let characters = text.chars().count();
        if (first + last) * 2 > characters {
            out.extend_from_slice(REDACTED);
            return;
        }
        let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
        out.extend_from_slice(value.get(..at(first)).unwrap_or_default());
        out.resize(out.len() + (characters - first - last), b'*');
        out.extend_from_slice(value.get(at(characters - last)..).unwrap_or_default());
    }
}

/// Which of two masks on one column shows less.
pub(crate) fn stricter(a: &Mask, b: &Mask) -> bool {
    fn rank(mask: &Mask) -> (u8, u32) {
        match mask {
            Mask::Null => (5, 0),
            Mask::Redact => (4, 0),
            Mask::Fixed(_) => (3, 0),
            Mask::Hash => (2, 0),
            Mask::Partial(p) => (1, u32::MAX - u32::from(p.keep_first) - u32::from(p.keep_last)),
        }
    }
    rank(a) > rank(b)
}

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const CHAR: u32 = 18;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const OID: u32 = 26;
const JSON: u32 = 114;
const XML: u32 = 142;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// Types for which every text is a value and whose binary form is the text itself: "char", name, text, unknown, bpchar, varchar,
/// cstring.
fn is_text(type_oid: u32) -> bool {
    matches!(type_oid, CHAR | NAME | 25 | 705 | 1042 | 1043 | 2275)
}

/// Built-in types whose values are numbers, times, addresses and the like: nothing a detector looks for is written in them. Ranges
/// and arrays of them are not listed.
fn holds_no_text(type_oid: u32) -> bool {
    matches!(
        type_oid,
        // bool, int8, int2, int4, oid, tid, xid, cid, xid8
        BOOL | INT8 | INT2 | INT4 | OID | 27..=29 | 5069
        // point, lseg, path, box, polygon, line, circle
        | 600..=604 | 628 | 718
        // floats, numeric, money, bit, varbit
        | FLOAT4 | FLOAT8 | NUMERIC | 790 | 1560 | 1562
        // cidr, inet, macaddr, macaddr8
        | 650 | 869 | 829 | 774
        // date, time, timestamp, timestamptz, interval, timetz
        | DATE | TIME | TIMESTAMP | TIMESTAMPTZ | 1186 | 1266
        // uuid, pg_lsn
        | UUID | 3220
    )
}

/// A rule's fixed text as a value of the type; `None`: it is none, or the type is not one we write.
fn encode(text: &str, type_oid: u32, format: Format) -> Option<Vec<u8>> {
    let binary = format == Format::Binary;
    let as_is = || text.as_bytes().to_vec();
    Some(match type_oid {
        CHAR => text.bytes().next().filter(u8::is_ascii).map(|b| vec![b])?,
        // NAMEDATALEN: a longer one is cut in text and refused in binary.
        NAME if text.len() > 63 => return None,
        _ if is_text(type_oid) => as_is(),
        BOOL => {
            let value = match text {
                "t" | "true" => true,
                "f" | "false" => false,
                _ => return None,
            };
            if binary { vec![u8::from(value)] } else { vec![if value { b't' } else { b'f' }] }
        }
        INT2 => number(text.parse::<i16>().ok()?, i16::to_be_bytes, binary),
        INT4 => number(text.parse::<i32>().ok()?, i32::to_be_bytes, binary),
        INT8 => number(text.parse::<i64>().ok()?, i64::to_be_bytes, binary),
        OID => number(text.parse::<u32>().ok()?, u32::to_be_bytes, binary),
        FLOAT4 => {
            let value = text.parse::<f32>().ok().filter(|v| v.is_finite())?;
            if binary { value.to_be_bytes().to_vec() } else { as_is() }
        }
        FLOAT8 => {
            let value = text.parse::<f64>().ok().filter(|v| v.is_finite())?;
            if binary { value.to_be_bytes().to_vec() } else { as_is() }
        }
        NUMERIC => {
            let value = numeric(text)?;
            if binary { value } else { as_is() }
        }
        DATE => {
            let days = days(text)?;
            if binary { days.to_be_bytes().to_vec() } else { as_is() }
        }
        TIME => {
            let micros = clock(text)?;
            if binary { micros.to_be_bytes().to_vec() } else { as_is() }
        }
        TIMESTAMP | TIMESTAMPTZ => {
            let (date, time) = text.split_once([' ', 'T'])?;
            let micros = i64::from(days(date)?).checked_mul(86_400_000_000)?.checked_add(clock(time)?)?;
            match (binary, type_oid) {
                (true, _) => micros.to_be_bytes().to_vec(),
                (false, TIMESTAMP) => format!("{date} {time}").into_bytes(),
                (false, _) => format!("{date} {time}+00").into_bytes(),
            }
        }
        UUID => {
            let hex: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
            let dashed =
                text.len() == 36 && [8, 13, 18, 23].iter().all(|i| text.as_bytes().get(*i) == Some(&b'-'));
            let bytes = unhex(&hex).filter(|b| b.len() == 16 && dashed)?;
            if binary { bytes } else { text.to_ascii_lowercase().into_bytes() }
        }
        BYTEA => {
            let bytes = text.strip_prefix("\\x").and_then(|hex| unhex(hex.as_bytes()));
            match (binary, bytes) {
                (true, Some(bytes)) => bytes,
                (false, Some(_)) => as_is(),
                (_, None) => return None,
            }
        }
        JSON | JSONB => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
            if binary && type_oid == JSONB { [b"\x01", text.as_bytes()].concat() } else { as_is() }
        }
        _ => return None,
    })
}

fn number<T: ToString + Copy, const N: usize>(value: T, bytes: fn(T) -> [u8; N], binary: bool) -> Vec<u8> {
    if binary { bytes(value).to_vec() } else { value.to_string().into_bytes() }
}

fn unhex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect()
}

/// `123.45` → ndigits, weight, sign, dscale and base-10,000 digits (numeric_send).
fn numeric(text: &str) -> Option<Vec<u8>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 1_000 || fraction.len() > 1_000 || !plain(whole) || !plain(fraction)
    {
        return None;
    }
    let whole = format!("{}{whole}", "0".repeat(whole.len().next_multiple_of(4) - whole.len()));
    let padded = format!("{fraction}{}", "0".repeat(fraction.len().next_multiple_of(4) - fraction.len()));
    let mut groups: Vec<i16> = Vec::new();
    for (_, chunk) in (0..).zip(whole.as_bytes().chunks(4).chain(padded.as_bytes().chunks(4))) {
        groups.push(std::str::from_utf8(chunk).ok()?.parse().ok()?);
    }
    let mut weight = i16::try_from(whole.len() / 4).ok()? - 1;
    let leading = groups.iter().take_while(|g| **g == 0).count();
    let mut groups = groups.split_off(leading);
    weight -= i16::try_from(leading).ok()?;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let sign: i16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    let mut out = Vec::new();
    for n in [i16::try_from(groups.len()).ok()?, weight, sign, i16::try_from(fraction.len()).ok()?]
        .iter()
        .chain(&groups)
    {
        out.extend_from_slice(&n.to_be_bytes());
    }
    Some(out)
}

/// `2000-01-02` → days since 2000-01-01 (Howard Hinnant's days_from_civil).
fn days(text: &str) -> Option<i32> {
    let mut parts = text.split('-');
    let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || y.len() != 4 || m.len() != 2 || d.len() != 2 || text.contains('+') {
        return None;
    }
    let (y, m, d): (i32, i32, i32) = (y.parse().ok()?, m.parse().ok()?, d.parse().ok()?);
    let long = [
        31,
        if y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let last = *long.get(usize::try_from(m.checked_sub(1)?).ok()?)?;
    if y < 1 || d < 1 || d > last {
        return None;
    }
    let y = if m <= 2 { y - 1 } else { y };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * (m + if m > 2 { -3 } else { 9 }) + 2) / 5 + d - 1;
    Some(era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468 - 10_957)
}

/// `hh:mm:ss` → microseconds.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut part = |max: i64| {
        let p = parts.next()?;
        (p.len() == 2 && p.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
        p.parse::<i64>().ok().filter(|n| *n < max)
    };
    let seconds = part(24)? * 3600 + part(60)? * 60 + part(60)?;
    parts.next().is_none().then_some(seconds * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cell: &Cell, value: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        match cell.apply(value, &mut out) {
            Masked::Null => {
                assert_eq!(out, b"before");
                None
            }
            Masked::Written => Some(out[6..].to_vec()),
            Masked::Kept => Some(value.to_vec()),
        }
    }

    fn text(mask: &Mask, value: &str) -> String {
        let key = HashKey::new(b"k");
        let cell = Cell::new(mask, Some(&key), 25, Format::Text);
        String::from_utf8(shown(&cell, value.as_bytes()).expect("text masks write")).expect("UTF-8")
    }

    #[test]
    fn partial_shows_at_most_half() {
        let last = |n| Mask::Partial(Partial { keep_first: 0, keep_last: n });
        assert_eq!(text(&last(4), "4111111111111111"), "************1111");
        assert_eq!(text(&last(4), "1234567"), "***");
        assert_eq!(text(&last(4), "12345678"), "****5678");
        assert_eq!(text(&last(4), ""), "***");
        assert_eq!(text(&Mask::Partial(Partial { keep_first: 1, keep_last: 1 }), "äbcö"), "ä**ö");
        assert_eq!(text(&Mask::Partial(Partial { keep_first: u16::MAX, keep_last: u16::MAX }), "abc"), "***");
        let cell = Cell::new(&last(1), None, 25, Format::Text);
        assert_eq!(shown(&cell, b"\xff\xfe\xfd\xfc"), Some(b"***".to_vec()));
    }

    #[test]
    fn redaction_says_nothing_of_the_length() {
        assert_eq!(text(&Mask::Redact, ""), "***");
        assert_eq!(text(&Mask::Redact, &"x".repeat(10_000)), "***");
        assert_eq!(shown(&Cell::redact(18), b"x"), Some(b"*".to_vec()));
    }

    #[test]
    fn hash_is_keyed_and_stable() {
        let a = text(&Mask::Hash, "ana@x.io");
        assert_eq!(a.len(), 32);
        assert_eq!(a, text(&Mask::Hash, "ana@x.io"));
        assert_ne!(a, text(&Mask::Hash, "bo@x.io"));
        let other = Cell::new(&Mask::Hash, Some(&HashKey::new(b"other")), 25, Format::Text);
        assert_ne!(shown(&other, b"ana@x.io"), Some(a.into_bytes()));
        assert!(!format!("{other:?}").contains("other"));
    }

    #[test]
    fn what_is_not_text_becomes_null() {
        let key = HashKey::new(b"k");
        for oid in [
            16, 17, 20, 21, 23, 114, 142, 700, 701, 869, 1007, 1009, 1082, 1114, 1184, 1186, 1700, 2950,
            3802, 99_999,
        ] {
            for mask in [Mask::Null, Mask::Redact, Mask::Hash, Mask::Partial(Partial::default())] {
                for format in [Format::Text, Format::Binary] {
                    let cell = Cell::new(&mask, Some(&key), oid, format);
                    assert_eq!(shown(&cell, b"secret"), None, "{oid}");
                    assert!(cell.ignores_value());
                }
            }
        }
    }

    #[test]
    fn fixed_is_a_value_of_its_type_or_null() {
        let fixed = |text: &str, oid, format| {
            let cell = Cell::new(&Mask::Fixed(Fixed::Text(text.into())), None, oid, format);
            shown(&cell, b"secret")
        };
        let binary = |text, oid| fixed(text, oid, Format::Binary);
        assert_eq!(binary("x", 25), Some(b"x".to_vec()));
        assert_eq!(binary("7", 23), Some(vec![0, 0, 0, 7]));
        assert_eq!(binary("-1", 21), Some(vec![255, 255]));
        assert_eq!(binary("hidden", 23), None);
        assert_eq!(fixed("hidden", 23, Format::Text), None);
        assert_eq!(binary("true", 16), Some(vec![1]));
        assert_eq!(binary("2000-01-01", 1082), Some(vec![0, 0, 0, 0]));
        assert_eq!(binary("1999-12-31", 1082), Some(vec![255, 255, 255, 255]));
        assert_eq!(binary("2024-03-01", 1082), Some(8_826i32.to_be_bytes().to_vec()));
        assert_eq!(binary("2023-02-29", 1082), None);
        assert_eq!(binary("2000-01-01 00:00:01", 1114), Some(1_000_000i64.to_be_bytes().to_vec()));
        assert_eq!(
            fixed("2000-01-01 00:00:01", 1184, Format::Text),
            Some(b"2000-01-01 00:00:01+00".to_vec())
        );
        assert_eq!(binary("{}", 3802), Some(b"\x01{}".to_vec()));
        assert_eq!(binary("{", 3802), None);
        assert_eq!(binary("00000000-0000-0000-0000-000000000000", 2950), Some(vec![0; 16]));
        assert_eq!(binary("\\x00ff", 17), Some(vec![0, 255]));
        assert_eq!(binary("0", 1700), Some(vec![0; 8]));
        assert_eq!(
            binary("12345.67", 1700),
            Some(vec![0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 0x09, 0x29, 0x1a, 0x2c])
        );
        assert_eq!(binary("-0.001", 1700), Some(vec![0, 1, 255, 255, 0x40, 0, 0, 3, 0, 10]));
    }

    #[test]
    fn the_stricter_mask_wins() {
        let partial = |n| Mask::Partial(Partial { keep_first: 0, keep_last: n });
        assert!(stricter(&Mask::Null, &Mask::Redact));
        assert!(stricter(&Mask::Redact, &Mask::Hash));
        assert!(stricter(&Mask::Hash, &partial(1)));
        assert!(stricter(&partial(1), &partial(2)));
        assert!(!stricter(&partial(2), &partial(2)));
    }
}
