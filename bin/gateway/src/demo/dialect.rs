//! From the SQL people write for PostgreSQL to the SQL that SQLite runs.
//!
//! It works on tokens, not on a grammar: what it does not recognise goes to SQLite as it is, and SQLite's own
//! parser has the last word on syntax. It is no judge of anything: the gateway judged the statement before it
//! came here, and the demo database would answer anybody who knows its password.
//!
//! Invariant: only the statement kinds of [`Item`] reach SQLite; ATTACH, PRAGMA and the like, which could
//! touch files, never do.

use super::values::Kind;

/// A piece of a query string.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// For SQLite.
    Sql(Sql),
    Begin,
    Commit,
    Rollback,
    /// A savepoint command, in SQLite's words, and its tag.
    Savepoint(String, &'static str),
    Set {
        name: String,
        value: Option<String>,
        tag: &'static str,
    },
    Show(String),
    Copy(Copy),
    /// For SQLite to explain.
    Explain(String),
    /// Understood, and nothing to do.
    Nothing(&'static str),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sql {
    pub(crate) text: String,
    /// First word of the command tag.
    pub(crate) tag: &'static str,
    /// Whether the tag counts rows.
    pub(crate) counts: bool,
    /// UNION and its kin: SQLite names the first arm's columns as the origin, which would be a lie about the
    /// others.
    pub(crate) compound: bool,
    /// It reads the catalogue we made up for SQLite's.
    pub(crate) catalogue: bool,
    /// It changes the schema.
    pub(crate) ddl: bool,
    /// What the expressions of the select list look like, as far as their words tell; from the last column
    /// backwards where a `*` stands in between.
    pub(crate) outputs: Vec<Option<Output>>,
    /// What parameter n (from 1) is compared with, cast to, or written into.
    pub(crate) parameters: Vec<Option<Hint>>,
}

/// What an output column is, going by its words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// `*` or `t.*`: any number of columns.
    Star,
    Of(Kind),
    /// The type of this column (min, max).
    Like(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Hint {
    Of(Kind),
    Column(String),
    /// The n-th column (from 0) of this table.
    Place(String, usize),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Copy {
    /// A SELECT, for both directions: of a table it is the select of its columns.
    pub(crate) select: Sql,
    /// The INSERT, when rows come in.
    pub(crate) insert: Option<String>,
    pub(crate) csv: bool,
    pub(crate) header: bool,
    pub(crate) delimiter: u8,
    pub(crate) null: Vec<u8>,
}

/// Why a text was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub(crate) sqlstate: &'static str,
    pub(crate) message: String,
    /// Byte offset in the text the client sent, when one place is to blame.
    pub(crate) at: Option<usize>,
}

impl Refused {
    fn syntax(near: &str, at: usize) -> Refused {
        Refused { sqlstate: "42601", message: format!("syntax error at or near \"{near}\""), at: Some(at) }
    }

    fn end() -> Refused {
        Refused { sqlstate: "42601", message: "syntax error at end of input".to_owned(), at: None }
    }

    pub(crate) fn sqlite(what: &str) -> Refused {
        Refused {
            sqlstate: "0A000",
            message: format!("the demo database is SQLite behind the PostgreSQL protocol: it has no {what}"),
            at: None,
        }
    }
}

/// Every statement of a query string, in order.
///
/// # Errors
/// The first thing that no statement can be made of.
pub(crate) fn read(text: &str) -> Result<Vec<Item>, Refused> {
    let mut items = Vec::new();
    for statement in tokens(text)?.split(|t| t.kind == Shape::Semicolon) {
        if !statement.is_empty() {
            items.push(item(statement.to_vec())?);
        }
    }
    Ok(items)
}

fn item(tokens: Vec<Token>) -> Result<Item, Refused> {
    let Some(first) = tokens.first() else { return Err(Refused::end()) };
    let (at, near) = (first.at, first.text.clone());
    let verb = if first.kind == Shape::Word { first.text.to_ascii_lowercase() } else { near.clone() };
    let word = |n: usize| tokens.get(n).map(Token::lower).unwrap_or_default();
    Ok(match verb.as_str() {
        "select" | "values" | "table" | "with" | "(" => Item::Sql(query(tokens)?),
        "insert" => Item::Sql(command(tokens, "INSERT 0", true)?),
        "update" => Item::Sql(command(tokens, "UPDATE", true)?),
        "delete" => Item::Sql(command(tokens, "DELETE", true)?),
        "create" => create(tokens)?,
        "alter" => {
            if word(1) != "table" {
                return Err(unknown(&tokens, "ALTER"));
            }
            schema(tokens, "ALTER TABLE")?
        }
        "drop" => match word(1).as_str() {
            "table" => schema(without_cascade(tokens), "DROP TABLE")?,
            "view" => schema(without_cascade(tokens), "DROP VIEW")?,
            "index" => schema(without_cascade(tokens), "DROP INDEX")?,
            "trigger" => schema(without_cascade(tokens), "DROP TRIGGER")?,
            "" => return Err(Refused::end()),
            _ => return Err(unknown(&tokens, "DROP")),
        },
        "truncate" => {
            let rest: Vec<Token> = tokens
                .into_iter()
                .skip(1)
                .filter(|t| {
                    !t.is_any(&["table", "only", "cascade", "restrict", "restart", "continue", "identity"])
                })
                .collect();
            if rest.iter().any(|t| t.kind == Shape::Comma) {
                return Err(Refused::sqlite("TRUNCATE of several tables at once"));
            }
            let mut delete = vec![Token::word("delete"), Token::word("from")];
            delete.extend(rest);
            if delete.len() == 2 {
                return Err(Refused::end());
            }
            Item::Sql(command(delete, "TRUNCATE TABLE", false)?)
        }
        "begin" | "start" => Item::Begin,
        "commit" | "end" => Item::Commit,
        "rollback" | "abort" => match tokens.iter().position(|t| t.is("to")) {
            Some(to) => {
                let name =
                    tokens.iter().skip(to + 1).find(|t| !t.is("savepoint")).ok_or_else(Refused::end)?;
                Item::Savepoint(format!("rollback to {}", name.text), "ROLLBACK")
            }
            None => Item::Rollback,
        },
        "savepoint" => Item::Savepoint(
            format!("savepoint {}", tokens.get(1).ok_or_else(Refused::end)?.text),
            "SAVEPOINT",
        ),
        "release" => {
            let name = tokens.iter().skip(1).find(|t| !t.is("savepoint")).ok_or_else(Refused::end)?;
            Item::Savepoint(format!("release {}", name.text), "RELEASE")
        }
        "set" => set(&tokens),
        "reset" => Item::Set { name: word(1), value: None, tag: "RESET" },
        "show" => Item::Show(match word(1).as_str() {
            "" => return Err(Refused::end()),
            "time" => "timezone".to_owned(),
            "transaction" => "transaction_isolation".to_owned(),
            _ => word(1),
        }),
        "copy" => Item::Copy(copy(tokens)?),
        "explain" => explain(tokens)?,
        "discard" => Item::Nothing(if word(1) == "all" { "DISCARD ALL" } else { "DISCARD" }),
        "deallocate" => Item::Nothing(if word(1) == "all" { "DEALLOCATE ALL" } else { "DEALLOCATE" }),
        "unlisten" => Item::Nothing("UNLISTEN"),
        "analyze" | "analyse" => Item::Nothing("ANALYZE"),
        "vacuum" => Item::Nothing("VACUUM"),
        "checkpoint" => Item::Nothing("CHECKPOINT"),
        "declare" | "fetch" | "move" | "close" | "prepare" | "execute" | "listen" | "notify" | "lock"
        | "grant" | "revoke" | "do" | "call" | "merge" | "comment" | "refresh" | "reindex" | "cluster"
        | "security" | "reassign" | "import" | "load" => return Err(Refused::sqlite(&verb.to_uppercase())),
        _ => return Err(Refused::syntax(&near, at)),
    })
}

fn query(tokens: Vec<Token>) -> Result<Sql, Refused> {
    if tokens.first().is_some_and(|t| t.is("table")) {
        let mut select = vec![Token::word("select"), Token::op("*"), Token::word("from")];
        select.extend(tokens.into_iter().skip(1));
        return query(select);
    }
    let locks = tokens
        .windows(2)
        .position(|w| matches!(w, [a, b] if a.is("for") && b.is_any(&["update", "share", "no", "key"])));
    let tokens: Vec<Token> = match locks {
        // Writers take turns here anyway.
        Some(at) => tokens.into_iter().take(at).collect(),
        None => tokens,
    };
    let verb = main_verb(&tokens);
    match verb.as_str() {
        "insert" => command(tokens, "INSERT 0", true),
        "update" => command(tokens, "UPDATE", true),
        "delete" => command(tokens, "DELETE", true),
        _ => {
            if select_into(&tokens) {
                return Err(Refused::sqlite("SELECT INTO; use CREATE TABLE … AS"));
            }
            let mut sql = command(tokens, "SELECT", true)?;
            sql.ddl = false;
            Ok(sql)
        }
    }
}

/// The verb after the WITH list: the first one outside parentheses.
fn main_verb(tokens: &[Token]) -> String {
    top_level(tokens)
        .find(|t| t.is_any(&["select", "values", "insert", "update", "delete"]))
        .map(Token::lower)
        .unwrap_or_default()
}

fn select_into(tokens: &[Token]) -> bool {
    let into = top_level(tokens).position(|t| t.is("into"));
    let from = top_level(tokens).position(|t| t.is("from"));
    into.is_some_and(|into| from.is_none_or(|from| into < from))
}

fn top_level<T: std::borrow::Borrow<Token>>(tokens: &[T]) -> impl Iterator<Item = &Token> {
    let mut depth = 0usize;
    tokens.iter().map(std::borrow::Borrow::borrow).filter(move |t: &&Token| {
        match t.kind {
            Shape::Open => depth += 1,
            Shape::Close => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    })
}

fn command(tokens: Vec<Token>, tag: &'static str, counts: bool) -> Result<Sql, Refused> {
    let outputs = outputs(&tokens);
    let parameters = parameters(&tokens);
    let compound = tokens.iter().any(|t| t.is_any(&["union", "intersect", "except"]));
    let catalogue = tokens.iter().any(Token::is_catalogue);
    if catalogue && tokens.iter().any(|t| t.is_name() && super::introspect::absent(&t.name())) {
        // Some of these are asked in words that SQLite does not know, and the answer is known without it.
        return Ok(Sql {
            text: "select null as none where 0".to_owned(),
            tag,
            counts,
            compound,
            ..Sql::default()
        });
    }
    Ok(Sql { text: rewrite(tokens)?, tag, counts, compound, catalogue, ddl: false, outputs, parameters })
}

fn schema(tokens: Vec<Token>, tag: &'static str) -> Result<Item, Refused> {
    let mut sql = command(tokens, tag, false)?;
    sql.ddl = true;
    sql.outputs.clear();
    Ok(Item::Sql(sql))
}

fn create(tokens: Vec<Token>) -> Result<Item, Refused> {
    let what = tokens.iter().skip(1).find(|t| {
        !t.is_any(&["temp", "temporary", "unique", "or", "replace", "unlogged", "global", "local"])
    });
    let Some(what) = what else { return Err(Refused::end()) };
    let compound = tokens.iter().any(|t| t.is_any(&["union", "intersect", "except"]));
    match what.lower().as_str() {
        "table" => {
            let mut tokens: Vec<Token> = tokens.into_iter().filter(|t| !t.is("unlogged")).collect();
            for token in &mut tokens {
                // The only auto-numbered column SQLite has is spelled so.
                if token.is_any(&["serial", "bigserial"]) {
                    token.text = "INTEGER".to_owned();
                }
            }
            let made = tokens.iter().any(|t| t.is("as"));
            schema(tokens, if made { "CREATE TABLE AS" } else { "CREATE TABLE" })
        }
        // A column of such a view would be announced as the first arm's column.
        "view" if compound => Err(Refused::sqlite("views over UNION, INTERSECT or EXCEPT")),
        "view" => schema(tokens, "CREATE VIEW"),
        "index" => schema(tokens.into_iter().filter(|t| !t.is("concurrently")).collect(), "CREATE INDEX"),
        _ => Err(unknown(&tokens, "CREATE")),
    }
}

/// PostgreSQL has more kinds of things than SQLite; what neither has is a syntax error.
fn unknown(tokens: &[Token], verb: &str) -> Refused {
    const THINGS: &[&str] = &[
        "access",
        "aggregate",
        "cast",
        "collation",
        "conversion",
        "database",
        "default",
        "domain",
        "event",
        "extension",
        "foreign",
        "function",
        "group",
        "index",
        "language",
        "large",
        "materialized",
        "operator",
        "owned",
        "policy",
        "procedure",
        "publication",
        "role",
        "routine",
        "rule",
        "schema",
        "sequence",
        "server",
        "statistics",
        "subscription",
        "system",
        "tablespace",
        "text",
        "transform",
        "trigger",
        "type",
        "user",
        "view",
    ];
    let what = tokens
        .iter()
        .skip(1)
        .find(|t| !t.is_any(&["or", "replace", "temp", "temporary", "constraint", "recursive"]));
    match what {
        None => Refused::end(),
        Some(what) if what.is_any(THINGS) => Refused::sqlite(&format!("{verb} {}", what.text.to_uppercase())),
        Some(what) => Refused::syntax(&what.text, what.at),
    }
}

fn without_cascade(tokens: Vec<Token>) -> Vec<Token> {
    tokens.into_iter().filter(|t| !t.is_any(&["cascade", "restrict"])).collect()
}

fn explain(tokens: Vec<Token>) -> Result<Item, Refused> {
    let mut rest = tokens.into_iter().skip(1).peekable();
    let mut analyze = false;
    if rest.peek().is_some_and(|t| t.kind == Shape::Open) {
        for token in rest.by_ref() {
            analyze |= token.is("analyze");
            if token.kind == Shape::Close {
                break;
            }
        }
    }
    while rest.peek().is_some_and(|t| t.is_any(&["analyze", "verbose"])) {
        analyze |= rest.next().is_some_and(|t| t.is("analyze"));
    }
    if analyze {
        return Err(Refused::sqlite("EXPLAIN ANALYZE"));
    }
    match item(rest.collect())? {
        Item::Sql(sql) => Ok(Item::Explain(format!("explain query plan {}", sql.text))),
        _ => Err(Refused::sqlite("EXPLAIN of this statement")),
    }
}

fn set(tokens: &[Token]) -> Item {
    let mut rest = tokens.iter().skip(1).filter(|t| !t.is_any(&["session", "local"]));
    let Some(name) = rest.next() else { return Item::Nothing("SET") };
    let name = match name.lower().as_str() {
        "time" => "timezone".to_owned(),
        "names" => "client_encoding".to_owned(),
        "transaction" | "characteristics" => return Item::Nothing("SET"),
        other => other.to_owned(),
    };
    let value: Vec<String> =
        rest.filter(|t| !t.is_any(&["to", "zone"]) && t.text != "=").map(Token::value).collect();
    Item::Set { name, value: Some(value.concat()), tag: "SET" }
}

fn copy(tokens: Vec<Token>) -> Result<Copy, Refused> {
    let mut rest = tokens.into_iter().skip(1).peekable();
    let mut select: Vec<Token> = Vec::new();
    let mut table: Vec<Token> = Vec::new();
    let mut columns: Vec<Token> = Vec::new();
    if rest.peek().is_some_and(|t| t.kind == Shape::Open) {
        select = group(&mut rest);
    } else {
        while let Some(token) = rest.next_if(|t| t.kind != Shape::Open && !t.is_any(&["to", "from"])) {
            table.push(token);
        }
        if rest.peek().is_some_and(|t| t.kind == Shape::Open) {
            columns = group(&mut rest);
        }
        select.push(Token::word("select"));
        if columns.is_empty() {
            select.push(Token::op("*"));
        } else {
            select.extend(columns.iter().cloned());
        }
        select.push(Token::word("from"));
        select.extend(table.iter().cloned());
    }
    let direction = rest.next().ok_or_else(Refused::end)?;
    let end = rest.next().ok_or_else(Refused::end)?;
    let insert = if direction.is("from") && end.is("stdin") {
        if table.is_empty() {
            return Err(Refused::syntax(&direction.text, direction.at));
        }
        let mut insert = vec![Token::word("insert"), Token::word("into")];
        insert.extend(table);
        if !columns.is_empty() {
            insert.push(Token::op("("));
            insert.extend(columns);
            insert.push(Token::op(")"));
        }
        Some(rewrite(insert)?)
    } else if direction.is("to") && end.is("stdout") {
        None
    } else {
        return Err(Refused::sqlite("COPY of server files or programs"));
    };
    let options: Vec<Token> = rest.collect();
    let is = |w: &str| options.iter().position(|t| t.is(w));
    let value = |w: &str| {
        let at = is(w)?;
        options.iter().skip(at + 1).find(|t| !t.is("as")).map(Token::value)
    };
    let format = value("format").unwrap_or_default();
    if format == "binary" || (is("binary").is_some() && is("format").is_none()) {
        return Err(Refused::sqlite("binary COPY"));
    }
    if let Some(other) =
        options.iter().find(|t| t.is_any(&["quote", "escape", "force_quote", "where", "encoding"]))
    {
        return Err(Refused::sqlite(&format!("COPY option {}", other.text.to_uppercase())));
    }
    let csv = format == "csv" || (is("csv").is_some() && is("format").is_none());
    let header = is("header").is_some() && !matches!(value("header").as_deref(), Some("false" | "off" | "0"));
    let delimiter =
        value("delimiter").and_then(|d| d.bytes().next()).unwrap_or(if csv { b',' } else { b'\t' });
    let null = value("null").unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() });
    Ok(Copy { select: query(select)?, insert, csv, header, delimiter, null: null.into_bytes() })
}

/// What stands between an opening parenthesis and its partner.
fn group(rest: &mut impl Iterator<Item = Token>) -> Vec<Token> {
    let mut depth = 0usize;
    let mut inside = Vec::new();
    for token in rest {
        match token.kind {
            Shape::Open => depth += 1,
            Shape::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        inside.push(token);
    }
    if !inside.is_empty() {
        inside.remove(0);
    }
    inside
}

/// Going by their words: the type of each item of the (first) select list, or of RETURNING.
fn outputs(tokens: &[Token]) -> Vec<Option<Output>> {
    let mut depth = 0usize;
    let mut list: Vec<Vec<&Token>> = Vec::new();
    let mut inside = false;
    let returns = main_verb(tokens) != "select";
    for token in tokens {
        match token.kind {
            Shape::Open => depth += 1,
            Shape::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !inside {
            if depth == 0 && token.is(if returns { "returning" } else { "select" }) {
                inside = true;
                list.push(Vec::new());
            }
            continue;
        }
        if depth == 0
            && token.is_any(&[
                "from",
                "where",
                "group",
                "having",
                "order",
                "limit",
                "offset",
                "union",
                "intersect",
                "except",
                "window",
            ])
        {
            break;
        }
        if depth == 0 && token.is_any(&["all", "distinct"]) && list.last().is_some_and(Vec::is_empty) {
            continue;
        }
        if depth == 0 && token.kind == Shape::Comma {
            list.push(Vec::new());
        } else if let Some(item) = list.last_mut() {
            item.push(token);
        }
    }
    list.iter().map(|item| output(item)).collect()
}

fn output(item: &[&Token]) -> Option<Output> {
    let item = match item {
        // The name it is given does not matter.
        [rest @ .., a, _] if a.is("as") => rest,
        [rest @ .., name]
            if rest.len() > 1
                && name.kind == Shape::Word
                && rest.last().is_some_and(|t| t.kind == Shape::Close) =>
        {
            rest
        }
        all => all,
    };
    let (first, last) = (item.first()?, item.last()?);
    if last.text == "*" && item.len() != 2 {
        return Some(Output::Star);
    }
    if let Some(cast) = item.iter().rposition(|t| t.kind == Shape::Cast) {
        let name: Vec<&str> = item
            .iter()
            .skip(cast + 1)
            .filter(|t| t.kind == Shape::Word && !t.is("pg_catalog"))
            .map(|t| t.text.as_str())
            .collect();
        // Only a cast of the whole item decides its type.
        let depth_after = item.iter().skip(cast).filter(|t| t.kind == Shape::Close).count()
            > item.iter().skip(cast).filter(|t| t.kind == Shape::Open).count();
        if !depth_after && item.iter().skip(cast).all(|t| t.kind != Shape::Op) {
            return Some(Output::Of(Kind::declared(&name.join(" "))));
        }
    }
    let outer: Vec<&Token> = top_level(item).collect();
    let compares = |t: &&Token| {
        t.compares()
            || t.is_any(&["is", "and", "or", "not", "in", "between", "exists", "similar"])
            || t.text.contains('~')
    };
    if !first.is("case") && outer.iter().any(compares) {
        return Some(Output::Of(Kind::Bool));
    }
    if outer.iter().any(|t| t.text == "||") {
        return Some(Output::Of(Kind::Text));
    }
    if item.len() > 1 && outer.iter().any(|t| t.kind == Shape::Op) {
        return None;
    }
    if item.len() == 1 {
        return match first.kind {
            Shape::Number if first.text.contains(['.', 'e', 'E']) => Some(Output::Of(Kind::Numeric(None))),
            Shape::Number if first.text.parse::<i32>().is_ok() => Some(Output::Of(Kind::Int4)),
            Shape::Number => Some(Output::Of(Kind::Int8)),
            Shape::Text => Some(Output::Of(Kind::Text)),
            _ if first.is_any(&["true", "false"]) => Some(Output::Of(Kind::Bool)),
            _ if first.is("current_timestamp") => Some(Output::Of(Kind::Timestamptz)),
            _ if first.is("current_date") => Some(Output::Of(Kind::Date)),
            _ if first.is_any(&[
                "current_user",
                "session_user",
                "current_role",
                "current_catalog",
                "current_schema",
            ]) =>
            {
                Some(Output::Of(Kind::Name))
            }
            _ => None,
        };
    }
    let called: Vec<&Token> =
        item.iter().copied().filter(|t| !t.is("pg_catalog") && t.kind != Shape::Dot).collect();
    if !called.get(1).is_some_and(|t| t.kind == Shape::Open) {
        return None;
    }
    let kind = match called.first()?.lower().as_str() {
        "count" | "length" | "char_length" | "row_number" | "rank" | "dense_rank" | "nextval" => Kind::Int8,
        "sum" | "avg" | "total" => Kind::Numeric(None),
        "upper"
        | "lower"
        | "substr"
        | "substring"
        | "replace"
        | "trim"
        | "ltrim"
        | "rtrim"
        | "left"
        | "right"
        | "reverse"
        | "hex"
        | "concat"
        | "concat_ws"
        | "string_agg"
        | "group_concat"
        | "md5"
        | "version"
        | "strftime"
        | "printf"
        | "format"
        | "quote"
        | "format_type"
        | "pg_get_expr"
        | "pg_get_indexdef"
        | "pg_get_constraintdef"
        | "current_setting"
        | "set_config"
        | "pg_sleep"
        | "obj_description"
        | "col_description" => Kind::Text,
        "pg_get_userbyid" | "current_database" | "current_schema" | "current_user" => Kind::Name,
        "now" | "transaction_timestamp" | "statement_timestamp" | "clock_timestamp" => Kind::Timestamptz,
        "pg_backend_pid" => Kind::Int4,
        "pg_table_is_visible" | "pg_is_in_recovery" | "has_table_privilege" => Kind::Bool,
        "random" => Kind::Float8,
        "min" | "max" | "coalesce" | "nullif" => {
            return called
                .iter()
                .skip(2)
                .take_while(|t| t.kind != Shape::Close && t.kind != Shape::Comma)
                .last()
                .and_then(|t| (t.kind == Shape::Word).then(|| Output::Like(t.name())));
        }
        _ => return None,
    };
    Some(Output::Of(kind))
}

/// What each parameter is, going by its neighbours.
fn parameters(tokens: &[Token]) -> Vec<Option<Hint>> {
    let mut hints: Vec<Option<Hint>> = Vec::new();
    let places = insert_places(tokens);
    for (at, token) in tokens.iter().enumerate() {
        let Shape::Parameter(n) = token.kind else { continue };
        let n = usize::from(n);
        if hints.len() < n {
            hints.resize(n, None);
        }
        let before = |k: usize| at.checked_sub(k).and_then(|i| tokens.get(i));
        let after = |k: usize| tokens.get(at + k);
        let hint = if after(1).is_some_and(|t| t.kind == Shape::Cast) {
            after(2).map(|t| Hint::Of(Kind::declared(&t.text)))
        } else if let Some(place) = places.iter().find(|(i, _)| *i == at) {
            Some(place.1.clone())
        } else if before(1).is_some_and(|t| t.is_any(&["limit", "offset"])) {
            Some(Hint::Of(Kind::Int8))
        } else if before(1).is_some_and(|t| t.compares()) {
            before(2).and_then(Token::column)
        } else if after(1).is_some_and(|t| t.compares()) {
            let mut k = 2;
            while after(k + 1).is_some_and(|t| t.kind == Shape::Dot) {
                k += 2;
            }
            after(k).and_then(Token::column)
        } else {
            // `x in ($1, $2)`, `x between $1 and $2`: back to the word before.
            let start = tokens
                .get(..at)
                .and_then(|left| left.iter().rposition(|t| t.is_any(&["in", "between"])))
                .filter(|i| tokens.get(*i..at).is_some_and(|run| run.iter().all(|t| t.part_of_list())));
            start.and_then(|i| {
                let i = if tokens.get(i.wrapping_sub(1)).is_some_and(|t| t.is("not")) {
                    i.wrapping_sub(2)
                } else {
                    i.wrapping_sub(1)
                };
                tokens.get(i).and_then(Token::column)
            })
        };
        if let Some(slot) = hints.get_mut(n - 1)
            && slot.is_none()
        {
            *slot = hint;
        }
    }
    hints
}

/// Parameters that stand alone in an INSERT's VALUES rows, with the column each is written into.
fn insert_places(tokens: &[Token]) -> Vec<(usize, Hint)> {
    let mut places = Vec::new();
    let Some(into) = tokens.iter().position(|t| t.is("into")) else { return places };
    let Some(values) = tokens.iter().position(|t| t.is("values")) else { return places };
    let head = tokens.get(into + 1..values).unwrap_or_default();
    let open = head.iter().position(|t| t.kind == Shape::Open).unwrap_or(head.len());
    let Some(table) = head.iter().take(open).rfind(|t| t.is_name()).map(Token::name) else {
        return places;
    };
    let columns: Vec<String> = head.iter().skip(open).filter(|t| t.is_name()).map(Token::name).collect();
    let (mut depth, mut place) = (0usize, 0usize);
    for (at, token) in tokens.iter().enumerate().skip(values + 1) {
        match token.kind {
            Shape::Open => {
                depth += 1;
                if depth == 1 {
                    place = 0;
                }
            }
            Shape::Close => depth = depth.saturating_sub(1),
            Shape::Comma if depth == 1 => place += 1,
            Shape::Parameter(_) if depth == 1 => {
                let hint = match columns.get(place) {
                    Some(column) => Hint::Column(format!("{table}.{column}")),
                    None => Hint::Place(table.clone(), place),
                };
                places.push((at, hint));
            }
            _ => {}
        }
    }
    places
}

/// The tokens in SQLite's words.
fn rewrite(tokens: Vec<Token>) -> Result<String, Refused> {
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(mut token) = rest.next() {
        let next_is = |rest: &mut std::iter::Peekable<std::vec::IntoIter<Token>>, kind: Shape| {
            rest.peek().is_some_and(|t| t.kind == kind)
        };
        match token.kind {
            Shape::Cast => {
                let kind = cast_type(&mut rest)?;
                let start = operand(&out).ok_or_else(|| Refused::syntax("::", token.at))?;
                let tail = out.split_off(start);
                let literal = matches!(tail.as_slice(), [t] if t.kind == Shape::Text);
                match kind {
                    CastTo::Affinity(name) => {
                        out.push(Token::word("cast"));
                        out.push(Token::op("("));
                        out.extend(tail);
                        out.push(Token::word("as"));
                        out.push(Token::word(name));
                    }
                    CastTo::Registry => {
                        out.push(Token::word(if literal { "pg_registry_in" } else { "pg_registry_out" }));
                        out.push(Token::op("("));
                        out.extend(tail);
                    }
                    CastTo::Bool => {
                        out.push(Token::word("pg_bool"));
                        out.push(Token::op("("));
                        out.extend(tail);
                    }
                }
                out.push(Token::op(")"));
            }
            Shape::Parameter(n) => {
                token.text = format!("?{n}");
                out.push(token);
            }
            Shape::Word | Shape::Quoted if next_is(&mut rest, Shape::Dot) && token.name() == "public" => {
                token.text = "main".to_owned();
                out.push(token);
            }
            Shape::Word | Shape::Quoted if next_is(&mut rest, Shape::Dot) && token.name() == "pg_catalog" => {
                rest.next();
                // What it qualified stands where it stood.
                if let Some(name) = rest.peek_mut() {
                    name.space |= token.space;
                }
            }
            Shape::Word | Shape::Quoted
                if next_is(&mut rest, Shape::Dot) && token.name() == "information_schema" =>
            {
                rest.next();
                if let Some(mut name) = rest.next() {
                    name.text = format!("information_schema_{}", name.name());
                    name.space |= token.space;
                    out.push(name);
                }
            }
            Shape::Word if token.is("operator") && next_is(&mut rest, Shape::Open) => {
                for inner in rest.by_ref() {
                    match inner.kind {
                        Shape::Op => push_operator(&mut out, inner),
                        Shape::Close => break,
                        _ => {}
                    }
                }
            }
            Shape::Word if token.is("collate") => {
                rest.next();
                while next_is(&mut rest, Shape::Dot) {
                    rest.next();
                    rest.next();
                }
            }
            Shape::Word if token.is("ilike") => out.push(Token { text: "match".to_owned(), ..token }),
            Shape::Word if token.is("limit") && rest.peek().is_some_and(|t| t.is("all")) => {
                rest.next();
            }
            Shape::Word if token.is("interval") && next_is(&mut rest, Shape::Text) => {
                return Err(Refused::sqlite("INTERVAL"));
            }
            Shape::Word
                if token.is("array")
                    && rest.peek().is_some_and(|t| t.text == "[" || t.kind == Shape::Open) =>
            {
                return Err(Refused::sqlite("arrays"));
            }
            Shape::Word
                if token.is_any(&[
                    "current_user",
                    "session_user",
                    "current_role",
                    "current_catalog",
                    "current_schema",
                ]) && !next_is(&mut rest, Shape::Open)
                    && !next_is(&mut rest, Shape::Dot) =>
            {
                out.push(token);
                out.push(Token::op("("));
                out.push(Token::op(")"));
            }
            Shape::Op if token.text == "[" || token.text == "]" => return Err(Refused::sqlite("arrays")),
            Shape::Op => push_operator(&mut out, token),
            _ => out.push(token),
        }
    }
    let mut text = String::new();
    let mut joined = false;
    for token in &out {
        // Two words that were put beside each other must not become one.
        let joins = matches!(
            token.kind,
            Shape::Word | Shape::Quoted | Shape::Text | Shape::Number | Shape::Parameter(_)
        );
        if !text.is_empty() && (token.space || joined && joins) {
            text.push(' ');
        }
        joined = joins;
        text.push_str(&token.text);
    }
    Ok(text)
}

fn push_operator(out: &mut Vec<Token>, token: Token) {
    let words: &[&str] = match token.text.as_str() {
        "~" => &["regexp"],
        "!~" => &["not", "regexp"],
        "~*" => &["regexp", "'(?i)'", "||"],
        "!~*" => &["not", "regexp", "'(?i)'", "||"],
        "~~" => &["like"],
        "!~~" => &["not", "like"],
        "~~*" => &["match"],
        "!~~*" => &["not", "match"],
        _ => {
            out.push(token);
            return;
        }
    };
    out.extend(words.iter().map(|w| Token::word(w)));
}

enum CastTo {
    Affinity(&'static str),
    /// regclass and its kin.
    Registry,
    Bool,
}

fn cast_type(rest: &mut std::iter::Peekable<std::vec::IntoIter<Token>>) -> Result<CastTo, Refused> {
    let mut name = rest.next().ok_or_else(Refused::end)?;
    while rest.next_if(|t| t.kind == Shape::Dot).is_some() {
        name = rest.next().ok_or_else(Refused::end)?;
    }
    let to = match name.name().as_str() {
        "int2" | "int4" | "int8" | "int" | "integer" | "smallint" | "bigint" | "oid" | "xid" => {
            CastTo::Affinity("integer")
        }
        "float4" | "float8" | "real" | "double" => CastTo::Affinity("real"),
        "numeric" | "decimal" => CastTo::Affinity("numeric"),
        "bytea" => CastTo::Affinity("blob"),
        "text" | "varchar" | "character" | "char" | "bpchar" | "name" | "date" | "timestamp"
        | "timestamptz" | "json" | "jsonb" | "uuid" | "unknown" => CastTo::Affinity("text"),
        "bool" | "boolean" => CastTo::Bool,
        "regclass" | "regtype" | "regproc" | "regnamespace" | "regrole" => CastTo::Registry,
        other => return Err(Refused::sqlite(&format!("type {other}"))),
    };
    while rest.next_if(|t| t.is_any(&["precision", "varying"])).is_some() {}
    if rest.peek().is_some_and(|t| t.kind == Shape::Open) {
        group(rest);
    }
    if rest.next_if(|t| t.is_any(&["with", "without"])).is_some() {
        while rest.next_if(|t| t.is_any(&["time", "zone"])).is_some() {}
    }
    if rest.peek().is_some_and(|t| t.text == "[") {
        return Err(Refused::sqlite("arrays"));
    }
    Ok(to)
}

/// Where the operand that ends here begins: a literal, a parameter, a dotted name, a call, a parenthesis.
fn operand(out: &[Token]) -> Option<usize> {
    let mut at = out.len().checked_sub(1)?;
    if out.get(at)?.kind == Shape::Close {
        let mut depth = 0usize;
        loop {
            match out.get(at)?.kind {
                Shape::Close => depth += 1,
                Shape::Open => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            at = at.checked_sub(1)?;
        }
        match at.checked_sub(1).and_then(|i| out.get(i)) {
            Some(name) if name.is_name() && !name.is_keyword() => at -= 1,
            _ => return Some(at),
        }
    }
    while at >= 2 && out.get(at - 1).is_some_and(|t| t.kind == Shape::Dot) {
        at -= 2;
    }
    Some(at)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Word,
    Quoted,
    Text,
    Number,
    Parameter(u16),
    Cast,
    Op,
    Open,
    Close,
    Comma,
    Dot,
    Semicolon,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Shape,
    /// As SQLite should read it.
    text: String,
    at: usize,
    /// Whether to write a space before it.
    space: bool,
}

impl Token {
    fn word(text: &str) -> Token {
        Token { kind: Shape::Word, text: text.to_owned(), at: 0, space: true }
    }

    fn op(text: &str) -> Token {
        let kind = match text {
            "(" => Shape::Open,
            ")" => Shape::Close,
            _ => Shape::Op,
        };
        Token { kind, text: text.to_owned(), at: 0, space: true }
    }

    fn is(&self, word: &str) -> bool {
        self.kind == Shape::Word && self.text.eq_ignore_ascii_case(word)
    }

    fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|w| self.is(w))
    }

    fn lower(&self) -> String {
        self.text.to_ascii_lowercase()
    }

    fn is_name(&self) -> bool {
        matches!(self.kind, Shape::Word | Shape::Quoted)
    }

    /// The name it stands for: folded, or unquoted.
    fn name(&self) -> String {
        match self.kind {
            Shape::Quoted => self
                .text
                .trim_start_matches('"')
                .strip_suffix('"')
                .unwrap_or(&self.text)
                .replace("\"\"", "\""),
            _ => self.lower(),
        }
    }

    /// A literal's value, or the word.
    fn value(&self) -> String {
        match self.kind {
            Shape::Text => {
                let inner = self.text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
                inner.unwrap_or(&self.text).replace("''", "'")
            }
            Shape::Quoted => self.name(),
            _ => self.text.clone(),
        }
    }

    fn column(&self) -> Option<Hint> {
        self.is_name().then(|| Hint::Column(self.name()))
    }

    fn compares(&self) -> bool {
        matches!(self.text.as_str(), "=" | "<" | ">" | "<=" | ">=" | "<>" | "!=")
            || self.is_any(&["like", "ilike"])
    }

    fn part_of_list(&self) -> bool {
        matches!(self.kind, Shape::Open | Shape::Comma | Shape::Parameter(_) | Shape::Number | Shape::Text)
            || self.is_any(&["in", "between", "and"])
    }

    /// A word before a parenthesis that is not a function's name.
    fn is_keyword(&self) -> bool {
        self.is_any(&[
            "in", "and", "or", "not", "select", "where", "from", "on", "then", "else", "when", "values",
            "any", "as", "by", "case",
        ])
    }

    fn is_catalogue(&self) -> bool {
        self.is_name() && {
            let name = self.name();
            name.starts_with("pg_") || name == "information_schema"
        }
    }
}

/// Cuts a text into tokens; literals come out in SQLite's spelling.
fn tokens(text: &str) -> Result<Vec<Token>, Refused> {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut space = false;
    while let Some(&b) = bytes.get(at) {
        let start = at;
        let rest = text.get(at..).unwrap_or_default();
        let (kind, len, own) = match b {
            b if b.is_ascii_whitespace() => {
                at += 1;
                space = true;
                continue;
            }
            b'-' if rest.starts_with("--") => {
                at += rest.find('\n').unwrap_or(rest.len());
                space = true;
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                at += comment(rest).ok_or_else(|| unterminated("/* comment", start))?;
                space = true;
                continue;
            }
            b'\'' => {
                let len = quoted(rest, '\'').ok_or_else(|| unterminated("quoted string", start))?;
                (Shape::Text, len, None)
            }
            b'e' | b'E' if rest.get(1..2) == Some("'") => {
                let (len, value) = escaped(rest).ok_or_else(|| unterminated("quoted string", start))?;
                (Shape::Text, len, Some(format!("'{}'", value.replace('\'', "''"))))
            }
            b'"' => {
                let len = quoted(rest, '"').ok_or_else(|| unterminated("quoted identifier", start))?;
                (Shape::Quoted, len, None)
            }
            b'$' => {
                let digits = rest.bytes().skip(1).take_while(u8::is_ascii_digit).count();
                if digits > 0 {
                    let n = rest.get(1..1 + digits).and_then(|d| d.parse::<u16>().ok()).filter(|n| *n > 0);
                    let n = n.ok_or_else(|| Refused {
                        sqlstate: "42P02",
                        message: "there is no such parameter".to_owned(),
                        at: Some(start),
                    })?;
                    (Shape::Parameter(n), 1 + digits, None)
                } else {
                    let (len, value) =
                        dollar(rest).ok_or_else(|| unterminated("dollar-quoted string", start))?;
                    (Shape::Text, len, Some(format!("'{}'", value.replace('\'', "''"))))
                }
            }
            b'0'..=b'9' => (Shape::Number, number(rest), None),
            b'.' if rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) => {
                (Shape::Number, number(rest), None)
            }
            b'(' => (Shape::Open, 1, None),
            b')' => (Shape::Close, 1, None),
            b',' => (Shape::Comma, 1, None),
            b'.' => (Shape::Dot, 1, None),
            b';' => (Shape::Semicolon, 1, None),
            b'[' | b']' => (Shape::Op, 1, None),
            b':' if rest.starts_with("::") => (Shape::Cast, 2, None),
            b if b == b'_' || b.is_ascii_alphabetic() || b >= 0x80 => {
                let len = rest
                    .bytes()
                    .take_while(|b| *b == b'_' || *b == b'$' || b.is_ascii_alphanumeric() || *b >= 0x80)
                    .count();
                (Shape::Word, len, None)
            }
            b if b"+-*/<>=~!@#%^&|".contains(&b) => (Shape::Op, operator(rest), None),
            // Backticks, braces, question marks, lone colons and dollars: SQLite would give some a meaning.
            _ => return Err(Refused::syntax(&rest.chars().take(1).collect::<String>(), start)),
        };
        at += len;
        let text = own.unwrap_or_else(|| text.get(start..at).unwrap_or_default().to_owned());
        out.push(Token { kind, text, at: start, space });
        space = false;
    }
    Ok(out)
}

fn unterminated(what: &str, at: usize) -> Refused {
    Refused { sqlstate: "42601", message: format!("unterminated {what}"), at: Some(at) }
}

/// Length of a comment, which may hold others.
fn comment(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    loop {
        let rest = text.as_bytes().get(at..)?;
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else if rest.is_empty() {
            return None;
        } else {
            at += 1;
        }
    }
}

/// Length of a text in quotes, the quotes doubled inside.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

/// `E'…'`: its length and what it means.
fn escaped(text: &str) -> Option<(usize, String)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(2).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if chars.next_if(|(_, next)| *next == '\'').is_some() => value.push('\''),
            '\'' => return Some((at + 1, value)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// `$tag$…$tag$`: its length and what is inside.
fn dollar(text: &str) -> Option<(usize, &str)> {
    let tag = text.get(1..)?.find('$')? + 2;
    let mark = text.get(..tag)?;
    if !mark.bytes().all(|b| b == b'$' || b == b'_' || b.is_ascii_alphanumeric()) {
        return None;
    }
    let inside = text.get(tag..)?;
    let end = inside.find(mark)?;
    Some((tag + end + tag, inside.get(..end)?))
}

fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let exponent = (b == b'+' || b == b'-') && matches!(bytes.get(at.wrapping_sub(1)), Some(b'e' | b'E'));
        if b.is_ascii_digit() || b == b'.' || b == b'e' || b == b'E' || exponent {
            at += 1;
        } else {
            break;
        }
    }
    at
}

/// PostgreSQL's rule: as long as it can, but `--` and `/*` end it, and a trailing `+` or `-` belongs to what
/// follows unless the operator holds one of `~ ! @ # % ^ & |`.
fn operator(text: &str) -> usize {
    let mut len = text.bytes().take_while(|b| b"+-*/<>=~!@#%^&|".contains(b)).count();
    for mark in ["--", "/*"] {
        if let Some(at) = text.get(..len).and_then(|op| op.find(mark)) {
            len = at.max(1);
        }
    }
    let special = |op: &str| op.bytes().any(|b| b"~!@#%^&|".contains(&b));
    while len > 1 && text.get(..len).is_some_and(|op| op.ends_with(['+', '-']) && !special(op)) {
        len -= 1;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &str) -> Sql {
        match read(text).unwrap().remove(0) {
            Item::Sql(sql) => sql,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn writes_sqlite() {
        for (postgres, sqlite) in [
            ("select id::text from public.payments", "select cast ( id as text ) from main.payments"),
            ("select (a+b)::int4, 'x'::varchar(3)", "select cast ((a+b) as integer ), cast ('x' as text )"),
            ("select upper(a.b)::text", "select cast ( upper(a.b) as text )"),
            ("select 1 where x ~ '^a' and y !~~* 'b'", "select 1 where x regexp '^a' and y not match 'b'"),
            ("select $1::int8::text", "select cast ( cast ( ?1 as integer ) as text )"),
            ("select E'a\\'b', $$it's$$", "select 'a''b', 'it''s'"),
            ("select current_user, now()", "select current_user ( ), now()"),
            ("select 1 -- no\n, 2 /* a /* b */ c */", "select 1 , 2"),
            ("truncate table payments", "delete from payments"),
            ("select * from pg_catalog.pg_class for update", "select * from pg_class"),
            ("select 'payments'::regclass", "select pg_registry_in ('payments' )"),
        ] {
            let squeeze = |s: &str| s.replace(' ', "");
            assert_eq!(squeeze(&sql(postgres).text), squeeze(sqlite), "{postgres}");
        }
    }

    #[test]
    fn refuses_what_is_not_sql() {
        for text in [
            "lockgate refused 01JD",
            "!",
            "select `a`",
            "select 'open",
            "attach 'x' as y",
            "pragma user_version",
            "%",
        ] {
            assert_eq!(read(text).unwrap_err().sqlstate, "42601", "{text}");
        }
        assert_eq!(read("select array[1]").unwrap_err().sqlstate, "0A000");
        assert_eq!(read("listen x").unwrap_err().sqlstate, "0A000");
        assert!(read(" ; ;").unwrap().is_empty());
        assert_eq!(read("begin; select 1; commit").unwrap().len(), 3);
    }

    #[test]
    fn knows_parameters_by_their_neighbours() {
        let column = |c: &str| Some(Hint::Column(c.to_owned()));
        assert_eq!(
            sql("select * from t where id = $1 limit $2").parameters,
            [column("id"), Some(Hint::Of(Kind::Int8))]
        );
        assert_eq!(
            sql("select $1::bool where t.x in ($2, $3)").parameters,
            [Some(Hint::Of(Kind::Bool)), column("x"), column("x")]
        );
        assert_eq!(sql("insert into t (a, b) values ($1, $2)").parameters, [column("t.a"), column("t.b")]);
        assert_eq!(sql("insert into t values ($1)").parameters, [Some(Hint::Place("t".into(), 0))]);
        assert_eq!(sql("update t set a = $2 where $1 = t.b").parameters, [column("b"), column("a")]);
    }

    #[test]
    fn knows_outputs_by_their_words() {
        let of = |k| Some(Output::Of(k));
        assert_eq!(
            sql("select count(*), upper(x) u, x::int8, x, 1, t.* from t").outputs,
            [of(Kind::Int8), of(Kind::Text), of(Kind::Int8), None, of(Kind::Int4), Some(Output::Star)]
        );
        assert_eq!(sql("select max(p.amount) from p").outputs, [Some(Output::Like("amount".into()))]);
        assert_eq!(sql("delete from t where 1=1 returning count(*)").outputs, [of(Kind::Int8)]);
    }

    #[test]
    fn reads_copy() {
        let Item::Copy(copy) =
            read("copy payments (id, email) to stdout with (format csv, header)").unwrap().remove(0)
        else {
            panic!("not a copy")
        };
        assert!(copy.csv && copy.header && copy.insert.is_none());
        assert_eq!(copy.select.text, "select id, email from payments");
        assert!(read("copy payments to '/tmp/x'").is_err());
        let Item::Copy(copy) = read("copy payments from stdin").unwrap().remove(0) else {
            panic!("not a copy")
        };
        assert_eq!(copy.insert.as_deref(), Some("insert into payments"));
    }
}
