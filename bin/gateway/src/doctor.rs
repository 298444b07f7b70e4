//! `lockgate doctor`: what this machine allows, and what to do about what it does not. It changes nothing.

use std::io::Write;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::cli::Format;

#[derive(Serialize)]
struct Finding {
    name: &'static str,
    fine: bool,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// A listener with 5,000 clients needs twice that, and some.
const FILES_MIN: u64 = 16_384;

pub(crate) fn doctor(format: Format) -> anyhow::Result<ExitCode> {
    let findings = [kernel(), io_uring(), files(), processors(), memory_lock()];
    let mut out = std::io::stdout().lock();
    if format.json() {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for Finding { name, fine, value, advice } in &findings {
            writeln!(out, "  {} {name:<12} {value}", if *fine { "✓" } else { "!" })?;
            if let Some(advice) = advice {
                writeln!(out, "    {:<12} {advice}", "")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map_while(|p| p.parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    Finding {
        name: "kernel",
        fine: version >= (5, 10),
        value: format!("{} {release} {}", name.sysname().to_string_lossy(), name.machine().to_string_lossy()),
        advice: (version < (5, 10)).then(|| "Linux 5.10 or newer is tested".to_owned()),
    }
}

fn io_uring() -> Finding {
    let (value, advice) = match why_not_uring() {
        None => ("io_uring is allowed".to_owned(), None),
        Some(why) => {
            let advice = "epoll is used instead; everything works, at a higher cost per statement".to_owned();
            (why, Some(advice))
        }
    };
    Finding { name: "io_uring", fine: advice.is_none(), value, advice }
}

/// Asks the engine itself: starts it with one worker and nothing to listen to, and ends it again.
fn why_not_uring() -> Option<String> {
    struct Nobody;
    impl flow::Desk for Nobody {
        fn ask(&self, _: flow::Ask, reply: flow::Reply) {
            reply(flow::Answer::Failed("nobody is here".into()));
        }
    }
    let limits = flow::access::Limits { login_ms: 0, idle_ms: 0, clients_max: 0 };
    let engine = engine::Engine::start(engine::Settings {
        workers: engine::Workers::Count(1),
        io: engine::Io::Uring,
        listeners: Vec::new(),
        desk: std::sync::Arc::new(Nobody),
        limits: std::sync::Arc::new(move || limits),
    });
    match engine {
        Ok(engine) => {
            engine.kill_all();
            engine.join();
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

fn files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    // We raise the soft limit ourselves at start.
    let hard = limit.maximum.unwrap_or(u64::MAX);
    Finding {
        name: "open files",
        fine: hard >= FILES_MIN,
        value: format!("{} now, {} at most", shown(limit.current), shown(limit.maximum)),
        advice: (hard < FILES_MIN)
            .then(|| "two per client are needed: LimitNOFILE=1048576 in the unit, or ulimit -Hn".to_owned()),
    }
}

fn memory_lock() -> Finding {
    let limit = getrlimit(Resource::Memlock);
    Finding {
        name: "locked mem",
        fine: true,
        value: format!("{} bytes now, {} at most", shown(limit.current), shown(limit.maximum)),
        advice: None,
    }
}

fn processors() -> Finding {
    let allowed = crate::run::processors();
    let machine = std::thread::available_parallelism().map_or(allowed, std::num::NonZero::get);
    let advice = (machine < allowed).then(|| {
        format!("a quota allows the time of {machine}: gateway.workers: {machine} avoids being throttled")
    });
    Finding { name: "processors", fine: advice.is_none(), value: format!("{allowed} allowed"), advice }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
}
