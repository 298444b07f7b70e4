//! What a function of users does, as statements that can be parsed one by one: those of its body, wherever they stand, those it puts
//! together and runs, and calls.
//!
//! Not a parser of PL/pgSQL: words and signs, no types, no variables. What is run by EXECUTE is known as far as it is written in the
//! body; a piece that is computed stands as the name `x`. Invariant: a name before a parenthesis counts as called, whatever it is. Every
//! walk is as long as the body.

use std::collections::BTreeSet;

use pg_raw_parse::{ConstValue, Node, ParseResult, nodes};

use super::plpgsql::{into, is_word, opaque};
use super::trace;
use crate::catalog::Function;

/// Everything a call of the function may do by itself.
pub(crate) fn statements(function: &Function) -> Vec<ParseResult> {
    let mut out = Vec::new();
    // Of a body in SQL nobody here understands as a whole, each statement may be understood by itself.
    let whole = (!function.language.eq_ignore_ascii_case("plpgsql"))
        .then(|| trace::body(function).and_then(|text| super::parse(text.as_bytes()).ok()))
        .flatten();
    if let Some(tree) = whole {
        out.push(tree);
    } else {
        for command in commands(&function.body) {
            let Ok(tree) = super::parse(command.text.as_bytes()) else { continue };
            if command.kind == Kind::Sql {
                out.push(tree);
                continue;
            }
            let expressions = tree.stmts().filter_map(|s| match s {
                Node::SelectStmt(s) => s.target_list().get(0).map(nodes::ResTarget::val),
                _ => None,
            });
            let texts: Vec<String> = expressions.filter_map(written).collect();
            out.extend(texts.iter().filter_map(|text| super::parse(text.as_bytes()).ok()));
            out.push(tree);
        }
        out.extend(called(names_called(&function.body)));
    }
    // Its defaults.
    out.extend(called(names_called(&function.arguments)));
    out
}

/// A statement that calls functions of these names.
pub(crate) fn called(names: impl IntoIterator<Item = String>) -> Option<ParseResult> {
    let calls: Vec<String> =
        names.into_iter().filter(|n| !n.contains('"')).map(|n| format!("\"{n}\"()")).collect();
    if calls.is_empty() {
        return None;
    }
    super::parse(format!("SELECT {}", calls.join(", ")).as_bytes()).ok()
}

/// Names before a parenthesis, in lower case unless they are quoted.
fn names_called(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut name: Option<String> = None;
    for token in Tokens(text) {
        match token {
            Token::Word(word) => name = Some(word.to_ascii_lowercase()),
            Token::Quoted(word) => name = Some(word.to_owned()),
            Token::Sign("(") => out.extend(name.take()),
            Token::Space => {}
            Token::String(_) | Token::Sign(_) => name = None,
        }
    }
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// A name in quotes, without them.
    Quoted(&'a str),
    String(&'a str),
    /// White space and comments.
    Space,
    Sign(&'a str),
}

struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let text = self.0;
        let first = text.chars().next()?;
        let cut = |length: usize| text.split_at_checked(length).unwrap_or((text, ""));
        let (token, rest) = if let Some(length) = opaque(text) {
            let (opaque, rest) = cut(length);
            let comment = matches!(first, '-' | '/');
            (if comment { Token::Space } else { Token::String(opaque) }, rest)
        } else if first == '"' {
            let inside = text.get(1..).unwrap_or_default();
            let end = inside.find('"').unwrap_or(inside.len());
            (Token::Quoted(inside.get(..end).unwrap_or_default()), inside.get(end + 1..).unwrap_or_default())
        } else if is_word(first) {
            // A name may hold a dollar sign, and begins no string by it.
            let (word, rest) = cut(text.find(|c: char| !is_word(c) && c != '$').unwrap_or(text.len()));
            (Token::Word(word), rest)
        } else if first.is_whitespace() {
            (Token::Space, cut(first.len_utf8()).1)
        } else {
            let length = if text.starts_with(":=") { 2 } else { first.len_utf8() };
            let (sign, rest) = cut(length);
            (Token::Sign(sign), rest)
        };
        self.0 = rest;
        Some(token)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sql,
    /// An expression behind SELECT: what EXECUTE runs, or a variable is given, which EXECUTE may run.
    Value,
}

#[derive(Debug, PartialEq, Eq)]
struct Command {
    text: String,
    kind: Kind,
    /// How deep in parentheses it stands.
    depth: usize,
    /// It is what a loop goes over, and ends where that begins.
    looped: bool,
}

/// Statements and expressions of a body in PL/pgSQL, without what their rows are put INTO.
fn commands(body: &str) -> Vec<Command> {
    let mut out = Vec::new();
    let mut open: Option<Command> = None;
    let mut depth = 0usize;
    // The last word or sign; a statement may begin behind some.
    let mut last = ";".to_owned();
    // Since a statement began there was only what may be given a value.
    let mut target = true;
    let mut tokens = Tokens(body);
    loop {
        let at = tokens.0;
        let Some(token) = tokens.next() else { break };
        let text = at.get(..at.len() - tokens.0.len()).unwrap_or_default();
        let here = depth;
        let begin =
            |text: &str, kind| Some(Command { text: text.to_owned(), kind, depth: here, looped: false });
        match token {
            Token::Space => {}
            Token::Word(word) => {
                let word = word.to_ascii_lowercase();
                let begins =
                    matches!(&*last, ";" | "begin" | "then" | "else" | "loop" | "in" | "query" | "for" | ">");
                match &mut open {
                    Some(command) if command.depth == depth => {
                        let ends = match &*word {
                            "loop" => command.looped || command.kind == Kind::Value,
                            "using" => command.kind == Kind::Value,
                            "into" if !matches!(&*last, "insert" | "merge") => {
                                // What follows are variables.
                                tokens.0 = at.get(into(at)..).unwrap_or_default();
                                last = "into".to_owned();
                                continue;
                            }
                            _ => false,
                        };
                        if ends {
                            out.extend(open.take());
                        }
                    }
                    Some(_) => {}
                    None if begins && word == "perform" => {
                        open = begin("SELECT", Kind::Sql);
                        last = word;
                        continue;
                    }
                    None if word == "execute" || word == "default" => {
                        open = begin("SELECT", Kind::Value);
                        last = word;
                        continue;
                    }
                    None if begins && STARTS.contains(&&*word)
                        || last == "(" && matches!(&*word, "select" | "with") =>
                    {
                        open = begin("", Kind::Sql);
                    }
                    None => {}
                }
                if let (Some(command), "in") = (&mut open, &*last) {
                    command.looped |= command.text.is_empty();
                }
                if begins {
                    target = !CONTROL.contains(&&*word);
                }
                last = word;
            }
            Token::Quoted(_) | Token::String(_) => last = String::new(),
            Token::Sign(sign) => {
                let given = sign == ":=" || (sign == "=" && target);
                match sign {
                    "(" => depth += 1,
                    ")" => depth = depth.saturating_sub(1),
                    ";" => target = true,
                    _ => {}
                }
                if open.as_ref().is_some_and(|c| sign == ";" || depth < c.depth) {
                    out.extend(open.take());
                } else if open.is_none() && given {
                    target = false;
                    open = begin("SELECT", Kind::Value);
                    last = sign.to_owned();
                    continue;
                }
                last = sign.to_owned();
            }
        }
        if let Some(command) = &mut open {
            command.text.push_str(if token == Token::Space { " " } else { text });
        }
    }
    out.extend(open);
    out
}

/// What statements of SQL begin with.
const STARTS: &[&str] = &[
    "alter",
    "analyze",
    "call",
    "checkpoint",
    "cluster",
    "comment",
    "copy",
    "create",
    "deallocate",
    "delete",
    "discard",
    "do",
    "drop",
    "explain",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "reset",
    "revoke",
    "security",
    "select",
    "set",
    "table",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
    "values",
    "with",
];

/// What statements of PL/pgSQL begin with in which `=` compares.
const CONTROL: &[&str] = &[
    "assert", "case", "continue", "elsif", "elseif", "exit", "for", "foreach", "if", "raise", "return",
    "while", "when",
];

/// The text an expression makes, where some of it is written out: `'DROP TABLE ' || quote_ident(t)`, `format('DROP TABLE %I', t)`.
fn written(expression: Node<'_>) -> Option<String> {
    let mut strings = false;
    let text = put_together(expression, &mut strings, PIECES_MAX);
    strings.then_some(text)
}

fn put_together(expression: Node<'_>, strings: &mut bool, depth: usize) -> String {
    const COMPUTED: &str = "x";
    let Some(depth) = depth.checked_sub(1) else { return COMPUTED.to_owned() };
    match expression {
        Node::TypeCast(c) => put_together(c.arg(), strings, depth),
        Node::A_Const(c) => match super::literal::value(c) {
            Some(ConstValue::String(s)) => {
                *strings = true;
                s.to_owned()
            }
            Some(ConstValue::Integer(n)) => n.to_string(),
            _ => COMPUTED.to_owned(),
        },
        Node::A_Expr(e) if e.name().first().and_then(Node::as_str) == Some("||") => {
            put_together(e.lexpr(), strings, depth) + &put_together(e.rexpr(), strings, depth)
        }
        Node::FuncCall(f) => {
            let parts = f.funcname();
            let function = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str);
            let mut given = f.args().iter();
            match function {
                Some("concat") => given.map(|a| put_together(a, strings, depth)).collect(),
                Some("concat_ws") => {
                    let between = given.next().map(|a| put_together(a, strings, depth)).unwrap_or_default();
                    given.map(|a| put_together(a, strings, depth)).collect::<Vec<_>>().join(&between)
                }
                Some("format") => {
                    let format = given.next().map(|a| put_together(a, strings, depth)).unwrap_or_default();
                    formatted(&format, given.map(|a| put_together(a, strings, depth)).collect())
                }
                _ => COMPUTED.to_owned(),
            }
        }
        _ => COMPUTED.to_owned(),
    }
}

/// As PostgreSQL's `format`, whose arguments are known as far as they are.
fn formatted(format: &str, given: Vec<String>) -> String {
    let mut out = String::new();
    let mut given = given.into_iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        // A place, flags and a width may stand before the letter.
        let letter = after.find(|c: char| !(c.is_ascii_digit() || matches!(c, '$' | '-' | '*')));
        let (_, after) = after.split_at_checked(letter.unwrap_or(after.len())).unwrap_or(("", ""));
        match after.chars().next() {
            Some('%') => out.push('%'),
            Some('L') => {
                given.next();
                out.push_str("'x'");
            }
            Some(_) => out.push_str(given.next().as_deref().unwrap_or("x")),
            None => {}
        }
        rest = after.get(1..).unwrap_or_default();
    }
    out + rest
}

/// Pieces of one text.
const PIECES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Vec<String> {
        let all = commands(body).into_iter();
        all.map(|c| c.text.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn runs(body: &str) -> Vec<String> {
        let function = Function {
            oid: 1,
            schema: "public".into(),
            name: "f".into(),
            language: if body.starts_with("SELEC ") { "sql".into() } else { "plpgsql".into() },
            kind: 'f',
            body: body.into(),
            arguments: String::new(),
            rows: false,
        };
        let classes = statements(&function);
        let mut out: Vec<String> = classes
            .iter()
            .flat_map(|tree| tree.stmts())
            .filter_map(|s| super::super::facts::read(s).ok())
            .flat_map(|f| f.acts.iter().map(|a| a.class.to_owned()).collect::<Vec<_>>())
            .filter(|class| class != "select")
            .collect();
        out.dedup();
        out
    }

    #[test]
    fn statements_are_found_wherever_they_stand() {
        for (body, want) in [
            ("BEGIN DELETE FROM t WHERE id = 1; END", "DELETE FROM t WHERE id = 1"),
            (
                "BEGIN FOR r IN DELETE FROM t RETURNING * LOOP NULL; END LOOP; END",
                "DELETE FROM t RETURNING *",
            ),
            (
                "BEGIN RETURN QUERY WITH d AS (DELETE FROM t RETURNING id) SELECT id FROM d; END",
                "WITH d AS (DELETE FROM t RETURNING id) SELECT id FROM d",
            ),
            ("BEGIN OPEN c FOR DELETE FROM t RETURNING id; END", "DELETE FROM t RETURNING id"),
            ("DECLARE c CURSOR FOR SELECT id FROM t FOR UPDATE; BEGIN END", "SELECT id FROM t FOR UPDATE"),
            ("BEGIN DELETE FROM t RETURNING id INTO STRICT a, b.c; END", "DELETE FROM t RETURNING id"),
            (
                "BEGIN SELECT a INTO b FROM t; INSERT INTO u VALUES (1); END",
                "SELECT a FROM t|INSERT INTO u VALUES (1)",
            ),
            ("BEGIN <<a>> LOOP DELETE FROM t; EXIT a; END LOOP; END", "DELETE FROM t"),
            (
                "BEGIN IF EXISTS (SELECT 1 FROM t) THEN UPDATE t SET a = 1; ELSE DELETE FROM u; END IF; END",
                "SELECT 1 FROM t|UPDATE t SET a = 1|DELETE FROM u",
            ),
            ("BEGIN PERFORM f(1); CALL p(); END", "SELECT f(1)|CALL p()"),
            ("BEGIN v := E'it\\'s'; DELETE FROM t; END", "SELECT E'it\\'s'|DELETE FROM t"),
            ("BEGIN EXCEPTION WHEN others THEN DELETE FROM t; END", "DELETE FROM t"),
            ("BEGIN EXECUTE 'DROP ' || w INTO a USING b; END", "SELECT 'DROP ' || w"),
        ] {
            assert_eq!(of(body).join("|"), want, "{body}");
        }
    }

    #[test]
    fn statements_beside_others_nobody_understands_are_read() {
        assert_eq!(runs("SELEC 1; DELETE FROM t WHERE id = 1; SELECT f()"), ["delete"]);
    }

    #[test]
    fn what_is_run_as_text_is_read() {
        for (body, want) in [
            ("BEGIN EXECUTE 'delete from t where id <= $1' USING n; END", "delete"),
            ("BEGIN EXECUTE format('DROP TABLE %I.%2$I', a, b); END", "drop"),
            ("BEGIN EXECUTE 'TRUNCATE ' || quote_ident(t) || ' CASCADE'; END", "truncate"),
            ("DECLARE q text := 'DELETE FROM t'; BEGIN EXECUTE q; END", "delete"),
            ("BEGIN q = 'DELETE FROM ' || t; q := q || ' WHERE a'; EXECUTE q; END", "delete"),
            ("BEGIN FOR r IN EXECUTE 'DELETE FROM t RETURNING 1' LOOP NULL; END LOOP; END", "delete"),
            ("BEGIN RETURN QUERY EXECUTE 'UPDATE t SET a = 1 RETURNING a'; END", "update"),
            ("BEGIN RAISE NOTICE 'DROP TABLE t'; RETURN NEW; END", ""),
            ("BEGIN NEW.updated_at = now(); RETURN NEW; END", ""),
        ] {
            assert_eq!(runs(body).join(","), want, "{body}");
        }
    }

    #[test]
    fn names_before_parentheses_are_called() {
        let text = "IF app.f (1) > 0 THEN x := \"G\"(2); END IF; -- h()\n RETURN 'i()' || j( )";
        let want = ["G", "f", "j"].map(str::to_owned);
        assert_eq!(names_called(text).into_iter().collect::<Vec<_>>(), want);
    }
}
