//! PostgreSQL types and SQLite values: what a declared type is called on the wire, and how a cell and a
//! parameter travel in text and binary.
//!
//! Invariant: what [`Kind::encode`] writes for a format is valid for the type that was announced; a value
//! that does not fit is an error, never a broken frame. Formats follow PostgreSQL's `*_send` / `*_recv`
//! functions (src/backend/utils/adt).

use bytes::{BufMut, BytesMut};
use rusqlite::types::{Value, ValueRef};

/// The types the demo announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float8,
    /// With the digits after the point, when declared.
    Numeric(Option<u8>),
    Text,
    Varchar,
    Name,
    Char,
    Date,
    Timestamp,
    Timestamptz,
    Bytea,
}

/// A value that cannot travel as the type it should.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unfit {
    #[error("invalid input syntax for type {0}")]
    Text(&'static str),
    #[error("incorrect binary data format for type {0}")]
    Binary(&'static str),
    #[error("the demo database keeps a {found} here, which cannot be sent as {wanted}")]
    Stored { found: &'static str, wanted: &'static str },
    #[error("the demo database does not know parameter type {0} in binary")]
    Unknown(u32),
}

impl Kind {
    /// From a declared type: SQLite keeps the words of CREATE TABLE.
    pub(crate) fn declared(declared: &str) -> Kind {
        let lower = declared.trim().to_ascii_lowercase();
        let (base, rest) = lower.split_once('(').unwrap_or((&lower, ""));
        match base.trim() {
            "bool" | "boolean" => Kind::Bool,
            "int2" | "smallint" | "smallserial" => Kind::Int2,
            "int" | "int4" | "integer" | "serial" => Kind::Int4,
            "int8" | "bigint" | "bigserial" => Kind::Int8,
            "oid" => Kind::Oid,
            "float4" | "float8" | "real" | "double precision" | "float" => Kind::Float8,
            "numeric" | "decimal" => {
                let scale =
                    rest.trim_end_matches(')').split_once(',').and_then(|(_, s)| s.trim().parse().ok());
                Kind::Numeric(scale)
            }
            "varchar" | "character varying" => Kind::Varchar,
            "name" => Kind::Name,
            "\"char\"" => Kind::Char,
            "date" => Kind::Date,
            "timestamp" | "timestamp without time zone" => Kind::Timestamp,
            "timestamptz" | "timestamp with time zone" => Kind::Timestamptz,
            "bytea" | "blob" => Kind::Bytea,
            _ => Kind::Text,
        }
    }

    /// From a type OID a client named; `None`: not one of ours.
    pub(crate) fn of_oid(oid: u32) -> Option<Kind> {
        Some(match oid {
            16 => Kind::Bool,
            17 => Kind::Bytea,
            18 => Kind::Char,
            19 => Kind::Name,
            20 => Kind::Int8,
            21 => Kind::Int2,
            23 => Kind::Int4,
            25 | 705 => Kind::Text,
            26 => Kind::Oid,
            701 => Kind::Float8,
            1042 | 1043 => Kind::Varchar,
            1082 => Kind::Date,
            1114 => Kind::Timestamp,
            1184 => Kind::Timestamptz,
            1700 => Kind::Numeric(None),
            _ => return None,
        })
    }

    pub(crate) fn oid(self) -> u32 {
        match self {
            Kind::Bool => 16,
            Kind::Bytea => 17,
            Kind::Char => 18,
            Kind::Name => 19,
            Kind::Int8 => 20,
            Kind::Int2 => 21,
            Kind::Int4 => 23,
            Kind::Text => 25,
            Kind::Oid => 26,
            Kind::Float8 => 701,
            Kind::Varchar => 1043,
            Kind::Date => 1082,
            Kind::Timestamp => 1114,
            Kind::Timestamptz => 1184,
            Kind::Numeric(_) => 1700,
        }
    }

    /// As `format_type` spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bool => "boolean",
            Kind::Bytea => "bytea",
            Kind::Char => "\"char\"",
            Kind::Name => "name",
            Kind::Int8 => "bigint",
            Kind::Int2 => "smallint",
            Kind::Int4 => "integer",
            Kind::Text => "text",
            Kind::Oid => "oid",
            Kind::Float8 => "double precision",
            Kind::Varchar => "character varying",
            Kind::Date => "date",
            Kind::Timestamp => "timestamp without time zone",
            Kind::Timestamptz => "timestamp with time zone",
            Kind::Numeric(_) => "numeric",
        }
    }

    /// `pg_type.typlen`.
    pub(crate) fn size(self) -> i16 {
        match self {
            Kind::Bool | Kind::Char => 1,
            Kind::Int2 => 2,
            Kind::Int4 | Kind::Oid | Kind::Date => 4,
            Kind::Int8 | Kind::Float8 | Kind::Timestamp | Kind::Timestamptz => 8,
            Kind::Name => 64,
            Kind::Numeric(_) | Kind::Text | Kind::Varchar | Kind::Bytea => -1,
        }
    }

    /// `pg_attribute.atttypmod`: numeric(10,s) packs precision and scale plus a header of four.
    pub(crate) fn modifier(self) -> i32 {
        match self {
            Kind::Numeric(Some(scale)) => ((10 << 16) | i32::from(scale)) + 4,
            _ => -1,
        }
    }

    /// Appends the cell, its length first. `None` in the length is NULL.
    pub(crate) fn encode(self, value: ValueRef<'_>, binary: bool, out: &mut BytesMut) -> Result<(), Unfit> {
        if matches!(value, ValueRef::Null) {
            out.put_i32(-1);
            return Ok(());
        }
        let start = out.len();
        out.put_i32(0);
        if binary {
            self.binary(value, out)?
        } else {
            self.text(value, out)?
        }
        let length = i32::try_from(out.len() - start - 4)
            .map_err(|_| Unfit::Stored { found: "value over 2 GiB", wanted: self.name() })?;
        if let Some(head) = out.get_mut(start..start + 4) {
            head.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    fn text(self, value: ValueRef<'_>, out: &mut BytesMut) -> Result<(), Unfit> {
        match self {
            Kind::Bool => out.put_u8(if self.truth(value)? { b't' } else { b'f' }),
            Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Oid => {
                out.extend_from_slice(self.integer(value)?.to_string().as_bytes());
            }
            Kind::Float8 => out.extend_from_slice(self.float(value)?.to_string().as_bytes()),
            Kind::Numeric(_) => out.extend_from_slice(self.decimal(value)?.as_bytes()),
            Kind::Bytea => {
                out.extend_from_slice(b"\\x");
                let bytes = match value {
                    ValueRef::Blob(b) | ValueRef::Text(b) => b,
                    other => return Err(self.unfit(other)),
                };
                for b in bytes {
                    out.extend_from_slice(format!("{b:02x}").as_bytes());
                }
            }
            Kind::Timestamptz => {
                let text = plain(value);
                out.extend_from_slice(text.as_bytes());
                // What SQLite's own functions make has no zone; it is UTC.
                if !text.contains('+') {
                    out.extend_from_slice(b"+00");
                }
            }
            Kind::Text | Kind::Varchar | Kind::Name | Kind::Char | Kind::Date | Kind::Timestamp => {
                match value {
                    ValueRef::Text(t) => out.extend_from_slice(t),
                    other => out.extend_from_slice(plain(other).as_bytes()),
                }
            }
        }
        Ok(())
    }

    fn binary(self, value: ValueRef<'_>, out: &mut BytesMut) -> Result<(), Unfit> {
        match self {
            Kind::Bool => out.put_u8(u8::from(self.truth(value)?)),
            Kind::Int2 => out.put_i16(i16::try_from(self.integer(value)?).map_err(|_| self.unfit(value))?),
            Kind::Int4 => out.put_i32(i32::try_from(self.integer(value)?).map_err(|_| self.unfit(value))?),
            Kind::Oid => out.put_u32(u32::try_from(self.integer(value)?).map_err(|_| self.unfit(value))?),
            Kind::Int8 => out.put_i64(self.integer(value)?),
            Kind::Float8 => out.put_f64(self.float(value)?),
            Kind::Numeric(_) => {
                numeric_to_binary(&self.decimal(value)?, out).ok_or_else(|| self.unfit(value))?
            }
            Kind::Date => {
                let days = days_from_text(&plain(value)).ok_or_else(|| self.unfit(value))?;
                out.put_i32(i32::try_from(days).map_err(|_| self.unfit(value))?);
            }
            Kind::Timestamp | Kind::Timestamptz => {
                out.put_i64(micros_from_text(&plain(value)).ok_or_else(|| self.unfit(value))?);
            }
            Kind::Text | Kind::Varchar | Kind::Name | Kind::Char | Kind::Bytea => match value {
                ValueRef::Text(t) | ValueRef::Blob(t) => out.extend_from_slice(t),
                other => out.extend_from_slice(plain(other).as_bytes()),
            },
        }
        Ok(())
    }

    /// The cell's text, as COPY writes it before escaping; `None` is NULL.
    pub(crate) fn to_text(self, value: ValueRef<'_>) -> Result<Option<Vec<u8>>, Unfit> {
        if matches!(value, ValueRef::Null) {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        self.text(value, &mut out)?;
        Ok(Some(out.to_vec()))
    }

    /// A parameter as it arrived → what SQLite is given.
    pub(crate) fn decode(self, bytes: &[u8], binary: bool) -> Result<Value, Unfit> {
        if binary { self.read_binary(bytes) } else { self.read_text(bytes) }
    }

    /// A parameter in text, or a field of COPY FROM.
    pub(crate) fn read_text(self, bytes: &[u8]) -> Result<Value, Unfit> {
        let bad = || Unfit::Text(self.name());
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        Ok(match self {
            Kind::Bool => Value::Integer(match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "on" | "yes" | "y" | "1" => 1,
                "f" | "false" | "off" | "no" | "n" | "0" => 0,
                _ => return Err(bad()),
            }),
            Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Oid => {
                Value::Integer(text.trim().parse().map_err(|_| bad())?)
            }
            Kind::Float8 | Kind::Numeric(_) => Value::Real(text.trim().parse().map_err(|_| bad())?),
            Kind::Bytea => match text.strip_prefix("\\x") {
                Some(hex) => Value::Blob(unhex(hex).ok_or_else(bad)?),
                None => Value::Blob(bytes.to_vec()),
            },
            Kind::Text
            | Kind::Varchar
            | Kind::Name
            | Kind::Char
            | Kind::Date
            | Kind::Timestamp
            | Kind::Timestamptz => Value::Text(text.to_owned()),
        })
    }

    fn read_binary(self, bytes: &[u8]) -> Result<Value, Unfit> {
        let bad = || Unfit::Binary(self.name());
        Ok(match self {
            Kind::Bool => match bytes {
                [b] => Value::Integer(i64::from(*b != 0)),
                _ => return Err(bad()),
            },
            Kind::Int2 => Value::Integer(i16::from_be_bytes(bytes.try_into().map_err(|_| bad())?).into()),
            Kind::Int4 => Value::Integer(i32::from_be_bytes(bytes.try_into().map_err(|_| bad())?).into()),
            Kind::Oid => Value::Integer(u32::from_be_bytes(bytes.try_into().map_err(|_| bad())?).into()),
            Kind::Int8 => Value::Integer(i64::from_be_bytes(bytes.try_into().map_err(|_| bad())?)),
            Kind::Float8 => Value::Real(f64::from_be_bytes(bytes.try_into().map_err(|_| bad())?)),
            Kind::Numeric(_) => Value::Real(numeric_from_binary(bytes).ok_or_else(bad)?),
            Kind::Date => {
                let days = i32::from_be_bytes(bytes.try_into().map_err(|_| bad())?);
                Value::Text(date_text(i64::from(days)))
            }
            Kind::Timestamp | Kind::Timestamptz => {
                let micros = i64::from_be_bytes(bytes.try_into().map_err(|_| bad())?);
                let zone = if self == Kind::Timestamptz { "+00" } else { "" };
                Value::Text(format!("{}{zone}", moment_text(micros)))
            }
            Kind::Bytea => Value::Blob(bytes.to_vec()),
            Kind::Text | Kind::Varchar | Kind::Name | Kind::Char => {
                Value::Text(std::str::from_utf8(bytes).map_err(|_| bad())?.to_owned())
            }
        })
    }

    fn unfit(self, value: ValueRef<'_>) -> Unfit {
        let found = match value {
            ValueRef::Null => "null",
            ValueRef::Integer(_) => "number",
            ValueRef::Real(_) => "fraction",
            ValueRef::Text(_) => "text",
            ValueRef::Blob(_) => "byte string",
        };
        Unfit::Stored { found, wanted: self.name() }
    }

    fn integer(self, value: ValueRef<'_>) -> Result<i64, Unfit> {
        match value {
            ValueRef::Integer(i) => Ok(i),
            // A sum or a product of whole numbers may have become a fraction in form only.
            ValueRef::Real(r) if r.fract() == 0.0 && r.abs() < 9e15 => Ok(r as i64),
            ValueRef::Text(t) => std::str::from_utf8(t)
                .ok()
                .and_then(|t| t.trim().parse().ok())
                .ok_or_else(|| self.unfit(value)),
            other => Err(self.unfit(other)),
        }
    }

    fn float(self, value: ValueRef<'_>) -> Result<f64, Unfit> {
        match value {
            ValueRef::Integer(i) => Ok(i as f64),
            ValueRef::Real(r) => Ok(r),
            ValueRef::Text(t) => std::str::from_utf8(t)
                .ok()
                .and_then(|t| t.trim().parse().ok())
                .ok_or_else(|| self.unfit(value)),
            other => Err(self.unfit(other)),
        }
    }

    fn decimal(self, value: ValueRef<'_>) -> Result<String, Unfit> {
        let scale = if let Kind::Numeric(scale) = self { scale } else { None };
        Ok(match (value, scale) {
            (ValueRef::Integer(i), None) => i.to_string(),
            (_, Some(scale)) => format!("{:.*}", usize::from(scale), self.float(value)?),
            _ => {
                // Ten digits after the point hide what binary fractions add to sums of decimal ones.
                let text = format!("{:.10}", self.float(value)?);
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            }
        })
    }

    fn truth(self, value: ValueRef<'_>) -> Result<bool, Unfit> {
        match value {
            ValueRef::Integer(i) => Ok(i != 0),
            ValueRef::Text(b"t" | b"true") => Ok(true),
            ValueRef::Text(b"f" | b"false") => Ok(false),
            other => Err(self.unfit(other)),
        }
    }
}

/// A value in PostgreSQL's plain spelling.
fn plain(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => r.to_string(),
        ValueRef::Text(t) | ValueRef::Blob(t) => String::from_utf8_lossy(t).into_owned(),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[a, b]| a << 4 | b).collect())
}

/// numeric_send: digit groups of four, weight of the first, sign, display scale.
fn numeric_to_binary(text: &str, out: &mut BytesMut) -> Option<()> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let lead = (4 - whole.len() % 4) % 4;
    let tail = (4 - fraction.len() % 4) % 4;
    let padded = format!("{}{whole}{fraction}{}", "0".repeat(lead), "0".repeat(tail));
    let (chunks, rest) = padded.as_bytes().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut groups: Vec<i16> =
        chunks.iter().map(|c| std::str::from_utf8(c).ok()?.parse().ok()).collect::<Option<_>>()?;
    let mut weight = i16::try_from((lead + whole.len()) / 4).ok()? - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    out.put_i16(i16::try_from(groups.len()).ok()?);
    out.put_i16(if groups.is_empty() { 0 } else { weight });
    out.put_u16(if negative && !groups.is_empty() { 0x4000 } else { 0 });
    out.put_u16(u16::try_from(fraction.len()).ok()?);
    for group in groups {
        out.put_i16(group);
    }
    Some(())
}

fn numeric_from_binary(bytes: &[u8]) -> Option<f64> {
    let (words, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let words: Vec<i16> = words.iter().map(|w| i16::from_be_bytes(*w)).collect();
    let [count, weight, sign, _scale, groups @ ..] = words.as_slice() else { return None };
    if usize::try_from(*count).ok()? != groups.len() {
        return None;
    }
    let mut value = 0.0;
    for (i, group) in (0i32..).zip(groups) {
        value += f64::from(*group) * 10_000f64.powi(i32::from(*weight) - i);
    }
    match sign {
        0 => Some(value),
        0x4000 => Some(-value),
        _ => None,
    }
}

/// Days since 2000-01-01 of a text that starts with a date. Howard Hinnant's days_from_civil.
fn days_from_text(text: &str) -> Option<i64> {
    let mut parts = text.get(..10)?.splitn(3, '-');
    let (y, m, d): (i64, i64, i64) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    if !(1..=12).contains(&m) || !(1..=31).contains(&d) {
        return None;
    }
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (m + if m > 2 { -3 } else { 9 }) + 2) / 5 + d - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    Some(era * 146_097 + doe - 719_468 - 10_957)
}

/// Microseconds since 2000-01-01 UTC. Knows `+00`, `+hh`, `+hh:mm`, `Z` and no zone.
fn micros_from_text(text: &str) -> Option<i64> {
    let days = days_from_text(text)?;
    let rest = text.get(10..)?.trim_start_matches(['T', ' ']);
    if rest.is_empty() {
        return Some(days * 86_400_000_000);
    }
    let (clock, zone) = match rest.find(['+', '-', 'Z']) {
        Some(at) => rest.split_at_checked(at)?,
        None => (rest, ""),
    };
    let mut parts = clock.splitn(3, ':');
    let hour: i64 = parts.next()?.parse().ok()?;
    let minute: i64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next().unwrap_or("0").parse().ok()?;
    let offset = match zone.trim_end_matches('Z') {
        "" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':').unwrap_or((zone.get(1..)?, "0"));
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let micros = (seconds * 1e6).round() as i64;
    Some(((days * 24 + hour) * 60 + minute - offset) * 60_000_000 + micros)
}

/// The date that many days after 2000-01-01. Howard Hinnant's civil_from_days.
fn date_text(days: i64) -> String {
    let z = days + 10_957 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + i64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02}")
}

/// `2026-01-31 10:00:00[.ffffff]` for microseconds since 2000-01-01 UTC.
pub(crate) fn moment_text(micros: i64) -> String {
    let days = micros.div_euclid(86_400_000_000);
    let rest = micros.rem_euclid(86_400_000_000);
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let date = date_text(days);
    if fraction == 0 {
        format!("{date} {clock}")
    } else {
        format!("{date} {clock}.{}", format!("{fraction:06}").trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(kind: Kind, value: ValueRef<'_>, binary: bool) -> Vec<u8> {
        let mut out = BytesMut::new();
        kind.encode(value, binary, &mut out).unwrap();
        out[4..].to_vec()
    }

    #[test]
    fn numerics_travel_in_binary() {
        for (text, expected) in [
            ("49.99", vec![0, 2, 0, 0, 0, 0, 0, 2, 0, 49, 0x26, 0xAC]),
            ("0.00", vec![0, 0, 0, 0, 0, 0, 0, 2]),
            ("-12345.5", vec![0, 3, 0, 1, 0x40, 0, 0, 1, 0, 1, 0x09, 0x29, 0x13, 0x88]),
        ] {
            let mut out = BytesMut::new();
            numeric_to_binary(text, &mut out).unwrap();
            assert_eq!(out.to_vec(), expected, "{text}");
            assert_eq!(numeric_from_binary(&out), Some(text.parse().unwrap()));
        }
    }

    #[test]
    fn moments_go_there_and_back() {
        for text in
            ["2000-01-01 00:00:00", "1999-12-31 23:59:59", "2026-02-28 12:30:01.25", "1970-01-01 00:00:00"]
        {
            assert_eq!(moment_text(micros_from_text(text).unwrap()), text);
        }
        assert_eq!(micros_from_text("2000-01-01 01:00:00+01"), Some(0));
        assert_eq!(micros_from_text("2000-01-01"), Some(0));
        assert_eq!(micros_from_text("soon"), None);
    }

    #[test]
    fn cells_in_both_formats() {
        assert_eq!(cell(Kind::Bool, ValueRef::Integer(1), false), b"t");
        assert_eq!(cell(Kind::Bool, ValueRef::Integer(0), true), [0]);
        assert_eq!(cell(Kind::Int8, ValueRef::Integer(-2), true), (-2i64).to_be_bytes());
        assert_eq!(cell(Kind::Numeric(Some(2)), ValueRef::Real(5.0), false), b"5.00");
        assert_eq!(cell(Kind::Numeric(None), ValueRef::Real(0.1 + 0.2), false), b"0.3");
        assert_eq!(
            cell(Kind::Timestamptz, ValueRef::Text(b"2026-01-01 00:00:00"), false),
            b"2026-01-01 00:00:00+00"
        );
    }

    #[test]
    fn a_misfit_is_an_error() {
        let mut out = BytesMut::new();
        assert!(Kind::Int8.encode(ValueRef::Text(b"x"), true, &mut out).is_err());
        assert!(Kind::Int4.read_text(b"12x").is_err());
        assert!(Kind::Int4.decode(b"123", true).is_err());
    }
}
