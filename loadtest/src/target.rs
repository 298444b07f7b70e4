//! What is measured: a name, where it listens, who logs in there, and the process whose CPU and memory are read.
//!
//! Not libpq: a URL with user, password, host, port and database; of its options, `sslmode`, and
//! `host` (a socket's folder) and `port`.
//! Invariant: a password is in no `Debug`, no error and no report.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: Address,
    /// The name in the certificate we ask for (not checked: see `client.rs`).
    pub(crate) host: String,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) tls: bool,
    /// Whose CPU and memory to read, with its children; `None`: nobody's.
    pub(crate) pid: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    /// `[NAME=]URL[@PID | @pidfile:PATH]`
    pub(crate) fn parse(text: &str) -> Result<Target> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.contains(':') => (name, rest),
            _ => ("target", text),
        };
        let (url, pid) = process(rest)?;
        Target::from_url(name, url, pid).with_context(|| format!("target {name}"))
    }

    pub(crate) fn from_url(name: &str, url: &str, pid: Option<u32>) -> Result<Target> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .context("a target's address starts with postgres://")?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match who.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (who, None),
        };
        let user = match decoded(user)? {
            user if user.is_empty() => "postgres".to_owned(),
            user => user,
        };
        let (mut host, mut port) = host_and_port(place)?;
        let mut tls = false;
        for option in options.split('&').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("sslmode", "disable")) => tls = false,
                Some(("sslmode", "require")) => tls = true,
                Some(("sslmode", _)) => bail!("sslmode is disable or require"),
                Some(("host", folder)) => host = decoded(folder)?,
                Some(("port", number)) => port = number.parse().context(PORT)?,
                _ => bail!("option {option}: only sslmode, host and port are known"),
            }
        }
        let address = if host.starts_with('/') {
            ensure!(!tls, "PostgreSQL has no TLS on a unix socket");
            Address::Unix(PathBuf::from(format!("{host}/.s.PGSQL.{port}")))
        } else {
            let mut found =
                (host.as_str(), port).to_socket_addrs().with_context(|| format!("host {host}"))?;
            Address::Tcp(found.next().with_context(|| format!("host {host} has no address"))?)
        };
        let database = match decoded(database)? {
            database if database.is_empty() => user.clone(),
            database => database,
        };
        let password = password.or_else(|| std::env::var("PGPASSWORD").ok());
        Ok(Target { name: name.to_owned(), address, host, user, password, database, tls, pid })
    }
}

const PORT: &str = "a port is a number up to 65535";

fn process(text: &str) -> Result<(&str, Option<u32>)> {
    let Some((url, process)) = text.rsplit_once('@') else { return Ok((text, None)) };
    if let Some(path) = process.strip_prefix("pidfile:") {
        let text = std::fs::read_to_string(path).with_context(|| format!("pidfile {path}"))?;
        let first = text.lines().next().unwrap_or_default().trim();
        return Ok((url, Some(first.parse().with_context(|| format!("pidfile {path} holds no number"))?)));
    }
    match process.parse() {
        Ok(pid) => Ok((url, Some(pid))),
        Err(_) => Ok((text, None)),
    }
}

fn host_and_port(place: &str) -> Result<(String, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').context("an IPv6 address lacks its ]")?;
            (host, rest.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = port.map(str::parse).transpose().context(PORT)?.unwrap_or(5432);
    Ok((if host.is_empty() { "127.0.0.1".to_owned() } else { decoded(host)? }, port))
}

/// Percent decoding. The error does not repeat the text: it may be a password.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (hex, after) = rest.split_first_chunk::<2>().context("a % without two hexadecimal digits")?;
        let hex = std::str::from_utf8(hex).ok().and_then(|h| u8::from_str_radix(h, 16).ok());
        bytes.push(hex.context("a % without two hexadecimal digits")?);
        rest = after;
    }
    String::from_utf8(bytes).ok().context("percent-encoded text is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_may_name_a_process() {
        let t = Target::parse("gate=postgres://app@127.0.0.1:7432/shop@4711").expect("valid");
        assert_eq!((t.name.as_str(), t.user.as_str(), t.database.as_str()), ("gate", "app", "shop"));
        assert_eq!((t.pid, t.tls), (Some(4711), false));
        assert_eq!(t.address, Address::Tcp("127.0.0.1:7432".parse().expect("valid")));
        let t = Target::parse("direct=postgres://app@127.0.0.1/shop").expect("valid");
        assert_eq!((t.pid, t.address), (None, Address::Tcp("127.0.0.1:5432".parse().expect("valid"))));
    }

    #[test]
    fn a_pidfile_is_read() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "4711\n/var/lib/postgresql\n").expect("written");
        let text = format!("a=postgres://127.0.0.1/x@pidfile:{}", file.path().display());
        assert_eq!(Target::parse(&text).expect("valid").pid, Some(4711));
        assert!(Target::parse("a=postgres://127.0.0.1/x@pidfile:/nonexistent").is_err());
    }

    #[test]
    fn a_password_may_hold_anything_percent_encoded() {
        let t = Target::parse("postgres://a%40b:p%3A%2F%3F%40@[::1]:6432?sslmode=require").expect("valid");
        assert_eq!((t.user.as_str(), t.password.as_deref()), ("a@b", Some("p:/?@")));
        assert_eq!((t.name.as_str(), t.database.as_str(), t.tls), ("target", "a@b", true));
        assert_eq!(t.address, Address::Tcp("[::1]:6432".parse().expect("valid")));
    }

    #[test]
    fn a_unix_socket_is_a_folder() {
        let t = Target::parse("u=postgres:///db?host=/var/run/postgresql&port=5433").expect("valid");
        assert_eq!(t.address, Address::Unix("/var/run/postgresql/.s.PGSQL.5433".into()));
        assert!(Target::parse("u=postgres:///db?host=/run&sslmode=require").is_err());
    }

    #[test]
    fn mistakes_are_said_without_the_password() {
        for text in [
            "a=mysql://x",
            "a=postgres://u:geheim@h:99999/d",
            "a=postgres://u:geheim%4@127.0.0.1/d",
            "a=postgres://u:geheim@127.0.0.1/d?sslmode=maybe",
        ] {
            let error = Target::parse(text).err().expect("invalid");
            assert!(!format!("{error:#}").contains("geheim"), "{error:#}");
        }
    }
}
