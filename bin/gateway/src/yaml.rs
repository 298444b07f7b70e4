//! A YAML file as a tree that remembers where everything was written.
//!
//! The parser is serde-saphyr's; this file keeps line and column of every value and key, puts `${ENV}` into scalars, drops keys
//! that start with `x-`, and hands typed values out through serde. It does not know what a configuration is.
//!
//! Why a tree instead of deserializing straight away: serde stops at the first mistake. [`read`] reports a mistake, cuts the
//! place out of the tree and tries again, so one run names every mistake of a file.
//!
//! Invariant: the value of an environment variable never gets into a message.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde_saphyr::Spanned;

/// Where something was written. Lines and columns count from 1; 0 is "nowhere".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    pub file: usize,
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub spot: Spot,
    pub value: Value,
    /// Part of it came from the environment: numbers may be read from its text, and it is never shown.
    pub substituted: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub text: String,
    pub spot: Spot,
}

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// Something wrong at a place of a file. Made readable by [`crate::mistake`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub spot: Spot,
    pub message: String,
    pub help: Option<String>,
}

/// Parses `text`. `lookup` gives the value of an environment variable.
pub(crate) fn parse(
    file: usize,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    wrong: &mut Vec<Wrong>,
) -> Option<Node> {
    // YAML 1.2: `no` and `on` are words.
    let options = serde_saphyr::options! { strict_booleans: true };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Some(plant(file, raw, lookup, wrong)),
        Err(error) => {
            let spot = error
                .location()
                .map(|l| Spot {
                    file,
                    line: usize::try_from(l.line()).unwrap_or(0),
                    column: usize::try_from(l.column()).unwrap_or(0),
                })
                .unwrap_or(Spot { file, line: 1, column: 1 });
            let mut message = error.without_snippet().to_string();
            // Its own text repeats the place we print in front.
            if let Some((head, tail)) = message.split_once(": ")
                && (head.starts_with("error: line") || head.starts_with("line"))
            {
                message = tail.to_owned();
            }
            let mut message = message.lines().next().unwrap_or_default();
            if let Some((head, _)) = message.rsplit_once(" at line ") {
                message = head;
            }
            // `{` cannot stand in an unquoted value inside `{…}` and `[…]`: the slip that `${NAME}` invites.
            let slip = text.lines().nth(spot.line.saturating_sub(1)).is_some_and(|line| line.contains("${"));
            let help = slip.then(|| "inside {…} and […], put \"${NAME}\" in quotes".to_owned());
            wrong.push(Wrong { spot, message: format!("not valid YAML: {message}"), help });
            None
        }
    }
}

/// Reads a `T` from the tree, reporting every mistake. `None` when so much is wrong that nothing is left.
pub(crate) fn read<T: DeserializeOwned>(tree: &mut Node, wrong: &mut Vec<Wrong>) -> Option<T> {
    let mut cut: HashSet<(Spot, String)> = HashSet::new();
    // Every round removes at least one node, so this ends; the bound keeps a broken file from printing a book.
    for _ in 0..MISTAKES_MAX {
        let fault = match T::deserialize(&*tree) {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        let mut path = fault.path;
        path.reverse();
        let node = tree.find(&path);
        let spot = fault.spot.or(node.map(|n| n.spot)).unwrap_or(tree.spot);
        let (message, help, report) = match fault.what {
            What::Missing(field) => {
                let known = node.is_some_and(|n| cut.contains(&(n.spot, field.to_owned())));
                (format!("`{field}` is missing"), None, !known)
            }
            What::UnknownKey(key, known) => {
                let help = nearest(&key, known).map(|n| format!("did you mean `{n}`?"));
                let list = known.join(", ");
                (format!("unknown key `{key}`, expected one of: {list}"), help, true)
            }
            What::UnknownWord(word, known) => {
                let help = nearest(&word, known).map(|n| format!("did you mean `{n}`?"));
                let list = known.join(", ");
                let shown = if node.is_some_and(|n| n.substituted) {
                    "the value from the environment".to_owned()
                } else {
                    format!("`{word}`")
                };
                (format!("{shown} is not one of: {list}"), help, true)
            }
            What::Type(found, expected) => {
                let help = (expected.contains("string") && (found == "a number" || found == "true or false"))
                    .then(|| "put it in quotes".to_owned());
                (format!("expected {expected}, found {found}"), help, true)
            }
            What::Other(text) => {
                if node.is_some_and(|n| n.substituted) {
                    ("the value from the environment cannot be used here".to_owned(), None, true)
                } else {
                    (text, None, true)
                }
            }
        };
        // A place that is wrong already (an unset variable) says nothing new.
        if report && !wrong.iter().any(|w| w.spot == spot) {
            wrong.push(Wrong { spot, message, help });
        }
        let (last, parent) = path.split_last()?;
        if let (Step::Key(key), Some(parent)) = (last, tree.find(parent)) {
            cut.insert((parent.spot, key.clone()));
        }
        if !tree.cut(&path) {
            return None;
        }
    }
    None
}

/// The closest of `known`, when it is close enough to be a slip of the finger.
pub(crate) fn nearest<'a, S: AsRef<str>>(word: &str, known: &'a [S]) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|k| (distance(word, k.as_ref()), k.as_ref()))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

impl Node {
    pub(crate) fn find(&self, path: &[Step]) -> Option<&Node> {
        let mut node = self;
        for step in path {
            node = match (step, &node.value) {
                (Step::Key(key), Value::Map(map)) => &map.iter().find(|(k, _)| k.text == *key)?.1,
                (Step::Index(at), Value::List(list)) => list.get(*at)?,
                _ => return None,
            };
        }
        Some(node)
    }

    /// The place of `path`, or of the deepest part of it that exists.
    pub(crate) fn spot(&self, path: &[Step]) -> Spot {
        (0..=path.len())
            .rev()
            .find_map(|n| self.find(path.get(..n).unwrap_or_default()))
            .map_or(self.spot, |n| n.spot)
    }

    fn find_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        let mut node = self;
        for step in path {
            node = match (step, &mut node.value) {
                (Step::Key(key), Value::Map(map)) => &mut map.iter_mut().find(|(k, _)| k.text == *key)?.1,
                (Step::Index(at), Value::List(list)) => list.get_mut(*at)?,
                _ => return None,
            };
        }
        Some(node)
    }

    fn cut(&mut self, path: &[Step]) -> bool {
        let Some((last, parent)) = path.split_last() else { return false };
        let Some(parent) = self.find_mut(parent) else { return false };
        match (last, &mut parent.value) {
            (Step::Key(key), Value::Map(map)) => {
                let before = map.len();
                map.retain(|(k, _)| k.text != *key);
                map.len() < before
            }
            (Step::Index(at), Value::List(list)) if *at < list.len() => {
                list.remove(*at);
                true
            }
            _ => false,
        }
    }

    fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// `connections[2].allow[0]` as steps.
pub(crate) fn path(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in text.split('.') {
        let (key, mut rest) = part.split_once('[').map_or((part, ""), |(k, r)| (k, r));
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        while let Some((number, more)) = rest.split_once(']') {
            if let Ok(at) = number.parse() {
                steps.push(Step::Index(at));
            }
            rest = more.strip_prefix('[').unwrap_or_default();
        }
    }
    steps
}

// ---- from the parser to the tree ----

/// What the parser saw, before the environment is put in.
enum Raw {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> de::Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_some<D: de::Deserializer<'de>>(self, d: D) -> Result<Raw, D::Error> {
                de::Deserialize::deserialize(d)
            }
            fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
                Ok(Raw::Unsigned(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
                Ok(u64::try_from(v).map_or(Raw::Signed(v), Raw::Unsigned))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
                Ok(Raw::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
                Ok(Raw::Text(v.to_owned()))
            }
            fn visit_string<E>(self, v: String) -> Result<Raw, E> {
                Ok(Raw::Text(v))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Raw::List(list))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

fn plant(
    file: usize,
    raw: Spanned<Raw>,
    lookup: &dyn Fn(&str) -> Option<String>,
    wrong: &mut Vec<Wrong>,
) -> Node {
    let at = |l: serde_saphyr::Location| Spot {
        file,
        line: usize::try_from(l.line()).unwrap_or(0),
        column: usize::try_from(l.column()).unwrap_or(0),
    };
    let spot = at(raw.referenced);
    let mut substituted = false;
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(v) => Value::Bool(v),
        Raw::Unsigned(v) => Value::Unsigned(v),
        Raw::Signed(v) => Value::Signed(v),
        Raw::Float(v) => Value::Float(v),
        Raw::Text(text) => match substitute(&text, lookup) {
            Ok(None) => Value::Text(text),
            Ok(Some(new)) => {
                substituted = true;
                // A value that comes out empty counts as not written.
                if new.is_empty() { Value::Null } else { Value::Text(new) }
            }
            Err(message) => {
                wrong.push(Wrong { spot, message, help: None });
                substituted = true;
                Value::Null
            }
        },
        Raw::List(list) => {
            Value::List(list.into_iter().map(|item| plant(file, item, lookup, wrong)).collect())
        }
        Raw::Map(map) => Value::Map(
            map.into_iter()
                .filter(|(key, _)| !key.value.starts_with("x-"))
                .map(|(key, item)| {
                    let key = Key { spot: at(key.referenced), text: key.value };
                    let mut node = plant(file, item, lookup, wrong);
                    if node.spot.line == 0 {
                        node.spot = key.spot;
                    }
                    (key, node)
                })
                .collect(),
        ),
    };
    Node { spot, value, substituted }
}

/// `${NAME}`, `${NAME:-default}`; `$${` stands for `${`. `None`: nothing to put in.
fn substitute(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (head, tail) = rest.split_at(at);
        let inner = tail.strip_prefix("${").unwrap_or_default();
        if let Some(head) = head.strip_suffix('$') {
            out.push_str(head);
            out.push_str("${");
            rest = inner;
            continue;
        }
        out.push_str(head);
        let (name, more) = inner.split_once('}').ok_or("`${` without `}`")?;
        let (name, default) = name.split_once(":-").map_or((name, None), |(n, d)| (n, Some(d)));
        let first = name.bytes().next();
        if first.is_none_or(|b| b.is_ascii_digit())
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            return Err(format!("`{name}` is not the name of an environment variable"));
        }
        match (lookup(name).filter(|v| !v.is_empty() || default.is_none()), default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set (or write ${{{name}:-default}})"
                ));
            }
        }
        rest = more;
    }
    out.push_str(rest);
    Ok(Some(out))
}

// ---- from the tree to typed values ----

/// A serde error with its place. Without an innermost place it belongs to the node being left.
#[derive(Debug)]
pub(crate) struct Fault {
    what: What,
    /// Innermost step first.
    path: Vec<Step>,
    spot: Option<Spot>,
}

#[derive(Debug)]
enum What {
    Missing(&'static str),
    UnknownKey(String, &'static [&'static str]),
    UnknownWord(String, &'static [&'static str]),
    Type(String, String),
    Other(String),
}

impl Fault {
    fn new(what: What) -> Fault {
        Fault { what, path: Vec::new(), spot: None }
    }

    fn within(mut self, step: Step) -> Fault {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Fault {
        Fault::new(What::Other(text.to_string()))
    }
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Fault {
        // Never the value itself: it may be a secret in the wrong place.
        let found = match found {
            de::Unexpected::Bool(_) => "true or false",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
            de::Unexpected::Str(_) | de::Unexpected::Char(_) => "text",
            de::Unexpected::Unit | de::Unexpected::Option => "nothing",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a mapping",
            _ => "something else",
        };
        Fault::new(What::Type(found.to_owned(), readable(&expected.to_string())))
    }
    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Fault {
        Fault::new(What::Other(format!("expected {}", readable(&expected.to_string()))))
    }
    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(What::UnknownWord(word.to_owned(), known))
    }
    fn unknown_field(key: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(What::UnknownKey(key.to_owned(), known))
    }
    fn missing_field(field: &'static str) -> Fault {
        Fault::new(What::Missing(field))
    }
}

/// serde says `struct Listener`; people write mappings.
fn readable(expected: &str) -> String {
    match expected {
        e if e.starts_with("struct ") || e == "a map" => "a mapping".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u16" | "u32" | "u64" | "usize" | "i64" | "i32" | "u8" => "a whole number".to_owned(),
        e => e.to_owned(),
    }
}

macro_rules! numbers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            // What comes from the environment is text until somebody wants a number.
            if self.substituted && let Value::Text(text) = &self.value {
                if let Ok(v) = text.parse::<u64>() {
                    return visitor.visit_u64(v);
                }
                if let Ok(v) = text.parse::<f64>() {
                    return visitor.visit_f64(v);
                }
            }
            self.deserialize_any(visitor)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(*v),
            Value::Unsigned(v) => visitor.visit_u64(*v),
            Value::Signed(v) => visitor.visit_i64(*v),
            Value::Float(v) => visitor.visit_f64(*v),
            Value::Text(v) => visitor.visit_borrowed_str(v),
            Value::List(list) => visitor.visit_seq(Items { list, at: 0 }),
            Value::Map(map) => visitor.visit_map(Entries { map, at: 0 }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) if self.substituted && text == "true" => visitor.visit_bool(true),
            Value::Text(text) if self.substituted && text == "false" => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    numbers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
    deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Map(map) => match map.as_slice() {
                [(key, value)] => visitor.visit_enum(Variant { key, value }),
                _ => Err(Fault::new(What::Type(
                    "a mapping with several keys".into(),
                    "a word or a mapping with one key".into(),
                ))),
            },
            _ => Err(Fault::new(What::Type(self.kind().into(), "a word or a mapping with one key".into()))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    // An absent list and an empty one are the same to people (`rules:` with nothing under it).
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_seq(Items { list: &[], at: 0 }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_map(Entries { map: &[], at: 0 }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Items<'de> {
    list: &'de [Node],
    at: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Fault;
    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.list.get(self.at) else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        seed.deserialize(node).map(Some).map_err(|fault| fault.within(Step::Index(at)))
    }
}

struct Entries<'de> {
    map: &'de [(Key, Node)],
    at: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Fault;
    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, _)) = self.map.get(self.at) else { return Ok(None) };
        let deserializer: de::value::BorrowedStrDeserializer<'de, Fault> =
            de::value::BorrowedStrDeserializer::new(&key.text);
        seed.deserialize(deserializer).map(Some).map_err(|mut fault| {
            fault.spot = Some(key.spot);
            fault.within(Step::Key(key.text.clone()))
        })
    }
    fn next_value_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let (key, node) = self.map.get(self.at).ok_or_else(|| de::Error::custom("a key without a value"))?;
        self.at += 1;
        seed.deserialize(node).map_err(|fault| fault.within(Step::Key(key.text.clone())))
    }
}

struct Variant<'de> {
    key: &'de Key,
    value: &'de Node,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Inside<'de>;
    fn variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Inside<'de>), Fault> {
        let deserializer: de::value::BorrowedStrDeserializer<'de, Fault> =
            de::value::BorrowedStrDeserializer::new(&self.key.text);
        let variant = seed.deserialize(deserializer).map_err(|mut fault| {
            fault.spot = Some(self.key.spot);
            fault
        })?;
        Ok((variant, Inside { key: self.key, value: self.value }))
    }
}

struct Inside<'de> {
    key: &'de Key,
    value: &'de Node,
}

impl<'de> de::VariantAccess<'de> for Inside<'de> {
    type Error = Fault;
    fn unit_variant(self) -> Result<(), Fault> {
        match self.value.value {
            Value::Null => Ok(()),
            _ => Err(Fault::new(What::Type(self.value.kind().into(), "nothing after it".into()))
                .within(Step::Key(self.key.text.clone()))),
        }
    }
    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.value).map_err(|fault| fault.within(Step::Key(self.key.text.clone())))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_any(self.value, visitor)
            .map_err(|fault| fault.within(Step::Key(self.key.text.clone())))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_map(self.value, visitor)
            .map_err(|fault| fault.within(Step::Key(self.key.text.clone())))
    }
}

/// Levenshtein with neighbour swaps counted as one: what fingers do.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let cost = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (cost(&last, j) + usize::from(x != y)).min(cost(&last, j + 1) + 1).min(cost(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(cost(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

/// More mistakes than this in one file are one mistake.
const MISTAKES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Root {
        name: String,
        #[serde(default)]
        items: Vec<Item>,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Item {
        id: u64,
        kind: Kind,
        #[serde(default)]
        note: Option<String>,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        Partial { keep: u32 },
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "ID" => Some("42".into()),
            "EMPTY" => Some(String::new()),
            "SECRET" => Some("hunter2".into()),
            _ => None,
        }
    }

    fn load(text: &str) -> (Option<Root>, Vec<Wrong>) {
        let mut wrong = Vec::new();
        let root = parse(0, text, &env, &mut wrong).and_then(|mut tree| read(&mut tree, &mut wrong));
        (root, wrong)
    }

    fn places(wrong: &[Wrong]) -> Vec<(usize, usize, &str)> {
        wrong.iter().map(|w| (w.spot.line, w.spot.column, w.message.as_str())).collect()
    }

    #[test]
    fn reads_what_is_written() {
        let (root, wrong) = load(
            "x-base: &b {kind: plain}\nname: a\nitems:\n- {id: \"${ID}\", kind: {partial: {keep: 2}}, note: '$${ID} ${EMPTY:-d}'}\n- {<<: *b, id: 2, x-y: 1, note: \"${EMPTY}\"}\n",
        );
        assert_eq!(wrong, vec![]);
        let root = root.unwrap();
        assert_eq!(root.name, "a");
        assert_eq!((root.items[0].id, &root.items[0].kind), (42, &Kind::Partial { keep: 2 }));
        assert_eq!(root.items[0].note.as_deref(), Some("${ID} d"));
        assert_eq!((root.items[1].id, &root.items[1].kind, &root.items[1].note), (2, &Kind::Plain, &None));
    }

    #[test]
    fn every_mistake_in_one_run_with_its_place() {
        let (_, wrong) = load(
            "name: 5\nitmes: []\nitems:\n  - id: x\n    kind: plian\n  - kind: plain\n  - id: 1\n    kind: {partial: {keep: no}}\n    nothing: 1\n  - id: ${NOPE}\n    kind: plain\n",
        );
        let places = places(&wrong);
        for expected in [
            (10, 9, "the environment variable NOPE is not set (or write ${NOPE:-default})"),
            (1, 7, "expected a string, found a number"),
            (2, 1, "unknown key `itmes`, expected one of: name, items"),
            (4, 9, "expected a whole number, found text"),
            (5, 11, "`plian` is not one of: plain, partial"),
            (6, 5, "`id` is missing"),
            (8, 28, "expected a whole number, found text"),
            (9, 5, "unknown key `nothing`, expected one of: id, kind, note"),
        ] {
            assert!(places.contains(&expected), "{expected:?} not in {places:#?}");
        }
        assert!(wrong.iter().any(|w| w.help.as_deref() == Some("did you mean `plain`?")));
        assert!(wrong.iter().any(|w| w.help.as_deref() == Some("did you mean `items`?")));
    }

    #[test]
    fn the_environment_is_never_shown() {
        let (_, wrong) = load("name: a\nitems: [{id: \"${SECRET}\", kind: \"${SECRET}\"}]\n");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(!format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
    }

    #[test]
    fn broken_yaml_has_a_place() {
        let (root, wrong) = load("name: a\nitems: [\n");
        assert!(root.is_none());
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].message.starts_with("not valid YAML: ") && wrong[0].spot.line >= 2, "{wrong:?}");
        let (_, wrong) = load("name: a\nname: b\n");
        assert_eq!(wrong.len(), 1, "duplicate keys are refused");
    }

    #[test]
    fn paths_are_read() {
        assert_eq!(path("a[2].b"), vec![Step::Key("a".into()), Step::Index(2), Step::Key("b".into())]);
        assert_eq!(path("a[1][0]"), vec![Step::Key("a".into()), Step::Index(1), Step::Index(0)]);
    }

    #[test]
    fn slips_are_recognised() {
        assert_eq!(nearest("postgress", &["mysql", "postgres"]), Some("postgres"));
        assert_eq!(nearest("itmes", &["name", "items"]), Some("items"));
        assert_eq!(nearest("zebra", &["name", "items"]), None);
    }
}
