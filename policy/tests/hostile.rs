//! Nothing a client sends may end the process: depth, size, and random text made of SQL's own words.

use std::time::{Duration, Instant};

use policy::judge::fuzz_statement;
use proptest::prelude::*;

#[test]
fn depth_and_size_never_end_the_process() {
    for n in [100, 900, 5_000, 100_000] {
        for text in [
            format!("select {}s{} from t", "(".repeat(n), ")".repeat(n)),
            format!("select {}1{}", "array[".repeat(n), "]".repeat(n)),
            format!("select s {} from t", "+1".repeat(n)),
            format!("select s {} from t", "||a".repeat(n)),
            format!("select 1 from t where {} true", "not ".repeat(n)),
            format!("delete from t where {} true", "not ".repeat(n)),
            format!("delete from t where true {}", "or true and (a = a)".repeat(n)),
            format!("select {} 1", "- ".repeat(n)),
            format!("select a in (1{}) from t", ",1".repeat(n)),
            format!("select a in ('x'{}) from t", ",'x'".repeat(n)),
            format!("select {} 1 {}", "case when true then ".repeat(n), " end".repeat(n)),
            format!("select s from t {}", "union select 1 ".repeat(n)),
            format!("select * from t {}", "join u on true ".repeat(n)),
            format!("select * from {}t{}", "(select * from ".repeat(n), ") x".repeat(n)),
            format!("select 1{}", "::int".repeat(n)),
            format!("select a{}", ".b".repeat(n)),
            format!("select {}1{}", "lower(".repeat(n), ")".repeat(n)),
            format!("{} select 1", "explain ".repeat(n)),
            format!("select 1 {}", ";select s from t".repeat(n)),
            format!("select 1 from t where a {}", "and b ".repeat(n)),
            format!("select 1 from t where a {}", "or (b) ".repeat(n)),
            format!("with {} b as (select 1) select 1", "a as (select s from t), ".repeat(n)),
            format!("insert into u values ('a','b'){}", ",('a','b')".repeat(n)),
            format!("select {} from t", vec!["a"; n].join(",")),
            format!("select * from {}", vec!["t"; n].join(",")),
            format!("grant select on {} to x", vec!["t"; n].join(",")),
            format!("drop table {}", vec!["t"; n].join(",")),
            format!("select a{} from t", "[1]".repeat(n)),
            format!("select (t){} from t", ".a".repeat(n)),
            format!("select '{}'", "x".repeat(n * 8)),
            format!("select \"{}\"", "ä".repeat(n)),
            format!("select $x${}$x$", "(".repeat(n)),
            "/*".repeat(n),
            // Read again by the lexer at every second character.
            format!("select 1 {}1", "+-".repeat(n)),
            format!("select {} 1", "/**/".repeat(n)),
            format!("select /*{}*/ 1", "/**/".repeat(n)),
            format!("select 'a' {}", "@/**/".repeat(n)),
            format!("insert into u values (1){}", ",(1)".repeat(n * 10)),
            format!("insert into u values (1){}, (s)", ",('x')".repeat(n * 10)),
        ] {
            let start = Instant::now();
            fuzz_statement(text.as_bytes());
            // Three analyses in an unoptimised build on a shared machine: quadratic work would take minutes.
            assert!(
                start.elapsed() < Duration::from_secs(8),
                "{:?} for {}",
                start.elapsed(),
                &text[..40.min(text.len())]
            );
        }
    }
}

#[test]
fn strings_and_names_of_every_spelling() {
    for text in [
        "select E'\\xc3\\x28'",
        "select E'\\303'",
        "select e'\\xff' from t",
        "select E'a' '\\xff'",
        "select E'a'\n'\\xff'",
        "select E'\\u00e4', E'\\U0001F600', U&'\\00e4', U&\"\\0061\" from t",
        "select U&'\\D83D\\DE00'",
        "select U&'!00ff' UESCAPE '!'",
        "select b'101', x'ff', n'a'",
        "select ''''''''",
    ] {
        fuzz_statement(text.as_bytes());
    }
    for n in 20..40 {
        fuzz_statement(format!("select {}x from t", "ä".repeat(n)).as_bytes());
        fuzz_statement(format!("select {}x from t", "語".repeat(n)).as_bytes());
        fuzz_statement(format!("select a{} from \"{}\"", "😀".repeat(n), "語".repeat(n)).as_bytes());
    }
}

const WORDS: &[&str] = &[
    "select",
    "from",
    "where",
    "t",
    "u",
    "v",
    "a",
    "s",
    "*",
    ",",
    "(",
    ")",
    "t.s",
    "t.*",
    "x",
    "as",
    "join",
    "on",
    "using",
    "natural",
    "left",
    "insert",
    "into",
    "values",
    "update",
    "set",
    "delete",
    "returning",
    "with",
    "recursive",
    "union",
    "all",
    "except",
    "order by",
    "group by",
    "having",
    "limit",
    "1",
    "'x'",
    "$1",
    "=",
    "||",
    "::text",
    "::mood",
    "copy",
    "to stdout",
    "from stdin",
    "csv",
    "explain",
    "analyze",
    "create",
    "table",
    "view",
    "drop",
    "alter",
    "rename",
    "lower",
    "count(*)",
    "row_to_json(t)",
    "case when",
    "then",
    "else",
    "end",
    "exists",
    "in",
    "and",
    "or",
    "not",
    "null",
    "is",
    "true",
    "merge",
    "when matched then",
    "do nothing",
    "on conflict",
    "lateral",
    "array[",
    "]",
    "[1]",
    ".",
    ";",
    "grant",
    "cast(",
    "over ()",
    "filter (where",
    "grouping sets",
    "for update of",
    "declare c cursor for",
    "prepare p as",
    "execute p",
    "begin",
    "commit",
    "set_config('a','b',false)",
    "xmlelement(name x,",
    "json_table(",
    "tablesample system (1)",
    "E'\\x41'",
    "\"S\"",
    "--",
    "/*",
    "*/",
    "$$",
    "\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_statement(&bytes);
    }

    #[test]
    fn sql_like_text(words in prop::collection::vec(prop::sample::select(WORDS), 0..24)) {
        fuzz_statement(words.join(" ").as_bytes());
    }
}

#[test]
fn nothing_hides_nested_comments_from_the_guard() {
    let deep = format!("{}{}", "/*".repeat(40_000), "*/".repeat(40_000));
    for text in [
        format!("select 1 {deep}"),
        format!("select E'\\'' {deep}"),
        format!("select E'a''\\'' {deep}"),
        format!("select E'a'\n'\\'' {deep}"),
        format!("select E'a' -- b\n '\\'' {deep}"),
        format!("select '\\' {deep}"),
        format!("select a$$ {deep} -- $$"),
        format!("select $a$ ' $a$ {deep}"),
        format!("select \"\"\"\" {deep}"),
        format!("select U&'\\' {deep}"),
        format!("select +{deep}1"),
    ] {
        let start = Instant::now();
        fuzz_statement(text.as_bytes());
        assert!(start.elapsed() < Duration::from_secs(1), "{:?} for {}", start.elapsed(), &text[..30]);
    }
}

#[test]
fn work_grows_with_the_text_and_not_with_its_square() {
    let n = 30_000;
    let many = |part: &str, by: &str| vec![part; n].join(by);
    for text in [
        format!("update t set a = '1' where {}", many("a = '1'", " and ")),
        format!("select {} from {}", many("*", ","), many("t", ",")),
        format!("select {} from {}", many("t.a", ","), many("t", ",")),
        format!("select {} from {}", many("t.*", ","), many("t", ",")),
        format!("select {} from t order by {}", many("a as x", ","), many("b", ",")),
        format!("select {} from t", many("(select a from u)", ",")),
        format!("insert into t select * from u returning {}", many("*", ",")),
        format!(
            "with {} select 1",
            (0..n).map(|i| format!("c{i} as (select * from t)")).collect::<Vec<_>>().join(",")
        ),
        format!("drop table {}", many("t", ",")),
        many("delete from t where a = '1'", ";"),
        format!("select {}", many("count(s)", "+")),
    ] {
        let start = Instant::now();
        fuzz_statement(text.as_bytes());
        assert!(start.elapsed() < Duration::from_secs(8), "{:?} for {}", start.elapsed(), &text[..40]);
    }
}
