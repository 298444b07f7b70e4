//! Times and sizes with their unit spelled (`10m`, `64KiB`). A bare number is refused, except 0: nobody remembers which unit it was.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time span: `250ms`, `30s`, `10m`, `2h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

/// A number of bytes: `512B`, `64KiB`, `8MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub u64);

const SPANS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Span {
    pub(crate) fn seconds(n: u64) -> Span {
        Span(Duration::from_secs(n))
    }

    pub(crate) fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    if unit.is_empty() && number == 0 {
        return Some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.checked_mul(*factor)
}

/// The largest unit that divides it.
fn spell(n: u64, mut units: Vec<(&str, u64)>) -> String {
    units.sort_by_key(|(_, factor)| std::cmp::Reverse(*factor));
    units
        .iter()
        .find(|(_, factor)| n > 0 && n.is_multiple_of(*factor))
        .map_or_else(|| n.to_string(), |(name, factor)| format!("{}{name}", n / factor))
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() { f.write_str("0s") } else { f.write_str(&spell(self.millis(), SPANS.to_vec())) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0B") } else { f.write_str(&spell(self.0, SIZES.to_vec())) }
    }
}

macro_rules! unit {
    ($type:ident, $expecting:literal, $pattern:literal, $units:ident, $make:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_u64<E: de::Error>(self, v: u64) -> Result<$type, E> {
                        if v == 0 {
                            return Ok($make(0));
                        }
                        Err(E::custom(concat!("a number needs its unit: ", $expecting)))
                    }
                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$type, E> {
                        let n = parse(v, &$units).ok_or_else(|| {
                            E::custom(format!(concat!("`{}` is not ", $expecting), v))
                        })?;
                        Ok($make(n))
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "description": $expecting,
                    "anyOf": [{"type": "string", "pattern": $pattern}, {"const": 0}],
                })
            }
        }
    };
}

unit!(Span, "a time like 250ms, 30s, 10m, 2h or 1d", "^([0-9]+ ?(ms|s|m|h|d)|0|.*\\$\\{.*)$", SPANS, |ms| {
    Span(Duration::from_millis(ms))
});
unit!(
    Bytes,
    "a size like 512B, 64KiB, 8MiB or 1GiB",
    "^([0-9]+ ?(B|KiB|MiB|GiB)|0|.*\\$\\{.*)$",
    SIZES,
    Bytes
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_spelled() {
        for (text, ms) in
            [("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            let span: Span = serde_json::from_value(text.into()).unwrap();
            assert_eq!((span.millis(), span.to_string().as_str()), (ms, text));
        }
        assert_eq!(serde_json::from_value::<Span>(0.into()).unwrap().millis(), 0);
        assert_eq!(serde_json::from_value::<Bytes>("64KiB".into()).unwrap(), Bytes(65536));
        assert_eq!(Bytes(8 << 20).to_string(), "8MiB");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in
            ["30", "s", "-1s", "1.5h", "30 parsecs", "99999999999999999999s", "999999999999999999d", ""]
        {
            assert!(serde_json::from_value::<Span>(bad.into()).is_err(), "{bad}");
        }
        assert!(serde_json::from_value::<Span>(30.into()).is_err());
        assert!(serde_json::from_value::<Bytes>("64KB".into()).is_err());
    }
}
