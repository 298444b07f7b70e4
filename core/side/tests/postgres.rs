//! Catalogues and verifiers against a real PostgreSQL of our own, in a temporary directory, on loopback: Debian's 15, or the one
//! whose `bin` directory is in `LG_TEST_PG_BIN`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flow::access::{
    Address, Banner, Catalogues, ClientTls, Connection, Credential, DenyDetail, Directory, Limits,
    RecordLevel, Target,
};
use flow::{Answer, Ask};
use policy::Catalog;
use side::catalogue::{self, CatalogueError};
use side::desk::{derive_verifier, verifier_from_text, verifier_to_text};
use side::{Side, SideSettings};
use zeroize::Zeroizing;

const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

fn bin(program: &str) -> String {
    let dir = std::env::var("LG_TEST_PG_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
    format!("{dir}/{program}")
}

/// A server of our own; stopped when the test binary is done with it.
struct Server {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::Builder::new().prefix("lg-side-pg").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        run(&mut as_postgres(dir.path(), "mkdir", &[data.to_str().unwrap()]));
        run(&mut as_postgres(
            dir.path(),
            &bin("initdb"),
            &["-D", data.to_str().unwrap(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        ));
        for (name, text) in [
            ("server.crt", certificate.cert.pem()),
            ("server.key", certificate.signing_key.serialize_pem()),
            (
                "pg_hba.conf",
                "local all postgres trust\nlocal all all scram-sha-256\n\
                 host all clear 127.0.0.1/32 password\nhost all all 127.0.0.1/32 scram-sha-256\n"
                    .to_owned(),
            ),
        ] {
            let mut tee = as_postgres(dir.path(), "tee", &[data.join(name).to_str().unwrap()]);
            let mut tee = tee.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            tee.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(tee.wait().unwrap().success());
        }
        run(&mut as_postgres(dir.path(), "chmod", &["600", data.join("server.key").to_str().unwrap()]));
        let child = as_postgres(
            dir.path(),
            &bin("postgres"),
            &[
                "-D",
                data.to_str().unwrap(),
                "-p",
                &port.to_string(),
                "-h",
                "127.0.0.1",
                "-k",
                data.to_str().unwrap(),
                "-c",
                "ssl=on",
                "-c",
                "fsync=off",
                "-c",
                "log_connections=on",
            ],
        )
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
        let server = Server { dir, child, port, certificate };
        let start = Instant::now();
        while !server.try_sql("postgres", "select 1").0 {
            assert!(start.elapsed() < Duration::from_secs(30), "{}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn try_sql(&self, database: &str, sql: &str) -> (bool, String) {
        let (socket, port) = (self.socket(), self.port.to_string());
        let args = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", socket.to_str().unwrap()];
        let mut psql = as_postgres(self.dir.path(), PSQL, &args);
        let out = psql.args(["-p", &port, "-d", database, "-c", sql]).output().unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        let (ok, text) = self.try_sql(database, sql);
        assert!(ok, "{sql}: {text}");
        text.trim().to_owned()
    }

    fn connection(&self, user: &str, password: &str, tls: bool) -> Arc<Connection> {
        let tls = tls.then(|| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.certificate.cert.der().clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            ClientTls { config: Arc::new(config), name: "localhost".try_into().unwrap() }
        });
        connection(Address::Tcp { host: "127.0.0.1".into(), port: self.port }, tls, user, password)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // setpriv has become postgres; SIGINT to it is the fast shutdown.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
    }
}

/// PostgreSQL refuses to run as root.
fn as_postgres(dir: &Path, program: &str, args: &[&str]) -> Command {
    static ROOT: OnceLock<bool> = OnceLock::new();
    let root = *ROOT.get_or_init(|| rustix::process::geteuid().is_root());
    let mut command = if root {
        let id = Command::new("id").args(["-u", "postgres"]).output().unwrap();
        let uid = String::from_utf8(id.stdout).unwrap().trim().parse().unwrap();
        std::os::unix::fs::chown(dir, Some(uid), None).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", program]);
        command
    } else {
        Command::new(program)
    };
    command.args(args).current_dir(dir);
    command
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn connection(address: Address, tls: Option<ClientTls>, user: &str, password: &str) -> Arc<Connection> {
    Arc::new(Connection {
        name: "shop".into(),
        target: Arc::new(Target { address, tls, dial_ms: 2000 }),
        user: user.into(),
        database: Some("shop".into()),
        credential: Credential::new(Zeroizing::new(password.into())),
        allow: vec!["*".into()],
        record: RecordLevel::Statements,
        banner: Banner::Never,
        tag_application: false,
        catalogues: Catalogues::default(),
    })
}

fn directory(connection: &Arc<Connection>) -> Arc<ArcSwap<Directory>> {
    Arc::new(ArcSwap::from_pointee(Directory {
        identities: HashMap::new(),
        connections: HashMap::from([("shop".to_owned(), connection.clone())]),
        any: None,
        policy: Arc::default(),
        deny_detail: DenyDetail::Full,
        mock_seed: [0; 32],
        limits: Limits { login_ms: 1, idle_ms: 0, clients_max: 1 },
    }))
}

fn ask(side: &Side, ask: Ask) -> mpsc::Receiver<Answer> {
    let (send, receive) = mpsc::channel();
    side.desk().ask(ask, Box::new(move |answer| send.send(answer).unwrap()));
    receive
}

fn ask_catalogue(side: &Side, connection: &Arc<Connection>, newer_than: u64) -> mpsc::Receiver<Answer> {
    ask(side, Ask::Catalogue { connection: connection.clone(), database: "shop".into(), newer_than })
}

const SCHEMA: &str = r#"
    create role app login password 'app-pw';
    alter role app set search_path = "$user", sales, nosuch, public;
    create role clear login password 'clear-pw';
    create schema sales;
    grant usage on schema sales to app;
    create table sales.customers (id int primary key, email varchar(80) not null, gone int,
        shout text generated always as (upper(email)) stored, tags text[]);
    alter table sales.customers drop column gone;
    create table sales.orders (id int, at date) partition by range (at);
    create table sales.orders_2026 partition of sales.orders for values from ('2026-01-01') to ('2027-01-01');
    create view sales.emails as select email as e from sales.customers;
    create materialized view sales.counts as select count(*) from sales.customers;
    create type sales.pair as (a int, b text);
    create function sales.one(x int) returns int language sql as 'select x + 1';
    create function sales.two(x int) returns int language sql return x + 2;
    create procedure sales.nothing() language plpgsql as 'begin end';
    create schema w;
    grant usage on schema w to app;
    create function w.f() returns int language sql as 'select 1';
    create function w.ok(x int) returns bool language sql immutable as 'select true';
    create function w.t() returns trigger language plpgsql as 'begin return new; end';
    create function w.cmp(a int, b int) returns int language plpgsql immutable as 'begin return 0; end';
    create function w.eq(a int, b int) returns bool language sql immutable as 'select true';
    create operator w.=== (leftarg = int, rightarg = int, function = w.eq);
    create operator class w.odd for type int using btree as operator 1 <, operator 2 <=, operator 3 =, operator 4 >=,
        operator 5 >, function 1 w.cmp(int, int);
    create aggregate w.total(int) (sfunc = int4pl, stype = int);
    create aggregate w.strange(int) (sfunc = w.cmp, stype = int);
    create domain w.even as int check (w.ok(value));
    create type w.pair as (a w.even);
    create table w.quiet (id serial primary key, at timestamptz default now(), u uuid default gen_random_uuid(),
        abs int generated always as (abs(2)) stored, check (id > 0));
    create table w.l_trigger (id int);
    create trigger t before insert on w.l_trigger for each row execute function w.t();
    create table w.l_rule (id int);
    create rule r as on insert to w.l_rule do also select 1;
    create table w.l_default (id int default w.f());
    create domain w.filled as int default w.f(); create table w.l_by_domain (id w.filled, other w.filled default 1);
    create table w.l_check (id int, check (w.ok(id)));
    create table w.l_index (id int);
    create index on w.l_index ((w.ok(id)));
    create table w.l_opclass (id int);
    create index on w.l_opclass (id w.odd);
    create table w.l_generated (id int, g bool generated always as (w.ok(id)) stored);
    create table w.l_policy (id int);
    create policy p on w.l_policy using (w.ok(id));
    create table w.l_policy_reads (id int);
    create policy p on w.l_policy_reads using (exists (select from sales.customers c where c.id = l_policy_reads.id));
    create table w.q_policy (id int);
    create policy p on w.q_policy using (id > 0);
    create table w.l_domain (id w.even);
    create table w.l_domain_in (ids w.pair[]);
    create table w.l_operator (id int, check (id operator(w.===) id));
    create table w.l_partition (id int) partition by range ((w.cmp(id, 1)));
    create table w.q_restrict (id int references w.quiet);
    create table w.q_cascade (id int references w.quiet on delete cascade);
    create table w.q_parent (id int primary key);
    create table w.q_set (id int references w.q_parent on update set null);
    create table w.q_deferred (id int unique deferrable);
    create function w.many() returns setof int language sql as 'select 1';
    create table w.l_built_in (s tsvector, v text);
    create trigger b before insert on w.l_built_in for each row
        execute function tsvector_update_trigger('s', 'pg_catalog.simple', 'v');
    create function w.ev() returns event_trigger language plpgsql as 'begin end';
    create event trigger e on ddl_command_end execute function w.ev();
"#;

fn check(catalog: &Catalog) {
    assert!(catalog.database == "shop" && catalog.server_version >= 120_000, "{}", catalog.server_version);
    // "$user" is resolved (and there is no schema of that name), what does not exist is left out.
    assert_eq!(catalog.search_path, ["sales", "public"]);
    let table = |schema: &str, name: &str| {
        catalog
            .tables
            .iter()
            .find(|t| t.schema == schema && t.name == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    let customers = table("sales", "customers");
    let columns: Vec<_> = customers
        .columns
        .iter()
        .map(|c| (c.number, c.name.as_str(), c.type_oid, c.type_name.as_str(), c.not_null))
        .collect();
    assert_eq!(
        columns,
        [
            (1, "id", 23, "integer", true),
            (2, "email", 1043, "character varying", true),
            (4, "shout", 25, "text", false),
            (5, "tags", 1009, "text[]", false),
        ]
    );
    assert_eq!(customers.kind, 'r');
    assert_eq!(customers.columns[2].generated.as_deref(), Some("upper((email)::text)"));
    let (orders, part) = (table("sales", "orders"), table("sales", "orders_2026"));
    assert_eq!((orders.kind, part.kind, &part.parents), ('p', 'r', &vec![orders.oid]));
    let view = table("sales", "emails");
    // Qualified, although sales is on the role's search_path.
    assert!(
        view.kind == 'v' && view.definition.as_ref().unwrap().contains("FROM sales.customers"),
        "{view:?}"
    );
    assert!(table("sales", "counts").kind == 'm' && table("sales", "counts").definition.is_some());
    assert_eq!(table("sales", "pair").kind, 'c');
    // System tables have columns; system views have no definition.
    assert!(table("pg_catalog", "pg_class").columns.iter().any(|c| c.name == "relname"));
    let stats = table("pg_catalog", "pg_stats");
    assert!(stats.kind == 'v' && stats.definition.is_none() && !stats.columns.is_empty());
    assert!(catalog.tables.iter().all(|t| t.schema != "pg_toast"));
    let function = |name: &str| catalog.functions.iter().find(|f| f.name == name).unwrap();
    assert_eq!((function("one").body.as_str(), function("one").language.as_str()), ("select x + 1", "sql"));
    assert!(function("two").body.contains("x + 2"), "{:?}", function("two"));
    assert_eq!((function("nothing").kind, function("nothing").schema.as_str()), ('p', "sales"));
    assert!(catalog.functions.iter().all(|f| f.schema != "pg_catalog"));
    let writes = catalog.writes.as_ref().unwrap();
    for t in catalog.tables.iter().filter(|t| t.schema == "w" && matches!(t.kind, 'r' | 'p')) {
        assert_eq!(writes.code.contains(&t.oid), t.name.starts_with("l_"), "{}", t.name);
    }
    let oid = |name: &str| table("w", name).oid;
    assert_eq!(function("one").arguments, "x integer");
    assert_eq!((&*function("total").language, &*function("strange").language), ("c", "plpgsql"));
    let code = &catalog.code;
    assert!(
        matches!(&*code.rules, [(on, text)] if *on == oid("l_rule") && text.contains("ON INSERT TO w.l_rule"))
    );
    assert_eq!(code.triggers[0], (oid("l_trigger"), function("t").oid));
    let given = ["s", "pg_catalog.simple", "v", ""].map(str::to_owned).into();
    assert_eq!(code.built_in, [(oid("l_built_in"), "tsvector_update_trigger".to_owned(), given)]);
    assert_eq!(code.on_ddl, ["ev"]);
    assert!(function("many").rows && !function("one").rows);
    assert!(catalog.indexes.contains(&(customers.oid, "customers_pkey".to_owned())));
    for (name, inserts, function) in [
        ("l_default", true, "f"),
        ("l_check", false, "ok"),
        ("l_index", false, "ok"),
        ("l_generated", false, "ok"),
        ("l_operator", false, "eq"),
    ] {
        assert!(
            code.run.contains(&(oid(name), inserts, vec![function.to_owned()])),
            "{name}: {:?}",
            code.run
        );
    }
    let made_of = [("===", "eq"), ("strange", "cmp")].map(|(n, f)| (n.to_owned(), vec![f.to_owned()]));
    assert_eq!(code.made_of, made_of);
    let follows: Vec<_> =
        code.follows.iter().map(|f| (f.of, f.on, f.columns.join(","), f.to, f.does)).collect();
    let want = [
        (oid("quiet"), 8, String::new(), oid("q_cascade"), 8),
        (oid("q_parent"), 16, "id".to_owned(), oid("q_set"), 16),
    ];
    assert_eq!(follows, want);
    let fires = |(table, code, on): &(u32, u32, i16)| {
        (*table, *code) == (oid("l_trigger"), function("t").oid) && on & 20 != 0
    };
    assert!(code.fired.iter().any(fires), "{:?}", code.fired);
    let defaults = [
        (oid("l_default"), 1, "w.f()".to_owned()),
        (oid("l_by_domain"), 1, "w.f()".to_owned()),
        (oid("l_generated"), 2, "w.ok(id)".to_owned()),
    ];
    assert_eq!(code.defaults, defaults);
    for name in ["even", "_even", "pair", "_pair", "l_domain", "l_domain_in"] {
        assert!(code.conversions.contains(&(name.to_owned(), vec!["ok".to_owned()])), "{name}");
    }
    assert!(code.conversions.iter().all(|(name, _)| !name.contains("quiet")));
    // By number those of domains are the same.
    for name in ["l_domain", "l_domain_in"] {
        let oid = table("w", name).columns[0].type_oid;
        let known = code.typed.iter().any(|(typed, _, functions)| *typed == oid && functions == &["ok"]);
        assert!(known, "{name}: {:?}", code.typed);
    }
    assert_eq!(writes.cascades, [(oid("quiet"), oid("q_cascade")), (oid("q_parent"), oid("q_set"))]);
    assert_eq!(writes.deferred, [oid("q_deferred")]);
}

#[test]
fn catalogues_of_a_real_server() {
    let server = Server::start();
    server.sql("postgres", "create database shop");
    server.sql("shop", SCHEMA);

    // Plain, TLS, Unix socket; an ordinary role that may read none of the tables.
    let plain = server.connection("app", "app-pw", false);
    let catalog = catalogue::load(&plain, "shop").unwrap();
    check(&catalog);
    check(&catalogue::load(&server.connection("app", "app-pw", true), "shop").unwrap());
    let socket = server.socket().join(format!(".s.PGSQL.{}", server.port));
    check(&catalogue::load(&connection(Address::Unix(socket), None, "app", "app-pw"), "shop").unwrap());

    // A snapshot says the same, under a version of its own.
    let again = catalogue::snapshot_from_json(&catalogue::snapshot_to_json(&catalog).unwrap()).unwrap();
    check(&again);
    assert!(again.version > catalog.version);
    assert!(matches!(catalogue::snapshot_from_json("{"), Err(CatalogueError::Json(_))));

    // What must not work, and says why without a secret.
    let wrong =
        catalogue::load(&server.connection("app", "wrong-pw", false), "shop").unwrap_err().to_string();
    assert!(wrong.contains("password authentication failed") && !wrong.contains("wrong-pw"), "{wrong}");
    let missing = catalogue::load(&plain, "nosuch").unwrap_err().to_string();
    assert!(missing.contains("\"nosuch\" does not exist"), "{missing}");
    // A password in clear crosses TLS only.
    let clear =
        catalogue::load(&server.connection("clear", "clear-pw", false), "shop").unwrap_err().to_string();
    assert!(clear.contains("in clear"), "{clear}");
    catalogue::load(&server.connection("clear", "clear-pw", true), "shop").unwrap();
    // A server nobody vouches for.
    let mut stranger = server.connection("app", "app-pw", true);
    let target = Target {
        address: stranger.target.address.clone(),
        tls: Some(ClientTls {
            config: stranger.target.tls.as_ref().unwrap().config.clone(),
            name: "elsewhere".try_into().unwrap(),
        }),
        dial_ms: 2000,
    };
    Arc::get_mut(&mut stranger).unwrap().target = Arc::new(target);
    assert!(matches!(catalogue::load(&stranger, "shop"), Err(CatalogueError::Login { .. })));

    follows_changes(&server);
    derives_keys(&server);

    // A hardened target: what is not readable is left out.
    server.sql("shop", "revoke select on pg_catalog.pg_proc from public");
    let catalog = catalogue::load(&plain, "shop").unwrap();
    assert!(catalog.functions.is_empty() && catalog.tables.iter().any(|t| t.name == "customers"));
}

fn until(mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn follows_changes(server: &Server) {
    let connection = server.connection("app", "app-pw", false);
    let side = Side::start(SideSettings {
        published: directory(&connection),
        fixed: HashMap::new(),
        refresh: Duration::from_millis(600),
    })
    .unwrap();
    let loads = || server.log().matches("application_name=lockgate catalogue").count();
    let get = || connection.catalogues.get("shop").unwrap();
    let patience = Duration::from_secs(10);

    // A hundred sessions at once: one load.
    let before = loads();
    let answers: Vec<_> = (0..100).map(|_| ask_catalogue(&side, &connection, 0)).collect();
    for answer in answers {
        assert_eq!(answer.recv_timeout(patience), Ok(Answer::Done));
    }
    // Between these a refresh may have begun, and one that was asked for before the first one began.
    assert!(loads() - before <= 3, "{}", loads() - before);
    let first = get();
    check(&first);

    // Nothing changed: the same catalogue, not an equal one.
    assert_eq!(ask_catalogue(&side, &connection, first.version).recv_timeout(patience), Ok(Answer::Done));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(Arc::ptr_eq(&first, &get()));

    // On demand: what was there before the question is in the answer.
    for n in 0..5 {
        let version = get().version;
        server.sql("shop", &format!("create table sales.new_{n} (id int)"));
        assert_eq!(ask_catalogue(&side, &connection, version).recv_timeout(patience), Ok(Answer::Done));
        assert!(get().tables.iter().any(|t| t.name == format!("new_{n}")), "{n}");
        assert!(get().version > version);
    }
    // By itself, by the mark of a session and by the clock.
    server.sql("shop", "drop table sales.new_0");
    connection.catalogues.mark_stale("shop");
    until(|| get().tables.iter().all(|t| t.name != "new_0"));
    server.sql("shop", "drop table sales.new_1");
    until(|| get().tables.iter().all(|t| t.name != "new_1"));

    // A fixed catalogue is never asked of the target, and a load that is under way does not take its place.
    let fixed = Arc::new(
        catalogue::snapshot_from_json(
            r#"{"database":"shop","server_version":1,"search_path":[],"tables":[],"functions":[]}"#,
        )
        .unwrap(),
    );
    let version = get().version;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server
                .sql("shop", "begin; lock table pg_attrdef; create table sales.late (); select pg_sleep(2)");
        });
        let locked = "select count(*) from pg_locks where relation = 'pg_attrdef'::regclass and granted";
        until(|| server.sql("postgres", &format!("{locked} and mode = 'AccessExclusiveLock'")) == "1");
        let under_way = ask_catalogue(&side, &connection, version);
        let waiting =
            "select count(*) > 0 from pg_locks where relation = 'pg_attrdef'::regclass and not granted";
        until(|| server.sql("postgres", waiting) == "t");
        side.set_fixed(HashMap::from([("shop".to_owned(), fixed.clone())]));
        assert_eq!(ask_catalogue(&side, &connection, version).recv_timeout(patience), Ok(Answer::Done));
        assert!(Arc::ptr_eq(&fixed, &get()));
        assert_eq!(under_way.recv_timeout(patience), Ok(Answer::Done));
        assert!(Arc::ptr_eq(&fixed, &get()));
    });
    let before = loads();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(Arc::ptr_eq(&fixed, &get()));
    assert_eq!(loads(), before);

    side.stop();
    side.set_fixed(HashMap::new());
    let version = get().version;
    assert!(matches!(
        ask_catalogue(&side, &connection, version).recv_timeout(patience),
        Ok(Answer::Failed(_))
    ));
}

fn derives_keys(server: &Server) {
    let connection = server.connection("app", "app-pw", false);
    let side = Side::start(SideSettings {
        published: directory(&connection),
        fixed: HashMap::new(),
        refresh: Duration::ZERO,
    })
    .unwrap();
    let stored = |user: &str| {
        server.sql("postgres", &format!("select rolpassword from pg_authid where rolname = '{user}'"))
    };
    let text = stored("app");
    let verifier = verifier_from_text(&text).unwrap();
    assert_eq!(verifier_to_text(&verifier), text);
    let ask_keys = |iterations| {
        let salt = verifier.salt.clone();
        ask(&side, Ask::DeriveKeys { connection: connection.clone(), salt, iterations })
    };
    let answers: Vec<_> = (0..20).map(|_| ask_keys(verifier.iterations)).collect();
    for answer in answers {
        assert_eq!(answer.recv_timeout(Duration::from_secs(10)), Ok(Answer::Done));
    }
    let keys = connection.credential.keys(&verifier.salt, verifier.iterations).unwrap();
    assert_eq!(*keys.server_key, verifier.server_key);
    let hash = ring::digest::digest(&ring::digest::SHA256, &*keys.client_key);
    assert_eq!(hash.as_ref(), verifier.stored_key);
    for iterations in [0, u32::MAX] {
        let answer = ask_keys(iterations).recv_timeout(Duration::from_secs(10));
        assert!(matches!(answer, Ok(Answer::Failed(_))));
    }

    // PostgreSQL's own preparation of passwords, judge of ours.
    for password in
        ["plain", "sécret", "I\u{ad}X", "\u{2168}", "a\u{a0}b", "\u{627}1", "z\u{327}\u{301}", "\u{1f511}"]
    {
        server.sql("postgres", &format!("alter role clear password '{password}'"));
        let text = stored("clear");
        let theirs = verifier_from_text(&text).unwrap();
        let ours = derive_verifier(password, &theirs.salt, theirs.iterations);
        assert_eq!(verifier_to_text(&ours), text, "{password:?}");
    }
}

#[test]
fn a_target_that_is_not_there_or_says_nothing_is_an_error_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp { host: "127.0.0.1".into(), port: free.local_addr().unwrap().port() };
    let silent = catalogue::load(&connection(address.clone(), None, "app", "pw"), "shop").unwrap_err();
    assert!(matches!(silent, CatalogueError::TimedOut(_)), "{silent}");
    drop(free);
    let gone = catalogue::load(&connection(address, None, "app", "pw"), "shop").unwrap_err();
    assert!(matches!(gone, CatalogueError::Unreachable { .. }), "{gone}");
    let path = Address::Unix("/nonexistent/.s.PGSQL.5432".into());
    let gone = catalogue::load(&connection(path, None, "app", "pw"), "shop").unwrap_err();
    assert!(matches!(gone, CatalogueError::Unreachable { .. }), "{gone}");
}
