//! Words in a text that a session must be careful about, whatever the statement around them turns out to be.
//!
//! Not an analysis: conservative on purpose, the words anywhere in the text, in any case. What a text does without saying so is
//! [`crate::Decision::strangers`].

/// What a text may touch behind the protocol's back. Computed once per cached decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Prepared statements by name: SQL's PREPARE, DEALLOCATE, DISCARD.
    pub statements: bool,
    /// Cursors by name: DECLARE, CLOSE, DISCARD.
    pub portals: bool,
    /// The client's encoding, or what a backslash means.
    pub quoting: bool,
    /// It goes on with what a cursor reads, or ends a transaction: code that was called before may run only now.
    pub resumes: bool,
    /// Of code of users: settings that may hold any text, and are reported.
    pub settings: bool,
    /// Of code of users: the names in its errors.
    pub names: bool,
}

impl Mentions {
    /// What nobody knows may do all of it.
    pub const ALL: Mentions = Mentions {
        statements: true,
        portals: true,
        quoting: true,
        resumes: true,
        settings: true,
        names: true,
    };

    pub(crate) fn of(text: &[u8]) -> Mentions {
        let says = |words: &[&[u8]]| words.iter().any(|w| contains(text, w));
        Mentions {
            statements: says(&[b"prepare", b"deallocate", b"discard"]),
            portals: says(&[b"declare", b"close", b"discard"]),
            quoting: says(&[b"encoding", b"names", b"conforming", b"set_config", b"reset", b"discard"]),
            resumes: says(&[b"fetch", b"move", b"commit", b"end"]),
            ..Mentions::default()
        }
    }

    /// Of a function's text: the same words, in SQL and PL/pgSQL. C belongs to extensions and is believed.
    pub(crate) fn of_code(language: &str, text: &[u8]) -> Mentions {
        let is = |name: &str| language.eq_ignore_ascii_case(name);
        if is("c") || is("internal") {
            return Mentions::default();
        }
        if !is("sql") && !is("plpgsql") {
            return Mentions::ALL;
        }
        let says = |words: &[&[u8]]| words.iter().any(|w| word(text, w).is_some());
        let phrase = |phrases: &[&[u8]]| phrases.iter().any(|p| contains(text, p));
        // A text it computes may be anything; so may the settings be that it ends with.
        let all = executes_computed(text) || sets_computed(text) || says(&[b"discard"]);
        let set = all || says(&[b"reset"]);
        Mentions {
            statements: all || says(&[b"prepare", b"deallocate"]),
            portals: all || says(&[b"cursor", b"open", b"close"]),
            quoting: set
                || says(&[b"client_encoding", b"standard_conforming_strings"])
                || phrase(&[b"set names"]),
            resumes: false,
            settings: set
                || says(&[b"application_name", b"search_path", b"timezone"])
                || phrase(&[b"set time zone", b"local time zone", b"session time zone"]),
            // RAISE is told by its routine, which errors name.
            names: false,
        }
    }

    #[must_use]
    pub fn or(self, other: Mentions) -> Mentions {
        Mentions {
            statements: self.statements || other.statements,
            portals: self.portals || other.portals,
            quoting: self.quoting || other.quoting,
            resumes: self.resumes || other.resumes,
            settings: self.settings || other.settings,
            names: self.names || other.names,
        }
    }
}

/// PL/pgSQL's EXECUTE of what does not begin with a query or a write that is written out (`EXECUTE format('INSERT …', …)`).
fn executes_computed(text: &[u8]) -> bool {
    const PLAIN: &[&[u8]] =
        &[b"select", b"insert", b"update", b"delete", b"with", b"create", b"drop", b"alter"];
    let mut rest = text;
    while let Some(after) = word(rest, b"execute") {
        rest = after;
        let mut said = blanks(after);
        if [&b"function"[..], b"procedure", b"on "].iter().any(|w| begins(said, w)) {
            continue;
        }
        if begins(said, b"format") {
            said = blanks(said.get(b"format".len()..).unwrap_or_default());
            said = blanks(said.strip_prefix(b"(").unwrap_or(said));
        }
        let quoted = said.strip_prefix(b"E").or_else(|| said.strip_prefix(b"e")).unwrap_or(said);
        let quoted = quoted.strip_prefix(b"'").or_else(|| quoted.strip_prefix(b"$$"));
        if !quoted.is_some_and(|q| PLAIN.iter().any(|w| begins(blanks(q), w))) {
            return true;
        }
    }
    false
}

/// `set_config` of a name that is not written out.
fn sets_computed(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(after) = word(rest, b"set_config") {
        rest = after;
        if !blanks(after).strip_prefix(b"(").is_some_and(|args| blanks(args).starts_with(b"'")) {
            return true;
        }
    }
    false
}

fn blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| !matches!(b, b' ' | b'\t'..=b'\r')).unwrap_or(text.len());
    text.get(end..).unwrap_or_default()
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    behind(text, word).is_some()
}

/// What follows the first `word`, which is lower-case, in any case of ASCII.
fn behind<'t>(text: &'t [u8], word: &[u8]) -> Option<&'t [u8]> {
    let first = word.first()?;
    let mut rest = text;
    loop {
        let at = memchr::memchr2(*first, first.to_ascii_uppercase(), rest)?;
        let here = rest.get(at..)?;
        if begins(here, word) {
            return here.get(word.len()..);
        }
        rest = here.get(1..)?;
    }
}

/// The same of a whole word.
fn word<'t>(text: &'t [u8], word: &[u8]) -> Option<&'t [u8]> {
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | 0x80..);
    let mut rest = text;
    loop {
        let after = behind(rest, word)?;
        let at = text.len() - after.len() - word.len();
        let begins = at.checked_sub(1).and_then(|i| text.get(i)).is_none_or(|b| !of_name(b));
        if begins && !after.first().is_some_and(of_name) {
            return Some(after);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_case() {
        assert!(Mentions::of(b"select 1; PrePare x as select 2").statements);
        assert!(Mentions::of(b"CLOSE c").portals && !Mentions::of(b"CLOSE c").statements);
        assert_eq!(Mentions::of(b"select clos, prepar from t"), Mentions::default());
        assert!(Mentions::of(b"SET NAMES 'SJIS'").quoting);
    }

    #[test]
    fn code_is_held_against_what_it_could_do_to_a_session() {
        let of = |text: &str| Mentions::of_code("plpgsql", text.as_bytes());
        for tame in [
            "begin new.updated_at = now() at time zone 'utc'; return new; end",
            "begin new.prepared_at = new.closed_at; if new.executed then new.state = 'opened'; end if; return new; end",
            "begin insert into audit(t, o) values (TG_TABLE_NAME, to_jsonb(old)); return null; end",
            "begin EXECUTE format('INSERT INTO %I SELECT $1.*', tg_argv[0]) USING new; return new; end",
            "begin perform set_config('app.user', $1, true); raise exception 'no such %', x using errcode = '22000'; end",
        ] {
            assert_eq!(of(tame), Mentions::default(), "{tame}");
        }
        assert!(of("begin execute 'prepare s0 as select ssn from customers'; end").statements);
        assert!(of("begin execute x; end").statements && of("begin execute format(x); end").quoting);
        assert!(of("begin perform set_config('application_name', x, false); end").settings);
        assert!(of("begin perform set_config(n, x, false); end").settings);
        assert!(of("begin set standard_conforming_strings = off; end").quoting);
        assert!(of("begin open c for select 1; end").portals);
        assert_eq!(Mentions::of_code("plpython3u", b"pass"), Mentions::ALL);
        assert_eq!(Mentions::of_code("c", b"prepare"), Mentions::default());
    }
}
