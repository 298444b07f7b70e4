//! The first bytes of a connection: TLS or encryption requests, cancel requests, the start-up packet.
//! Source: PostgreSQL documentation §"Message Formats"; `src/backend/tcop/backend_startup.c` (PostgreSQL 18).

use flow::limits::STARTUP_BYTES_MAX;
use flow::{Fault, Side};

use crate::message::{Reader, put_string, write};

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;
/// The newest minor version of protocol 3 we speak.
const NEWEST_MINOR: u16 = 2;

/// What a client begins with.
#[derive(Debug)]
pub(crate) enum First {
    Ssl,
    Gss,
    Cancel { pid: u32, key: Vec<u8> },
    Startup(Startup),
}

/// A start-up packet.
#[derive(Debug, Default)]
pub(crate) struct Startup {
    /// 3.0 or 3.2; a newer wish was negotiated down.
    pub(crate) minor: u16,
    /// Set when the client must be told what we speak: its unknown `_pq_.` options.
    pub(crate) negotiate: Option<Vec<String>>,
    pub(crate) user: String,
    pub(crate) database: String,
    /// Everything else, in order.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Startup {
    /// Tells a client what we speak, once, if its wishes went further (NegotiateProtocolVersion).
    pub(crate) fn negotiate(&mut self, out: &mut Vec<u8>) {
        let Some(unknown) = self.negotiate.take() else { return };
        write(out, b'v', |out| {
            out.extend_from_slice(&(0x30000 + u32::from(self.minor)).to_be_bytes());
            out.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or_default().to_be_bytes());
            unknown.iter().for_each(|name| put_string(out, name.as_bytes()));
        });
    }
}

/// Why a start-up packet is refused: SQLSTATE, message, hint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) &'static str, pub(crate) String, pub(crate) &'static str);

/// How long the first packet is, once its length field is there; the whole of it counts, length included.
pub(crate) fn length(input: &[u8]) -> Result<Option<usize>, Fault> {
    let Some((length, _)) = input.split_first_chunk::<4>() else { return Ok(None) };
    match u32::from_be_bytes(*length) as usize {
        length @ 8..=STARTUP_BYTES_MAX => Ok(Some(length)),
        _ => Err(Fault::Protocol { side: Side::Client, what: "start-up packet length" }),
    }
}

/// Reads the first packet; `packet` is exactly as long as [`length`] said.
pub(crate) fn read(packet: &[u8]) -> Result<Result<First, Refusal>, Fault> {
    let mut r = Reader::new(packet, Side::Client);
    r.u32("start-up: length")?;
    let code = r.u32("start-up: version")?;
    match code {
        SSL => r.end("SSLRequest: trailing bytes").map(|()| Ok(First::Ssl)),
        GSS => r.end("GSSENCRequest: trailing bytes").map(|()| Ok(First::Gss)),
        CANCEL => {
            let pid = r.u32("CancelRequest: process")?;
            Ok(Ok(First::Cancel { pid, key: r.rest().to_vec() }))
        }
        _ if code >> 16 != 3 => Ok(Err(Refusal(
            "0A000",
            format!(
                "unsupported frontend protocol {}.{}: lockgate speaks 3.0 to 3.2",
                code >> 16,
                code & 0xffff
            ),
            "",
        ))),
        _ => startup(r, u16::try_from(code & 0xffff).unwrap_or(u16::MAX)),
    }
}

fn startup(mut r: Reader<'_>, minor: u16) -> Result<Result<First, Refusal>, Fault> {
    let mut startup = Startup { minor: minor.min(NEWEST_MINOR), ..Startup::default() };
    let (mut user, mut database) = (None, None);
    let mut unknown = Vec::new();
    loop {
        let name = r.string("start-up: parameter name")?;
        if name.is_empty() {
            break;
        }
        let value = r.string("start-up: parameter value")?;
        let (Ok(name), Ok(value)) = (str::from_utf8(name), str::from_utf8(value)) else {
            return Ok(Err(Refusal("22021", "start-up parameters must be UTF-8".into(), "")));
        };
        let slot = match name {
            "user" => Some(&mut user),
            "database" => Some(&mut database),
            _ => None,
        };
        match slot {
            Some(slot) if slot.is_some() => {
                return Ok(Err(Refusal("08P01", format!("start-up parameter \"{name}\" given twice"), "")));
            }
            Some(slot) => *slot = Some(value.to_owned()),
            None if name.starts_with("_pq_.") => unknown.push(name.to_owned()),
            None if name.eq_ignore_ascii_case("replication") => {
                return Ok(Err(Refusal(
                    "0A000",
                    "replication connections are refused: a replication stream cannot be masked".into(),
                    "connect to the database itself, past lockgate, with a role meant for replication",
                )));
            }
            None => startup.parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    r.end("start-up: trailing bytes")?;
    if minor > NEWEST_MINOR || !unknown.is_empty() {
        startup.negotiate = Some(unknown);
    }
    let Some(user) = user.filter(|u| !u.is_empty()) else {
        return Ok(Err(Refusal("28000", "no user name in the start-up packet".into(), "")));
    };
    startup.database = database.filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone());
    startup.user = user;
    Ok(Ok(First::Startup(startup)))
}

/// Parameters anybody may set at start-up, whatever rules touch them: they change presentation, limits or planning, never names,
/// quoting or identity. Compared case-insensitively, like GUC names.
const HARMLESS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "cursor_tuple_fraction",
    "datestyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "enable_bitmapscan",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_material",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "enable_sort",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "join_collapse_limit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "maintenance_work_mem",
    "max_parallel_workers_per_gather",
    "plan_cache_mode",
    "random_page_cost",
    "search_path",
    "seq_page_cost",
    "statement_timeout",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_user_timeout",
    "timezone",
    "transaction_timeout",
    "work_mem",
];

/// Sorts a client's start-up parameters into what the target gets. `strict`: rules touch this identity, so the allow-list holds;
/// else only what would change whom we are at the target is refused.
pub(crate) fn parameters(
    given: Vec<(String, String)>,
    strict: bool,
) -> Result<Vec<(String, String)>, Refusal> {
    let mut out = Vec::with_capacity(given.len());
    for (name, value) in given {
        if name == "options" {
            // Each goes on as a parameter of its own, which is the same to the server (`process_startup_options`, postinit.c): what was
            // checked is what it reads, and nobody splits it again. It reads `options` first.
            let mut settings = options(&value)?;
            settings.retain(|(n, _)| !n.starts_with("lockgate."));
            for (name, _) in &settings {
                check(name, strict)?;
            }
            out.splice(0..0, settings);
        } else {
            check(&name, strict)?;
            out.push((name, value));
        }
    }
    Ok(out)
}

fn check(name: &str, strict: bool) -> Result<(), Refusal> {
    let folded = name.to_ascii_lowercase();
    let harmless = HARMLESS.binary_search(&folded.as_str()).is_ok();
    // These change who we are at the target, whoever asks.
    let identity = matches!(folded.as_str(), "role" | "session_authorization" | "replication");
    // Of the packet itself: as a setting there is none called so.
    let packet = matches!(folded.as_str(), "user" | "database" | "options") || folded.starts_with("_pq_.");
    if (harmless || !strict) && !identity && !packet {
        return Ok(());
    }
    Err(Refusal(
        "42501",
        format!("start-up parameter \"{name}\" is not allowed through the gateway"),
        "leave it out, or SET it after the connection is open if your rules allow that",
    ))
}

/// `options` as `pg_split_opts` (postinit.c) splits it: blanks separate, a backslash keeps the next character. Understood: `-c
/// name=value`, `-cname=value`, `--name=value`; anything else is refused.
fn options(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let refuse = || {
        Err(Refusal(
            "42501",
            "start-up options other than -c name=value are not allowed through the gateway".into(),
            "write every setting as -c name=value",
        ))
    };
    let mut words = Vec::new();
    let (mut word, mut open) = (String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                word.extend(chars.next());
                open = true;
            }
            c if blank(c) => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            c => {
                word.push(c);
                open = true;
            }
        }
    }
    if open {
        words.push(word);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).map(str::to_owned)
        };
        let Some((name, value)) = setting.as_deref().and_then(|s| s.split_once('=')) else { return refuse() };
        let name = name.replace('-', "_");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
            return refuse();
        }
        settings.push((name, value.to_owned()));
    }
    Ok(settings)
}

/// What separates words in `options` is what the C library's `isspace` says in the locale of the database. Beyond ASCII that may be any
/// byte of a character; such a text is read as it would be in UTF-8.
fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: u32, body: &[u8]) -> Vec<u8> {
        let mut p = ((body.len() + 8) as u32).to_be_bytes().to_vec();
        p.extend_from_slice(&version.to_be_bytes());
        p.extend_from_slice(body);
        p
    }

    fn read_startup(version: u32, body: &[u8]) -> Result<Startup, Refusal> {
        match read(&packet(version, body)).unwrap()? {
            First::Startup(s) => Ok(s),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_allow_list_is_sorted_for_the_search() {
        assert!(HARMLESS.is_sorted());
    }

    #[test]
    fn versions_are_negotiated_down_never_up() {
        assert_eq!(read_startup(0x30000, b"user\0a\0\0").unwrap().minor, 0);
        assert!(read_startup(0x30002, b"user\0a\0\0").unwrap().negotiate.is_none());
        let newer = read_startup(0x30000 + 99, b"user\0a\0_pq_.hx\x001\0\0").unwrap();
        assert_eq!((newer.minor, newer.negotiate), (2, Some(vec!["_pq_.hx".to_owned()])));
        assert_eq!(read_startup(0x20000, b"").unwrap_err().0, "0A000");
    }

    #[test]
    fn doubled_names_and_replication_are_refused() {
        assert_eq!(read_startup(0x30000, b"user\0a\0user\0b\0\0").unwrap_err().0, "08P01");
        assert_eq!(read_startup(0x30000, b"user\0a\0database\0b\0database\0c\0\0").unwrap_err().0, "08P01");
        assert_eq!(read_startup(0x30000, b"user\0a\0Replication\0database\0\0").unwrap_err().0, "0A000");
    }

    #[test]
    fn a_packet_without_its_end_is_a_fault() {
        assert!(read(&packet(0x30000, b"user\0abc\0database")).is_err());
        assert!(length(&[0, 0, 0, 7]).is_err());
        assert!(length(&[0x7f, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        let s = |o: &str| vec![("options".into(), o.into())];
        let ok = parameters(s("-c work_mem=1MB --search-path=a\\ b  -cgeqo=off"), true).unwrap();
        let set = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(ok, [set("work_mem", "1MB"), set("search_path", "a b"), set("geqo", "off")]);
        // `isspace` has six, vertical tabs among them; what a backslash keeps is part of the word.
        let cut = parameters(s("-c jit=off\x0b-c\x0bgeqo=on\x0c--lc_time=a\\\x0bb\r\n"), true).unwrap();
        assert_eq!(cut, [set("jit", "off"), set("geqo", "on"), set("lc_time", "a\x0bb")]);
        // The server reads them before the others, which win.
        let both = vec![set("work_mem", "2MB"), set("options", "-c work_mem=1MB")];
        assert_eq!(parameters(both, true).unwrap(), [set("work_mem", "1MB"), set("work_mem", "2MB")]);
        for bad in [
            "-c jit=off\x0b-c\x0bsession_replication_role=replica",
            "-c user=postgres",
            "-c database=other",
            "-c options=-crole=x",
            "-c _pq_.x=1",
            "-c standard_conforming_strings=off",
            "-c role=postgres",
            "-d 5",
            "-c",
            "-c replication=database",
        ] {
            assert!(parameters(s(bad), true).is_err(), "{bad}");
        }
        assert!(parameters(s("-c standard_conforming_strings=off"), false).is_ok());
        assert!(parameters(s("-c session_authorization=x"), false).is_err());
        assert!(parameters(s("-c user=postgres"), false).is_err());
    }
}
