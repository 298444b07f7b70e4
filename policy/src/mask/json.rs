//! Masks for places inside a JSON text: paths, and one walk that replaces what they lead to and what detectors find.
//!
//! Not a JSON library: nothing is built from the text, and what is not replaced stays byte for byte. Invariants: one pass, depth
//! bounded; members are compared unescaped and by case, all of several equal ones are meant; a text that is not JSON, or deeper than
//! [`DEPTH_MAX`], gives `None`, and the caller masks it whole. Paths are SQL/JSON's (lax) and RFC 9535's without filters, slices and
//! functions; where the two differ, both places are meant: masking more is safe.

use std::sync::Arc;

use ring::hmac;

use super::{HashKey, Mask, Partial, REDACTED, push_hex, stricter};
use crate::detect::{self, Detector, Detectors};

/// Deeper texts are masked whole.
const DEPTH_MAX: usize = 256;
/// Steps of all paths of a column together.
const STEPS_MAX: usize = 256;

/// `$.contact.email`, `$.cards[*].number`, `$..ssn`, `$['a b'][0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(Box<str>),
    Index(usize),
    /// `.*`: every member or element.
    Each,
    /// `[*]`: the same, and the value itself when it is no array.
    Elements,
    /// Any number of levels.
    Deep,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is no path like $.contact.email, $.cards[*].number or $..ssn: {why}")]
pub(crate) struct BadPath {
    path: String,
    why: &'static str,
}

impl Path {
    pub(crate) fn parse(text: &str) -> Result<Path, BadPath> {
        let bad = |why| BadPath { path: text.to_owned(), why };
        let mut rest = text.strip_prefix('$').ok_or_else(|| bad("it begins with $"))?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Deep);
                // `..name` and `..[0]`, as if a dot stood there.
                if after.starts_with('[') {
                    rest = after;
                    continue;
                }
                rest = rest.get(1..).unwrap_or_default();
            }
            if let Some(after) = rest.strip_prefix('.') {
                if let Some(after) = after.strip_prefix('*') {
                    steps.push(Step::Each);
                    rest = after;
                } else if after.starts_with(['"', '\'']) {
                    let (name, after) = quoted(after).ok_or_else(|| bad("a quote is open"))?;
                    steps.push(Step::Member(name.into()));
                    rest = after;
                } else {
                    let end = after.find(['.', '[']).unwrap_or(after.len());
                    let (name, after) = after.split_at(end);
                    if name.is_empty()
                        || name != name.trim()
                        || name.contains(['*', '?', '(', ')', ']', '@', '"', '\''])
                    {
                        return Err(bad("a member's name is missing, or needs quotes"));
                    }
                    steps.push(Step::Member(name.into()));
                    rest = after;
                }
            } else if let Some(after) = rest.strip_prefix('[') {
                let (step, after) = if let Some(after) = after.strip_prefix('*') {
                    (Step::Elements, after)
                } else if after.starts_with(['"', '\'']) {
                    let (name, after) = quoted(after).ok_or_else(|| bad("a quote is open"))?;
                    (Step::Member(name.into()), after)
                } else {
                    let end = after.find(']').unwrap_or(after.len());
                    let (index, after) = after.split_at(end);
                    (
                        Step::Index(
                            index.parse().map_err(|_| bad("an index is a number, *, or a quoted name"))?,
                        ),
                        after,
                    )
                };
                steps.push(step);
                rest = after.strip_prefix(']').ok_or_else(|| bad("a bracket is open"))?;
            } else {
                return Err(bad("a step begins with . or ["));
            }
        }
        match steps.last() {
            None => Err(bad("it means the whole value; leave json out")),
            Some(Step::Deep) => Err(bad("it ends in ..")),
            Some(_) if steps.len() > 64 => Err(bad("it has more than 64 steps")),
            Some(_) => Ok(Path(steps)),
        }
    }
}

/// The name in quotes `text` begins with (a backslash takes the next character as it is), and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    let mut name = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            c if c == quote => return Some((name, text.get(at + c.len_utf8()..)?)),
            c => name.push(c),
        }
    }
    None
}

/// Paths made one tree, with what becomes of the values they lead to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Places {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Node {
    edges: Vec<(Step, usize)>,
    /// Stays in force at every level below.
    deep: bool,
    mask: Option<Mask>,
    leaf: Option<Leaf>,
}

/// A mask in its JSON form.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leaf {
    Constant(Arc<[u8]>),
    Partial(Partial),
    Hash(HashKey),
}

impl Leaf {
    fn new(mask: &Mask, key: Option<&HashKey>) -> Leaf {
        match mask {
            Mask::Null => Leaf::Constant(b"null".as_slice().into()),
            Mask::Fixed(fixed) => {
                let mut text = Vec::new();
                push_string(fixed.text().chars(), &mut text);
                Leaf::Constant(text.into())
            }
            Mask::Partial(partial) => Leaf::Partial(*partial),
            Mask::Hash => match key {
                Some(key) => Leaf::Hash(key.clone()),
                None => Leaf::new(&Mask::Redact, None),
            },
            Mask::Redact => Leaf::Constant(b"\"***\"".as_slice().into()),
        }
    }

    /// `value` is the raw text of one JSON value.
    fn write(&self, value: &str, out: &mut Vec<u8>) {
        let container = value.starts_with(['{', '[']);
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        let chars = Unescaped(inner.chars());
        match self {
            Leaf::Constant(bytes) => out.extend_from_slice(bytes),
            Leaf::Partial(_) | Leaf::Hash(_) if container => {
                out.push(b'"');
                out.extend_from_slice(REDACTED);
                out.push(b'"');
            }
            Leaf::Partial(partial) => {
                let (first, last) = (usize::from(partial.keep_first), usize::from(partial.keep_last));
                let count = chars.clone().count();
                if (first + last) * 2 > count {
                    push_string("***".chars(), out);
                } else {
                    let shown =
                        chars.enumerate().map(|(i, c)| if i < first || i >= count - last { c } else { '*' });
                    push_string(shown, out);
                }
            }
            Leaf::Hash(key) => {
                let mut context = hmac::Context::with_key(&key.0);
                for c in chars {
                    context.update(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                out.push(b'"');
                push_hex(context.sign().as_ref(), out);
                out.push(b'"');
            }
        }
    }
}

impl Places {
    /// `None`: more steps than are walked.
    pub(super) fn new(paths: &[(Path, Mask)], key: Option<&HashKey>) -> Option<Places> {
        let mut places = Places { nodes: vec![Node::default()] };
        for (path, mask) in paths {
            let mut at = 0;
            for step in &path.0 {
                let next = places.nodes.len();
                let node = places.nodes.get_mut(at)?;
                at = match node.edges.iter().find(|(s, _)| s == step) {
                    Some((_, known)) => *known,
                    None => {
                        node.edges.push((step.clone(), next));
                        places.nodes.push(Node { deep: *step == Step::Deep, ..Node::default() });
                        next
                    }
                };
            }
            let node = places.nodes.get_mut(at)?;
            if node.mask.as_ref().is_none_or(|old| stricter(mask, old)) {
                node.mask = Some(mask.clone());
                node.leaf = Some(Leaf::new(mask, key));
            }
        }
        (places.nodes.len() <= STEPS_MAX).then_some(places)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn nodes(&self, set: Set) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(move |(i, _)| set.has(*i))
    }

    /// A node, and what is in force wherever it is.
    fn enter(&self, set: &mut Set, node: usize) {
        set.add(node);
        for (step, next) in self.nodes.get(node).map(|n| n.edges.as_slice()).unwrap_or_default() {
            if *step == Step::Deep {
                set.add(*next);
            }
        }
    }

    fn root(&self) -> Set {
        let mut set = Set::default();
        if !self.nodes.is_empty() {
            self.enter(&mut set, 0);
        }
        set
    }

    /// What is in force in a value that is no array: `[*]` and `[0]` of it mean itself.
    fn unwrapped(&self, mut set: Set) -> Set {
        let mut before = Set::default();
        while before != set {
            before = set;
            // Behind `..` any value could be meant: there only elements are.
            for (_, node) in self.nodes(before).filter(|(_, n)| !n.deep) {
                for (step, next) in &node.edges {
                    if matches!(step, Step::Elements | Step::Index(0)) {
                        self.enter(&mut set, *next);
                    }
                }
            }
        }
        set
    }

    fn element(&self, set: Set, index: usize) -> Set {
        let mut inner = Set::default();
        for (i, node) in self.nodes(set) {
            for (step, next) in &node.edges {
                match step {
                    Step::Each | Step::Elements => self.enter(&mut inner, *next),
                    Step::Index(n) if *n == index => self.enter(&mut inner, *next),
                    // `$.cards.number` means that of every card.
                    Step::Member(_) => inner.add(i),
                    Step::Index(_) | Step::Deep => {}
                }
            }
            if node.deep {
                inner.add(i);
            }
        }
        inner
    }

    fn member(&self, set: Set, name: &str) -> Set {
        let mut inner = Set::default();
        for (i, node) in self.nodes(set) {
            for (step, next) in &node.edges {
                let meant = match step {
                    Step::Each | Step::Elements => true,
                    Step::Member(wanted) => same(name, wanted),
                    Step::Index(_) | Step::Deep => false,
                };
                if meant {
                    self.enter(&mut inner, *next);
                }
            }
            if node.deep {
                inner.add(i);
            }
        }
        inner
    }

    /// The mask of a value that any of these nodes leads to.
    fn leaf(&self, set: Set) -> Option<&Leaf> {
        let mut strictest: Option<&Node> = None;
        for (_, node) in self.nodes(set).filter(|(_, n)| n.mask.is_some()) {
            match (&node.mask, strictest.and_then(|s| s.mask.as_ref())) {
                (Some(mask), Some(old)) if !stricter(mask, old) => {}
                _ => strictest = Some(node),
            }
        }
        strictest?.leaf.as_ref()
    }
}

/// Nodes by number.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Set([u64; STEPS_MAX / 64]);

impl Set {
    fn add(&mut self, node: usize) {
        if let Some(word) = self.0.get_mut(node / 64) {
            *word |= 1 << (node % 64);
        }
    }
    fn has(self, node: usize) -> bool {
        self.0.get(node / 64).is_some_and(|word| word >> (node % 64) & 1 == 1)
    }
    fn is_empty(self) -> bool {
        self.0 == [0; STEPS_MAX / 64]
    }
}

/// A member's name as written is this name.
fn same(raw: &str, wanted: &str) -> bool {
    match raw.contains('\\') {
        true => Unescaped(raw.chars()).eq(wanted.chars()),
        false => raw == wanted,
    }
}

/// The characters of a JSON string that was found well-formed. Half a surrogate pair is U+FFFD.
#[derive(Clone)]
struct Unescaped<'t>(std::str::Chars<'t>);

impl Unescaped<'_> {
    fn hex(&mut self) -> u32 {
        (0..4).fold(0, |n, _| n << 4 | self.0.next().and_then(|c| c.to_digit(16)).unwrap_or(0))
    }
}

impl Iterator for Unescaped<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = self.0.next()?;
        if c != '\\' {
            return Some(c);
        }
        Some(match self.0.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let high = self.hex();
                let mut ahead = Unescaped(self.0.clone());
                let pair = (0xd800..0xdc00).contains(&high)
                    && ahead.0.next() == Some('\\')
                    && ahead.0.next() == Some('u');
                let low = if pair { ahead.hex() } else { 0 };
                if (0xdc00..0xe000).contains(&low) {
                    *self = ahead;
                    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}')
                } else {
                    char::from_u32(high).unwrap_or('\u{fffd}')
                }
            }
            other => other,
        })
    }
}

/// A JSON string of these characters.
fn push_string(chars: impl Iterator<Item = char>, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in chars {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            c if c < ' ' => {
                let nibble = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', nibble(c as u8 >> 4), nibble(c as u8 & 15)]);
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// Appends `text`, masked, to `out`; `Some(false)`: nothing was to be replaced, and nothing appended. `None`: no JSON we read; what
/// was appended by then is for the caller to take back.
pub(super) fn mask(text: &[u8], places: &Places, detect: Detectors, out: &mut Vec<u8>) -> Option<bool> {
    // A finding inside a string without escapes is one in the text around it, so most texts need no look at their strings.
    let detect = match memchr::memchr(b'\\', text).is_none() && !detect.finds(text) {
        true => Detectors::default(),
        false => detect,
    };
    if places.nodes.is_empty() && detect.is_empty() {
        return Some(false);
    }
    let text = std::str::from_utf8(text).ok()?;
    let mut walk = Walk { text, bytes: text.as_bytes(), at: 0, kept: 0, changed: false, places, detect, out };
    walk.space();
    walk.value(places.root(), false, 0)?;
    walk.space();
    if walk.at < text.len() {
        return None;
    }
    if walk.changed {
        walk.out.extend_from_slice(walk.bytes.get(walk.kept..)?);
    }
    Some(walk.changed)
}

/// Invariant: kept ≤ at ≤ length; everything before `kept` is in `out`.
struct Walk<'t, 'o> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    kept: usize,
    changed: bool,
    places: &'t Places,
    detect: Detectors,
    out: &'o mut Vec<u8>,
}

impl<'t> Walk<'t, '_> {
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek() == wanted).then(|| self.at += 1)
    }

    /// Goes over one value. `secret`: it is what a member with a secret's name holds.
    fn value(&mut self, set: Set, secret: bool, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let start = self.at;
        let first = self.peek();
        let set = if set.is_empty() || first == b'[' { set } else { self.places.unwrapped(set) };
        if let Some(leaf) = self.places.leaf(set) {
            // What is replaced is passed over without masks of its own.
            let detect = std::mem::take(&mut self.detect);
            self.plain(Set::default(), false, depth)?;
            self.detect = detect;
            let value = self.text.get(start..self.at)?;
            if value != "null" {
                self.replace(start);
                leaf.write(value, self.out);
            }
            return Some(());
        }
        self.plain(set, secret, depth)
    }

    /// Goes over one value that is not replaced as a whole.
    fn plain(&mut self, set: Set, secret: bool, depth: usize) -> Option<()> {
        match self.peek() {
            b'{' => {
                self.at += 1;
                self.space();
                if self.take(b'}').is_some() {
                    return Some(());
                }
                loop {
                    let name = self.string(false)?;
                    self.space();
                    self.take(b':')?;
                    self.space();
                    let inner = if set.is_empty() { set } else { self.places.member(set, name) };
                    let secret = self.detect.has(Detector::Key) && detect::is_secret_name(name.as_bytes());
                    self.value(inner, secret, depth + 1)?;
                    self.space();
                    if self.take(b',').is_none() {
                        return self.take(b'}');
                    }
                    self.space();
                }
            }
            b'[' => {
                self.at += 1;
                self.space();
                if self.take(b']').is_some() {
                    return Some(());
                }
                for index in 0.. {
                    let inner = if set.is_empty() { set } else { self.places.element(set, index) };
                    self.value(inner, secret, depth + 1)?;
                    self.space();
                    if self.take(b',').is_none() {
                        return self.take(b']');
                    }
                    self.space();
                }
                None
            }
            b'"' => self.string(secret).map(|_| ()),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    /// Goes over a string and looks for findings in it; returns what is between its quotes, as written.
    fn string(&mut self, secret: bool) -> Option<&'t str> {
        let start = self.at;
        self.take(b'"')?;
        let mut escaped = false;
        loop {
            self.at += memchr::memchr2(b'"', b'\\', self.bytes.get(self.at..)?)?;
            if self.take(b'"').is_some() {
                break;
            }
            escaped = true;
            let digits = self.bytes.get(self.at + 2..).unwrap_or_default();
            match self.bytes.get(self.at + 1)? {
                b'u' if digits.iter().take(4).filter(|b| b.is_ascii_hexdigit()).count() == 4 => self.at += 6,
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
                _ => return None,
            }
        }
        let (first, last) = (start + 1, self.at - 1);
        let inner = self.text.get(first..last)?;
        if self.detect.is_empty() {
            return Some(inner);
        }
        if secret && detect::looks_secret(inner.as_bytes()) {
            self.replace(start);
            push_string("***".chars(), self.out);
        } else if escaped {
            // Rare: the only allocation of a walk.
            let (mut plain, mut masked) = (String::new(), Vec::new());
            plain.extend(Unescaped(inner.chars()));
            if self.detect.mask(plain.as_bytes(), &mut masked) {
                self.replace(start);
                // Findings end where characters do: their bytes outside ASCII are taken whole.
                push_string(String::from_utf8_lossy(&masked).chars(), self.out);
            }
        } else {
            self.search(first, last);
        }
        Some(inner)
    }

    /// Masks what is found between `first` and `last`, which is plain text.
    fn search(&mut self, first: usize, last: usize) {
        let text = self.bytes.get(..last).unwrap_or_default();
        if self.detect.finds_from(text, first) {
            self.replace(first);
            self.kept = last;
            self.detect.mask_from(text, first, self.out);
        }
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        self.at += usize::from(self.peek() == b'-');
        match self.peek() {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), b'+' | b'-'));
            self.digits()?;
        }
        if !self.detect.is_empty() && self.detect.finds_from(self.bytes.get(..self.at)?, start) {
            self.replace(start);
            push_string("***".chars(), self.out);
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// What was kept so far is copied up to `start`; the caller writes what stands for the text from there to `at`.
    fn replace(&mut self, start: usize) {
        self.out.extend_from_slice(self.bytes.get(self.kept..start).unwrap_or_default());
        self.kept = self.at;
        self.changed = true;
    }
}

/// The body of a fuzz target: any bytes, masked at some places and by every detector. Panics when JSON that others read is not read,
/// comes out as none, or still has what a place leads to.
pub fn fuzz_json(data: &[u8]) {
    let paths = [
        ("$.a", Mask::Redact),
        ("$..b", Mask::Null),
        ("$.c[*].d", Mask::Partial(Partial { keep_first: 1, keep_last: 0 })),
    ];
    let paths: Vec<_> = paths.iter().flat_map(|(p, m)| Path::parse(p).map(|p| (p, m.clone()))).collect();
    assert_eq!(paths.len(), 3, "they are paths");
    let Some(places) = Places::new(&paths, None) else { return };
    let parsed = serde_json::from_slice::<serde_json::Value>(data);
    for detect in [Detectors::default(), Detector::ALL.into_iter().collect()] {
        let mut out = Vec::new();
        let masked = match mask(data, &places, detect, &mut out) {
            Some(false) => data,
            Some(true) => &out,
            None => {
                assert!(parsed.is_err(), "not read: {:?}", String::from_utf8_lossy(data));
                continue;
            }
        };
        if parsed.is_err() {
            continue;
        }
        let after: serde_json::Value = serde_json::from_slice(masked).expect("what was JSON still is");
        let first = after.get("a").is_none_or(|a| a.is_null() || a == "***");
        assert!(first, "$.a of {:?}", String::from_utf8_lossy(masked));
        let mut below = vec![&after];
        while let Some(value) = below.pop() {
            match value {
                serde_json::Value::Array(list) => below.extend(list),
                serde_json::Value::Object(members) => {
                    let hidden = |b: &serde_json::Value| b.is_null() || b == "***";
                    assert!(
                        members.get("b").is_none_or(hidden),
                        "$..b of {:?}",
                        String::from_utf8_lossy(masked)
                    );
                    below.extend(members.values());
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Fixed;

    fn masked(paths: &[(&str, Mask)], detect: &[Detector], text: &str) -> Option<String> {
        let paths: Vec<_> = paths.iter().map(|(p, m)| (Path::parse(p).expect("a path"), m.clone())).collect();
        let key = HashKey::new(b"k");
        let places =
            if paths.is_empty() { Places::default() } else { Places::new(&paths, Some(&key)).expect("few") };
        let mut out = b"before".to_vec();
        let changed = mask(text.as_bytes(), &places, detect.iter().copied().collect(), &mut out)?;
        if !changed {
            assert_eq!(out, b"before");
            return Some(text.to_owned());
        }
        let out = String::from_utf8(out.split_off(6)).expect("UTF-8");
        serde_json::from_str::<serde::de::IgnoredAny>(&out).expect("still JSON");
        Some(out)
    }

    fn redacted(path: &str, text: &str) -> Option<String> {
        masked(&[(path, Mask::Redact)], &[], text)
    }

    #[test]
    fn paths_lead_where_they_say_and_the_rest_stays_as_written() {
        for (path, before, after) in [
            ("$.a", r#" { "a" : 1 , "b":[ 2 ] } "#, r#" { "a" : "***" , "b":[ 2 ] } "#),
            ("$.a.b", r#"{"b":1,"a":{"b":{"c":[1,{"b":2}]},"c":3}}"#, r#"{"b":1,"a":{"b":"***","c":3}}"#),
            (
                "$.c[*].n",
                r#"{"c":[{"n":"x"},{"m":"y"},{"n":"z"}]}"#,
                r#"{"c":[{"n":"***"},{"m":"y"},{"n":"***"}]}"#,
            ),
            ("$.c[1]", r#"{"c":["x","y","z"]}"#, r#"{"c":["x","***","z"]}"#),
            (
                "$..n",
                r#"{"n":1,"a":[{"n":2,"b":{"n":[3]}}]}"#,
                r#"{"n":"***","a":[{"n":"***","b":{"n":"***"}}]}"#,
            ),
            ("$..[0]", r#"[[1,2],{"a":[3]}]"#, r#"["***",{"a":["***"]}]"#),
            ("$.*", r#"{"a":1,"b":{"c":2}}"#, r#"{"a":"***","b":"***"}"#),
            ("$['a b'].\"c.d\"", r#"{"a b":{"c.d":1}}"#, r#"{"a b":{"c.d":"***"}}"#),
            (
                "$.email",
                r#"{"\u0065mail":"a","email":"b","Email":"c"}"#,
                r#"{"\u0065mail":"***","email":"***","Email":"c"}"#,
            ),
            (
                "$.é😀",
                r#"{"\u00e9\ud83d\ude00":1,"é😀":2,"\ud83d":3}"#,
                r#"{"\u00e9\ud83d\ude00":"***","é😀":"***","\ud83d":3}"#,
            ),
            ("$.a", r#"{"a":null}"#, r#"{"a":null}"#),
            ("$.a", r#"{"b":"{\"a\":1}"}"#, r#"{"b":"{\"a\":1}"}"#),
            // Lax: a member of an array is that of its elements, an element of what is no array is itself.
            ("$.c.n", r#"{"c":[{"n":1},[{"n":2}]]}"#, r#"{"c":[{"n":"***"},[{"n":"***"}]]}"#),
            ("$.c[*].n", r#"{"c":{"n":1}}"#, r#"{"c":{"n":"***"}}"#),
            ("$.c[0]", r#"{"c":7}"#, r#"{"c":"***"}"#),
            ("$.a", "[]", "[]"),
            ("$.a", "-1.5e+7", "-1.5e+7"),
        ] {
            assert_eq!(redacted(path, before).as_deref(), Some(after), "{path}");
        }
    }

    #[test]
    fn each_mask_has_a_json_form() {
        let text = r#"{"a":"ana\t\"1234","b":12345678,"c":{"d":1},"e":true}"#;
        let one = |path, mask| masked(&[(path, mask)], &[], text).expect("JSON");
        let partial = Mask::Partial(Partial { keep_first: 4, keep_last: 1 });
        assert_eq!(one("$.a", Mask::Null), text.replace(r#""ana\t\"1234""#, "null"));
        assert_eq!(one("$.a", partial.clone()), text.replace(r#"ana\t\"1234"#, r"***"));
        let partial = Mask::Partial(Partial { keep_first: 0, keep_last: 4 });
        assert_eq!(one("$.a", partial.clone()), text.replace(r#"ana\t\"1234"#, r"*****1234"));
        assert_eq!(one("$.b", partial.clone()), text.replace("12345678", r#""****5678""#));
        assert_eq!(one("$.c", partial), text.replace(r#"{"d":1}"#, r#""***""#));
        let fixed = Mask::Fixed(Fixed::Text("a\"\n".into()));
        assert_eq!(one("$.e", fixed), text.replace("true", r#""a\"\u000a""#));
        // Equal values have equal hashes, however they are written.
        let hashes = masked(&[("$[*]", Mask::Hash)], &[], r#"["x","\u0078","y"]"#).expect("JSON");
        let hashes: Vec<String> = serde_json::from_str(&hashes).expect("strings");
        assert_eq!(hashes.first().map(String::len), Some(32));
        assert_eq!(hashes.first(), hashes.get(1));
        assert_ne!(hashes.first(), hashes.get(2));
        // The strictest of several.
        let several = [("$.a", Mask::Hash), ("$.*", Mask::Null), ("$..a", Mask::Redact)];
        assert_eq!(masked(&several, &[], r#"{"a":1}"#).as_deref(), Some(r#"{"a":null}"#));
    }

    #[test]
    fn what_is_no_json_is_for_the_caller() {
        let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        for text in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "{a:1}",
            "1 2",
            "{\"a\":1}}",
            "]",
            "\u{feff}1",
            &deep(300),
        ] {
            assert_eq!(redacted("$.a", text), None, "{text}");
            assert!(text.len() > 100 || serde_json::from_str::<serde_json::Value>(text).is_err(), "{text}");
        }
        assert_eq!(redacted("$.a", &deep(200)), Some(deep(200)));
        assert_eq!(mask(b"\"\xff\"", &Places::default(), Detectors::default(), &mut Vec::new()), Some(false));
        let places = Places::new(&[(Path::parse("$.a").expect("a path"), Mask::Redact)], None).expect("few");
        assert_eq!(mask(b"\"\xff\"", &places, Detectors::default(), &mut Vec::new()), None);
    }

    #[test]
    fn findings_in_strings_keys_and_numbers() {
        for (before, after) in [
            (r#"{"note":"mail ana@x.io now","n":3}"#, r#"{"note":"mail *** now","n":3}"#),
            (r#"["\nana@x.io\n"]"#, r#"["\u000a***\u000a"]"#),
            (r#"["ana\u0040x.io"]"#, r#"["***"]"#),
            (r#"{"ana@x.io":{"pan":4111111111111111}}"#, r#"{"***":{"pan":"***"}}"#),
            (r#"{"db_password":"hunter2","password":null}"#, r#"{"db_password":"***","password":null}"#),
            (r#"{"tokens":1,"token":[ "hunter2","hunter3"]}"#, r#"{"tokens":1,"token":[ "***","***"]}"#),
            (r#"{"password":"a\tb\tc1"}"#, r#"{"password":"***"}"#),
            (r#"{"ssn":"123456789","id":"123456789"}"#, r#"{"ssn":"***","id":"123456789"}"#),
            (r#"["123456782"]"#, r#"["***"]"#),
            (r#"{"a":"b\n"}"#, r#"{"a":"b\n"}"#),
        ] {
            assert_eq!(masked(&[], &Detector::ALL, before).as_deref(), Some(after));
        }
        assert_eq!(masked(&[], &Detector::ALL, "{ana@x.io}"), None);
        let both = masked(&[("$.a", Mask::Null)], &[Detector::Email], r#"{"a":"x@y.io","b":"x@y.io"}"#);
        assert_eq!(both.as_deref(), Some(r#"{"a":null,"b":"***"}"#));
    }

    #[test]
    fn paths_that_are_none() {
        for text in [
            "",
            "a",
            "$",
            "$.",
            "$..",
            "$a",
            "$.a.",
            "$[",
            "$[x]",
            "$['a]",
            "$['a'",
            "$.a[-1]",
            "$.a[?(@.b)]",
            "$...a",
        ] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn any_text_made_of_the_parts_of_json() {
        const PARTS: &[&str] = &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\u0062",
            "\"a\":",
            "\"b\":",
            "\"c\":",
            "\"\\u0062\":",
            "\"d\":",
            "1",
            "-1.5e3",
            "null",
            "true",
            "\"x\"",
            "\"ana@x.io\"",
            "\"\\nana@x.io\"",
            " ",
            "\"\\ud83d\\ude00\"",
            "[{\"d\":\"xyz\"}]",
            "4111111111111111",
        ];
        let mut state = 11u64;
        let mut dice = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        // Mostly JSON, so that there is something to mask.
        fn value(dice: &mut dyn FnMut(usize) -> usize, depth: usize, out: &mut String) {
            match dice(if depth > 4 { 2 } else { 4 }) {
                0 | 1 => out.push_str(PARTS[14 + dice(11)].trim()),
                2 => {
                    out.push('[');
                    for i in 0..dice(4) {
                        out.push_str(if i > 0 { "," } else { "" });
                        value(dice, depth + 1, out);
                    }
                    out.push(']');
                }
                _ => {
                    out.push('{');
                    for i in 0..dice(4) {
                        out.push_str(if i > 0 { " ," } else { "" });
                        out.push_str(PARTS[9 + dice(5)]);
                        value(dice, depth + 1, out);
                    }
                    out.push('}');
                }
            }
        }
        for round in 0..20_000 {
            let mut text = String::new();
            value(&mut dice, 0, &mut text);
            if round % 2 == 1 {
                let at = dice(text.len() + 1);
                text.insert_str(at, PARTS[dice(PARTS.len())]);
            }
            fuzz_json(text.as_bytes());
        }
    }
}
