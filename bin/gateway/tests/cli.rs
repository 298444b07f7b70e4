//! The command line as people and scripts meet it: exit codes, messages, what a running gateway says. What flows through a
//! gateway is tested in `e2e`.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const LOCKGATE: &str = env!("CARGO_BIN_EXE_lockgate");
/// In the environment of everything below; may appear nowhere.
const SECRET: &str = "hunter2-never-to-be-seen";

fn lockgate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(LOCKGATE);
    command.args(args).current_dir(dir).env_clear().env("SECRET", SECRET).stdin(Stdio::null());
    command
}

fn output(dir: &Path, args: &[&str]) -> (i32, String, String) {
    told(lockgate(dir, args).output().expect("start lockgate"))
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

fn with_input(args: &[&str], input: &str) -> (i32, String, String) {
    let mut child = lockgate(Path::new("/"), args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start lockgate");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
    told(child.wait_with_output().expect("wait"))
}

/// A configuration that is fine and whose target does not answer.
fn fine(extra: &str) -> String {
    format!(
        "version: 1
gateway: {{workers: 1, state: ./state, drain: 1s}}
listeners: [{{protocol: postgres, bind: \"127.0.0.1:0\"}}]
identities:
  - {{name: ana, groups: [support], password: {{from: env, name: SECRET}}, tokens: [{{from: env, name: SECRET}}]}}
connections:
  - {{name: shop, upstream: \"postgres://gw@127.0.0.1:1/shop?sslmode=disable\", password: {{from: env, name: SECRET}}, allow: [ana]}}
{extra}"
    )
}

fn folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("lockgate.yaml"), config).expect("write");
    dir
}

#[test]
fn mistakes_are_named_and_the_exit_code_is_78() {
    let dir = folder(
        "version: 1\nlisteners: [{protocol: postgress, bind: \"0.0.0.0:1\"}]\nrules:\n  - name: a\n    on: {statements: [dorp]}\n    block: no\n",
    );
    for verb in [&["config", "check", "-c", "lockgate.yaml"][..], &["run", "-c", "lockgate.yaml"]] {
        let (code, out, err) = output(dir.path(), verb);
        assert_eq!((code, out.as_str()), (78, ""), "{err}");
        for part in [
            "lockgate.yaml:2:24: `postgress` is not one of: postgres",
            " 2 | listeners: [{protocol: postgress",
            "help: did you mean `postgres`?",
        ] {
            assert!(err.contains(part), "{part} is not in:\n{err}");
        }
    }
    let (code, out, _) = output(dir.path(), &["config", "check", "-c", "lockgate.yaml", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, json["ok"].as_bool(), json["mistakes"][0]["line"].as_u64()),
        (78, Some(false), Some(2))
    );
}

#[test]
fn wrong_usage_is_2_and_a_missing_file_is_78() {
    let dir = folder("");
    assert_eq!(output(dir.path(), &["runn"]).0, 2);
    assert_eq!(output(dir.path(), &["run"]).0, 2);
    let (code, _, err) = output(dir.path(), &["run", "-c", "nothing.yaml"]);
    assert_eq!(code, 78);
    assert!(err.contains("cannot read nothing.yaml"), "{err}");
    let (code, _, err) = output(dir.path(), &["record", "export", "--state", "nothing"]);
    assert_eq!(code, 1, "{err}");
}

#[test]
fn schemas_are_json_and_know_the_keys() {
    let dir = folder("");
    let (code, out, _) = output(dir.path(), &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, 0);
    for key in [
        "version",
        "gateway",
        "listeners",
        "identities",
        "connections",
        "policies",
        "rules",
        "include",
        "record",
    ] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    let (_, out, _) = output(dir.path(), &["config", "schema", "--policy"]);
    assert!(
        serde_json::from_str::<serde_json::Value>(&out).expect("JSON")["properties"]["rules"].is_object()
    );
}

#[test]
fn every_key_of_the_schema_is_in_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = std::fs::read_to_string(root.join("example.yaml")).expect("read");
    let (_, out, _) = output(root, &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let mut keys = Vec::new();
    gather(&schema["properties"], &mut keys);
    for part in schema["$defs"].as_object().expect("definitions").iter() {
        // Rules are explained in policy's own reference.
        let ours = [
            "Gateway",
            "Listener",
            "ListenerTls",
            "Identity",
            "Password",
            "Token",
            "Connection",
            "Secret",
            "Record",
        ];
        if ours.contains(&part.0.as_str()) {
            gather(&part.1["properties"], &mut keys);
        }
    }
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        assert!(example.contains(&format!("{key}:")), "`{key}` is not in example.yaml");
    }
}

fn gather(properties: &serde_json::Value, keys: &mut Vec<String>) {
    keys.extend(properties.as_object().into_iter().flatten().map(|(key, _)| key.clone()));
}

#[test]
fn the_example_is_a_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = folder(&std::fs::read_to_string(root.join("example.yaml")).expect("read"));
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("create");
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    };
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    write("tls.crt", &pair.cert.pem());
    write("ca.crt", &pair.cert.pem());
    write("tls.key", &pair.signing_key.serialize_pem());
    write("secrets/bo", "a password");
    write("policy/shop.yaml", "rules: []\n");
    write("more/none.yaml", "identities: []\n");
    let (code, out, err) = told(
        lockgate(dir.path(), &["config", "check", "-c", "lockgate.yaml"])
            .env("LOCKGATE_MASK_KEY", "0123456789abcdef")
            .env("REPORTS_TOKEN", "a-long-enough-token")
            .output()
            .expect("start lockgate"),
    );
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("3 identities, 3 connections, 1 mask and 1 block rules (1 of them only observe)"),
        "{out}"
    );
}

/// The acceptance configurations, with the variables their harness sets.
#[test]
fn the_acceptance_configurations_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/acceptance");
    let dir = folder("");
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, pair.cert.pem()).expect("write");
    std::fs::write(&key, pair.signing_key.serialize_pem()).expect("write");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let catalogue = dir.path().join("bench.catalogue");
    std::fs::write(
        &catalogue,
        r#"{"database":"bench","server_version":150000,"search_path":["public"],"tables":[],"functions":[]}"#,
    )
    .expect("write");
    for (name, rules) in [
        ("forward", "0 mask and 0 block"),
        ("full", "5 mask and 45 block"),
        ("conform", "0 mask and 0 block"),
        ("corpus", "3 mask and"),
        ("apps-plain", "0 mask and 0 block"),
        ("apps-masked", "1 mask and 0 block"),
    ] {
        let file = root.join(format!("{name}.yaml"));
        for (tls, auth, fixed) in [(true, "scram", true), (false, "trust", false), (false, "", false)] {
            let mut command = lockgate(dir.path(), &["config", "check", "-c"]);
            command.arg(&file).envs([
                ("LG_LISTEN_PG", "127.0.0.1:17432"),
                ("LG_LISTEN_MY", "127.0.0.1:19432"),
                ("LG_CONSOLE", "127.0.0.1:20432"),
                ("LG_PG", "127.0.0.1:5432"),
                ("LG_PG_USER", "bench"),
                ("LG_PG_PASSWORD", "bench"),
                ("LG_PG_DB", "bench"),
                ("LG_MY", "127.0.0.1:13306"),
                ("LG_MY_PASSWORD", ""),
                ("LG_WORKERS", "1"),
                ("LG_AUTH", auth),
            ]);
            command.env("LG_STATE", dir.path());
            if tls {
                command.env("LG_TLS_CERT", &cert);
            }
            // The key is set even when TLS is off: the certificate decides.
            command.env("LG_TLS_KEY", &key);
            if fixed {
                command.env("LG_CATALOGUE", &catalogue);
            }
            let (code, out, err) = told(command.output().expect("start lockgate"));
            assert_eq!(code, 0, "{name}, TLS {tls}, auth {auth:?}:\n{err}");
            assert!(out.contains(rules), "{name}: {out}");
        }
    }
}

#[test]
fn hashes_are_what_a_configuration_takes() {
    let (code, out, _) = with_input(&["token", "hash"], "test-token-1234\n");
    // sha256sum of the token without its newline.
    let expected = ring::digest::digest(&ring::digest::SHA256, b"test-token-1234");
    let expected: String = expected.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((code, out.trim()), (0, expected.as_str()));
    assert_eq!(with_input(&["token", "hash"], "short\n").0, 1);
    let (code, out, _) = with_input(&["password", "hash"], &format!("{SECRET}\n"));
    assert!(code == 0 && out.starts_with("SCRAM-SHA-256$4096:") && !out.contains(SECRET), "{out}");
    let config = fine("").replace(
        "password: {from: env, name: SECRET}, tokens",
        &format!("password: {{verifier: \"{}\"}}, tokens", out.trim()),
    );
    let dir = folder(&config);
    let (code, _, err) = output(dir.path(), &["config", "check", "-c", "lockgate.yaml"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(with_input(&["password", "hash"], "\n").0, 1);
}

#[test]
fn showing_a_configuration_hides_what_is_secret() {
    let verifier = "SCRAM-SHA-256$4096:MTIzNDU2Nzg5MDEyMzQ1Ng==$2DwCWbpMuRzrnMqdbXm4r1Pj0xgn/pBT0fbFIoHG/Jw=:M9eASnsIJsk2UMmLkZ7Cxu9vOoqNMAvxj7Pg24BtFsI=";
    let dir = folder(&fine("").replace(
        "password: {from: env, name: SECRET}, tokens",
        &format!("password: {{verifier: \"{verifier}\"}}, tokens"),
    ));
    for args in [
        &["config", "show", "-c", "lockgate.yaml"][..],
        &["config", "show", "--effective", "-c", "lockgate.yaml", "-o", "json"],
    ] {
        let (code, out, err) = output(dir.path(), args);
        assert_eq!(code, 0, "{err}");
        assert!(
            out.contains("20000") && out.contains("8MiB") && out.contains("(hidden)"),
            "defaults are shown: {out}"
        );
        assert!(!out.contains("2DwCWbp") && !out.contains(SECRET), "{out}");
    }
}

#[test]
fn doctor_and_version_speak_json() {
    let dir = folder("");
    let (code, out, _) = output(dir.path(), &["doctor", "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, found[1]["name"].as_str()), (0, Some("io_uring")));
    let (_, out, _) = output(dir.path(), &["version", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).expect("JSON")["name"], "lockgate");
}

struct Running {
    child: Child,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(config: &str) -> Running {
        let dir = folder(config);
        let log = std::fs::File::create(dir.path().join("log")).expect("create");
        let child = lockgate(dir.path(), &["run", "-c", "lockgate.yaml"])
            .stdout(log.try_clone().expect("clone"))
            .stderr(log)
            .spawn()
            .expect("start lockgate");
        let running = Running { child, dir };
        running.says("\"ready\"");
        running
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("read")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn says(&self, part: &str) {
        let began = Instant::now();
        while !self.log().contains(part) {
            assert!(began.elapsed() < Duration::from_secs(10), "{part} is not said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal");
    }

    fn end(mut self) -> (ExitStatus, String, tempfile::TempDir) {
        let began = Instant::now();
        while self.child.try_wait().expect("wait").is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "still running:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.wait().expect("wait");
        let log = self.log();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a folder"));
        (status, log, dir)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone after `end`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_gateway_starts_reloads_refuses_and_stops() {
    let running = Running::start(&fine("mode: enforce\nrules: []\n"));
    let pid = std::fs::read_to_string(running.path("state/lockgate.pid")).expect("read");
    assert_eq!(pid.trim(), running.child.id().to_string());

    // A second one on the same state is refused.
    let (code, _, err) = output(running.dir.path(), &["run", "-c", "lockgate.yaml"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("another lockgate"), "{err}");

    // Something wrong: the old configuration stays, and the log says why.
    let rule = "mode: enforce\nrules:\n  - {name: no-drop, on: {statements: [drop]}, block: no}\n";
    std::fs::write(running.path("lockgate.yaml"), fine(&rule.replace("[drop]", "[dorp]"))).expect("write");
    running.signal(rustix::process::Signal::HUP);
    running.says("the old one stays in force");
    assert!(running.log().contains("no statement class"), "{}", running.log());

    // `lockgate reload` refuses to even ask.
    assert_eq!(output(running.dir.path(), &["reload", "-c", "lockgate.yaml"]).0, 78);

    // Put right, with something that cannot change while running.
    let right = fine(rule).replace("workers: 1", "workers: 2");
    std::fs::write(running.path("lockgate.yaml"), right).expect("write");
    let (code, out, err) = output(running.dir.path(), &["reload", "--state", "state"]);
    assert_eq!(code, 0, "{out}{err}");
    running.says("configuration reloaded");
    running.says("gateway.workers changed: takes effect after a restart");

    running.signal(rustix::process::Signal::USR1);
    running.says("pause and resume are not there yet");
    running.signal(rustix::process::Signal::TERM);
    let (status, log, dir) = running.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!dir.path().join("state/lockgate.pid").exists());
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not JSON: {line}");
    }

    let (code, record, err) = output(dir.path(), &["record", "export", "-c", "lockgate.yaml"]);
    assert_eq!(code, 0, "{err}");
    for event in ["\"start\"", "\"reload refused\"", "\"reload\"", "\"stop\"", "no statement class"] {
        assert!(record.contains(event), "{event} is not in the record:\n{record}");
    }
    assert_eq!(output(dir.path(), &["record", "verify", "--state", "state"]).0, 0);
    assert_eq!(output(dir.path(), &["sessions", "--state", "state", "-o", "json"]).1.trim(), "[]");
    // A configuration in the environment does not get in the way of a state directory on the command line.
    let mut both = lockgate(dir.path(), &["sessions", "--state", "state"]);
    assert_eq!(told(both.env("LOCKGATE_CONFIG", "nothing.yaml").output().expect("start lockgate")).0, 0);
    assert!(!log.contains(SECRET) && !record.contains(SECRET), "a secret is shown");

    // One byte of the record changed: found, with its own exit code.
    let segment = std::fs::read_dir(dir.path().join("state/record/log"))
        .expect("list")
        .next()
        .expect("one")
        .expect("one")
        .path();
    let mut bytes = std::fs::read(&segment).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).expect("write");
    assert_eq!(output(dir.path(), &["record", "verify", "--state", "state"]).0, 3);
}

/// Does the gateway prove itself with a certificate that only `root` vouches for?
fn proves_itself(address: &str, root: &rcgen::Certificate) -> bool {
    use std::io::Read;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tls =
        rustls::ClientConnection::new(config.into(), "localhost".try_into().expect("a name")).expect("TLS");
    let mut socket = std::net::TcpStream::connect(address).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    // SSLRequest (protocol.sgml, "SSL Session Encryption").
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).expect("write");
    let mut answer = [0];
    socket.read_exact(&mut answer).expect("read");
    assert_eq!(answer, *b"S");
    while tls.is_handshaking() {
        if tls.complete_io(&mut socket).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn a_reload_takes_new_certificates() {
    let make = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (one, two) = (make(), make());
    // Above what the kernel gives to outgoing connections, one of which would take it between our look and its use.
    let free = (65_100..65_500_u16)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .map(|port| format!("127.0.0.1:{port}"))
        .expect("a free port");
    let dir = tempfile::tempdir().expect("a folder");
    let put = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(dir.path().join("s.crt"), pair.cert.pem()).expect("write");
        std::fs::write(dir.path().join("s.key"), pair.signing_key.serialize_pem()).expect("write");
        std::fs::set_permissions(dir.path().join("s.key"), std::fs::Permissions::from_mode(0o600))
            .expect("chmod");
    };
    put(&one);
    let tls =
        format!("\"{free}\", tls: {{cert: \"{0}/s.crt\", key: \"{0}/s.key\"}}}}]", dir.path().display());
    let running = Running::start(&fine("").replace("\"127.0.0.1:0\"}]", &tls));
    assert!(proves_itself(&free, &one.cert) && !proves_itself(&free, &two.cert));
    put(&two);
    running.signal(rustix::process::Signal::HUP);
    running.says("configuration reloaded");
    assert!(proves_itself(&free, &two.cert) && !proves_itself(&free, &one.cert));
    // A certificate that does not fit its key: the old pair stays.
    std::fs::write(dir.path().join("s.crt"), one.cert.pem()).expect("write");
    running.signal(rustix::process::Signal::HUP);
    running.says("the old one stays in force");
    assert!(proves_itself(&free, &two.cert));
}

#[test]
fn a_second_signal_and_quit_end_at_once() {
    for signals in [
        &[rustix::process::Signal::QUIT][..],
        &[rustix::process::Signal::INT],
        &[rustix::process::Signal::TERM, rustix::process::Signal::TERM],
    ] {
        let running = Running::start(&fine("").replace("drain: 1s", "drain: 1h"));
        for signal in signals {
            running.signal(*signal);
        }
        let (status, log, _) = running.end();
        assert_eq!(status.code(), Some(0), "{signals:?}: {log}");
    }
}

#[test]
fn a_taken_port_is_a_failure_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let dir = folder(&fine("").replace("127.0.0.1:0", &address));
    let (code, _, err) = output(dir.path(), &["run", "-c", "lockgate.yaml"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&format!("cannot listen on {address}")), "{err}");
}

#[test]
fn a_target_that_is_down_is_69() {
    let dir = folder(&fine(""));
    let (code, _, err) = output(dir.path(), &["catalogue", "snapshot", "shop", "-c", "lockgate.yaml"]);
    assert_eq!(code, 69, "{err}");
    assert!(!err.contains(SECRET), "{err}");
    let (code, _, err) = output(dir.path(), &["catalogue", "snapshot", "shoop", "-c", "lockgate.yaml"]);
    assert_eq!(code, 1);
    assert!(err.contains("there are: shop"), "{err}");
}

#[test]
fn policy_tests_run_offline_and_their_exit_code_is_3() {
    let dir = folder(&fine("policies: [shop.yaml]"));
    let policy = |expected: &str| {
        format!(
            "rules:
  - {{name: no-drop, on: {{statements: [drop]}}, block: no}}
  - {{name: mail, on: {{connection: shop, columns: [people.email]}}, mask: redact}}
tests:
  - {{on: shop, sql: drop table people, expect: {expected}}}
  - {{on: shop, sql: select 1, expect: pass}}
"
        )
    };
    std::fs::write(dir.path().join("shop.yaml"), policy("{block: no-drop}")).expect("write");
    let (code, out, err) = output(dir.path(), &["policy", "test", "-c", "lockgate.yaml"]);
    // Which columns are masked cannot be told without a catalogue: not passed, and not silently so.
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("UNTOLD") && out.contains("1 of 2 passed"), "{out}");
    let catalogue = r#"{"database": "shop", "server_version": 150000, "search_path": ["public"], "tables": [], "functions": []}"#;
    std::fs::write(dir.path().join("shop.json"), catalogue).expect("write");
    let with = ["policy", "test", "--policy", "shop.yaml", "--catalogue", "shop.json", "--junit", "out.xml"];
    let (code, out, err) = output(dir.path(), &with);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("2 of 2 passed"), "{out}");
    let junit = std::fs::read_to_string(dir.path().join("out.xml")).expect("JUnit");
    assert!(junit.contains("tests=\"2\" failures=\"0\""), "{junit}");
    std::fs::write(dir.path().join("shop.yaml"), policy("pass")).expect("write");
    let (code, out, _) = output(dir.path(), &with);
    assert_eq!(code, 3);
    assert!(out.contains("expected pass, got block by no-drop: no"), "{out}");
    let (code, _, err) = output(dir.path(), &["policy", "test"]);
    assert_eq!(code, 1);
    assert!(err.contains("name the rules: -c CONFIG, or --policy FILE"), "{err}");
}

#[test]
fn policies_are_explained_and_searched_for_holes_offline() {
    let dir = folder("");
    let policy = "rules:
  - {name: ssn, on: {columns: [people.ssn], groups: [support]}, mask: redact}
  - {name: no-drop, on: {statements: [drop]}, block: not here}
";
    let column = |n: u32, name: &str| {
        format!(r#"{{"number": {n}, "name": "{name}", "type_oid": 25, "type_name": "text"}}"#)
    };
    let catalogue = format!(
        r#"{{"database": "shop", "server_version": 150000, "search_path": ["public"], "functions": [],
            "tables": [{{"oid": 20000, "schema": "public", "name": "people", "kind": "r", "columns": [{}, {}]}}]}}"#,
        column(1, "id"),
        column(2, "ssn")
    );
    std::fs::write(dir.path().join("p.yaml"), policy).expect("write");
    std::fs::write(dir.path().join("c.json"), catalogue).expect("write");
    let ask = |verb: &[&str], who: &str| {
        let from = ["--policy", "p.yaml", "--catalogue", "c.json", "--on", "shop", "--as", who];
        output(dir.path(), &[verb, &from[..]].concat())
    };
    let (code, out, err) =
        ask(&["policy", "explain", "--sql", "select id, upper(ssn) as u from people"], "ana,group:support");
    assert_eq!(code, 0, "{err}");
    for part in [
        "verdict  MASK",
        "reads    public.people.ssn  Output  ← ssn (p.yaml:2)",
        "output   1 id  is public.people.id  → in clear",
        "output   2 u  derives from public.people.ssn  → masked",
    ] {
        assert!(out.contains(part), "`{part}` is not in:\n{out}");
    }
    let (_, out, _) = ask(&["policy", "explain", "-o", "json", "--sql", "drop table people"], "ana");
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (json["verdict"].as_str(), json["refused"]["rule"].as_str()),
        (Some("block"), Some("no-drop"))
    );
    let (code, out, _) = ask(&["policy", "reach"], "group:support");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("0 of 1 sensitive columns can be seen in clear"), "{out}");
    let (code, out, _) = ask(&["policy", "reach"], "somebody");
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("yes       SELECT ssn FROM public.people"), "{out}");
}
