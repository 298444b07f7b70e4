//! The configuration checked and made ready: addresses parsed, certificates and secrets loaded, the policy compiled.
//!
//! Everything wrong is found in one run and named by its place; either all of it is ready or nothing is. Nothing here binds a
//! port or changes a running gateway.
//!
//! Invariant: a connection about which nothing changed keeps its `Arc` across a reload, so that its catalogues and the SCRAM
//! keys derived for it live on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flow::access::{
    self, Address, Banner, Catalogues, Credential, DenyDetail, Directory, Identity, Limits, RecordLevel,
    ServerTls, Target,
};
use policy::mask::HashKey;
use policy::{Catalog, Policy, Subject};
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::config;
use crate::mistake::{Mistake, Source};
use crate::rules;
use crate::upstream::{self, Host, SslMode};
use crate::yaml::{self, Node, Wrong, nearest};
use crate::{secret, tls};

/// Ready to be assembled.
pub(crate) struct Settings {
    pub(crate) workers: config::Workers,
    pub(crate) io: config::Io,
    pub(crate) spin: Duration,
    pub(crate) state: PathBuf,
    /// The record is below this directory, in `record`.
    pub(crate) record_home: PathBuf,
    pub(crate) ring_bytes: u64,
    pub(crate) drain: Duration,
    pub(crate) catalogue_refresh: Duration,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) directory: Arc<Directory>,
    /// Catalogues that come from a file, by connection name.
    pub(crate) fixed: HashMap<String, Arc<Catalog>>,
    /// How many rules there are, and in how many files.
    pub(crate) rules: rules::Count,
    /// What the policy was compiled from.
    pub(crate) sources: Vec<policy::rule::Source>,
    /// Worth knowing, not wrong.
    pub(crate) warnings: Vec<String>,
    /// What each connection was made from, to see whether anything changed.
    marks: HashMap<String, Mark>,
    /// Of the key of `hash` masks.
    key_mark: Option<Mark>,
}

pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// What `load` may do, and where it looks things up.
pub(crate) struct Options<'a> {
    /// `--insecure-listen`: listeners without TLS on addresses others can reach.
    pub(crate) insecure_listen: bool,
    /// Run the commands secrets come from. `config check` does not.
    pub(crate) run_commands: bool,
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
}

impl Options<'_> {
    /// The process' own environment.
    pub(crate) fn process() -> Options<'static> {
        Options { insecure_listen: false, run_commands: true, env: &|name| std::env::var(name).ok() }
    }
}

/// A digest of everything a connection was made from, its secret included. Never shown.
type Mark = [u8; 32];

/// The files as written, for `config show`.
pub(crate) struct Written {
    pub(crate) files: Vec<(PathBuf, config::File)>,
}

/// Reads, checks and prepares everything. `before`: the settings in force, on a reload.
pub(crate) fn load(
    path: &Path,
    options: &Options<'_>,
    before: Option<&Settings>,
) -> Result<Settings, Vec<Mistake>> {
    let mut check = Check::new(path, options, before);
    check.read_all();
    match check.settings() {
        Some(settings) if check.wrong.is_empty() => Ok(settings),
        _ => Err(check.mistakes()),
    }
}

/// Reads the files only: what `config show` prints.
pub(crate) fn written(path: &Path, options: &Options<'_>) -> Result<Written, Vec<Mistake>> {
    let mut check = Check::new(path, options, None);
    check.read_all();
    if check.wrong.is_empty() && check.placeless.is_empty() {
        let paths: Vec<PathBuf> = check.sources.iter().map(|s| s.path.clone()).collect();
        let named = |at: usize| paths.get(at).cloned().unwrap_or_default();
        Ok(Written { files: check.files.into_iter().map(|f| (named(f.source), f.config)).collect() })
    } else {
        Err(check.mistakes())
    }
}

/// Policy files by themselves, without a configuration around them: no secret is needed, and names are not checked.
pub(crate) fn policies(
    paths: &[PathBuf],
    options: &Options<'_>,
) -> Result<Vec<policy::rule::Source>, Vec<Mistake>> {
    // Files are shown as they were named.
    let mut check = Check::new(Path::new(""), options, None);
    let mut seen = HashSet::new();
    for path in paths {
        check.read_policy(path, None, &mut seen);
    }
    let files = std::mem::take(&mut check.policies);
    // What a hash says is of no interest here, only that there is one.
    let key = Some(HashKey::new(b"offline"));
    let made = rules::compile(files, key, None, &mut check.wrong, &mut check.warnings);
    match made {
        Some(made) if check.wrong.is_empty() && check.placeless.is_empty() => Ok(made.sources),
        _ => Err(check.mistakes()),
    }
}

/// A catalogue snapshot from a file.
pub(crate) fn catalogue(path: &Path) -> Result<Arc<Catalog>, String> {
    read_catalogue(path)
}

/// Where `record` commands find the record, without checking anything else or loading a secret.
pub(crate) fn record_home(path: &Path, options: &Options<'_>) -> Result<PathBuf, Vec<Mistake>> {
    let mut check = Check::new(path, options, None);
    check.read_all();
    let (_, record) = check.places();
    if check.wrong.is_empty() && check.placeless.is_empty() { Ok(record) } else { Err(check.mistakes()) }
}

/// One configuration file that was read.
struct Read {
    /// Number in `sources`.
    source: usize,
    dir: PathBuf,
    tree: Node,
    config: config::File,
}

struct Check<'a> {
    options: &'a Options<'a>,
    before: Option<&'a Settings>,
    main: PathBuf,
    sources: Vec<Source>,
    files: Vec<Read>,
    policies: Vec<rules::Written>,
    wrong: Vec<Wrong>,
    /// Mistakes outside any file that could be opened.
    placeless: Vec<Mistake>,
    warnings: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(path: &Path, options: &'a Options<'a>, before: Option<&'a Settings>) -> Check<'a> {
        Check {
            options,
            before,
            main: path.to_owned(),
            sources: Vec::new(),
            files: Vec::new(),
            policies: Vec::new(),
            wrong: Vec::new(),
            placeless: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn mistakes(&self) -> Vec<Mistake> {
        let mut wrong: Vec<&Wrong> = self.wrong.iter().collect();
        wrong.sort_by_key(|w| (w.spot.file, w.spot.line, w.spot.column));
        wrong.dedup();
        let placed = wrong.into_iter().map(|w| Mistake::new(&self.sources, w));
        self.placeless.iter().cloned().chain(placed).collect()
    }

    // ---- reading ----

    fn read_all(&mut self) {
        let main = self.main.clone();
        let mut seen = HashSet::new();
        self.read_file(&main, None, &mut seen);
        let mut at = 0;
        // Included files may include further ones: the list grows while we walk it.
        while let Some(file) = self.files.get(at) {
            let (dir, includes) = (file.dir.clone(), file.config.include.clone());
            for (n, pattern) in includes.iter().enumerate() {
                let place = self.spot(at, &format!("include[{n}]"));
                for path in self.expand(&dir, pattern, place, false) {
                    self.read_file(&path, Some(place), &mut seen);
                }
            }
            let policies = self.files.get(at).map(|f| f.config.policies.clone()).unwrap_or_default();
            for (n, pattern) in policies.iter().enumerate() {
                let place = self.spot(at, &format!("policies[{n}]"));
                for path in self.expand(&dir, pattern, place, true) {
                    self.read_policy(&path, Some(place), &mut seen);
                }
            }
            at += 1;
        }
    }

    fn open(&mut self, path: &Path, named: Option<yaml::Spot>) -> Option<(usize, String)> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.sources.push(Source { path: path.to_owned(), text: text.clone() });
                Some((self.sources.len() - 1, text))
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                match named {
                    Some(spot) => self.wrong.push(Wrong { spot, message, help: None }),
                    None => self.placeless.push(Mistake::without_place("configuration", message)),
                }
                None
            }
        }
    }

    fn read_file(&mut self, path: &Path, named: Option<yaml::Spot>, seen: &mut HashSet<PathBuf>) {
        if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) {
            return;
        }
        let Some((source, text)) = self.open(path, named) else { return };
        let Some(mut tree) = yaml::parse(source, &text, self.options.env, &mut self.wrong) else { return };
        let Some(config) = yaml::read::<config::File>(&mut tree, &mut self.wrong) else { return };
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        self.files.push(Read { source, dir, tree, config });
    }

    fn read_policy(&mut self, path: &Path, named: Option<yaml::Spot>, seen: &mut HashSet<PathBuf>) {
        if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) {
            return;
        }
        let Some((source, text)) = self.open(path, named) else { return };
        let Some(mut tree) = yaml::parse(source, &text, self.options.env, &mut self.wrong) else { return };
        let Some(file) = yaml::read::<rules::PolicyFile>(&mut tree, &mut self.wrong) else { return };
        self.policies.push(rules::Written { source, file, tree, name: self.shown(path) });
    }

    /// A file as rules name it: relative to the main file.
    fn shown(&self, path: &Path) -> String {
        let dir = self.main.parent().unwrap_or(Path::new(""));
        path.strip_prefix(dir).unwrap_or(path).display().to_string()
    }

    fn expand(&mut self, dir: &Path, pattern: &str, place: yaml::Spot, must_match: bool) -> Vec<PathBuf> {
        let full = dir.join(pattern);
        if !pattern.contains(['*', '?', '[']) {
            return vec![full];
        }
        let mut found = Vec::new();
        match glob::glob(&full.to_string_lossy()) {
            Ok(paths) => {
                for path in paths {
                    match path {
                        Ok(path) if path.is_file() => found.push(path),
                        Ok(_) => {}
                        // A folder we may not look into may hold rules.
                        Err(error) => {
                            let message = format!("`{pattern}`: {error}");
                            self.wrong.push(Wrong { spot: place, message, help: None });
                        }
                    }
                }
            }
            Err(error) => {
                self.wrong.push(Wrong { spot: place, message: format!("`{pattern}`: {error}"), help: None });
                return Vec::new();
            }
        }
        if found.is_empty() {
            let message = format!("`{pattern}` matches no file");
            // Rules that are silently absent protect nobody.
            if must_match {
                self.wrong.push(Wrong { spot: place, message, help: None });
            } else {
                self.warnings.push(message);
            }
        }
        found
    }

    // ---- saying what is wrong ----

    fn spot(&self, file: usize, path: &str) -> yaml::Spot {
        self.files.get(file).map(|f| f.tree.spot(&yaml::path(path))).unwrap_or_default()
    }

    fn exists(&self, file: usize, path: &str) -> bool {
        self.files.get(file).is_some_and(|f| f.tree.find(&yaml::path(path)).is_some())
    }

    fn no(&mut self, file: usize, path: &str, message: impl Into<String>) {
        self.no_with(file, path, message, None);
    }

    fn no_with(&mut self, file: usize, path: &str, message: impl Into<String>, help: Option<String>) {
        let spot = self.spot(file, path);
        self.wrong.push(Wrong { spot, message: message.into(), help });
    }

    // ---- checking ----

    /// State and record directory.
    fn places(&self) -> (PathBuf, PathBuf) {
        let mut state = None;
        let mut record = None;
        for file in &self.files {
            if let Some(gateway) = &file.config.gateway {
                state.get_or_insert_with(|| file.dir.join(&gateway.state));
            }
            if let Some(to) = file.config.record.as_ref().and_then(|r| r.to.as_ref()) {
                record.get_or_insert_with(|| file.dir.join(to));
            }
        }
        let main = self.main.parent().map(Path::to_owned).unwrap_or_default();
        let state = state.unwrap_or_else(|| main.join(config::Gateway::default().state));
        let record = record.unwrap_or_else(|| state.clone());
        (state, record)
    }

    fn settings(&mut self) -> Option<Settings> {
        let (state, record) = self.places();
        let files = std::mem::take(&mut self.files);
        // The trees stay with `self` for places; the values are walked here.
        let configs: Vec<config::File>;
        (self.files, configs) = files
            .into_iter()
            .map(|f| {
                let shell = Read { config: config::File::default(), ..f };
                (shell, f.config)
            })
            .unzip();
        if configs.is_empty() {
            return None;
        }
        let gateway = self.gateway(&configs);
        let dirs: Vec<PathBuf> = self.files.iter().map(|f| f.dir.clone()).collect();
        let ring_bytes = self.record(&configs);
        let listeners = self.listeners(&configs, &dirs);
        let identities = self.identities(&configs, &dirs, &listeners);
        let groups: BTreeSet<String> =
            identities.values().flat_map(|i| i.subject.groups.iter().map(|g| g.to_string())).collect();
        let made = self.connections(&configs, &dirs, &identities, &groups);
        let key = self.mask_key(&configs, &dirs);
        let policy = self.policy(configs, key, &made, &identities, &groups);
        for (name, identity) in &identities {
            if !made.all.values().any(|c| c.allows(identity)) {
                self.warnings.push(format!("identity `{name}` may open no connection"));
            }
        }
        if !self.wrong.is_empty() || !self.placeless.is_empty() {
            return None;
        }
        let Ruled { policy, rules, sources, key_mark } = policy?;
        let mut mock_seed = self.before.map(|b| b.directory.mock_seed).unwrap_or_default();
        if self.before.is_none() && ring::rand::SystemRandom::new().fill(&mut mock_seed).is_err() {
            self.placeless.push(Mistake::without_place("gateway", "the system has no random numbers"));
            return None;
        }
        let mut connections = made.all;
        let any = connections.remove("*");
        Some(Settings {
            workers: gateway.workers,
            io: gateway.io,
            spin: Duration::from_micros(gateway.spin_us.into()),
            state,
            record_home: record,
            ring_bytes,
            drain: gateway.drain.0,
            catalogue_refresh: gateway.catalogue_refresh.0,
            listeners,
            directory: Arc::new(Directory {
                identities,
                connections,
                any,
                policy,
                deny_detail: match gateway.deny_detail {
                    config::DenyDetail::Full => DenyDetail::Full,
                    config::DenyDetail::Rule => DenyDetail::Rule,
                    config::DenyDetail::Minimal => DenyDetail::Minimal,
                },
                mock_seed,
                limits: Limits {
                    login_ms: gateway.login_timeout.millis(),
                    idle_ms: gateway.idle_timeout.millis(),
                    clients_max: usize::try_from(gateway.max_clients).unwrap_or(usize::MAX),
                },
            }),
            fixed: made.fixed,
            rules,
            sources,
            warnings: std::mem::take(&mut self.warnings),
            marks: made.marks,
            key_mark,
        })
    }

    fn gateway(&mut self, configs: &[config::File]) -> config::Gateway {
        let mut chosen: Option<(usize, &config::Gateway)> = None;
        for (at, config) in configs.iter().enumerate() {
            match config.version {
                Some(1) => {}
                Some(other) => {
                    self.no(at, "version", format!("version {other} is not known to this lockgate: 1"))
                }
                None if at == 0 => self.no_with(
                    at,
                    "",
                    "`version` is missing",
                    Some("begin the file with `version: 1`".into()),
                ),
                None => {}
            }
            if let Some(gateway) = &config.gateway {
                if chosen.is_some() {
                    self.no(at, "gateway", "`gateway` is written in more than one file");
                } else {
                    chosen = Some((at, gateway));
                }
            }
        }
        let Some((at, gateway)) = chosen else { return config::Gateway::default() };
        if gateway.max_clients == 0 {
            self.no(at, "gateway.max_clients", "nobody could connect: at least 1");
        }
        if !(100..=600_000).contains(&gateway.login_timeout.millis()) {
            self.no(at, "gateway.login_timeout", "expected 100ms to 10m");
        }
        if gateway.drain.millis() > 86_400_000 {
            self.no(at, "gateway.drain", "expected at most 1d");
        }
        let refresh = gateway.catalogue_refresh.millis();
        if refresh != 0 && refresh < 1_000 {
            self.no(at, "gateway.catalogue_refresh", "expected 0 (only when it must) or at least 1s");
        }
        if gateway.spin_us > 1_000 {
            self.no(
                at,
                "gateway.spin_us",
                "expected at most 1000: a worker that spins longer had better not sleep",
            );
        }
        if gateway.state.is_empty() {
            self.no(at, "gateway.state", "a directory is needed");
        }
        if let Some(console) = &gateway.console {
            match address(console) {
                Ok(_) => self.warnings.push(format!("gateway.console {console}: there is no console yet")),
                Err(message) => self.no(at, "gateway.console", message),
            }
        }
        config::Gateway {
            workers: gateway.workers,
            io: gateway.io,
            spin_us: gateway.spin_us,
            state: gateway.state.clone(),
            drain: gateway.drain,
            deny_detail: gateway.deny_detail,
            login_timeout: gateway.login_timeout,
            idle_timeout: gateway.idle_timeout,
            max_clients: gateway.max_clients,
            catalogue_refresh: gateway.catalogue_refresh,
            console: gateway.console.clone(),
            mask_key: None,
        }
    }

    fn record(&mut self, configs: &[config::File]) -> u64 {
        let mut ring = None;
        for (at, config) in configs.iter().enumerate() {
            let Some(written) = &config.record else { continue };
            if ring.is_some() {
                self.no(at, "record", "`record` is written in more than one file");
            }
            // Room for the longest entry four times over, and a bound on what every worker takes at start.
            if !(8 << 20..=1 << 30).contains(&written.ring.0) || !written.ring.0.is_power_of_two() {
                self.no(at, "record.ring", "expected 8MiB to 1GiB, a power of two");
            }
            ring = Some(written.ring.0);
        }
        ring.unwrap_or(config::Record::default().ring.0)
    }

    fn listeners(&mut self, configs: &[config::File], dirs: &[PathBuf]) -> Vec<Listener> {
        let mut ready = Vec::new();
        let mut taken: HashMap<SocketAddr, ()> = HashMap::new();
        let mut written = 0;
        for (at, (config, dir)) in configs.iter().zip(dirs).enumerate() {
            for (n, listener) in config.listeners.iter().enumerate() {
                written += 1;
                let path = |key: &str| format!("listeners[{n}]{key}");
                let config::Protocol::Postgres = listener.protocol;
                let Some(bind) = &listener.bind else {
                    // Present and empty: left out on purpose.
                    if !self.exists(at, &path(".bind")) {
                        self.no(at, &path(""), "`bind` is missing");
                    }
                    continue;
                };
                let bound = match address(bind) {
                    Ok(bound) => bound,
                    Err(message) => {
                        self.no(at, &path(".bind"), message);
                        continue;
                    }
                };
                if bound.port() != 0 && taken.insert(bound, ()).is_some() {
                    self.no(at, &path(".bind"), format!("{bound} is listened on twice"));
                }
                let tls = match listener.tls.as_ref().map(|t| (&t.cert, &t.key)) {
                    None | Some((None, None)) => None,
                    Some((Some(_), None)) => {
                        self.no(at, &path(".tls"), "`key` is missing");
                        continue;
                    }
                    Some((None, Some(_))) => {
                        // An unset certificate with a set key: TLS is off, as the certificate says.
                        if !self.exists(at, &path(".tls.cert")) {
                            self.no(at, &path(".tls"), "`cert` is missing");
                        }
                        None
                    }
                    Some((Some(cert), Some(_)))
                        if listener.tls.as_ref().is_some_and(|t| t.optional)
                            && bound.ip().is_loopback()
                            && !dir.join(cert).exists() =>
                    {
                        self.warnings
                            .push(format!("{bound} offers no TLS: {cert} is not there (optional: true)"));
                        None
                    }
                    Some((Some(cert), Some(key))) => match tls::server(&dir.join(cert), &dir.join(key)) {
                        Ok((tls, note)) => {
                            self.warnings.extend(note.map(|n| format!("{bound}: {n}")));
                            Some(Arc::new(tls))
                        }
                        Err(message) => {
                            self.no(at, &path(".tls"), message);
                            continue;
                        }
                    },
                };
                if tls.is_none() && !bound.ip().is_loopback() {
                    if self.options.insecure_listen {
                        self.warnings
                            .push(format!("{bound} offers no TLS: passwords are safe (SCRAM), data is not"));
                    } else {
                        self.no_with(
                            at,
                            &path(".bind"),
                            format!("{bound} can be reached by others and has no TLS"),
                            Some(
                                "give it `tls: {cert, key}`, bind 127.0.0.1, or start with --insecure-listen"
                                    .into(),
                            ),
                        );
                    }
                }
                ready.push(Listener { address: bound, tls });
            }
        }
        if ready.is_empty() && self.wrong.is_empty() {
            let why = if written == 0 {
                "there is no listener"
            } else {
                "every listener is left out: no `bind` is set"
            };
            self.no(0, "listeners", why);
        }
        ready
    }

    fn identities(
        &mut self,
        configs: &[config::File],
        dirs: &[PathBuf],
        listeners: &[Listener],
    ) -> HashMap<String, Arc<Identity>> {
        let mut ready: HashMap<String, Arc<Identity>> = HashMap::new();
        let exposed = listeners.iter().find(|l| !l.address.ip().is_loopback()).map(|l| l.address);
        for (at, (config, dir)) in configs.iter().zip(dirs).enumerate() {
            for (n, written) in config.identities.iter().enumerate() {
                let path = |key: &str| format!("identities[{n}]{key}");
                let name = &written.name;
                if let Err(message) = plain_name(name) {
                    self.no(at, &path(".name"), message);
                }
                if ready.contains_key(name) {
                    self.no(at, &path(".name"), format!("identity `{name}` is written twice"));
                }
                for (g, group) in written.groups.iter().enumerate() {
                    if let Err(message) = plain_name(group) {
                        self.no(at, &path(&format!(".groups[{g}]")), message);
                    }
                }
                let scram = written.password.as_ref().and_then(|password| {
                    self.password(password, dir)
                        .map_err(|message| self.no(at, &path(".password"), message))
                        .ok()
                });
                let mut tokens = Vec::new();
                for (t, token) in written.tokens.iter().enumerate() {
                    match self.token(token, dir) {
                        Ok(token) => tokens.push(token),
                        Err(message) => self.no(at, &path(&format!(".tokens[{t}]")), message),
                    }
                }
                let (has_password, has_tokens) = (written.password.is_some(), !written.tokens.is_empty());
                let mut trust = false;
                match written.auth {
                    Some(config::Auth::Trust) => {
                        trust = true;
                        if let Some(address) = exposed {
                            self.no(
                                at,
                                &path(".auth"),
                                format!("`trust` lets anybody in, and {address} can be reached by others"),
                            );
                        }
                        self.warnings.push(format!(
                            "identity `{name}` is trusted: whoever reaches a loopback listener can be `{name}`"
                        ));
                    }
                    Some(config::Auth::Scram) if !has_password => {
                        self.no(
                            at,
                            &path(""),
                            format!("identity `{name}` logs in by SCRAM and has no `password`"),
                        );
                    }
                    Some(config::Auth::Token) if !has_tokens => {
                        self.no(
                            at,
                            &path(""),
                            format!("identity `{name}` logs in by token and has no `tokens`"),
                        );
                    }
                    None if !has_password && !has_tokens => {
                        self.no(
                            at,
                            &path(""),
                            format!("identity `{name}` cannot log in: no `password`, no `tokens`"),
                        );
                    }
                    _ => {}
                }
                let by = written.auth;
                let identity = Identity {
                    subject: Subject {
                        identity: name.as_str().into(),
                        groups: written.groups.iter().map(|g| g.as_str().into()).collect(),
                    },
                    scram: scram.filter(|_| !matches!(by, Some(config::Auth::Token | config::Auth::Trust))),
                    tokens: if matches!(by, Some(config::Auth::Scram | config::Auth::Trust)) {
                        vec![]
                    } else {
                        tokens
                    },
                    trust,
                };
                ready.insert(name.clone(), Arc::new(identity));
            }
        }
        let groups: HashSet<&str> =
            ready.values().flat_map(|i| i.subject.groups.iter().map(|g| &**g)).collect();
        let doubled: Vec<String> =
            ready.keys().filter(|name| groups.contains(name.as_str())).cloned().collect();
        for name in doubled {
            self.warnings.push(format!("`{name}` is an identity and a group: `allow` means both"));
        }
        ready
    }

    fn password(&self, written: &config::Password, dir: &Path) -> Result<access::ScramVerifier, String> {
        match (&written.verifier, written.from) {
            (Some(verifier), None) => side::desk::verifier_from_text(verifier).map_err(|_| {
                "not a SCRAM-SHA-256 verifier: make one with `lockgate password hash`".to_owned()
            }),
            (None, Some(from)) => {
                let password = self.secret(from, written.name.as_deref(), written.path.as_deref(), dir)?;
                if password.is_empty() {
                    return Err("the password is empty".into());
                }
                derive(&password)
            }
            _ => Err("expected either `verifier` or `from`".into()),
        }
    }

    fn token(&self, written: &config::Token, dir: &Path) -> Result<[u8; 32], String> {
        match (&written.sha256, written.from) {
            (Some(hex), None) => {
                unhex(hex).ok_or_else(|| "sha256: expected 64 hexadecimal digits".to_owned())
            }
            (None, Some(from)) => {
                let token = self.secret(from, written.name.as_deref(), written.path.as_deref(), dir)?;
                if token.len() < TOKEN_BYTES_MIN {
                    return Err(format!("a token of less than {TOKEN_BYTES_MIN} characters can be guessed"));
                }
                Ok(digest(token.as_bytes()))
            }
            _ => Err("expected either `sha256` or `from`".into()),
        }
    }

    fn secret(
        &self,
        from: config::From,
        name: Option<&str>,
        path: Option<&str>,
        dir: &Path,
    ) -> Result<Zeroizing<String>, String> {
        match (from, name, path) {
            (config::From::Env, Some(name), None) => secret::env(name, self.options.env),
            (config::From::Env, _, _) => Err("`from: env` needs `name`, and nothing else".into()),
            (config::From::File, None, Some(path)) => secret::file(&dir.join(path)),
            (config::From::File, _, _) => Err("`from: file` needs `path`, and nothing else".into()),
            (config::From::Command, _, _) => {
                Err("`from: command` is for a connection's password only".into())
            }
        }
    }

    fn connections(
        &mut self,
        configs: &[config::File],
        dirs: &[PathBuf],
        identities: &HashMap<String, Arc<Identity>>,
        groups: &BTreeSet<String>,
    ) -> Made {
        let mut made = Made::default();
        let before = self.before;
        let known: Vec<&str> =
            identities.keys().map(String::as_str).chain(groups.iter().map(String::as_str)).collect();
        for (at, (config, dir)) in configs.iter().zip(dirs).enumerate() {
            for (n, written) in config.connections.iter().enumerate() {
                let path = |key: &str| format!("connections[{n}]{key}");
                let name = &written.name;
                if name != "*"
                    && let Err(message) = plain_name(name)
                {
                    self.no(at, &path(".name"), message);
                }
                if name.contains('/') {
                    self.no(
                        at,
                        &path(".name"),
                        "a `/` separates a connection from a database: not in a name",
                    );
                }
                if !made.names.insert(name.clone()) {
                    self.no(at, &path(".name"), format!("connection `{name}` is written twice"));
                }
                for (a, who) in written.allow.iter().enumerate() {
                    if who != "*" && !known.contains(&who.as_str()) {
                        let help = nearest(who, &known).map(|k| format!("did you mean `{k}`?"));
                        let message = format!("`{who}` is neither an identity nor a group");
                        self.no_with(at, &path(&format!(".allow[{a}]")), message, help);
                    }
                }
                if written.allow.is_empty() {
                    self.warnings.push(format!("connection `{name}`: `allow` is empty, nobody may open it"));
                }
                let mark_before = self.wrong.len();
                let Some((connection, mark, fixed)) = self.connection(written, dir, at, n) else { continue };
                if self.wrong.len() > mark_before {
                    continue;
                }
                // The old `Arc` stays when it was made from the same things.
                let kept =
                    before.filter(|b| b.marks.get(name) == Some(&mark)).and_then(|b| match name.as_str() {
                        "*" => b.directory.any.clone(),
                        name => b.directory.connections.get(name).cloned(),
                    });
                if let Some(fixed) = fixed {
                    made.fixed.insert(name.clone(), fixed);
                }
                made.marks.insert(name.clone(), mark);
                made.all.insert(name.clone(), kept.unwrap_or_else(|| Arc::new(connection)));
            }
        }
        if made.all.is_empty() && self.wrong.is_empty() {
            self.no(0, "connections", "there is no connection");
        }
        made
    }

    fn connection(
        &mut self,
        written: &config::Connection,
        dir: &Path,
        at: usize,
        n: usize,
    ) -> Option<(access::Connection, Mark, Option<Arc<Catalog>>)> {
        let path = |key: &str| format!("connections[{n}]{key}");
        let up = match upstream::parse(&written.upstream) {
            Ok(up) => up,
            Err(message) => {
                self.no(at, &path(".upstream"), message);
                return None;
            }
        };
        let user = written.user.clone().or(up.user);
        if user.is_none() {
            self.no(
                at,
                &path(".upstream"),
                "the role to log in as is missing: postgres://role@host/database or `user:`",
            );
        }
        let database = (written.name != "*")
            .then(|| written.database.clone().or(up.database).unwrap_or_else(|| written.name.clone()));
        let local = up.host.is_local();
        let unix = matches!(up.host, Host::Unix(_));
        let mode = match (up.sslmode, unix) {
            (Some(SslMode::Disable) | None, true) => SslMode::Disable,
            (Some(_), true) => {
                self.no(at, &path(".upstream"), "a Unix socket has no TLS: leave sslmode out");
                SslMode::Disable
            }
            (mode, false) => mode.unwrap_or(SslMode::VerifyFull),
        };
        let root = up.root.as_deref().filter(|r| *r != "system").map(|r| dir.join(r));
        let unproved = match mode {
            SslMode::Disable => Some("sends everything in plain text"),
            SslMode::Require if root.is_none() => Some("does not check who answers"),
            _ => None,
        };
        if let Some(what) = unproved.filter(|_| !local && !written.insecure) {
            self.no_with(
                at,
                &path(".upstream"),
                format!("this sslmode {what}, and the target is not this machine"),
                Some("use sslmode=verify-full with sslrootcert=…, or say `insecure: true`".into()),
            );
        }
        if let Some(what) = unproved.filter(|_| !local && written.insecure) {
            self.warnings.push(format!("connection `{}` {what} (insecure: true)", written.name));
        }
        let (address, host) = match up.host {
            Host::Unix(dir) => (Address::Unix(dir.join(format!(".s.PGSQL.{}", up.port))), String::new()),
            Host::Tcp(host) => (Address::Tcp { host: host.clone(), port: up.port }, host),
        };
        let tls = match tls::client(mode, &host, root.as_deref()) {
            Ok(tls) => tls,
            Err(message) => {
                self.no(at, &path(".upstream"), message);
                None
            }
        };
        let password = match &written.password {
            None => Zeroizing::new(String::new()),
            Some(source) => match self.target_password(source, dir) {
                Ok(password) => password,
                Err(message) => {
                    self.no(at, &path(".password"), message);
                    return None;
                }
            },
        };
        let fixed = written.catalogue.as_ref().and_then(|file| {
            let file = dir.join(file);
            read_catalogue(&file).map_err(|message| self.no(at, &path(".catalogue"), message)).ok()
        });
        // Everything that makes this connection what it is. A changed file behind an unchanged name counts as a change.
        let mut made_of = Zeroizing::new(serde_json::to_vec(written).unwrap_or_default());
        for file in [root.as_deref(), written.catalogue.as_deref().map(|c| dir.join(c)).as_deref()]
            .into_iter()
            .flatten()
        {
            made_of.extend_from_slice(&digest(&std::fs::read(file).unwrap_or_default()));
        }
        made_of.extend_from_slice(&digest(password.as_bytes()));
        let mark = digest(&made_of);

        let connection = access::Connection {
            name: written.name.clone(),
            target: Arc::new(Target {
                address,
                tls,
                dial_ms: up.timeout.map_or(flow::limits::DIAL_MS_MAX, |t| {
                    u64::try_from(t.as_millis()).unwrap_or(flow::limits::DIAL_MS_MAX)
                }),
            }),
            user: user?,
            database,
            credential: Credential::new(password),
            allow: written.allow.clone(),
            record: match written.record {
                config::RecordLevel::Statements => RecordLevel::Statements,
                config::RecordLevel::Sessions => RecordLevel::Sessions,
            },
            banner: match written.banner {
                config::Banner::Auto => Banner::Auto,
                config::Banner::Never => Banner::Never,
            },
            tag_application: written.tag_application,
            catalogues: Catalogues::default(),
        };
        if let Some(catalog) = &fixed {
            let database = connection.database.clone().unwrap_or_else(|| catalog.database.clone());
            if database != catalog.database {
                self.warnings.push(format!(
                    "connection `{}`: the catalogue is of database `{}`, the connection opens `{database}`",
                    written.name, catalog.database
                ));
            }
            connection.catalogues.publish(&database, catalog.clone());
        }
        Some((connection, mark, fixed))
    }

    fn target_password(&self, source: &config::Secret, dir: &Path) -> Result<Zeroizing<String>, String> {
        if source.from != config::From::Command {
            if !source.run.is_empty() {
                return Err("`run` belongs to `from: command`".into());
            }
            return self.secret(source.from, source.name.as_deref(), source.path.as_deref(), dir);
        }
        if source.run.is_empty() || source.name.is_some() || source.path.is_some() {
            return Err(
                "`from: command` needs `run: [program, argument, …]`, and neither `name` nor `path`".into()
            );
        }
        if !(1..=300_000).contains(&source.timeout.millis()) {
            return Err("`timeout`: expected at most 5m, and more than 0".into());
        }
        if !self.options.run_commands {
            return Ok(Zeroizing::new(String::new()));
        }
        secret::command(&source.run, source.timeout.0, dir)
    }

    /// What `hash` masks are keyed with.
    fn mask_key(&mut self, configs: &[config::File], dirs: &[PathBuf]) -> Option<(HashKey, Mark)> {
        let found =
            configs.iter().enumerate().find_map(|(at, c)| Some((at, c.gateway.as_ref()?.mask_key.as_ref()?)));
        let (at, source) = found?;
        let dir = dirs.get(at).cloned().unwrap_or_default();
        let checked_only = source.from == config::From::Command && !self.options.run_commands;
        match self.target_password(source, &dir) {
            Ok(key) if key.len() >= MASK_KEY_BYTES_MIN || checked_only => {
                Some((HashKey::new(key.as_bytes()), digest(key.as_bytes())))
            }
            Ok(_) => {
                let message = format!("a key of less than {MASK_KEY_BYTES_MIN} characters can be guessed");
                self.no(at, "gateway.mask_key", message);
                None
            }
            Err(message) => {
                self.no(at, "gateway.mask_key", message);
                None
            }
        }
    }

    fn policy(
        &mut self,
        configs: Vec<config::File>,
        key: Option<(HashKey, Mark)>,
        made: &Made,
        identities: &HashMap<String, Arc<Identity>>,
        groups: &BTreeSet<String>,
    ) -> Option<Ruled> {
        let mut files = std::mem::take(&mut self.policies);
        for (at, config) in configs.into_iter().enumerate() {
            if config.rules.is_empty() {
                continue;
            }
            let (tree, source) = self.files.get(at).map(|f| (f.tree.clone(), f.source))?;
            let name = self.sources.get(source).map(|s| self.shown(&s.path)).unwrap_or_default();
            let mode = config.mode.unwrap_or_default();
            let file = rules::PolicyFile { mode, rules: config.rules, tests: Vec::new() };
            files.push(rules::Written { source, file, tree, name });
        }
        let names = rules::Names {
            connections: made.names.iter().map(String::as_str).collect(),
            identities: identities.keys().map(String::as_str).collect(),
            groups: groups.iter().map(String::as_str).collect(),
        };
        let (key, key_mark) = key.unzip();
        let made = rules::compile(files, key, Some(&names), &mut self.wrong, &mut self.warnings)?;
        // The same rules: sessions and caches see no change.
        let policy = match self.before {
            Some(before)
                if before.directory.policy.revision == made.policy.revision
                    && before.key_mark == key_mark =>
            {
                before.directory.policy.clone()
            }
            _ => Arc::new(made.policy),
        };
        Some(Ruled { policy, rules: made.count, sources: made.sources, key_mark })
    }
}

/// The policy, and what goes with it.
struct Ruled {
    policy: Arc<Policy>,
    rules: rules::Count,
    sources: Vec<policy::rule::Source>,
    key_mark: Option<Mark>,
}

/// Connections, and what goes with them.
#[derive(Default)]
struct Made {
    /// Every name that is written, whether or not its connection could be made.
    names: BTreeSet<String>,
    all: HashMap<String, Arc<access::Connection>>,
    fixed: HashMap<String, Arc<Catalog>>,
    marks: HashMap<String, Mark>,
}

/// `host:port` of a listener: an address, or `localhost`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|p| p.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| format!("`{text}` is not an address and port like 127.0.0.1:7432 or [::]:7432"))
}

fn digest(bytes: &[u8]) -> Mark {
    let mut mark = Mark::default();
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    mark.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    mark
}

/// A verifier with a salt of its own and PostgreSQL's default iterations.
pub(crate) fn derive(password: &str) -> Result<access::ScramVerifier, String> {
    let mut salt = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(side::desk::derive_verifier(password, &salt, SCRAM_ITERATIONS))
}

/// A name people can type and logs can show.
fn plain_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 255 {
        return Err("a name has 1 to 255 bytes".into());
    }
    if name == "*" {
        return Err("`*` means everybody: not a name".into());
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace() || c == ',') {
        return Err("a name has no spaces, commas or control characters".into());
    }
    Ok(())
}

fn unhex(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

fn read_catalogue(path: &Path) -> Result<Arc<Catalog>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let catalog = side::catalogue::snapshot_from_json(&text)
        .map_err(|e| format!("{} is not a catalogue snapshot: {e}", path.display()))?;
    Ok(Arc::new(catalog))
}

/// Hashes of telephone numbers are only as safe as their key.
const MASK_KEY_BYTES_MIN: usize = 16;

/// Where a gateway keeps things when nobody says.
pub(crate) const STATE_DEFAULT: &str = "./state";

/// `scram_iterations` of PostgreSQL.
const SCRAM_ITERATIONS: u32 = 4096;

/// Shorter tokens are passwords in disguise.
pub(crate) const TOKEN_BYTES_MIN: usize = 12;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$uXjJWk2Mlh3cHPW8qHlp6Cx7eqMB2kgMVOYWjmy2MKc=:uXjJWk2Mlh3cHPW8qHlp6Cx7eqMB2kgMVOYWjmy2MKc=";

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            Place { dir: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        }

        fn load(&self, text: &str) -> Result<Settings, Vec<Mistake>> {
            self.reload(text, None)
        }

        fn reload(&self, text: &str, before: Option<&Settings>) -> Result<Settings, Vec<Mistake>> {
            let path = self.write("lockgate.yaml", text);
            load(&path, &Options { env: &env, ..Options::process() }, before)
        }
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "SECRET" => Some("hunter2-hunter2".into()),
            "SHORT" => Some("hunter2".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    /// A whole configuration: each line may be replaced by the test.
    fn base() -> Vec<String> {
        [
            "version: 1",
            "gateway: {}",
            "listeners: [{protocol: postgres, bind: \"127.0.0.1:7432\"}]",
            &format!("identities: [{{name: ana, groups: [support], password: {{verifier: \"{VERIFIER}\"}}}}]"),
            "connections: [{name: shop, upstream: \"postgres://gw@localhost:5432/shop?sslmode=disable\", allow: [support]}]",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn with(line: usize, text: &str) -> String {
        let mut lines = base();
        lines[line - 1] = text.to_owned();
        lines.join("\n") + "\n"
    }

    fn ok(text: &str) -> Settings {
        Place::new().load(text).unwrap_or_else(|m| panic!("{}", show(&m)))
    }

    fn show(mistakes: &[Mistake]) -> String {
        mistakes.iter().map(|m| m.to_string() + "\n").collect()
    }

    #[test]
    fn a_plain_configuration_is_ready() {
        let s = ok(&(base().join("\n") + "\n"));
        assert_eq!(s.listeners[0].address, "127.0.0.1:7432".parse().unwrap());
        let shop = &s.directory.connections["shop"];
        assert_eq!((shop.user.as_str(), shop.database.as_deref()), ("gw", Some("shop")));
        assert!(shop.allows(&s.directory.identities["ana"]));
        assert!(s.state.ends_with("state") && s.record_home.ends_with("state"));
        assert!(s.warnings.is_empty(), "{:?}", s.warnings);
        assert_eq!(s.directory.limits.clients_max, 20_000);
    }

    /// One line per class of mistake: the line of the file that is replaced, its text, and what must be said about it.
    #[test]
    fn every_class_of_mistake_is_said_at_its_place() {
        let up = |up: &str| format!("connections: [{{name: shop, upstream: \"{up}\", allow: [ana]}}]");
        let identity = |rest: &str| format!("identities: [{{name: ana, groups: [support], {rest}}}]");
        let connection = |rest: &str| {
            format!(
                "connections: [{{name: shop, upstream: \"postgres://gw@localhost/shop?sslmode=disable\", {rest}}}]"
            )
        };
        let cases: Vec<(usize, String, &str)> = vec![
            (1, "version: 2".into(), "version 2 is not known"),
            (1, "x-nothing: 1".into(), "`version` is missing"),
            (2, "gatway: {}".into(), "unknown key `gatway`"),
            (2, "gateway: {worker: 1}".into(), "unknown key `worker`"),
            (2, "gateway: {workers: 0}".into(), "from 1 to 1024"),
            (2, "gateway: {workers: many}".into(), "`auto` or a number"),
            (2, "gateway: {io: uring}".into(), "`uring` is not one of: auto, io_uring, epoll"),
            (2, "gateway: {drain: 30}".into(), "needs its unit"),
            (2, "gateway: {drain: 30x}".into(), "`30x` is not a time"),
            (2, "gateway: {drain: 3d}".into(), "at most 1d"),
            (2, "gateway: {login_timeout: 0s}".into(), "100ms to 10m"),
            (2, "gateway: {max_clients: 0}".into(), "nobody could connect"),
            (2, "gateway: {max_clients: -1}".into(), "whole number"),
            (2, "gateway: {catalogue_refresh: 10ms}".into(), "at least 1s"),
            (2, "gateway: {console: nowhere}".into(), "not an address and port"),
            (2, "gateway: {deny_detail: all}".into(), "is not one of: full, rule, minimal"),
            (2, "record: {ring: 1MiB}".into(), "expected 8MiB to 1GiB"),
            (2, "include: [nothing.yaml]".into(), "cannot read"),
            (2, "policies: [nothing.yaml]".into(), "cannot read"),
            (2, "gateway: {mask_key: {from: env, name: SHORT}}".into(), "can be guessed"),
            (2, "rules: [{name: a}]".into(), "a rule needs mask, detect or block"),
            (2, "rules: [{name: a, one: {}}]".into(), "unknown key `one`"),
            (2, "rules: [{name: a, on: {columns: [t.c]}, mask: hash}]".into(), "hash needs a key"),
            (2, "rules: [{name: a, on: {columns: [t.c]}, mask: redakt}]".into(), "`redakt` is not one of"),
            (2, "rules: [{name: a, on: {statements: [drop]}, approve: {by: [dba]}}]".into(), "approvals are not available"),
            (2, "rules: [{name: a, on: {connection: shpo, statements: [drop]}, block: x}]".into(), "no connection `shpo`"),
            (2, "rules: [{name: a, on: {connection: [shop, x], statements: [drop]}, block: x}]".into(), "no connection `x`"),
            (2, "rules: [{name: a, on: {groups: [supprot], statements: [drop]}, block: x}]".into(), "no group `supprot`"),
            (2, "rules: [{name: a, on: {identities: [anna], statements: [drop]}, block: x}]".into(), "no identity `anna`"),
            (2, "mode: maybe".into(), "`maybe` is not one of: enforce, observe"),
            (2, "policies: [policy/*.yaml]".into(), "matches no file"),
            (3, "listeners: []".into(), "there is no listener"),
            (3, "listeners: [{protocol: postgres, bind: \"${EMPTY}\"}]".into(), "every listener is left out"),
            (3, "listeners: [{protocol: postgres}]".into(), "`bind` is missing"),
            (3, "listeners: [{protocol: postgress, bind: \"127.0.0.1:1\"}]".into(), "`postgress` is not one of"),
            (3, "listeners: [{protocol: postgres, bind: \"db:1\"}]".into(), "not an address and port"),
            (3, "listeners: [{protocol: postgres, bind: \"127.0.0.1:1\"}, {protocol: postgres, bind: \"127.0.0.1:1\"}]".into(), "listened on twice"),
            (3, "listeners: [{protocol: postgres, bind: \"0.0.0.0:7432\"}]".into(), "has no TLS"),
            (3, "listeners: [{protocol: postgres, bind: \"127.0.0.1:1\", tls: {cert: a, key: b}}]".into(), "cannot read"),
            (3, "listeners: [{protocol: postgres, bind: \"127.0.0.1:1\", tls: {cert: a}}]".into(), "`key` is missing"),
            (3, "listeners: [{protocol: postgres, bind: \"127.0.0.1:1\", tls: {key: a}}]".into(), "`cert` is missing"),
            (4, "identities: [{name: ana}]".into(), "cannot log in"),
            (4, identity("auth: scram"), "has no `password`"),
            (4, identity("auth: token"), "has no `tokens`"),
            (4, identity("password: {}"), "either `verifier` or `from`"),
            (4, identity("password: {verifier: hunter2}"), "not a SCRAM-SHA-256 verifier"),
            (4, identity("password: hunter2"), "expected a mapping, found text"),
            (4, identity("password: {from: env, name: NOPE}"), "NOPE is not set"),
            (4, identity("password: {from: env, path: x}"), "needs `name`"),
            (4, identity("password: {from: env, name: EMPTY}"), "the password is empty"),
            (4, identity("password: {from: file, name: x}"), "needs `path`"),
            (4, identity("password: {from: file, path: nothing}"), "cannot open"),
            (4, identity("password: {from: command}"), "for a connection's password only"),
            (4, identity("tokens: [{sha256: abc}]"), "64 hexadecimal digits"),
            (4, identity("tokens: [{from: env, name: SHORT}]"), "can be guessed"),
            (4, "identities: [{name: a b, auth: trust}]".into(), "no spaces"),
            (4, "identities: [{name: \"*\", auth: trust}]".into(), "`*` means everybody"),
            (4, "identities: [{name: 7, auth: trust}]".into(), "expected a string, found a number"),
            (4, "identities: [{name: ana, groups: [support], auth: trust}, {name: ana, auth: trust}]".into(), "written twice"),
            (5, "connections: []".into(), "there is no connection"),
            (5, "connections: [{name: shop}]".into(), "`upstream` is missing"),
            (5, connection("allow: [supprot]"), "`supprot` is neither an identity nor a group"),
            (5, connection("allow: [ana], record: everything"), "is not one of: statements, sessions"),
            (5, connection("allow: [ana], password: {from: vault}"), "is not one of: env, file, command"),
            (5, connection("allow: [ana], password: {from: command}"), "needs `run:"),
            (5, connection("allow: [ana], password: {from: command, run: [\"false\"]}"), "failed"),
            (5, connection("allow: [ana], password: {from: env, name: NOPE}"), "NOPE is not set"),
            (5, connection("allow: [ana], password: {from: env, name: SECRET, run: [x]}"), "`run` belongs to"),
            (5, connection("allow: [ana], catalogue: nothing.json"), "cannot read"),
            (5, connection("allow: [ana], catalogue: lockgate.yaml"), "is not a catalogue snapshot"),
            (5, up("postgres://gw:hunter2@localhost/shop"), "a password does not belong here"),
            (5, up("postgres://localhost/shop"), "the role to log in as is missing"),
            (5, up("postgres://gw@10.0.0.5/shop?sslmode=disable"), "sends everything in plain text"),
            (5, up("postgres://gw@10.0.0.5/shop?sslmode=require"), "does not check who answers"),
            (5, up("postgres://gw@10.0.0.5/shop?sslmode=verify-full&sslrootcert=no.crt"), "cannot read certificates"),
            (5, up("postgres://gw@/shop?host=/run/postgresql&sslmode=require"), "a Unix socket has no TLS"),
            (5, "connections: [{name: a/b, upstream: \"postgres://gw@localhost/x?sslmode=disable\"}]".into(), "not in a name"),
            (5, format!("{}\n", connection("allow: [ana]").replace("]}]", "]}, {name: shop, upstream: \"postgres://gw@localhost/x?sslmode=disable\"}]")), "written twice"),
        ];
        for (line, text, part) in cases {
            let place = Place::new();
            let Err(mistakes) = place.load(&with(line, &text)) else { panic!("{text} is accepted") };
            let said = show(&mistakes);
            let hit = mistakes.iter().find(|m| m.message.contains(part));
            let hit = hit.unwrap_or_else(|| panic!("{text}: `{part}` is not said:\n{said}"));
            // What is missing altogether is said at the top; the rest at its line.
            let expected = if part.contains("is missing") && line == 1 { 1 } else { line };
            assert_eq!(hit.line, expected, "{text}:\n{said}");
            assert!(!said.contains("hunter2"), "a secret is shown:\n{said}");
        }
    }

    #[test]
    fn all_mistakes_at_once_with_hints() {
        let place = Place::new();
        let text = "version: 1\nlisteners: [{protocol: postgres, bind: \"0.0.0.0:1\"}]\nidentities:\n  - {name: ana, group: [x], auth: trust}\nconnections:\n  - {name: shop, upstream: \"mysql://x\", allow: [anna]}\n";
        let said = show(&place.load(text).err().unwrap());
        for part in [
            "lockgate.yaml:2:40: 0.0.0.0:1 can be reached by others and has no TLS",
            "lockgate.yaml:4:17: unknown key `group`",
            "did you mean `groups`?",
            "lockgate.yaml:6:28: expected postgres://",
            "did you mean `ana`?",
        ] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }

    #[test]
    fn trust_only_on_loopback() {
        let trust = "identities: [{name: ana, groups: [support], auth: trust}]";
        let s = ok(&with(4, trust));
        assert!(
            s.directory.identities["ana"].trust && s.warnings[0].contains("is trusted"),
            "{:?}",
            s.warnings
        );
        let place = Place::new();
        let text = with(4, trust).replace("127.0.0.1:7432", "0.0.0.0:7432");
        let path = place.write("lockgate.yaml", &text);
        let options = Options { insecure_listen: true, env: &env, ..Options::process() };
        let said = show(&load(&path, &options, None).err().unwrap());
        assert!(said.contains("`trust` lets anybody in"), "{said}");
    }

    #[test]
    fn insecure_listen_is_a_choice() {
        let place = Place::new();
        let text = base().join("\n").replace("127.0.0.1:7432", "0.0.0.0:7432");
        let path = place.write("lockgate.yaml", &text);
        let options = Options { insecure_listen: true, env: &env, ..Options::process() };
        let s = load(&path, &options, None).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert!(s.warnings[0].contains("offers no TLS"), "{:?}", s.warnings);
    }

    #[test]
    fn auth_chooses_between_password_and_tokens() {
        let both = format!("password: {{verifier: \"{VERIFIER}\"}}, tokens: [{{from: env, name: SECRET}}]");
        for (auth, scram, tokens) in [("", true, 1), (", auth: scram", true, 0), (", auth: token", false, 1)]
        {
            let s = ok(&with(4, &format!("identities: [{{name: ana, groups: [support], {both}{auth}}}]")));
            let ana = &s.directory.identities["ana"];
            assert_eq!((ana.scram.is_some(), ana.tokens.len(), ana.trust), (scram, tokens, false), "{auth}");
        }
    }

    #[test]
    fn secrets_come_from_where_they_are_said_to() {
        let place = Place::new();
        place.write("pw", "hunter2-file\n");
        for (source, secret) in [
            ("{from: env, name: SECRET}", "hunter2-hunter2"),
            ("{from: file, path: pw}", "hunter2-file"),
            ("{from: command, run: [echo, hunter2-command]}", "hunter2-command"),
        ] {
            let line = format!(
                "connections: [{{name: shop, upstream: \"postgres://gw@localhost/shop?sslmode=disable\", allow: [ana], password: {source}}}]"
            );
            let s = place.load(&with(5, &line)).unwrap_or_else(|m| panic!("{}", show(&m)));
            assert_eq!(s.directory.connections["shop"].credential.secret(), secret);
        }
    }

    #[test]
    fn an_unchanged_connection_keeps_its_arc() {
        let place = Place::new();
        let text = |user: &str| {
            with(
                5,
                &format!(
                    "connections:\n- {{name: shop, upstream: \"postgres://gw@localhost/shop?sslmode=disable\", allow: [ana], password: {{from: file, path: pw}}}}\n- {{name: \"*\", upstream: \"postgres://{user}@localhost?sslmode=disable\", allow: [ana]}}"
                ),
            )
        };
        place.write("pw", "one");
        let first = place.load(&text("a")).unwrap_or_else(|m| panic!("{}", show(&m)));
        let same = place.reload(&text("a"), Some(&first)).unwrap_or_else(|m| panic!("{}", show(&m)));
        let (of, any) = (
            |s: &Settings| s.directory.connections["shop"].clone(),
            |s: &Settings| s.directory.any.clone().unwrap(),
        );
        assert!(Arc::ptr_eq(&of(&first), &of(&same)) && Arc::ptr_eq(&any(&first), &any(&same)));
        assert_eq!(first.directory.mock_seed, same.directory.mock_seed);
        let other = place.reload(&text("b"), Some(&first)).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert!(Arc::ptr_eq(&of(&first), &of(&other)) && !Arc::ptr_eq(&any(&first), &any(&other)));
        place.write("pw", "two");
        let rotated = place.reload(&text("a"), Some(&first)).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert!(!Arc::ptr_eq(&of(&first), &of(&rotated)));
        assert_eq!(of(&rotated).credential.secret(), "two");
    }

    #[test]
    fn included_files_are_one_configuration() {
        let place = Place::new();
        place.write(
            "more/a.yaml",
            "identities: [{name: bo, auth: trust}]\ninclude: [b.yaml, ../lockgate.yaml]\n",
        );
        place.write("more/b.yaml", "identities: [{name: cy, auth: trust}]\ngateway: {workers: 1}\n");
        let s = place.load(&with(2, "include: [more/a.yaml]")).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert_eq!(s.directory.identities.len(), 3);
        assert_eq!(s.workers, config::Workers::Count(1));
        assert!(s.warnings.iter().any(|w| w == "identity `bo` may open no connection"));
        let text = with(2, "include: [more/a.yaml]\ngateway: {}");
        let said = show(&place.load(&text).err().unwrap());
        assert!(said.contains("more/b.yaml:2:10: `gateway` is written in more than one file"), "{said}");
    }

    #[test]
    fn rules_come_from_policy_files_with_their_places() {
        let place = Place::new();
        let rule = |name: &str, rest: &str| {
            format!("- {{name: {name}, on: {{statements: [drop]}}, block: no{rest}}}\n")
        };
        place.write("policy/a.yaml", &format!("mode: observe\nrules:\n{}", rule("a", ", except: [nobody]")));
        place.write("policy/b.yaml", &format!("rules:\n{}{}", rule("b", ""), rule("c", ", mode: observe")));
        let text = with(2, "policies: [policy/*.yaml]");
        let s = place.load(&text).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert_eq!(s.rules, rules::Count { masks: 0, blocks: 3, observed: 2 });
        assert_eq!(s.warnings, ["policy/a.yaml: rule `a` makes an exception for `nobody`, which nobody is"]);
        // The same rules again: the same policy, so that sessions keep what they decided.
        let same = place.reload(&text, Some(&s)).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert!(Arc::ptr_eq(&s.directory.policy, &same.directory.policy));
        place.write("policy/b.yaml", &format!("rules:\n{}{}", rule("b", ""), rule("a", "")));
        let said = show(&place.reload(&text, Some(&s)).err().unwrap());
        assert!(said.contains("policy/b.yaml:3:10: there is another rule named \"a\""), "{said}");
    }

    #[test]
    fn a_new_mask_key_is_a_new_policy() {
        let place = Place::new();
        place.write("key", "0123456789abcdef");
        let text = with(
            2,
            "gateway: {mask_key: {from: file, path: key}}\nrules: [{name: a, on: {columns: [t.c]}, mask: hash}]",
        );
        let s = place.load(&text).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert_eq!(s.rules.masks, 1);
        place.write("key", "0123456789abcdeg");
        let new = place.reload(&text, Some(&s)).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert!(!Arc::ptr_eq(&s.directory.policy, &new.directory.policy));
    }

    #[test]
    fn a_catalogue_file_is_published() {
        let place = Place::new();
        let catalog = Catalog { database: "shop".into(), server_version: 150_000, ..Catalog::default() };
        place.write("shop.json", &serde_json::to_string(&catalog).unwrap());
        let line = "connections: [{name: shop, upstream: \"postgres://gw@localhost/shop?sslmode=disable\", allow: [ana], catalogue: shop.json}]";
        let s = place.load(&with(5, line)).unwrap_or_else(|m| panic!("{}", show(&m)));
        assert_eq!(s.directory.connections["shop"].catalogues.get("shop").unwrap().server_version, 150_000);
        assert!(s.fixed.contains_key("shop"));
    }

    #[test]
    fn a_file_that_is_not_there_is_a_mistake() {
        let missing = load(Path::new("/nonexistent/lockgate.yaml"), &Options::process(), None);
        assert!(show(&missing.err().unwrap()).contains("cannot read /nonexistent/lockgate.yaml"));
    }
}
