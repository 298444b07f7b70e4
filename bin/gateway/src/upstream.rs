//! `postgres://user@host:port/database?key=value` as people write it for libpq
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>), read into its parts.
//!
//! Less than libpq takes, on purpose: one host, no password (it would be in a file, in `ps` and in every error), and only the
//! parameters that mean something here; any other is a mistake instead of a silent loss.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::yaml::nearest;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub user: Option<String>,
    pub host: Host,
    pub port: u16,
    pub database: Option<String>,
    pub sslmode: Option<SslMode>,
    /// A PEM file, or `system`.
    pub root: Option<String>,
    pub timeout: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name or an address, without brackets.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

impl Host {
    /// Nobody but this machine can be on the line.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Host::Unix(_) => true,
            Host::Tcp(host) => host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    /// Encrypted, to whoever answers.
    Require,
    /// The certificate leads to a root; whose it is does not matter.
    VerifyCa,
    VerifyFull,
}

const PARAMETERS: [&str; 6] = ["sslmode", "sslrootcert", "host", "port", "connect_timeout", "user"];

pub(crate) fn parse(text: &str) -> Result<Upstream, String> {
    let rest = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
        .ok_or("expected postgres://user@host:port/database")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(u, p)| (Some(u), p));
    if user.is_some_and(|u| u.contains(':')) {
        return Err("a password does not belong here: use `password: {from: env, name: …}`".into());
    }
    if place.contains(',') {
        return Err("one host only: several are not supported".into());
    }
    let (mut host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or("`[` without `]`")?;
            (host.to_owned(), rest.strip_prefix(':'))
        }
        None => match place.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err("put an IPv6 address in brackets: [::1]:5432".into());
            }
            Some((host, port)) => (decode(host)?, Some(port)),
            None => (decode(place)?, None),
        },
    };
    let mut upstream = Upstream {
        user: user.filter(|u| !u.is_empty()).map(decode).transpose()?,
        host: Host::Tcp(String::new()),
        port: 5432,
        database: Some(decode(database)?).filter(|d| !d.is_empty()),
        sslmode: None,
        root: None,
        timeout: None,
    };
    let mut number = port.filter(|p| !p.is_empty()).map(ToOwned::to_owned);
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not key=value"))?;
        let value = decode(value)?;
        match key {
            "sslmode" => {
                upstream.sslmode = Some(match value.as_str() {
                    "disable" => SslMode::Disable,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    "allow" | "prefer" => {
                        return Err(format!(
                            "sslmode={value} falls back to plain text, which lockgate never does: use disable, require, \
                             verify-ca or verify-full"
                        ));
                    }
                    _ => {
                        return Err(format!(
                            "unknown sslmode `{value}`: disable, require, verify-ca or verify-full"
                        ));
                    }
                });
            }
            "sslrootcert" => upstream.root = Some(value),
            "host" => host = value,
            "port" => number = Some(value),
            "user" => upstream.user = Some(value),
            "connect_timeout" => {
                let seconds: u64 = value
                    .trim_end_matches('s')
                    .parse()
                    .ok()
                    .filter(|s| (1..=600).contains(s))
                    .ok_or("connect_timeout: expected 1 to 600 seconds")?;
                upstream.timeout = Some(Duration::from_secs(seconds));
            }
            "password" => {
                return Err("a password does not belong here: use `password: {from: env, name: …}`".into());
            }
            _ => {
                let help =
                    nearest(key, &PARAMETERS).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
                return Err(format!("unknown parameter `{key}`{help}"));
            }
        }
    }
    if let Some(number) = number {
        upstream.port =
            number.parse().ok().filter(|p| *p > 0).ok_or_else(|| format!("`{number}` is not a port"))?;
    }
    if host.is_empty() {
        return Err(
            "the host is missing (a Unix socket: postgres://user@/database?host=/run/postgresql)".into()
        );
    }
    upstream.host = if host.starts_with('/') { Host::Unix(host.into()) } else { Host::Tcp(host) };
    Ok(upstream)
}

/// Undoes %XX.
fn decode(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit =
            |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit(bytes.next()), digit(bytes.next()));
        match (high, low) {
            (Some(high), Some(low)) if high + low > 0 => out.push(high << 4 | low),
            _ => return Err("`%` must be followed by two hexadecimal digits (and is not %00)".into()),
        }
    }
    String::from_utf8(out).map_err(|_| "not UTF-8 after undoing %XX".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let u = parse(
            "postgres://gw@10.0.0.5:5433/shop?sslmode=verify-full&sslrootcert=ca.crt&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(
            u,
            Upstream {
                user: Some("gw".into()),
                host: Host::Tcp("10.0.0.5".into()),
                port: 5433,
                database: Some("shop".into()),
                sslmode: Some(SslMode::VerifyFull),
                root: Some("ca.crt".into()),
                timeout: Some(Duration::from_secs(3)),
            }
        );
        let u = parse("postgresql://db").unwrap();
        assert_eq!((u.user, u.port, u.database), (None, 5432, None));
        let u = parse("postgres://a%40b@[::1]:6000/d%2Fx").unwrap();
        assert_eq!((u.user.as_deref(), u.port, u.database.as_deref()), (Some("a@b"), 6000, Some("d/x")));
        assert!(u.host.is_local());
        let u = parse("postgres://me@/db?host=/run/postgresql&port=5555").unwrap();
        assert_eq!((u.host, u.port), (Host::Unix("/run/postgresql".into()), 5555));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("mysql://x", "expected postgres://"),
            ("postgres://u:hunter2@h/d", "a password does not belong here"),
            ("postgres://u@h/d?password=hunter2", "a password does not belong here"),
            ("postgres://u@h,i/d", "one host only"),
            ("postgres://u@::1/d", "brackets"),
            ("postgres://u@h:0/d", "not a port"),
            ("postgres://u@h:70000/d", "not a port"),
            ("postgres://u@/d", "host is missing"),
            ("postgres://u@h/d?sslmode=prefer", "falls back to plain text"),
            ("postgres://u@h/d?sslmode=verify", "unknown sslmode"),
            ("postgres://u@h/d?sslmod=require", "did you mean `sslmode`?"),
            ("postgres://u@h/%zz", "two hexadecimal digits"),
            ("postgres://u@h/%00", "two hexadecimal digits"),
            ("postgres://u@h/d?connect_timeout=0", "1 to 600"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        for (host, local) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.evil", false),
        ] {
            assert_eq!(Host::Tcp(host.into()).is_local(), local, "{host}");
        }
    }
}
