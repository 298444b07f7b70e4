//! The configuration file as written. Nothing in here is checked beyond its shape: that is [`crate::settings`]' work, and no
//! code past `main` reads these types.
//!
//! Every key is explained in `example.yaml` (a test parses it) and in the JSON schema (`lockgate config schema`), which is
//! made from the comments below.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Span};

/// A lockgate configuration file. Keys that start with `x-` are ignored everywhere; `${NAME}` and `${NAME:-default}` are
/// replaced by environment variables.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The version of this format: 1. Required in the main file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The process itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Where clients connect to.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Who can log in.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// Which databases can be reached, and by whom.
    #[serde(default)]
    pub connections: Vec<Connection>,
    /// Policy files: paths or globs, relative to this file.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Mode of the rules in this file: enforce (the default) or observe. A rule's own mode wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<policy::rule::Mode>,
    /// Rules, as in a policy file.
    #[serde(default)]
    pub rules: Vec<policy::rule::Rule>,
    /// More files of this format: paths or globs, relative to this file.
    #[serde(default)]
    pub include: Vec<String>,
    /// Where everything is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// The process itself.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gateway {
    /// Worker threads: `auto` (one per processor this process may use) or a number.
    pub workers: Workers,
    /// How sockets are driven.
    pub io: Io,
    /// Microseconds a worker looks for news before it sleeps, while silences were that short lately; 0: it sleeps at once.
    #[schemars(range(max = 1000))]
    pub spin_us: u16,
    /// Directory for everything the gateway keeps.
    pub state: String,
    /// How long a stopping gateway waits for clients.
    pub drain: Span,
    /// What a client is told about a refusal.
    pub deny_detail: DenyDetail,
    /// From connecting to being logged in.
    pub login_timeout: Span,
    /// How long a client may be idle; 0: for ever.
    pub idle_timeout: Span,
    /// Clients at the same time; further ones are refused.
    pub max_clients: u32,
    /// How often the catalogue of a connection with masks is read again; 0: only when it must.
    pub catalogue_refresh: Span,
    /// What `hash` masks are keyed with: the same key gives the same hashes. Needed when a rule uses `mask: hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_key: Option<Secret>,
    /// Address of the web console. Accepted, but there is no console yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            workers: Workers::Auto,
            io: Io::Auto,
            spin_us: 0,
            state: crate::settings::STATE_DEFAULT.into(),
            drain: Span::seconds(30),
            deny_detail: DenyDetail::Full,
            login_timeout: Span::seconds(60),
            idle_timeout: Span::seconds(0),
            max_clients: 20_000,
            catalogue_refresh: Span::seconds(30),
            mask_key: None,
            console: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    Auto,
    Count(u16),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Workers;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto` or a number from 1 to 1024")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Workers, E> {
                match u16::try_from(v) {
                    Ok(n @ 1..=1024) => Ok(Workers::Count(n)),
                    _ => Err(E::custom("expected `auto` or a number from 1 to 1024")),
                }
            }
            // A number from the environment is text here.
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Workers, E> {
                match (v, v.parse()) {
                    ("auto", _) => Ok(Workers::Auto),
                    (_, Ok(n)) => self.visit_u64(n),
                    _ => Err(E::custom("expected `auto` or a number from 1 to 1024")),
                }
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl Serialize for Workers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Auto => serializer.serialize_str("auto"),
            Workers::Count(n) => serializer.serialize_u16(*n),
        }
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Workers".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "maximum": 1024},
                {"type": "string", "pattern": "\\$\\{.*\\}"},
            ],
        })
    }
}

/// How sockets are driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Io {
    /// io_uring where it is allowed, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    #[serde(rename = "io_uring")]
    Uring,
    Epoll,
}

/// What a client is told about a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DenyDetail {
    /// Rule, policy file and line, decision.
    #[default]
    Full,
    /// Rule and decision.
    Rule,
    /// Decision only.
    Minimal,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub protocol: Protocol,
    /// Address and port, `0.0.0.0:7432` or `[::]:7432`. An empty value (an unset variable) leaves this listener out.
    #[serde(default)]
    pub bind: Option<String>,
    /// Without it no TLS is offered, which only loopback addresses may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Postgres,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerTls {
    /// PEM file: our certificate, then those that lead to a root. Read again on every reload. Empty: no TLS.
    #[serde(default)]
    pub cert: Option<String>,
    /// PEM file: its private key, readable by this user only.
    #[serde(default)]
    pub key: Option<String>,
    /// On a loopback address only: a certificate that is not there means no TLS instead of a mistake.
    #[serde(default)]
    pub optional: bool,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// What a client gives as user name.
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// How it proves itself. Default: whatever of password and tokens is written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// Accepted in place of a password, inside TLS only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Auth {
    /// A password, by SCRAM-SHA-256.
    Scram,
    /// A token as password, inside TLS.
    Token,
    /// No proof at all; only where every listener is on loopback.
    Trust,
}

/// A client's password: a verifier made by `lockgate password hash`, or a place to read the password from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Password {
    /// `SCRAM-SHA-256$…`
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "hidden")]
    pub verifier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// With `from: env`: the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With `from: file`: the file, readable by this user only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A token: its SHA-256 made by `lockgate token hash`, or a place to read the token from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    /// 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// With `from: env`: the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With `from: file`: the file, readable by this user only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Where a secret comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// An environment variable.
    Env,
    /// A file that only this user can read.
    File,
    /// What a program prints.
    Command,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connection {
    /// What a client gives as database name. `*`: every other name, for the database of that name.
    pub name: String,
    /// `postgres://user@host:port/database?sslmode=verify-full&sslrootcert=ca.crt&connect_timeout=10s`; a Unix socket is
    /// `postgres://user@/database?host=/run/postgresql`. Never a password.
    pub upstream: String,
    /// The role to log in as, instead of the one in `upstream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The database, instead of the one in `upstream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The role's password. Clients never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Identities and groups that may open it; `*`: everybody.
    #[serde(default)]
    pub allow: Vec<String>,
    #[serde(default)]
    pub record: RecordLevel,
    /// A notice after login that names the session and counts the rules.
    #[serde(default)]
    pub banner: Banner,
    /// Prefix `application_name` with `lg/<identity>/`, so that the database's own log names the person.
    #[serde(default = "yes")]
    pub tag_application: bool,
    /// Use this catalogue snapshot (`lockgate catalogue snapshot`) instead of asking the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<String>,
    /// Allow `sslmode=disable` and `sslmode=require` towards a host that is not this machine.
    #[serde(default)]
    pub insecure: bool,
}

/// Where a secret is read from, at start and at every reload.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secret {
    pub from: From,
    /// With `from: env`: the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With `from: file`: the file, readable by this user only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// With `from: command`: program and arguments; run without a shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
    /// With `from: command`: how long it may take.
    #[serde(default = "command_timeout")]
    pub timeout: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RecordLevel {
    /// Every statement, its parameters and its outcome.
    #[default]
    Statements,
    /// Session start and end only.
    Sessions,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Banner {
    /// For tools a person sits at, where a rule is active.
    #[default]
    Auto,
    Never,
}

/// Where everything is recorded.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Record {
    /// The directory `record` is made in; default: `gateway.state`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Buffer of each worker, a power of two. When it is full, statements that must be recorded are refused.
    pub ring: Bytes,
}

impl Default for Record {
    fn default() -> Record {
        Record { to: None, ring: Bytes(8 << 20) }
    }
}

fn yes() -> bool {
    true
}

fn command_timeout() -> Span {
    Span::seconds(10)
}

/// A verifier is not a password, but good enough to guess against.
fn hidden<S: serde::Serializer>(_: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("(hidden)")
}
