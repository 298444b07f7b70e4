//! Which columns a trigger in PL/pgSQL fills with what is hidden, and whether a function answers with it, read from the text.
//!
//! Not a parser: words and statements, without types or control flow. A variable that a statement gives a value, and that statement
//! names something hidden, is hidden from then on, anywhere in the body; so is a column of NEW. A variable that holds a row of a table
//! with something to hide is hidden where it is used as a whole. What a condition tells is not seen.

use foldhash::HashSet;
use std::sync::LazyLock;

/// What must not be shown, as a body may name it; all in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// Columns, functions that answer with such, and variables.
    pub words: HashSet<String>,
    /// Relations whose rows hold it.
    pub tables: HashSet<String>,
    /// Variables that hold such a row.
    pub rows: HashSet<String>,
}

/// What a body assigns from what is hidden.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Columns of NEW, in lower case.
    pub columns: HashSet<String>,
    /// The row as a whole; of what is no trigger, its answer.
    pub row: bool,
}

/// How long the string or comment is that begins here: what stands in it is no statement.
pub(super) fn opaque(text: &str) -> Option<usize> {
    let to = |end: &str, from: usize| {
        let found = text.get(from..).and_then(|rest| rest.find(end));
        found.map_or(text.len(), |n| from + n + end.len())
    };
    if text.starts_with('\'') {
        // A doubled quote ends one string and begins the next.
        return Some(to("'", 1));
    }
    if text.starts_with("e'") || text.starts_with("E'") {
        // A backslash takes what follows it.
        let mut taken = false;
        let end = text.char_indices().skip(2).find(|(_, c)| {
            let ends = *c == '\'' && !taken;
            taken = *c == '\\' && !taken;
            ends
        });
        return Some(end.map_or(text.len(), |(at, _)| at + 1));
    }
    if text.starts_with('$') {
        let tag = text.get(1..)?.find(|c: char| !is_word(c)).map(|n| n + 1)?;
        let tag = text.get(..=tag).filter(|tag| tag.ends_with('$'))?;
        return Some(to(tag, tag.len()));
    }
    comment(text)
}

/// How long the comment is that begins here.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("--") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |n| n + 2))
}

/// The body cut where statements may begin and end: those of SQL can be parsed, the rest cannot.
pub(crate) fn pieces(body: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(c) = body.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = body.get(at..).unwrap_or_default();
        let mut length = c.len_utf8();
        if let Some(skipped) = opaque(rest) {
            length = skipped;
        } else if c == ';' {
            out.extend(body.get(start..at));
            start = at + length;
        } else if is_word(c) {
            // A name may hold a dollar sign, and begins no string by it.
            length = rest.find(|c: char| !is_word(c) && c != '$').unwrap_or(rest.len());
            let word = rest.get(..length).unwrap_or_default().to_ascii_lowercase();
            if matches!(&*word, "begin" | "then" | "else" | "loop") {
                start = at + length;
            }
        }
        at += length;
    }
    out
}

/// The queries that stand in a body, wherever they do, without what their rows are put INTO.
pub(crate) fn queries(body: &str) -> Vec<String> {
    let mut out = Vec::new();
    // The query being read, and how deep in parentheses it began.
    let (mut query, mut depth): (Option<(String, usize)>, usize) = (None, 0);
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        let mut ends = false;
        if let Some(skipped) = opaque(rest) {
            length = skipped;
        } else if is_word(c) {
            // A name may hold a dollar sign, and begins no string by it.
            length = rest.find(|c: char| !is_word(c) && c != '$').unwrap_or(rest.len());
            match &*rest.get(..length).unwrap_or_default().to_ascii_lowercase() {
                "select" if query.is_none() => query = Some((String::new(), depth)),
                "perform" if query.is_none() => {
                    query = Some(("SELECT".to_owned(), depth));
                    rest = rest.get(length..).unwrap_or_default();
                    continue;
                }
                "into" if query.as_ref().is_some_and(|(_, began)| *began == depth) => {
                    rest = rest.get(into(rest)..).unwrap_or_default();
                    continue;
                }
                "loop" => ends = true,
                _ => {}
            }
        } else {
            depth = if c == '(' { depth + 1 } else { depth.saturating_sub(usize::from(c == ')')) };
            ends = c == ';' || query.as_ref().is_some_and(|(_, began)| depth < *began);
        }
        if ends {
            out.extend(query.take().map(|(text, _)| text));
        }
        if let Some((text, _)) = &mut query {
            text.push_str(rest.get(..length).unwrap_or_default());
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    out.extend(query.map(|(text, _)| text));
    out
}

/// How long `INTO [STRICT] a, b.c` is.
pub(super) fn into(text: &str) -> usize {
    let mut rest = text.get("into".len()..).unwrap_or_default().trim_start();
    loop {
        let word = rest.find(|c: char| !(is_word(c) || matches!(c, '.' | '"'))).unwrap_or(rest.len());
        let (name, after) = rest.split_at_checked(word).unwrap_or(("", rest));
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if name.eq_ignore_ascii_case("strict") => {}
            None => return text.len() - after.len(),
        }
    }
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every word of a body, those in strings (dynamic SQL) among them.
pub(crate) fn words(body: &str) -> HashSet<String> {
    tokens(body).into_iter().filter(|t| word(t)).collect()
}

pub(crate) fn filled(body: &str, hidden: &Hidden) -> Filled {
    follow(body, hidden).0
}

/// Whether a function answers with what is hidden: by RETURN, or through an argument that is one of its results.
pub(crate) fn answers(body: &str, arguments: &str, hidden: &Hidden) -> bool {
    let (filled, known) = follow(body, hidden);
    let results = tokens(arguments);
    let new = |set: &HashSet<String>, before: &HashSet<String>| {
        results.iter().any(|name| set.contains(name) && !before.contains(name))
    };
    filled.row || new(&known.words, &hidden.words) || new(&known.rows, &hidden.rows)
}

fn follow(body: &str, hidden: &Hidden) -> (Filled, Hidden) {
    let statements = statements(tokens(body));
    let mut hidden = hidden.clone();
    let mut out = Filled::default();
    // Each round finds another variable, or ends.
    loop {
        let size = |h: &Hidden, out: &Filled| (h.words.len(), h.rows.len(), out.columns.len(), out.row);
        let before = size(&hidden, &out);
        for statement in &statements {
            let targets = targets(statement);
            let told = told(statement, &targets, &hidden);
            if told == Told::Nothing {
                continue;
            }
            if matches!(
                statement.first().map(String::as_str),
                Some("perform" | "select" | "update" | "delete")
            ) {
                hidden.words.insert("found".to_owned());
            }
            let single = targets.len() == 1;
            for target in targets {
                match target {
                    [new] if new == "new" => out.row = true,
                    [new, _, column] if new == "new" => drop(out.columns.insert(column.clone())),
                    // By its name it may be taken apart.
                    [variable] if told == Told::Row && single => drop(hidden.rows.insert(variable.clone())),
                    [variable, ..] => drop(hidden.words.insert(variable.clone())),
                    [] => {}
                }
            }
        }
        if before == size(&hidden, &out) {
            return (out, hidden);
        }
    }
}

/// Columns of a table that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Places {
    All,
    /// In lower case.
    Named(Vec<String>),
    /// From 0, as the table has them.
    Numbered(Vec<usize>),
    /// Those of the trigger's own row that hide something, behind so many others.
    Row(usize),
}

/// Tables that a body, or a rule, writes what is hidden to, and the columns it goes into.
pub(crate) fn stored(body: &str, hidden: &Hidden) -> Vec<(String, Places)> {
    let hidden = follow(body, hidden).1;
    let mut out = Vec::new();
    for statement in statements(tokens(body)) {
        for (i, token) in statement.iter().enumerate() {
            let rest = statement.get(i + 1..).unwrap_or_default();
            let written = match (token.as_str(), rest) {
                ("insert", [into, rest @ ..]) if into == "into" => inserted(rest, &hidden),
                ("update", rest) => updated(rest, &hidden),
                _ => None,
            };
            let Some((table, places)) = written else { continue };
            // Of a string the signs are not read.
            let text = statement.iter().any(|t| t == "execute");
            out.push((table, if text { Places::All } else { places }));
        }
    }
    out
}

/// `a.b AS c (…` behind INTO or UPDATE: the table, and what follows.
fn target(rest: &[String]) -> Option<(String, &[String])> {
    let only = usize::from(rest.first().is_some_and(|t| t == "only"));
    let dotted = if rest.get(only + 1).is_some_and(|t| t == ".") { 2 } else { 0 };
    let table = rest.get(only + dotted).filter(|t| word(t))?;
    let mut rest = rest.get(only + dotted + 1..)?;
    if let [as_, _, more @ ..] = rest
        && as_ == "as"
    {
        rest = more;
    }
    Some((table.clone(), rest))
}

fn inserted(rest: &[String], hidden: &Hidden) -> Option<(String, Places)> {
    let (table, mut rest) = target(rest)?;
    let mut names = None;
    if rest.first().is_some_and(|t| t == "(")
        && !rest.get(1).is_some_and(|t| matches!(t.as_str(), "select" | "with"))
    {
        let end = rest.iter().position(|t| t == ")")?;
        names = Some(rest.get(1..end)?.iter().filter(|t| word(t)).cloned().collect::<Vec<_>>());
        rest = rest.get(end + 1..)?;
    }
    let hidden = &with_rows_of(rest, hidden);
    let begin = rest.iter().position(|t| matches!(t.as_str(), "values" | "select"))?;
    let values = rest.get(begin + 1..)?;
    let (mut found, mut rows_at) = (Vec::new(), Vec::new());
    let mut all = false;
    let listed = rest.get(begin).is_some_and(|t| t == "values");
    // Of several rows each begins anew; what follows them, as ON CONFLICT, may go anywhere.
    let mut rows: Vec<&[String]> = Vec::new();
    let mut left = values;
    while listed && left.first().is_some_and(|t| t == "(") {
        let end = closing(left);
        rows.push(left.get(1..end)?);
        left = left.get(end + 1..).unwrap_or_default();
        left = left.strip_prefix([",".to_owned()].as_slice()).unwrap_or(left);
    }
    if listed {
        all |= told(left, &[], hidden) != Told::Nothing;
    } else {
        let end = depth_0(values, &["from", "union"]).unwrap_or(values.len());
        rows.push(values.get(..end)?);
        all |= values.iter().any(|t| t == "union") && told(values, &[], hidden) != Told::Nothing;
    }
    for row in rows {
        for (i, item) in parts(row).into_iter().enumerate() {
            let told = told(item, &[], hidden) != Told::Nothing;
            if told && matches!(item, [row, _, star] if star == "*" && matches!(row.as_str(), "new" | "old"))
            {
                rows_at.push(i);
                continue;
            }
            // More columns than it is written as.
            all |= told && item.last().is_some_and(|t| t == "*");
            found.extend(told.then_some(i));
        }
    }
    match (rows_at.as_slice(), all || !found.is_empty() || names.is_some()) {
        ([], _) => {}
        ([at], false) => return Some((table, Places::Row(*at))),
        _ => all = true,
    }
    let places = match (all, names) {
        (true, None) => Places::All,
        (true, Some(names)) => Places::Named(names),
        (false, _) if found.is_empty() => return None,
        (false, Some(names)) => Places::Named(found.iter().filter_map(|i| names.get(*i)).cloned().collect()),
        (false, None) => Places::Numbered(found),
    };
    Some((table, places))
}

fn updated(rest: &[String], hidden: &Hidden) -> Option<(String, Places)> {
    let (table, rest) = target(rest)?;
    let begin = rest.iter().take(3).position(|t| t == "set")?;
    let hidden = &with_rows_of(rest, hidden);
    let sets = rest.get(begin + 1..)?;
    let sets = sets.get(..depth_0(sets, &["from", "returning", "where"]).unwrap_or(sets.len()))?;
    let mut names = Vec::new();
    for set in parts(sets) {
        let value = set.iter().position(|t| t == "=").and_then(|at| set.get(at + 1..)).unwrap_or_default();
        if told(value, &[], hidden) == Told::Nothing {
            continue;
        }
        match set.first() {
            Some(name) if word(name) => names.push(name.clone()),
            _ => return Some((table, Places::All)),
        }
    }
    (!names.is_empty()).then_some((table, Places::Named(names)))
}

/// Also hidden: the rows of tables with something to hide, by the names they have in a statement.
fn with_rows_of(statement: &[String], hidden: &Hidden) -> Hidden {
    let mut hidden = hidden.clone();
    let at = |i: usize| statement.get(i).map_or("", String::as_str);
    for (i, table) in statement.iter().enumerate().filter(|(_, t)| hidden.tables.contains(*t)) {
        let alias = at(i + 1 + usize::from(at(i + 1) == "as"));
        hidden.rows.insert(if word(alias) && !FOLLOWS.contains(&alias) {
            alias.to_owned()
        } else {
            table.clone()
        });
    }
    hidden
}

/// Where the parenthesis that begins a list of words ends.
fn closing(tokens: &[String]) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len()
}

/// The first of these words outside of parentheses.
fn depth_0(tokens: &[String], words: &[&str]) -> Option<usize> {
    let mut depth = 0usize;
    tokens.iter().position(|token| {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && words.contains(&token.as_str())
    })
}

/// Cut at the commas outside of parentheses.
fn parts(tokens: &[String]) -> Vec<&[String]> {
    let mut depth = 0usize;
    let comma = |token: &String| {
        match token.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token == ","
    };
    tokens.split(comma).collect()
}

/// What a statement makes its values of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// The row of a table, by the names of its columns.
    Row,
    Hidden,
}

fn told(statement: &[String], targets: &[&[String]], hidden: &Hidden) -> Told {
    let at = |i: usize| statement.get(i).map_or("", String::as_str);
    let before = |i: usize| i.checked_sub(1).map_or("", at);
    let is_target = |i: usize| {
        targets.iter().any(|t| t.first().zip(statement.get(i)).is_some_and(|(a, b)| std::ptr::eq(a, b)))
    };
    // The same row as it was, column by column.
    if matches!(statement, [a, _, b] if matches!((a.as_str(), b.as_str()), ("new", "old") | ("old", "new"))) {
        return Told::Nothing;
    }
    let own = |t: &String| targets.iter().any(|n| n.last() == Some(t));
    if statement.iter().any(|t| hidden.words.contains(t) && !own(t))
        || (dynamic(statement) && !targets.is_empty())
    {
        return Told::Hidden;
    }
    let whole = |i: usize| at(i + 1) != "." || at(i + 2) == "*";
    let uses =
        |i: usize, t: &String| hidden.rows.contains(t) && !is_target(i) && before(i) != "." && whole(i);
    if statement.iter().enumerate().any(|(i, t)| uses(i, t)) {
        // `a := b` hands the row on.
        let handed = statement.len() == 3 || matches!(at(0), "fetch" | "foreach");
        return if handed { Told::Row } else { Told::Hidden };
    }
    let mut row = false;
    for (i, table) in statement.iter().enumerate().filter(|(_, t)| hidden.tables.contains(*t)) {
        let from =
            statement.iter().take(i).any(|t| matches!(t.as_str(), "from" | "join" | "using" | "update"));
        let named =
            matches!(before(i), "from" | "into" | "join" | "only" | "table" | "update" | "using" | ".")
                || (before(i) == "," && from);
        let called = i + 1 + usize::from(at(i + 1) == "as");
        let alias = statement.get(called).filter(|t| named && word(t) && !FOLLOWS.contains(&t.as_str()));
        // Its columns may be called otherwise; of a string the signs are not read.
        let renamed = alias.is_some() && at(called + 1) == "(" || statement.iter().any(|t| t == "execute");
        let rows = |(n, t): (usize, &String)| {
            let again = before(n) == table || before(n) == "as";
            Some(t) == alias && n != called && !again && at(n + 1) != "."
        };
        if renamed || (!named && at(i + 1) != ".") || statement.iter().enumerate().any(rows) {
            return Told::Hidden;
        }
        row |= before(i) == "table";
    }
    let names = statement.iter().any(|t| hidden.tables.contains(t));
    let star = |(i, t): (usize, &String)| {
        t == "*" && matches!(before(i), "select" | "," | "." | "distinct" | "all" | "returning")
    };
    match row || (names && statement.iter().enumerate().any(star)) {
        true => Told::Row,
        false => Told::Nothing,
    }
}

/// It runs a text of whose tables the names are not all written: they come in by an argument, or from elsewhere.
pub(crate) fn unwritten(body: &str) -> bool {
    let tokens = tokens(body);
    let mut executed = tokens.iter().enumerate().filter(|(_, t)| *t == "execute").peekable();
    if executed.peek().is_none() {
        return false;
    }
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    let reads = |t: &str| matches!(t, "from" | "join" | "update");
    // `from %I`, `from ' || name`: of a string the signs are not read.
    let open = |t: &str| {
        !word(t) && t != "(" || matches!(t, "i" | "s" | "l") || t.starts_with(|c: char| c.is_ascii_digit())
    };
    let unnamed = tokens.iter().enumerate().any(|(i, t)| reads(t) && open(at(i + 1)));
    // A variable's text may have been given.
    let verbs = ["delete", "format", "insert", "select", "update", "with"];
    let given = executed.any(|(i, _)| !verbs.contains(&at(i + 1))) && !tokens.iter().any(|t| reads(t));
    unnamed || given
}

/// Words that stand behind a table that has no other name.
const FOLLOWS: &[&str] = &[
    "cross",
    "except",
    "fetch",
    "for",
    "full",
    "group",
    "having",
    "inner",
    "intersect",
    "into",
    "join",
    "left",
    "limit",
    "loop",
    "natural",
    "offset",
    "on",
    "order",
    "returning",
    "right",
    "select",
    "set",
    "tablesample",
    "then",
    "union",
    "using",
    "values",
    "when",
    "where",
    "window",
];

/// EXECUTE of a text that is put together, or of a variable, and may read a table.
fn dynamic(statement: &[String]) -> bool {
    let mut rest = statement.iter().skip_while(|t| *t != "execute").skip(1);
    let Some(first) = rest.next() else { return false };
    let reads = |t: &String| t == "from" || t == "table";
    let written = matches!(first.as_str(), "delete" | "insert" | "select" | "update" | "values" | "with");
    if written || first == "format" {
        statement.iter().any(|t| reads(t) || t == "|") && put_together(statement)
    } else {
        true
    }
}

fn put_together(statement: &[String]) -> bool {
    statement.iter().any(|t| matches!(t.as_str(), "|" | "%" | "format"))
}

/// What a statement gives a value: `x := …`, `new.x = …`, `… INTO a, new.b`, `FOR x IN …`; `RETURN x` of a trigger is the row.
fn targets(statement: &[String]) -> Vec<&[String]> {
    let mut out = Vec::new();
    let reference = |at: usize| {
        let dotted = statement.get(at + 1).is_some_and(|t| t == ".");
        statement.get(at..at + if dotted { 3 } else { 1 })
    };
    let first = statement.first().map_or("", String::as_str);
    // A declaration has a type before `:=`, an element a subscript; an argument of that sign stands in another kind of statement.
    let fields = reference(0).map_or(0, <[String]>::len);
    if statement.get(fields).is_some_and(|t| t == "=")
        || (statement.iter().any(|t| t == ":=") && !STATEMENTS.contains(&first))
    {
        out.extend(reference(0));
    }
    if matches!(first, "for" | "foreach" | "open") {
        out.extend(reference(1));
    }
    if statement.iter().skip(1).take(3).any(|t| t == "cursor") {
        out.extend(reference(0));
    }
    if first == "return"
        && !matches!(statement.get(1).map(String::as_str), None | Some("new" | "old" | "null"))
    {
        static ROW: LazyLock<[String; 1]> = LazyLock::new(|| ["new".to_owned()]);
        out.push(&*ROW);
    }
    for (at, _) in statement.iter().enumerate().filter(|(_, t)| *t == "into") {
        let before = at.checked_sub(1).and_then(|n| statement.get(n)).map(String::as_str);
        if matches!(before, Some("insert" | "merge")) {
            continue;
        }
        let mut at = at + 1;
        at += usize::from(statement.get(at).is_some_and(|t| t == "strict"));
        while let Some(target) = reference(at) {
            out.push(target);
            at += target.len();
            if statement.get(at).is_none_or(|t| t != ",") {
                break;
            }
            at += 1;
        }
    }
    out
}

const STATEMENTS: &[&str] = &[
    "call", "delete", "execute", "for", "foreach", "if", "elsif", "insert", "perform", "raise", "return",
    "select", "update", "while", "with",
];

/// The body cut at `;`, and behind the conditions and headers that statements stand after.
fn statements(tokens: Vec<String>) -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = Vec::new();
    let mut current: Vec<String> = Vec::new();
    let mut cases = 0usize;
    for token in tokens {
        let first = current.first().map_or("", String::as_str);
        let cut = match token.as_str() {
            ";" => true,
            "then" => cases == 0 && matches!(first, "if" | "elsif" | "elseif" | "when" | "case"),
            "begin" | "declare" | "else" | "loop" if current.is_empty() => true,
            "loop" => cases == 0 && matches!(first, "for" | "foreach" | "while"),
            _ => false,
        };
        match token.as_str() {
            "case" if !current.is_empty() => cases += 1,
            "end" if cases > 0 => cases -= 1,
            _ => {}
        }
        if cut {
            cases = 0;
            out.push(std::mem::take(&mut current));
        } else {
            current.push(token);
        }
    }
    out.push(current);
    out
}

fn word(token: &str) -> bool {
    token.starts_with(is_word)
}

/// Words in lower case, with or without quotes, `:=`, and single signs; of strings only the words, of comments nothing.
fn tokens(body: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = body;
    let mut string = false;
    while let Some(c) = rest.chars().next() {
        let length = if let Some(skipped) = comment(rest).filter(|_| !string) {
            skipped
        } else if is_word(c) {
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            out.push(rest.get(..end).unwrap_or_default().to_lowercase());
            end
        } else {
            string ^= c == '\'';
            let assigns = rest.starts_with(":=");
            if !string && !c.is_whitespace() && !matches!(c, '"' | '\'') {
                out.push(if assigns { ":=".to_owned() } else { c.to_string() });
            }
            if assigns { 2 } else { c.len_utf8() }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden() -> Hidden {
        Hidden {
            words: ["email", "ssn", "ssn_of"].map(str::to_owned).into_iter().collect(),
            tables: ["customers".to_owned()].into_iter().collect(),
            rows: ["new", "old"].map(str::to_owned).into_iter().collect(),
        }
    }

    #[test]
    fn what_a_function_answers_with() {
        for (body, arguments, want) in [
            ("BEGIN RETURN (SELECT email FROM customers WHERE id = i); END", "i integer", true),
            ("BEGIN RETURN QUERY SELECT * FROM customers; END", "", true),
            ("BEGIN RETURN QUERY EXECUTE format('SELECT * FROM %I', t); END", "t text", true),
            ("BEGIN SELECT c.ssn INTO who FROM customers c; END", "i integer, OUT who text", true),
            ("BEGIN PERFORM FROM customers WHERE ssn LIKE p; RETURN found; END", "p text", true),
            ("DECLARE n int; BEGIN SELECT count(*) INTO n FROM customers; RETURN n; END", "", false),
            ("DECLARE r customers; BEGIN SELECT * INTO r FROM customers; RETURN r.name; END", "", false),
            ("BEGIN EXECUTE 'SELECT nextval($1)' INTO n USING s; RETURN n; END", "s text", false),
            ("BEGIN RETURN lower(t); END", "t text", false),
        ] {
            assert_eq!(answers(body, arguments, &hidden()), want, "{body}");
        }
    }

    #[test]
    fn what_is_written_to_other_tables() {
        for (body, want) in [
            ("BEGIN INSERT INTO a.audit (id, what) VALUES (OLD.id, OLD.ssn); RETURN NULL; END", "audit:what"),
            ("BEGIN INSERT INTO audit VALUES (OLD.id, now(), to_jsonb(OLD), count_of(1, 2)); END", "audit:2"),
            ("BEGIN INSERT INTO audit SELECT 'U', NEW.id, NEW.*; END", "audit:row"),
            ("BEGIN INSERT INTO audit SELECT OLD.*, NEW.*; END", "audit:*"),
            (
                "BEGIN INSERT INTO audit (id, who, what) SELECT c.id, c.name, row_to_json(c) FROM customers c WHERE c.email = 'x'; END",
                "audit:what",
            ),
            (
                "DECLARE v text; BEGIN v := NEW.email; UPDATE stats SET n = n + 1, last = lower(v) WHERE id = NEW.id; END",
                "stats:last",
            ),
            (
                "BEGIN UPDATE stats SET n = n + 1 WHERE email = NEW.email; INSERT INTO log (id) VALUES (NEW.id); END",
                "",
            ),
            ("BEGIN EXECUTE 'INSERT INTO audit VALUES ($1)' USING OLD; END", "audit:*"),
            (
                "CREATE RULE r AS ON UPDATE TO customers DO INSERT INTO audit (id, what) VALUES (old.id, old.ssn);",
                "audit:what",
            ),
        ] {
            let told = |(table, places): (String, Places)| match places {
                Places::All => format!("{table}:*"),
                Places::Row(_) => format!("{table}:row"),
                Places::Named(names) => format!("{table}:{}", names.join("+")),
                Places::Numbered(at) => {
                    format!("{table}:{}", at.iter().map(usize::to_string).collect::<Vec<_>>().join("+"))
                }
            };
            let found: Vec<String> = stored(body, &hidden()).into_iter().map(told).collect();
            assert_eq!(found.join(" "), want, "{body}");
        }
    }

    #[test]
    fn texts_of_which_the_tables_are_not_written() {
        for (body, want) in [
            ("BEGIN RETURN QUERY EXECUTE format('SELECT id FROM %I WHERE a = $1', t) USING v; END", true),
            ("BEGIN EXECUTE 'SELECT count(*) FROM ' || t INTO n; RETURN n; END", true),
            ("BEGIN RETURN QUERY EXECUTE q; END", true),
            ("BEGIN EXECUTE 'UPDATE %s SET a = 1'; END", true),
            ("BEGIN RETURN QUERY EXECUTE 'SELECT id FROM orders WHERE ' || c; END", false),
            ("DECLARE q text := 'SELECT id FROM orders'; BEGIN RETURN QUERY EXECUTE q; END", false),
            ("BEGIN EXECUTE format('CREATE TABLE %I (a int)', t); END", false),
            ("BEGIN RETURN (SELECT a FROM orders); END", false),
        ] {
            assert_eq!(unwritten(body), want, "{body}");
        }
    }

    fn of(body: &str) -> Vec<String> {
        let filled = filled(body, &hidden());
        let mut out: Vec<String> = filled.columns.into_iter().collect();
        out.extend(filled.row.then(|| "*".to_owned()));
        out.sort();
        out
    }

    #[test]
    fn pieces_are_statements() {
        let body = "DECLARE v int; BEGIN DELETE FROM a WHERE b = 'x;y'; IF v > 1 THEN -- no;\n DROP TABLE c; END IF; END";
        let pieces: Vec<&str> = pieces(body).into_iter().map(str::trim).collect();
        assert_eq!(
            pieces,
            ["DECLARE v int", "DELETE FROM a WHERE b = 'x;y'", "-- no;\n DROP TABLE c", "END IF"]
        );
        // A quote inside of another kind of string opens none.
        let body = "BEGIN RAISE NOTICE $n$it's ; so$n$; DELETE FROM a$b$c WHERE b = $1; END";
        let pieces: Vec<&str> = super::pieces(body).into_iter().map(str::trim).collect();
        assert_eq!(pieces, ["RAISE NOTICE $n$it's ; so$n$", "DELETE FROM a$b$c WHERE b = $1"]);
    }

    #[test]
    fn queries_are_found_wherever_they_stand() {
        let body = "BEGIN RETURN QUERY SELECT a FROM t WHERE b LIKE ');'; IF EXISTS (SELECT 1 FROM u) THEN FOR r IN SELECT c FROM v LOOP \
            SELECT d, e INTO STRICT x, new.y FROM (SELECT 1) w; END LOOP; END IF; END";
        let queries: Vec<String> = queries(body).iter().map(|q| q.trim().replace("  ", " ")).collect();
        let want = [
            "SELECT a FROM t WHERE b LIKE ');'",
            "SELECT 1 FROM u",
            "SELECT c FROM v",
            "SELECT d, e FROM (SELECT 1) w",
        ];
        assert_eq!(queries, want);
    }

    #[test]
    fn what_is_filled_from_what_is_hidden() {
        for (body, want) in [
            ("BEGIN NEW.contact := (SELECT email FROM customers); RETURN NEW; END", "contact"),
            (
                "BEGIN SELECT c.email, c.name INTO STRICT NEW.contact, NEW.who FROM customers c; RETURN NEW; END",
                "contact,who",
            ),
            (
                "DECLARE v text := 'x'; w text; BEGIN v := (SELECT ssn FROM customers); w := 'a;b' || v; NEW.note = w; END",
                "note",
            ),
            (
                "BEGIN FOR r IN SELECT email FROM customers LOOP NEW.\"Mails\" := concat(NEW.mails, r.email); END LOOP; END",
                "mails",
            ),
            (
                "BEGIN IF NEW.email IS NULL THEN NEW.updated_at := now(); ELSE NEW.n := 1; END IF; RETURN NEW; END",
                "",
            ),
            ("BEGIN NEW.updated_at := now(); UPDATE customers SET email = lower(email); RETURN NEW; END", ""),
            ("BEGIN EXECUTE 'SELECT email FROM customers' INTO NEW.x; RETURN NEW; END", "x"),
            ("BEGIN NEW.email := lower(NEW.email); RETURN NEW; END", ""),
            (
                "BEGIN NEW.x := CASE WHEN true THEN (SELECT ssn FROM customers) ELSE '' END; RETURN NEW; END",
                "x",
            ),
            ("DECLARE r record; BEGIN SELECT id, ssn INTO r FROM customers; RETURN r; END", "*"),
            (
                "BEGIN SELECT row_to_json(c) INTO NEW.x FROM customers c; NEW.name := (SELECT name FROM customers); END",
                "x",
            ),
            // Whole rows: of a variable, of the trigger's own table, by an alias.
            (
                "DECLARE r customers%rowtype; BEGIN SELECT * INTO r FROM customers; NEW.a := to_jsonb(r); NEW.b := r.name; RETURN NEW; END",
                "a",
            ),
            (
                "BEGIN NEW.a := coalesce(OLD.a, '[]') || to_jsonb(OLD); NEW.b := NEW::text; NEW.c := OLD.name; NEW.at := now(); END",
                "a,b",
            ),
            (
                "BEGIN NEW.a := md5(NEW.*::text); IF NEW IS DISTINCT FROM OLD THEN NEW.at := now(); END IF; RETURN NEW; END",
                "a",
            ),
            (
                "BEGIN SELECT to_jsonb(c) INTO NEW.a FROM public.customers AS c WHERE c.id = NEW.id; RETURN NEW; END",
                "a",
            ),
            (
                "BEGIN NEW.a := (SELECT customers FROM customers); NEW.b := (SELECT count(*) FROM customers); END",
                "a",
            ),
            ("BEGIN NEW := OLD; RETURN NEW; END", ""),
            (
                "DECLARE r record; BEGIN UPDATE customers SET city = 'x' RETURNING * INTO r; NEW.a := r; END",
                "a",
            ),
            (
                "DECLARE q CURSOR FOR SELECT * FROM customers; BEGIN OPEN q; FETCH q INTO r; NEW.a := r.name; NEW.b := hstore(r); END",
                "b",
            ),
            (
                "BEGIN FOR r IN TABLE customers LOOP NEW.a := array_append(NEW.a, r.city); NEW.b := r; END LOOP; END",
                "b",
            ),
            ("BEGIN EXECUTE 'SELECT * FROM customers' INTO r; NEW.a := r.name; END", "a"),
            ("BEGIN EXECUTE query INTO NEW.a; EXECUTE 'SELECT nextval(''s'')' INTO NEW.id; END", "a"),
            ("BEGIN NEW.a := ssn_of(NEW.id); NEW.b := lower(NEW.name); RETURN NEW; END", "a"),
            ("BEGIN -- email;\n NEW.a := 1; /* NEW.b := ssn; */ RETURN NEW; END", ""),
        ] {
            assert_eq!(of(body).join(","), want, "{body}");
        }
    }
}
