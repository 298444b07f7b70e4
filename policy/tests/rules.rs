//! Runs every `tests/rules/*.txt`: rules, statements, and what must become of them.
//!
//! A file is read top to bottom. `rule {…}` (YAML) adds a rule and starts a new policy when statements came before it;
//! `as NAME [GROUP…]` says who asks. Every other line is an expectation and a statement:
//!
//! ```text
//! clean   runs, and its rows pass unseen
//! masked  runs, and each output column needs a plan
//! block RULE   does not run, because of that rule
//! observe RULE runs, and that rule in observe mode is named
//! spoken  runs, its rows pass unseen and its errors keep their text
//! hushed  the same, but its errors are withheld
//! limit RULE   runs, and that rule counts its rows      unlimited   runs, and no rule does
//! origins A,B,…   runs, and its outputs are told to be: clean, sql or words (a definition: its constants are replaced, or all that is
//!         not words), plan, masked, unknown; `every` when all of the statement is clean, `untold` when they cannot be told; of
//!         several statements each, with `;` between
//! copy    runs, COPY rows pass        copy-masked   runs, COPY rows are rewritten
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use policy::catalog::{Catalog, Code, Constraint, Follows, Function, Table, TableColumn, Writes};
use policy::mask::{HashKey, Text};
use policy::plan::CopyBinary;
use policy::rule::{PolicyFile, Rule, Source};
use policy::{CopyPlan, Decision, DecisionCache, Judge, Origin, ProbeValue, Subject, Verdict, compile};

mod system;

/// The tables the files speak of.
fn catalog() -> Catalog {
    let mut oid = 16_400;
    let mut tables = Vec::new();
    // A name with ! is of a column that is never NULL.
    let mut table = |schema: &str,
                     name: &str,
                     kind: char,
                     parents: &[u32],
                     columns: &[(&str, u32)],
                     definition: Option<&str>| {
        oid += 1;
        tables.push(Table {
            oid,
            schema: schema.into(),
            name: name.into(),
            kind,
            columns: columns
                .iter()
                .zip(1i16..)
                .map(|((name, type_oid), number)| TableColumn {
                    number,
                    name: name.trim_end_matches('!').into(),
                    type_oid: *type_oid,
                    type_name: if *name == "d_purge" { "public.d_purge".into() } else { String::new() },
                    not_null: *name == "id!" || *name == "v!",
                    generated: match *name {
                        "email_domain" => Some("split_part(email, '@'::text, 2)".into()),
                        "contact_lower" => Some("lower(contact)".into()),
                        _ => None,
                    },
                })
                .collect(),
            parents: parents.to_vec(),
            definition: definition.map(str::to_owned),
        });
        oid
    };
    let person = [
        ("id", 23),
        ("name", 25),
        ("city", 25),
        ("tier", 25),
        ("email", 25),
        ("ssn", 25),
        ("card", 25),
        ("salary", 1700),
        ("tags", 1009),
        ("created", 1184),
        ("email_domain", 25),
    ];
    let customers = table("public", "customers", 'r', &[], &person, None);
    table("public", "customers_archive", 'r', &[customers], &person, None);
    // A type of users.
    let part = [("id", 23), ("region", 16_399), ("ssn", 25)];
    let parted = table("public", "customers_part", 'p', &[], &part, None);
    table("public", "customers_part_eu", 'r', &[parted], &part, None);
    let orders = table(
        "public",
        "orders",
        'r',
        &[],
        &[("id", 23), ("customer_id", 23), ("item", 25), ("amount", 1700)],
        None,
    );
    let victims = table("public", "victims", 'r', &[], &[("id", 23), ("v", 25)], None);
    let kv = table("public", "kv", 'r', &[], &[("k", 25), ("v", 25)], None);
    let keyed = table("public", "keyed", 'r', &[], &[("id!", 23), ("v!", 25), ("n", 23)], None);
    let spread = table("public", "spread", 'p', &[], &[("a", 25)], None);
    table("public", "far", 'f', &[spread], &[("a", 25)], None);
    let notes = table("a", "notes", 'r', &[], &[("id", 23), ("body", 25)], None);
    table("b", "notes", 'r', &[], &[("body", 25), ("id", 23), ("secret", 25)], None);
    table(
        "public",
        "v_orders",
        'v',
        &[],
        &[("id", 23), ("item", 25)],
        Some(" SELECT orders.id,\n    orders.item\n   FROM orders;"),
    );
    table(
        "public",
        "v_contact",
        'v',
        &[],
        &[("id", 23), ("name", 25), ("tax_no", 25)],
        Some(" SELECT customers.id,\n    customers.name,\n    customers.ssn AS tax_no\n   FROM customers;"),
    );
    table(
        "public",
        "v_over",
        'v',
        &[],
        &[("t", 25), ("id", 23)],
        Some("SELECT v_contact.tax_no AS t, v_contact.id FROM v_contact;"),
    );
    table("public", "v_victims", 'v', &[], &[("id", 23)], Some("SELECT victims.id FROM victims;"));
    table(
        "public",
        "v_union",
        'v',
        &[],
        &[("x", 25)],
        Some("SELECT kv.v AS x FROM kv UNION SELECT customers.ssn FROM customers;"),
    );
    table("public", "v_broken", 'v', &[], &[("x", 25)], Some("SELECT FROM WHERE"));
    let tickets = table("public", "tickets", 'r', &[], &[("id", 23), ("body", 25)], None);
    let logged = table("public", "logged", 'r', &[], &[("id", 23), ("body", 25)], None);
    let v_logged = table(
        "public",
        "v_logged",
        'v',
        &[],
        &[("id", 23), ("body", 25)],
        Some("SELECT logged.id, logged.body FROM logged"),
    );
    let through = table("public", "through", 'r', &[], &[("id", 23)], None);
    let shipments = table(
        "public",
        "shipments",
        'r',
        &[],
        &[("id", 23), ("contact", 25), ("at", 1184), ("ref", 25)],
        None,
    );
    table(
        "public",
        "v_shipments",
        'v',
        &[],
        &[("c", 25)],
        Some("SELECT shipments.contact AS c FROM shipments"),
    );
    for (name, definition) in [
        ("v_listed", "SELECT string_agg(orders.item, ',') AS t FROM orders"),
        ("v_pairs", "SELECT a.item AS t FROM orders a, orders b"),
        ("v_over_pairs", "SELECT p.t FROM v_pairs p, v_pairs q"),
        ("v_calls", "SELECT get_contact(1) AS t"),
        ("v_over_calls", "SELECT v_calls.t FROM v_calls"),
        ("v_settings", "SELECT name AS t, setting FROM pg_settings"),
    ] {
        table("public", name, 'v', &[], &[("t", 25), ("setting", 25)], Some(definition));
    }
    let texts = table(
        "public",
        "texts",
        'r',
        &[],
        &[("id", 23), ("email", 25), ("title", 25), ("search", 3614)],
        None,
    );
    table("public", "v_purges", 'v', &[], &[("t", 25)], Some("SELECT purge() AS t"));
    table("public", "mv_purges", 'm', &[], &[("t", 25)], Some("SELECT purge() AS t"));
    let filled = table("public", "filled_in", 'r', &[], &[("id", 23), ("n", 23)], None);
    let checked = table("public", "checked", 'r', &[], &[("id", 23)], None);
    table("public", "v_checked", 'v', &[], &[("id", 23)], Some("SELECT checked.id FROM checked"));
    table("public", "typed", 'r', &[], &[("d_purge", 23)], None);
    let parent = table("public", "parent", 'r', &[], &[("id", 23), ("n", 23)], None);
    let child = table("public", "child", 'r', &[], &[("id", 23)], None);
    table("public", "mv_calls", 'm', &[], &[("t", 25)], Some("SELECT get_contact(1) AS t"));
    let sent = [("id", 23), ("contact", 25), ("contact_lower", 25), ("note", 25), ("code", 25), ("kind", 25)];
    let letters = table("public", "letters", 'r', &[], &sent, None);
    let parcels = table("public", "parcels", 'p', &[], &[("id", 23), ("contact", 25), ("code", 25)], None);
    let parcels_a =
        table("public", "parcels_a", 'r', &[parcels], &[("code", 25), ("id", 23), ("contact", 25)], None);
    let gone: Vec<(&str, u32)> = [("at", 1184)].into_iter().chain(person).collect();
    table("public", "gone", 'r', &[], &gone, None);
    table("public", "seen", 'r', &[], &[("id", 23), ("who", 25)], None);
    let verified = table("public", "verified", 'r', &[], &[("id", 23), ("contact", 25)], None);
    let by_setting = "SELECT c.id FROM customers c WHERE c.ssn LIKE current_setting('app.q'::text)";
    table("public", "v_setting", 'v', &[], &[("id", 23)], Some(by_setting));
    table("public", "v_through", 'v', &[], &[("id", 23)], Some("SELECT v.id FROM v_setting v"));
    let by_table = "SELECT c.id FROM customers c JOIN kv ON c.ssn ~~ kv.v";
    table("public", "v_watch", 'v', &[], &[("id", 23)], Some(by_table));
    let by_itself = "SELECT c.id FROM customers c WHERE c.ssn ~~ '6%'::text";
    table("public", "v_sixes", 'v', &[], &[("id", 23)], Some(by_itself));
    table("public", "people", 'r', &[], &[("id", 23), ("born", 1082)], None);
    let function = |name: &str, language: &str| Function {
        oid: 17_000,
        schema: "public".into(),
        name: name.into(),
        language: language.into(),
        kind: 'f',
        body: String::new(),
        arguments: String::new(),
        rows: false,
    };
    tables.extend(system::tables());
    Catalog {
        version: 1,
        database: "shop".into(),
        server_version: 150_000,
        search_path: vec!["public".into()],
        tables,
        functions: vec![
            function("get_contact", "sql"),
            Function {
                body: "INSERT INTO kv SELECT id::text, ssn FROM public.customers; SELECT 1".into(),
                ..function("keep_contacts", "sql")
            },
            Function { body: "SELECT public.keep_contacts()".into(), ..function("keep_through", "sql") },
            Function {
                body: "INSERT INTO kv SELECT id, ssn FROM customers WHERE ssn LIKE $1".into(),
                ..function("keep_some", "sql")
            },
            Function {
                body: "UPDATE customers SET created = now() WHERE email = $1".into(),
                ..function("touch", "sql")
            },
            function("upper_shadow", "sql"),
            Function {
                body: "SELECT ssn FROM public.customers WHERE id = $1".into(),
                arguments: "integer".into(),
                ..function("ssn_of", "sql")
            },
            Function {
                body: "SELECT 'hello ' || who".into(),
                arguments: "who text DEFAULT public.ssn_of(1)".into(),
                ..function("greet", "sql")
            },
            Function {
                body: "SELECT 'hello ' || who".into(),
                arguments: "who text DEFAULT 'you'::text, at timestamptz DEFAULT now()".into(),
                ..function("salute", "sql")
            },
            Function {
                body: "SELECT 1".into(),
                arguments: "a known_ssn".into(),
                ..function("takes_known", "sql")
            },
            Function {
                body: "SELECT EXISTS (SELECT 1 FROM public.customers WHERE ssn LIKE $1)".into(),
                ..function("known", "sql")
            },
            Function { body: "SELECT $1 <> ''".into(), ..function("filled", "sql") },
            Function {
                oid: 17_500,
                body: "BEGIN NEW.contact := (SELECT email FROM customers WHERE id = NEW.id); NEW.at := now(); RETURN NEW; END".into(),
                ..function("fill_contact", "plpgsql")
            },
            Function {
                body: "DECLARE e text; BEGIN SELECT email INTO e FROM customers WHERE id = i; RETURN e; END".into(),
                arguments: "i integer".into(),
                ..function("pl_email", "plpgsql")
            },
            Function {
                body: "BEGIN RETURN upper(pl_email(i)); END".into(),
                arguments: "i integer".into(),
                ..function("pl_loud", "plpgsql")
            },
            Function {
                body: "DECLARE n int; BEGIN SELECT count(*) INTO n FROM customers; RETURN 'n' || n; END".into(),
                ..function("pl_count", "plpgsql")
            },
            Function {
                oid: 17_510,
                body: "BEGIN NEW.contact := pl_email(NEW.id); NEW.note := coalesce(NEW.note, ''); RETURN NEW; END".into(),
                ..function("fill_letter", "plpgsql")
            },
            Function {
                oid: 17_520,
                body: "BEGIN INSERT INTO gone SELECT now(), OLD.*; INSERT INTO seen (id, who) VALUES (OLD.id, OLD.email); RETURN OLD; END".into(),
                ..function("keep_gone", "plpgsql")
            },
            Function {
                body: "SELECT id FROM public.customers WHERE ssn LIKE current_setting('app.q')".into(),
                ..function("my_search", "sql")
            },
            Function {
                body: "BEGIN RETURN QUERY SELECT * FROM public.search_sql(p); END".into(),
                arguments: "p text".into(),
                ..function("search_through", "plpgsql")
            },
            Function {
                body: "BEGIN RETURN QUERY SELECT * FROM search_through(p); END".into(),
                arguments: "p text".into(),
                ..function("search_further", "plpgsql")
            },
            Function {
                body: "BEGIN RETURN QUERY EXECUTE 'SELECT id FROM customers WHERE ssn LIKE $1' USING q; END".into(),
                arguments: "q text".into(),
                ..function("search_text", "plpgsql")
            },
            Function {
                body: "BEGIN RETURN QUERY EXECUTE format('SELECT id FROM %I WHERE %I LIKE $1', t, c) USING q; END".into(),
                arguments: "t text, c text, q text".into(),
                ..function("search_any", "plpgsql")
            },
            Function {
                body: "BEGIN RETURN QUERY EXECUTE 'SELECT id FROM orders WHERE ' || q; END".into(),
                arguments: "q text".into(),
                ..function("search_orders", "plpgsql")
            },
            function("max", "c"),
            Function {
                body: "SELECT id FROM public.customers WHERE ssn LIKE q".into(),
                arguments: "q text".into(),
                ..function("search_sql", "sql")
            },
            Function {
                body: "BEGIN RETURN QUERY SELECT id FROM public.customers WHERE ssn LIKE q; END".into(),
                arguments: "q text".into(),
                ..function("search", "plpgsql")
            },
            Function {
                body: "DECLARE i int; BEGIN SELECT id INTO STRICT i FROM customers WHERE email = q AND city LIKE 'a%' ORDER BY email; RETURN i; END".into(),
                arguments: "q text".into(),
                ..function("find_by_email", "plpgsql")
            },
            Function {
                oid: 17_501,
                body: "DELETE FROM public.victims; SELECT 1".into(),
                ..function("purge", "sql")
            },
            Function {
                body: "DECLARE n int; BEGIN IF n IS NULL THEN DROP TABLE public.victims; END IF; PERFORM 1; END".into(),
                ..function("purge_all", "plpgsql")
            },
            Function { body: "SELECT public.purge_all()".into(), ..function("purge_through", "sql") },
            Function {
                body: "BEGIN INSERT INTO kv SELECT id, ssn FROM public.customers; END".into(),
                ..function("archive", "plpgsql")
            },
            Function {
                body: "BEGIN INSERT INTO customers (email) VALUES (p_email); UPDATE customers SET name = lower(p_email); END".into(),
                ..function("register", "plpgsql")
            },
            Function {
                body: "SELECT set_config('app.note', (SELECT ssn FROM public.customers WHERE id = $1), false)".into(),
                ..function("remember", "sql")
            },
            Function {
                body: "BEGIN PERFORM set_config('app.note', (SELECT string_agg(ssn, ' ') FROM public.customers), false); END".into(),
                ..function("remember_all", "plpgsql")
            },
            Function {
                body: "BEGIN PERFORM FROM public.customers WHERE ssn LIKE q; RETURN FOUND; END".into(),
                arguments: "q text".into(),
                ..function("seek", "plpgsql")
            },
            Function {
                body: "BEGIN FOR r IN DELETE FROM public.victims RETURNING * LOOP NULL; END LOOP; END".into(),
                ..function("purge_loop", "plpgsql")
            },
            Function {
                body: "DECLARE x int; BEGIN IF n > 0 THEN x := public.purge_loop(); END IF; RETURN x; END".into(),
                ..function("purge_if", "plpgsql")
            },
            Function {
                body: "BEGIN EXECUTE format('DELETE FROM %I.victims', 'public'); END".into(),
                ..function("purge_text", "plpgsql")
            },
            Function { arguments: "x integer DEFAULT public.purge()".into(), body: "SELECT x".into(), ..function("by_default", "sql") },
            Function {
                body: "BEGIN DELETE FROM public.kv WHERE k = OLD.id; UPDATE public.kv SET v = p_v WHERE k = p_k; END".into(),
                arguments: "p_k text, p_v text".into(),
                ..function("keep_in_step", "plpgsql")
            },
            Function {
                body: "BEGIN IF tg_tag = 'CREATE TABLE' THEN NOTIFY ledger; END IF; END".into(),
                ..function("on_ddl", "plpgsql")
            },
            function("initcap", "sql"),
            function("uuid_generate_v4", "c"),
            Function { rows: true, ..function("skeys", "c") },
            function("dblink", "c"),
            function("citextin", "internal"),
        ],
        code: Code {
            rules: [
                (tickets, "CREATE RULE r AS ON INSERT TO public.tickets DO SELECT c.id, c.email FROM public.customers c WHERE c.id = new.id;"),
                (logged, "CREATE RULE r AS ON UPDATE TO public.logged DO (INSERT INTO public.kv (k, v) VALUES (old.id, new.body); NOTIFY logged;);"),
                (v_logged, "CREATE RULE r AS ON INSERT TO public.v_logged DO INSTEAD INSERT INTO public.logged (id, body) VALUES (new.id, new.body) RETURNING logged.id, logged.body;"),
                (through, "CREATE RULE r AS ON DELETE TO public.through DO INSTEAD INSERT INTO public.tickets (id) VALUES (old.id);"),
            ]
            .map(|(table, definition)| (table, definition.to_owned()))
            .into(),
            on_ddl: vec!["on_ddl".into()],
            run: vec![(filled, true, vec!["purge".into()]), (checked, false, vec!["purge".into()]), (verified, false, vec!["search".into()])],
            made_of: ["agg_purge", "<#>"].map(|name| (name.to_owned(), vec!["purge".to_owned()])).into(),
            follows: [(8, 16, vec![]), (16, 16, vec!["id".to_owned()])]
                .map(|(on, does, columns)| Follows { of: parent, on, columns, to: child, does })
                .into(),
            conversions: [("contact", "ssn_of"), ("known_ssn", "known"), ("words", "filled"), ("d_purge", "purge")]
                .map(|(name, function)| (name.to_owned(), vec![function.to_owned()]))
                .into(),
            typed: [
                (18_001, "known_ssn", "known"),
                (18_002, "words", "filled"),
                (18_003, "contact", "ssn_of"),
                (18_004, "archived", "archive"),
                (18_005, "reference", "ssn_of"),
                (18_006, "state", "calm"),
            ]
            .map(|(oid, name, function)| (oid, name.to_owned(), vec![function.to_owned()]))
            .into(),
            defaults: vec![
                (shipments, 4, "public.ssn_of(3)".into()),
                (letters, 5, "public.pl_loud(3)".into()),
                (letters, 6, "public.pl_count()".into()),
                (parcels, 3, "public.ssn_of(1)".into()),
            ],
            triggers: vec![(shipments, 17_500), (letters, 17_510), (parcels_a, 17_500)],
            fired: vec![(notes, 17_501, 4), (child, 17_501, 16), (customers, 17_520, 8)],
            built_in: [
                ("tsvector_update_trigger", vec!["search", "pg_catalog.simple", "email"]),
                ("suppress_redundant_updates_trigger", vec![]),
            ]
            .map(|(function, given)| (texts, function.into(), given.into_iter().map(str::to_owned).collect()))
            .into(),
        },
        // A trigger on victims; deleting from kv deletes from customers.
        enums: vec!["mood".into()],
        keys: vec![(customers, vec![1]), (kv, vec![1]), (orders, vec![1]), (keyed, vec![1])],
        indexes: vec![(victims, "victims_pkey".into()), (victims, "victims_v".into())],
        // E-mail addresses are unique, alone and (in lower case) with the city.
        constraints: Some(Vec::from(
            [
                ("customers_pkey", true, vec![(customers, 1)]),
                ("customers_email_key", true, vec![(customers, 5)]),
                ("customers_city_lower", true, vec![(customers, 3), (customers, 5)]),
                ("orders_customer_fkey", false, vec![(orders, 2), (customers, 1)]),
            ]
            .map(|(name, unique, compares)| Constraint {
                table: compares.first().map_or(0, |c: &(u32, i16)| c.0),
                name: name.into(),
                unique,
                compares,
            }),
        )),
        writes: Some(Writes { code: vec![victims], cascades: vec![(kv, customers)], deferred: vec![orders] }),
    }
}

fn judge(rules: &[Rule], subject: &Subject, catalog: &Arc<Catalog>) -> Judge {
    let file = PolicyFile { rules: rules.to_vec(), ..PolicyFile::default() };
    let source = Source { name: "rules.txt".into(), file, lines: vec![] };
    let policy = compile(&[source], Some(HashKey::new(b"test"))).expect("the rules of the file compile");
    policy.scope(subject, "shop").bind(catalog.clone())
}

fn outcome(judge: &Judge, sql: &str) -> Vec<String> {
    let decision = judge.statement(sql.as_bytes());
    let mut out = Vec::new();
    match &decision.verdict {
        Verdict::Block(block) => out.push(format!("block {}", block.rule)),
        Verdict::Pass => {
            out.extend(decision.observed.iter().map(|r| format!("observe {r}")));
            for copy in &decision.copies {
                out.push(match copy {
                    CopyPlan::Pass => "copy".into(),
                    CopyPlan::Rows(rows) => {
                        assert!(rows.every.is_some() || rows.columns.iter().any(Option::is_some));
                        "copy-masked".into()
                    }
                    CopyPlan::Binary(CopyBinary { columns }) => {
                        assert!(columns.as_ref().is_none_or(|c| c.iter().any(Option::is_some)));
                        "copy-masked".into()
                    }
                });
            }
            out.extend(decision.limits.iter().map(|l| {
                let weight = if l.weight == 1 { String::new() } else { format!("*{}", l.weight) };
                format!("limit {}{weight}{}", l.limit.rule, if l.collects { "+" } else { "" })
            }));
            if decision.limits.is_empty() {
                out.push("unlimited".into());
            }
            if !decision.clean {
                assert!(decision.withhold, "what is not clean is withheld: {sql}");
            }
            if decision.clean {
                out.push(if decision.withhold { "hushed".into() } else { "spoken".into() });
            }
            out.push(format!("origins {}", origins(&decision)));
            if decision.copies.is_empty() {
                out.push(if decision.clean { "clean".into() } else { "masked".into() });
            }
        }
    }
    out
}

fn origins(decision: &Decision) -> String {
    let word = |origin: &Origin| match origin {
        Origin::Clean => "clean",
        Origin::Definition(Text::Sql) => "sql",
        Origin::Definition(Text::Words) => "words",
        Origin::Definition(Text::Plan) => "plan",
        Origin::Masked | Origin::Defined => "masked",
        Origin::Unknown => "unknown",
    };
    match &decision.outputs {
        _ if decision.clean => "every".into(),
        None if !decision.each.is_empty() => {
            decision.each.iter().map(|d| origins(d)).collect::<Vec<_>>().join(";")
        }
        None => "untold".into(),
        Some(outputs) => outputs.iter().map(word).collect::<Vec<_>>().join(","),
    }
}

#[test]
fn a_snapshot_that_does_not_tell_what_writes_do_withholds_them_all() {
    let mut old = catalog();
    old.writes = None;
    let json = serde_json::to_string(&old).expect("JSON");
    assert!(!json.contains("writes"));
    let old = Arc::new(serde_json::from_str::<Catalog>(&json).expect("readable"));
    let rule = serde_saphyr::from_str::<Rule>("{name: m, on: {columns: [customers.ssn]}, mask: redact}")
        .expect("a rule");
    for (catalog, want) in [(old, "hushed"), (Arc::new(catalog()), "spoken")] {
        let judge = judge(std::slice::from_ref(&rule), &who("ana"), &catalog);
        for sql in ["INSERT INTO orders VALUES (1)", "COMMIT", "COPY orders FROM STDIN"] {
            assert!(outcome(&judge, sql).contains(&want.to_owned()), "{sql}: not {want}");
        }
    }
}

#[test]
fn a_type_declared_for_a_parameter_is_named() {
    let rule = r#"{"name": "pii", "on": {"columns": ["customers.email"]}, "mask": "redact"}"#;
    let masked = r#"{"name": "ssn", "on": {"columns": ["customers.ssn"]}, "mask": "redact"}"#;
    let rules = [rule, masked].map(|rule| serde_json::from_str(rule).expect("a rule"));
    let judge = judge(&rules, &who("app"), &Arc::new(catalog()));
    let refused = |sql: &str, types: &[u32]| {
        let decision = judge.statement(sql.as_bytes());
        assert_eq!(decision.verdict, Verdict::Pass, "{sql}");
        judge.parameters(&decision, types.iter().copied()).map(|block| block.rule)
    };
    // Plain types, an enum or an extension's, a domain whose check looks at its value only.
    assert_eq!(refused("SELECT $1, $2, $3", &[25, 17_999, 18_002]), None);
    // A check, or a cast, that reads what is masked, or cannot be followed.
    for oid in [18_001, 18_003, 18_004] {
        assert_eq!(refused("SELECT $1, $2", &[0, oid]).as_deref(), Some("code-not-analysed"), "{oid}");
    }
    // Its text is another when a table is called otherwise: one value would ask about many.
    let by_name = "SELECT id FROM customers WHERE id = $2 AND email = $1::text";
    assert_eq!(refused(by_name, &[2205, 23]).as_deref(), Some("masked-data-asked"));
    assert_eq!(refused(by_name, &[1043, 2205]), None);
    // How a time is written is a setting.
    let made = "SELECT id FROM customers WHERE id = $2 AND email = 'a' || $1";
    assert_eq!(refused(made, &[1184, 23]).as_deref(), Some("masked-data-asked"));
    assert_eq!(refused(made, &[0, 1184]), None);
}

#[test]
fn what_a_session_has_made_holds_nothing_masked() {
    let rule = serde_saphyr::from_str::<Rule>("{name: m, on: {columns: [customers.email]}, mask: redact}");
    let judge = judge(&[rule.expect("a rule")], &who("ana"), &Arc::new(catalog()));
    let made = |sql: &str| judge.statement(sql.as_bytes()).makes.clone();
    let imp = made("CREATE TEMP TABLE imp (a int, b text)").expect("a table");
    assert_eq!(made("CREATE TEMPORARY TABLE pg_temp.imp AS SELECT id FROM customers"), Some(imp.clone()));
    assert_eq!(made("CREATE TEMP TABLE imp (LIKE orders INCLUDING DEFAULTS)"), Some(imp.clone()));
    let new = made("CREATE TABLE app.new (a int)").expect("a table");
    assert_eq!(new.schema.as_deref(), Some("app"));
    for sql in [
        "CREATE TABLE imp (a int)",
        "CREATE TEMP TABLE IF NOT EXISTS imp (a int)",
        "CREATE TEMP TABLE orders (a int)",
        "CREATE TEMP TABLE imp (LIKE shipments INCLUDING ALL)",
        "CREATE TEMP TABLE imp (LIKE customers)",
        "CREATE TEMP TABLE imp () INHERITS (orders)",
        "CREATE TEMP VIEW imp AS SELECT 1",
        "CREATE TEMP TABLE imp (a int); SELECT 1",
    ] {
        assert_eq!(made(sql), None, "{sql}");
    }
    let moves = |sql: &str| judge.statement(sql.as_bytes()).moves_names;
    for sql in [
        "INSERT INTO orders (id) VALUES (1)",
        "ALTER TABLE imp ADD COLUMN c int",
        "ALTER TABLE imp RENAME COLUMN b TO c",
        "CREATE INDEX ON imp (a)",
        "SAVEPOINT a",
        "SET LOCAL lock_timeout = '1s'",
        "SELECT set_config('jit', 'off', false)",
    ] {
        assert!(!moves(sql), "{sql}");
    }
    for sql in [
        "ALTER TABLE imp RENAME TO q",
        "ALTER TABLE imp SET SCHEMA app",
        "DROP TABLE imp",
        "ROLLBACK TO a",
        "SET search_path = app",
        "RESET search_path",
        "RESET ALL",
        "DISCARD TEMP",
        "SELECT set_config('Search_Path', 'app', false)",
        "SELECT 1; DROP TABLE imp",
    ] {
        assert!(moves(sql), "{sql}");
    }
    let own = judge.with_made([imp, new].into());
    let passes = |judge: &Judge, sql: &str| judge.statement(sql.as_bytes()).verdict == Verdict::Pass;
    for sql in [
        "INSERT INTO orders (id, item) SELECT a, b FROM imp",
        "INSERT INTO orders (id, item) SELECT a, b FROM app.new ON CONFLICT DO NOTHING",
        "UPDATE orders SET item = i.b FROM pg_temp.imp i WHERE i.a = orders.id",
    ] {
        assert!(passes(&own, sql) && !passes(&judge, sql), "{sql}");
    }
    for sql in [
        "INSERT INTO orders (id, item) SELECT a, b FROM app.imp",
        "INSERT INTO orders (id, item) SELECT a, b FROM new",
        "INSERT INTO orders (id, item) SELECT a, b FROM imp, nowhere",
        "INSERT INTO imp SELECT id, email FROM customers",
        "INSERT INTO imp SELECT id, x FROM nowhere",
        "INSERT INTO customers (email) SELECT b FROM imp",
        "SELECT 1; INSERT INTO orders (id, item) SELECT a, b FROM imp",
    ] {
        assert!(!passes(&own, sql), "{sql}");
    }
    let read = own.statement(b"SELECT a, b, count(*) FROM imp GROUP BY 1, 2");
    assert!(read.clean && read.own && !read.unknown_tables);
    let read = own.statement(b"SELECT b FROM imp JOIN orders ON a = id");
    assert!(read.clean && !read.own);
    assert!(!own.statement(b"SELECT b, email FROM imp JOIN customers ON a = id").clean);
}

#[test]
fn a_name_that_several_tables_have_is_asked_once() {
    let rule = serde_saphyr::from_str::<Rule>("{name: m, on: {columns: [notes.body]}, mask: redact}");
    let judge = judge(&[rule.expect("a rule")], &who("ana"), &Arc::new(catalog()));
    let asked = |sql: &str| {
        let decision = judge.statement(sql.as_bytes());
        assert_eq!(decision.verdict, Verdict::Pass, "{sql}");
        decision.probes.iter().map(|p| p.value).collect::<Vec<_>>()
    };
    assert_eq!(asked("SELECT id FROM notes WHERE body = $1"), [ProbeValue::Parameter(1)]);
    assert_eq!(asked("SELECT id FROM notes n WHERE n.body IN ($1, $2)").len(), 2);
    assert_eq!(asked("SELECT FROM a.notes x, b.notes y WHERE x.body = $1 AND y.body = $1").len(), 2);
}

#[test]
fn a_computed_value_is_counted_as_what_makes_it() {
    let rule = serde_saphyr::from_str::<Rule>("{name: m, on: {columns: [customers.email]}, mask: redact}");
    let judge = judge(&[rule.expect("a rule")], &who("ana"), &Arc::new(catalog()));
    let value = |made: &str| {
        let decision = judge.statement(format!("SELECT id FROM customers WHERE email = {made}").as_bytes());
        assert_eq!(decision.verdict, Verdict::Pass, "{made}");
        decision.probes.first().expect("a probe").value
    };
    let counted = |made: &str, bound: Option<&str>| value(made).digest(bound.map(str::as_bytes));
    let all = [
        counted("lower('a')", None),
        counted("upper('a')", None),
        counted("'a' || 'b'", None),
        counted("'b' || 'a'", None),
        counted("'ab'", None),
        counted("$1", Some("a")),
        counted("lower($1)", Some("a")),
        counted("lower($1)", Some("b")),
        counted("lower($1)", None),
        counted("upper($1)", Some("a")),
        counted("$1 || 'b'", Some("a")),
        counted("$1 || 'c'", Some("a")),
        counted("'b' || $1", Some("a")),
        counted("'b' || lower($1)", Some("a")),
    ];
    for (i, one) in all.iter().enumerate() {
        assert!(one.is_some() && !all.iter().skip(i + 1).any(|other| other == one), "{i}");
    }
    assert_eq!(value("lower($2)").parameter(), Some(2));
    assert_eq!(counted("$1", None), None);
}

#[test]
fn every_file_holds() {
    let catalog = Arc::new(catalog());
    let mut wrong = String::new();
    let mut checked = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rules")).expect("folder") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let (mut rules, mut subject, mut open, mut current) = (Vec::new(), who("ana support"), false, None);
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(' ').expect("word and rest");
            let rest = rest.trim();
            match word {
                "rule" => {
                    if !open {
                        rules.clear();
                        open = true;
                    }
                    rules.push(serde_saphyr::from_str::<Rule>(rest).expect("a rule in YAML"));
                    current = None;
                    continue;
                }
                "as" => {
                    subject = who(rest);
                    current = None;
                    continue;
                }
                _ => {}
            }
            open = false;
            let judge = current.get_or_insert_with(|| judge(&rules, &subject, &catalog));
            let (want, sql) = match word {
                "block" | "observe" | "limit" | "origins" => {
                    let (rule, sql) = rest.split_once(' ').expect("rule and statement");
                    (format!("{word} {rule}"), sql.trim())
                }
                _ => (word.to_owned(), rest),
            };
            let got = outcome(judge, sql);
            checked += 1;
            if let Some(other) = decided_by_a_literal(judge, sql) {
                let _ = writeln!(wrong, "{}: {sql}: kept by its shape, decides wrongly: {other}", n + 1);
            }
            if !got.contains(&want) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let why = match &judge.statement(sql.as_bytes()).verdict {
                    Verdict::Block(b) => b.message.clone(),
                    Verdict::Pass => String::new(),
                };
                let _ = writeln!(wrong, "{name}:{}: want {want}, got {got:?} {why}: {sql}", n + 1);
            }
        }
    }
    assert!(checked > 100, "the files were read");
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A text that differs from `sql` in literals only, and is decided otherwise when `sql` was decided before.
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
fn decided_by_a_literal(judge: &Judge, sql: &str) -> Option<String> {
    const NUMBERS: [&str; 4] = ["0", "1", "2", "7000000"];
    const STRINGS: [&str; 4] = ["'%'", "'my.setting'", "';'", "'nextval(%'"];
    // Where literals begin and end; those of few forms, but of no other text.
    let bytes = sql.as_bytes();
    let (mut literals, mut at, mut word) = (Vec::new(), 0, false);
    while let Some(byte) = bytes.get(at) {
        let skip =
            |end: &dyn Fn(u8) -> bool| bytes[at + 1..].iter().position(|b| end(*b)).map(|n| at + 1 + n);
        let end = match byte {
            b'0'..=b'9' if !word => skip(&|b| !b.is_ascii_digit()).unwrap_or(bytes.len()),
            b'\'' if !word => skip(&|b| b == b'\'').map_or(bytes.len(), |n| n + 1),
            _ => at + 1,
        };
        if end > at + 1 || (byte.is_ascii_digit() && !word) {
            literals.push((at, end, *byte == b'\''));
        }
        word = end == at + 1 && (byte.is_ascii_alphanumeric() || b"_.$'\"".contains(byte));
        at = end;
    }
    let with = |which: usize, variant: usize| {
        let (mut text, mut from) = (String::new(), 0);
        for (n, (start, end, string)) in literals.iter().enumerate() {
            text.push_str(&sql[from..*start]);
            let other = if *string { STRINGS[variant] } else { NUMBERS[variant] };
            text.push_str(if which == n || which == literals.len() { other } else { &sql[*start..*end] });
            from = *end;
        }
        text + &sql[from..]
    };
    let described = |d: &Decision| {
        // Whether it may use the last of a budget may be another's (`sql::facts::few`).
        format!("{d:?}")
            .replace("few: true", "few: false")
            .replace("literals_matter: true", "literals_matter: false")
    };
    let variants = (0..=literals.len()).flat_map(|which| (0..4).map(move |variant| (which, variant)));
    variants.map(|(which, variant)| with(which, variant)).find(|other| {
        [(sql, other.as_str()), (other, sql)].into_iter().any(|(first, second)| {
            let mut cache = DecisionCache::new();
            cache.statement(judge, first.as_bytes(), true);
            let got = cache.statement(judge, second.as_bytes(), true);
            described(&got) != described(&judge.statement(second.as_bytes()))
        })
    })
}

fn who(text: &str) -> Subject {
    let mut words = text.split_whitespace();
    Subject { identity: words.next().unwrap_or_default().into(), groups: words.map(Into::into).collect() }
}
