//! What becomes of columns and of COPY, in values.

use std::sync::Arc;

use policy::catalog::{Catalog, Table, TableColumn};
use policy::mask::{HashKey, Masked};
use policy::rule::{PolicyFile, Source};
use policy::{Column, CopyPlan, Decision, Format, Judge, Kept, Subject, Verdict, compile};

const TEXT: u32 = 25;
const INT4: u32 = 23;

fn judge(rules: &str) -> Judge {
    let column = |number, name: &str, type_oid, generated: bool| TableColumn {
        number,
        name: name.into(),
        type_oid,
        type_name: String::new(),
        not_null: false,
        generated: generated.then(|| "upper(name)".into()),
    };
    let table = |oid, name: &str, kind, definition: Option<&str>| Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind,
        // Number 3 was dropped.
        columns: vec![
            column(1, "id", INT4, false),
            column(2, "name", TEXT, false),
            column(4, "ssn", TEXT, false),
            column(5, "shout", TEXT, true),
        ],
        parents: vec![],
        definition: definition.map(str::to_owned),
    };
    let catalog = Catalog {
        tables: vec![
            table(20_000, "people", 'r', None),
            table(20_001, "plain", 'r', None),
            table(20_002, "v", 'v', Some("SELECT id, name, ssn, name FROM people")),
            table(20_003, "far", 'f', None),
            Table {
                schema: "pg_catalog".into(),
                columns: vec![column(3, "relname", TEXT, false), column(11, "n_tup_hot_upd", 20, false)],
                ..table(12_161, "pg_stat_user_tables", 'v', None)
            },
        ],
        ..Catalog::default()
    };
    let file: PolicyFile = serde_json::from_str(rules).expect("shape");
    let source = Source { name: "p.yaml".into(), file, lines: vec![Some(7)] };
    let policy = compile(&[source], Some(HashKey::new(b"k"))).expect("compiles");
    policy.scope(&Subject { identity: "a".into(), groups: vec![] }, "c").bind(Arc::new(catalog))
}

fn ssn() -> Judge {
    judge(
        r#"{"rules": [{"name": "m", "on": {"columns": ["people.ssn", "people.id"]}, "mask": {"partial": {"keep_last": 2}}}]}"#,
    )
}

fn column(table: u32, attribute: i16, type_oid: u32) -> Column<'static> {
    Column { name: b"x", table, attribute, type_oid, format: Format::Text }
}

#[test]
fn structure_beside_contents_passes_by_the_servers_word_too() {
    let judge = ssn();
    let decision = judge.statement(b"SELECT relname, n_tup_hot_upd FROM pg_stat_user_tables");
    let columns = [column(12_161, 3, TEXT), column(12_161, 11, 20)];
    assert_eq!(shown(&judge, Some(&decision), &columns), ["=", "NULL"]);
}

/// What the plan makes of `value` in each column: `=` when it passes.
fn shown(judge: &Judge, decision: Option<&Decision>, columns: &[Column<'_>]) -> Vec<String> {
    let plan = decision.map_or_else(|| judge.plan(columns), |d| judge.plan_for(d, columns));
    plan.columns
        .iter()
        .map(|cell| match cell {
            None => "=".to_owned(),
            Some(cell) => {
                let mut out = Vec::new();
                match cell.apply(b"12345678", &mut out) {
                    Masked::Null => "NULL".to_owned(),
                    Masked::Kept => "kept".to_owned(),
                    Masked::Written => String::from_utf8(out).expect("text"),
                }
            }
        })
        .collect()
}

#[test]
fn columns_are_masked_by_origin() {
    let columns = [
        column(20_000, 1, INT4),
        column(20_000, 2, TEXT),
        column(20_000, 4, TEXT),
        column(20_000, 0, 2249),
        column(20_000, -1, 27),
        column(20_000, 3, TEXT),
        column(20_001, 4, TEXT),
        column(20_002, 2, TEXT),
        column(20_002, 4, TEXT),
        column(20_003, 2, TEXT),
        column(0, 0, TEXT),
        column(0, 0, INT4),
        column(77_777, 1, TEXT),
        column(1259, 2, 19),
        column(2604, 4, 194),
        column(2609, 4, TEXT),
        column(3501, 4, 19),
        column(1260, 2, 19),
        column(2619, 26, 2277),
    ];
    let want = [
        "NULL", "=", "******78", "NULL", "=", "***", "=", "=", "***", "***", "***", "NULL", "***", "=",
        "NULL", "***", "***", "***", "NULL",
    ];
    assert_eq!(shown(&ssn(), None, &columns), want);
    assert!(ssn().unknown_table(&columns));
    assert!(!ssn().unknown_table(&columns[..12]));
}

#[test]
fn a_proved_expression_passes_beside_a_masked_column() {
    let judge = ssn();
    let columns = [column(0, 0, TEXT), column(20_000, 4, TEXT), column(0, 0, TEXT)];
    let decision = judge.statement(b"SELECT upper(name), ssn, upper(ssn) FROM people ORDER BY name");
    assert!(!decision.clean && decision.withhold);
    assert_eq!(shown(&judge, Some(&decision), &columns), ["=", "******78", "***"]);
    for entangled in [
        "SELECT DISTINCT upper(name), ssn, upper(ssn) FROM people",
        "SELECT upper(name), ssn, upper(ssn) AS u FROM people ORDER BY u",
        "SELECT upper(name), ssn, upper(ssn) FROM people ORDER BY 2",
        "SELECT upper(name), ssn, upper(ssn) FROM people WHERE ssn > '5'",
        "SELECT upper(name), ssn, row_number() OVER (ORDER BY ssn) FROM people",
        "SELECT upper(name), ssn, unnest(string_to_array(ssn, NULL)) FROM people",
        "SELECT upper(name), ssn, generate_series(1, length(ssn)) FROM people",
    ] {
        match &judge.statement(entangled.as_bytes()).verdict {
            Verdict::Block(block) => assert_eq!(
                (block.rule.as_str(), block.table.as_deref(), block.column.as_deref()),
                ("m", Some("people"), Some("ssn")),
                "{entangled}"
            ),
            Verdict::Pass => panic!("one column would tell of another: {entangled}"),
        }
    }
    // The witnesses disagree, or do not speak of the same answer.
    let decision = judge.statement(b"SELECT upper(name), ssn, upper(ssn) FROM people ORDER BY name");
    let other = [column(0, 0, TEXT), column(20_000, 2, TEXT), column(0, 0, TEXT)];
    assert_eq!(shown(&judge, Some(&decision), &other), ["=", "***", "***"]);
    assert_eq!(shown(&judge, Some(&decision), &other[..2]), ["***", "***"]);
    let two = judge.statement(b"SELECT 1; SELECT upper(name), ssn, upper(ssn) FROM people");
    assert_eq!(shown(&judge, Some(&two), &columns), ["***", "******78", "***"]);
}

#[test]
fn whether_what_is_computed_is_null_does_not_show() {
    let judge = ssn();
    let decision = judge.statement(b"SELECT upper(ssn), ssn, name FROM people");
    let columns = [column(0, 0, TEXT), column(20_000, 4, TEXT), column(20_000, 2, TEXT)];
    for plan in [judge.plan_for(&decision, &columns), judge.plan(&columns)] {
        let nulls = plan.columns.iter().map(|c| c.as_ref().is_some_and(|c| c.masks_nulls()));
        assert_eq!(nulls.collect::<Vec<_>>(), [true, false, false]);
    }
    // As PostgREST asks for headers a function may have set: of no row.
    let decision =
        judge.statement(b"SELECT ssn, nullif(current_setting('response.headers', true), '') FROM people");
    let plan = judge.plan_for(&decision, &[column(20_000, 4, TEXT), column(0, 0, TEXT)]);
    assert!(plan.columns[1].as_ref().is_some_and(|c| !c.masks_nulls()));
    let decision = judge.statement(b"COPY (SELECT upper(ssn), ssn, name FROM people) TO STDOUT");
    let [CopyPlan::Rows(rows)] = decision.copies.as_slice() else { panic!("{:?}", decision.copies) };
    let nulls = rows.columns.iter().map(|c| c.as_ref().is_some_and(|c| c.masks_nulls()));
    assert_eq!(nulls.collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn errors_beside_masked_values_are_counted() {
    let judge = ssn();
    let counted = |sql: &str| !judge.statement(sql.as_bytes()).conflicts.is_empty();
    for sql in [
        "SELECT upper(ssn) FROM people",
        "UPDATE people SET name = 'x' WHERE name = 'y'",
        "INSERT INTO people (name) VALUES ('x')",
        "COPY people (name) FROM STDIN",
    ] {
        assert!(counted(sql), "{sql}");
    }
    for sql in ["SELECT ssn, upper(name) FROM people", "SELECT 1", "DELETE FROM people WHERE name = 'x'"] {
        assert!(!counted(sql), "{sql}");
    }
}

#[test]
fn the_strictest_of_several_rules_holds() {
    let judge = judge(
        r#"{"rules": [
            {"name": "a", "on": {"columns": ["people.ssn"]}, "mask": {"partial": {"keep_last": 2}}},
            {"name": "b", "on": {"columns": ["*.PEOPLE.SSN"]}, "mask": "hash"},
            {"name": "c", "on": {"columns": ["nobody.ssn"]}, "mask": null}]}"#,
    );
    assert_eq!(shown(&judge, None, &[column(20_000, 4, TEXT)])[0].len(), 32);
    assert_eq!(judge.unresolved(), ["c: *.nobody.ssn"]);
}

#[test]
fn copy_follows_the_column_list_and_its_options() {
    let judge = ssn();
    let rows = |sql: &str| match judge.statement(sql.as_bytes()).copies.as_slice() {
        [CopyPlan::Rows(rows)] => rows.clone(),
        other => panic!("{sql}: {other:?}"),
    };
    let masked = |sql: &str| rows(sql).columns.iter().map(Option::is_some).collect::<Vec<_>>();
    assert_eq!(masked("COPY people TO STDOUT"), [true, false, true], "a generated column is not copied");
    assert_eq!(masked("COPY people (name, ssn, nonsense) TO STDOUT"), [false, true, true]);
    let csv =
        rows("COPY people TO STDOUT (FORMAT csv, HEADER, DELIMITER ';', NULL 'nil', QUOTE '|', ESCAPE '\\')");
    assert!(csv.csv && csv.header);
    assert_eq!((csv.delimiter, csv.quote, csv.escape, csv.null.as_slice()), (b';', b'|', b'\\', &b"nil"[..]));
    let old = rows("COPY people TO STDOUT WITH DELIMITER '|' NULL AS ''");
    assert!(!old.csv && !old.header && old.null.is_empty() && old.delimiter == b'|');
    let text = rows("COPY people TO STDOUT");
    assert_eq!((text.delimiter, text.null.as_slice()), (b'\t', &b"\\N"[..]));
    let quoted = rows("COPY people TO STDOUT CSV QUOTE ''''");
    assert_eq!((quoted.quote, quoted.escape), (b'\'', b'\''));
    assert_eq!(masked("COPY (SELECT name, ssn, upper(ssn) FROM people) TO STDOUT"), [false, true, true]);
    assert!(rows("COPY (SELECT * FROM people, unnest(array[1]) u) TO STDOUT").every.is_some());
    // A table that has one column less by then, and another that has one more.
    assert!(rows("COPY (SELECT o.*, c.ssn, k.* FROM plain o, people c, plain k) TO STDOUT").every.is_some());
    assert!(rows("COPY (SELECT * FROM plain o JOIN people c ON c.id = o.id) TO STDOUT").every.is_none());
    assert!(rows("COPY (SELECT o.*, c.ssn FROM plain o, people c) TO STDOUT").every.is_none());
    let both = judge.statement(b"COPY plain TO STDOUT; COPY people TO STDOUT");
    assert!(matches!(both.copies.as_slice(), [CopyPlan::Pass, CopyPlan::Rows(_)]));
    assert!(matches!(judge.statement(b"COPY people TO STDOUT (HEADER 'match')").verdict, Verdict::Block(_)));
}

#[test]
fn errors_are_withheld_where_they_could_speak() {
    let judge = ssn();
    let withheld = |sql: &str| judge.statement(sql.as_bytes()).withhold;
    assert!(!withheld("SELECT name FROM people"));
    assert!(!withheld("BEGIN"));
    assert!(withheld("COMMIT"), "deferred constraints");
    assert!(withheld("SELECT ssn::int FROM people"));
    assert!(withheld("UPDATE people SET name = NULL"), "the failing row is printed whole");
    assert!(withheld("INSERT INTO people (id) VALUES (1)"));
    assert!(withheld("COPY people FROM STDIN"));
}

#[test]
fn a_refusal_says_who_where_and_what_now() {
    let judge = judge(
        r#"{"rules": [{"name": "no-drop", "on": {"statements": ["drop"], "tables": ["people"]}, "block": "not here"}]}"#,
    );
    let Verdict::Block(block) = judge.statement(b"DROP TABLE public.people").verdict.clone() else {
        panic!("passes")
    };
    assert_eq!(
        (block.rule.as_str(), block.place.as_str(), block.message.as_str()),
        ("no-drop", "p.yaml:7", "not here")
    );
    assert_eq!(
        (block.schema.as_deref(), block.table.as_deref(), block.sqlstate),
        (Some("public"), Some("people"), "42501")
    );
    assert!(block.hint.contains("DROP TABLE"));
    let Verdict::Block(block) = judge.statement(b"SELEC 1").verdict.clone() else { panic!("passes") };
    assert_eq!((block.rule.as_str(), block.sqlstate), ("not-understood", "42601"));
    assert!(matches!(judge.function_call(1), Verdict::Block(_)));
    assert!(matches!(judge.unreadable().verdict, Verdict::Block(_)));
}

#[test]
fn rows_of_constants_are_judged_by_the_first_and_what_is_too_large_is_refused() {
    let judge = ssn();
    let rows = ", (1, 'x', NULL)".repeat(60_000);
    let insert = |table: &str, tail: &str| {
        judge.statement(format!("INSERT INTO {table} VALUES (1, 'x', $1){rows}{tail}").as_bytes())
    };
    let decision = insert("plain (id, name, ssn)", " RETURNING id");
    assert!(decision.verdict == Verdict::Pass && decision.clean);
    let decision = insert("people (id, name, ssn)", " RETURNING ssn");
    assert!(decision.verdict == Verdict::Pass && !decision.clean && decision.withhold);
    let decision = insert("plain", "; DROP TABLE x; SELECT ssn FROM people");
    assert!(!decision.clean && decision.ddl, "what follows the rows is judged");
    let refused = |decision: &Decision| match &decision.verdict {
        Verdict::Block(block) => (block.sqlstate, block.rule.clone(), block.hint.contains("COPY")),
        Verdict::Pass => panic!("it passed"),
    };
    let copied = insert("plain", ", (1, (SELECT max(ssn) FROM people), NULL)");
    assert_eq!(refused(&copied).1, "masked-data-copied");
    for large in [
        format!("SELECT name FROM people WHERE id IN (1{})", ",1".repeat(120_000)),
        format!("INSERT INTO plain VALUES (now()){}", ",(now())".repeat(120_000)),
        format!("INSERT INTO plain VALUES (1){}", ",(1)".repeat(2_000_000)),
    ] {
        let want = ("54000", "not-understood".to_owned(), true);
        assert_eq!(refused(&judge.statement(large.as_bytes())), want);
    }
    let parameters = (1..=65_535).map(|n| format!(",${n}")).collect::<String>();
    let lookup = format!("SELECT name FROM people WHERE name IN ('x'{parameters})");
    assert!(judge.statement(lookup.as_bytes()).clean, "as many parameters as the protocol has");
}

#[test]
fn cursors_are_named_so_that_a_session_can_remember_them() {
    let judge = ssn();
    let cursor = |sql: &str| {
        let decision = judge.statement(sql.as_bytes());
        (decision.clean, decision.kept.clone())
    };
    let declared = |name: &str, hold| Some(Kept::Declared { name: name.into(), hold });
    let fetched = |name: &str| Some(Kept::Fetched(name.into()));
    assert_eq!(cursor("DECLARE C CURSOR FOR SELECT upper(name) FROM people"), (true, declared("c", false)));
    assert_eq!(
        cursor("DECLARE \"C\" BINARY CURSOR WITH HOLD FOR SELECT ssn FROM people"),
        (false, declared("C", true))
    );
    assert_eq!(cursor("FETCH FORWARD 10 FROM c"), (false, fetched("c")));
    assert_eq!(cursor("FETCH ALL \"C\""), (false, fetched("C")));
    assert_eq!(cursor("BEGIN; DECLARE c CURSOR FOR SELECT 1"), (true, None));
    assert_eq!(cursor("SELECT 1"), (true, None));
    let serves = |made: &str, used: &str| {
        let [made, used] = [made, used].map(|sql| cursor(sql).1);
        made.is_some_and(|made| used.is_some_and(|used| made.serves(&used)))
    };
    assert!(
        serves("DECLARE c CURSOR FOR SELECT 1", "FETCH c") && !serves("PREPARE c AS SELECT 1", "FETCH c")
    );
    assert!(
        serves("PREPARE p AS SELECT $1", "EXECUTE p('a', NULL)")
            && serves("PREPARE p AS SELECT 1", "EXECUTE p")
    );
    assert!(serves("PREPARE p(int, text) AS SELECT $1", "EXECUTE p(1, 'a')"));
    assert!(!serves("PREPARE p AS SELECT 1", "EXECUTE q"));
    // What it is given is part of the answer, and so is what a cast of users makes of it.
    for given in ["get_contact(1)", "'a'::text", "1 + 1", "current_user", "ARRAY[1]", "$1"] {
        assert!(!serves("PREPARE p(int) AS SELECT $1", &format!("EXECUTE p({given})")), "{given}");
    }
    assert!(
        !serves("PREPARE p AS SELECT $1", "EXECUTE p(1)")
            && !serves("PREPARE p(mood) AS SELECT $1", "EXECUTE p(1)")
    );
    // The rows of the FETCH, planned with what its DECLARE proved.
    let columns = [column(0, 0, TEXT)];
    let declare = judge.statement(b"DECLARE c CURSOR FOR SELECT upper(name) FROM people");
    assert!(declare.clean && !declare.withhold);
    assert_eq!(shown(&judge, Some(&judge.statement(b"FETCH c")), &columns), ["***"]);
}

/// What becomes of a cell in an answer of a definition.
#[test]
fn definitions_keep_their_structure_only() {
    let judge = ssn();
    let told = |sql: &str, type_oid, format, value: &[u8]| {
        let decision = judge.statement(sql.as_bytes());
        let plan = judge.plan_for(&decision, &[Column { format, ..column(0, 0, type_oid) }]);
        let mut out = Vec::new();
        match plan.columns[0].as_ref().map(|cell| cell.apply(value, &mut out)) {
            None | Some(Masked::Kept) => "=".to_owned(),
            Some(Masked::Null) => "NULL".to_owned(),
            Some(Masked::Written) => String::from_utf8(out).expect("text"),
        }
    };
    let expr = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef";
    let labels = "SELECT array_agg(enumlabel) FROM pg_enum";
    for format in [Format::Text, Format::Binary] {
        assert_eq!(told(expr, TEXT, format, b"'123-45-6789'::text"), "'***'::text");
        assert_eq!(told(expr, TEXT, format, b"nextval('s'::regclass)"), "=");
        assert_eq!(told("SELECT adbin FROM pg_attrdef", 194, format, b"({CONST"), "NULL");
        assert_eq!(told("SELECT length(definition) FROM pg_views", INT4, format, b"7"), "NULL");
        assert_eq!(told("SELECT enum_first(null::mood)", 20_500, format, b"open"), "=");
        assert_eq!(told("SELECT enum_first(null::mood)", 20_500, format, b"123-45-6789"), "NULL");
        assert_eq!(told("SELECT obj_description(1)", TEXT, format, b"ana@example.org"), "***");
    }
    assert_eq!(told(labels, 1003, Format::Text, b"{open,\"123-45-6789\"}"), "{\"open\",\"***\"}");
    assert_eq!(told(labels, 1003, Format::Binary, b"\0\0\0\x01"), "NULL");
    assert_eq!(told("FETCH c", TEXT, Format::Text, b"a"), "***");
}
