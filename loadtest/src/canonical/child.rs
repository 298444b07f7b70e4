//! A process we started: where it runs, as whom, what it said, and its end.
//!
//! Invariant: dropping it ends it and everything below it, by process id, whatever path led to the dropping.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cores;
use crate::measure;

/// How long something may take to end when asked to.
const GRACE: Duration = Duration::from_secs(3);

/// An unprivileged account, for programs that refuse root.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// `None`: we are not root ourselves, so everything runs as us.
    pub(crate) fn unprivileged() -> Result<Option<Account>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        let find = |name: &str| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut ids = line.split(':').skip(2).map(str::parse);
            Some(Account { uid: ids.next()?.ok()?, gid: ids.next()?.ok()? })
        };
        let found = find("postgres").or_else(|| find("nobody"));
        found.map(Some).context("no account postgres or nobody to run servers as")
    }
}

/// A folder of its own, which the account may write.
pub(crate) fn folder(parent: &Path, name: &str, account: Option<&Account>) -> Result<PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
    give(&path, account)?;
    Ok(path)
}

pub(crate) fn give(path: &Path, account: Option<&Account>) -> Result<()> {
    if let Some(Account { uid, gid }) = account {
        std::os::unix::fs::chown(path, Some(*uid), Some(*gid)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A port nobody listens on right now.
pub(crate) fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
    listener.local_addr().context("a free port")
}

pub(crate) struct Child {
    process: Process,
    log: PathBuf,
    end: Signal,
}

pub(crate) struct Spec<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<&'a OsStr>,
    pub(crate) environment: Vec<(&'a str, String)>,
    pub(crate) folder: &'a Path,
    pub(crate) account: Option<&'a Account>,
    pub(crate) cores: &'a [usize],
    /// What makes it end without waiting for its clients.
    pub(crate) end: Signal,
}

impl Child {
    /// Output goes to a log in its folder; so do both streams' last words when it fails.
    pub(crate) fn start(spec: &Spec<'_>) -> Result<Child> {
        let log = spec.folder.join("output.log");
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(spec.program);
        command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(k, v)| (k, v)))
            .current_dir(spec.folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for us; we end our children ourselves, in order.
            .process_group(0);
        if let Some(Account { uid, gid }) = spec.account {
            command.uid(*uid).gid(*gid);
        }
        let process = cores::while_on(spec.cores, || {
            command.spawn().with_context(|| format!("start {}", spec.program.display()))
        })?;
        Ok(Child { process, log, end: spec.end })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it last said, when it is not running any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("it ended ({status}): {}", self.last_words());
        }
        Ok(())
    }

    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The first line it prints.
    pub(crate) fn first_line(&mut self, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(line.to_owned());
            }
            self.check()?;
            if Instant::now() > until {
                bail!("it said nothing");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Taken before it ends, for orphans have another parent; as descriptors, for a number may soon be somebody else's.
        let family = measure::family(self.pid()).unwrap_or_default();
        let family: Vec<OwnedFd> = family.into_iter().filter_map(handle).collect();
        if let Some(itself) = family.first() {
            let _ = pidfd_send_signal(itself, self.end);
        }
        let until = Instant::now() + GRACE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Whoever is left did not want to end. Gone already is what we want, so no error is one.
        drop(self.process.kill());
        drop(self.process.wait());
        for member in family {
            while pidfd_send_signal(&member, Signal::KILL).is_ok() && Instant::now() < until + GRACE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn handle(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path, script: &str) -> Child {
        Child::start(&Spec {
            program: Path::new("/bin/sh"),
            arguments: vec![OsStr::new("-c"), OsStr::new(script)],
            environment: vec![("WORD", "hello".to_owned())],
            folder,
            account: None,
            cores: &cores::allowed().expect("readable"),
            end: Signal::TERM,
        })
        .expect("sh starts")
    }

    fn alive(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[test]
    fn dropping_ends_it_and_what_it_started() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut child = sleeper(folder.path(), "trap '' TERM; sleep 60 & echo $WORD; wait; sleep 60");
        assert_eq!(child.first_line(Duration::from_secs(5)).expect("said"), "hello");
        let family = measure::family(child.pid()).expect("running");
        assert!(family.len() >= 2, "{family:?}");
        drop(child);
        for pid in family {
            assert!(!alive(pid), "{pid} is still there");
        }
    }

    #[test]
    fn one_that_ends_by_itself_says_why() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut child = sleeper(folder.path(), "echo something is wrong >&2; exit 3");
        let error = loop {
            match child.check() {
                Ok(()) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("something is wrong"), "{error}");
    }
}
