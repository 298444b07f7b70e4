//! Reads SPDX licence expressions as far as crates use them: `OR`, `AND`, `WITH`, parentheses, and the old `/`.
//!
//! Not a legal opinion. Invariant: what is not understood is not allowed.

/// Licences a dependency may be used under. .deny.toml says the same to cargo-deny; a test compares them.
pub(crate) const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// One crate, one licence that is not on the list, and why that is all right: with both witnesses in .deny.toml.
pub(crate) const EXCEPTIONS: &[(&str, &str)] = &[
    // File-level copyleft of an unmodified dependency, and only below the demo's database (pgwire's SCRAM-PLUS).
    ("x509-certificate", "MPL-2.0"),
];

/// True when the expression can be met with allowed licences only.
pub(crate) fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    or(&mut rest).is_some_and(|ok| ok && rest.is_empty())
}

fn or(rest: &mut &[&str]) -> Option<bool> {
    let mut ok = and(rest)?;
    while take(rest, "OR") {
        ok |= and(rest)?;
    }
    Some(ok)
}

fn and(rest: &mut &[&str]) -> Option<bool> {
    let mut ok = one(rest)?;
    while take(rest, "AND") {
        ok &= one(rest)?;
    }
    Some(ok)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    if take(rest, "(") {
        let ok = or(rest)?;
        return take(rest, ")").then_some(ok);
    }
    let (name, after) = rest.split_first()?;
    *rest = after;
    if take(rest, "WITH") {
        let (exception, after) = rest.split_first()?;
        *rest = after;
        return Some(
            ALLOWED.contains(&format!("{name} WITH {exception}").as_str()) || ALLOWED.contains(name),
        );
    }
    Some(ALLOWED.contains(name))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, after)) if *first == word => {
            *rest = after;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_side_of_an_or_is_enough() {
        assert!(allowed("MIT OR GPL-3.0"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(!allowed("GPL-3.0 OR LGPL-2.1"));
    }

    #[test]
    fn every_side_of_an_and_must_be_allowed() {
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!allowed("MIT AND GPL-3.0"));
        assert!(allowed("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
    }

    #[test]
    fn what_is_not_understood_is_not_allowed() {
        for bad in ["", "MIT OR", "(MIT", "MIT MIT", "AND", "N/A"] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn deny_toml_allows_the_same() {
        let deny = include_str!("../../../.deny.toml");
        let list = deny.split_once("allow = [").expect("allow list").1.split_once(']').expect("its end").0;
        let mut theirs: Vec<&str> = list.lines().filter_map(|l| l.split('"').nth(1)).collect();
        theirs.sort_unstable();
        assert_eq!(theirs, ALLOWED);
        for (name, license) in EXCEPTIONS {
            let line = format!("crate = \"{name}\", allow = [\"{license}\"]");
            assert!(deny.contains(&line), "no exception in .deny.toml: {line}");
        }
    }
}
