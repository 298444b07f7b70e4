//! Takes down the bytes of a real answer, for the stub to replay.
//!
//! Not a proxy: one Query on one connection; everything from the first byte after it to the ReadyForQuery, as it came.
//! Invariant: the file appears only when the answer came whole and without error.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{Events, Poll, Token};

use crate::client::{Client, Dialer, Room};
use crate::interrupt;
use crate::target::Target;
use crate::workload::{Mode, Random, Statement, Stop, Workload};

pub(crate) fn answer(target: &Target, sql: &str, output: &Path) -> Result<(u64, u64)> {
    let mut client = ask(target, sql, None)?;
    let bytes = client.tee.take().unwrap_or_default();
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).context("a file beside the output")?;
    std::io::Write::write_all(&mut file, &bytes)?;
    file.persist(output).with_context(|| output.display().to_string())?;
    Ok((bytes.len() as u64, client.walker.rows))
}

/// Logs in, asks once, says goodbye. The client that comes back has the answer in its `tee`.
pub(crate) fn ask(target: &Target, sql: &str, limit: Option<Duration>) -> Result<Client> {
    let work = Workload::new(Mode::Simple, vec![Statement::parse(sql)?], 1, Stop::Requests(1));
    let dialer = Dialer::new(target)?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(4);
    let mut client = dialer.dial(poll.registry(), Token(0)).context("connect")?;
    let mut room = Room::new();
    let mut answers = 0;
    let began = Instant::now();
    while answers < 2 {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        interrupt::check()?;
        ensure!(limit.is_none_or(|limit| began.elapsed() < limit), "no answer in time");
        for event in &events {
            let before = answers;
            client.ready(event, &dialer, &mut room, |_| answers += 1)?;
            if before == 0 && answers == 1 {
                client.tee = Some(Vec::new());
                client.send(&mut Vec::new(), |out| work.request(&mut Random::new(0), out))?;
            }
        }
    }
    if let Some(error) = &client.error {
        bail!("the statement fails: {error}");
    }
    client.goodbye(&mut Vec::new());
    Ok(client)
}
