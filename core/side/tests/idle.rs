//! What the side path costs while nothing happens. A process of its own, so that nobody else's threads count.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use flow::access::{DenyDetail, Directory, Limits};
use side::record::{Ledger, Options};
use side::{Side, SideSettings};

/// Nanoseconds on a processor of this process's threads, by name (`/proc/thread-self/schedstat`, first field).
fn on_processor() -> HashMap<String, u64> {
    let mut out = HashMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
        let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
        *out.entry(name).or_default() += stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    out
}

#[test]
fn an_idle_side_path_takes_no_processor_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), 16, Options::default()).unwrap();
    ledger.gateway_event("start", "").unwrap();
    let published = Arc::new(ArcSwap::from_pointee(Directory {
        identities: HashMap::new(),
        connections: HashMap::new(),
        any: None,
        policy: Arc::default(),
        deny_detail: DenyDetail::Full,
        mock_seed: [0; 32],
        limits: Limits { login_ms: 1, idle_ms: 0, clients_max: 1 },
    }));
    let settings = SideSettings { published, fixed: HashMap::new(), refresh: Duration::from_secs(30) };
    let side = Side::start(settings).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = on_processor();
    std::thread::sleep(Duration::from_secs(3));
    let after = on_processor();
    for name in ["lg-record", "lg-side"] {
        let spent = Duration::from_nanos(after.get(name).unwrap() - before.get(name).unwrap());
        println!("{name}: {spent:?} in 3 s");
        // A thousandth, in a debug build.
        assert!(spent < Duration::from_millis(3), "{name}: {spent:?}");
    }
    side.stop();
    ledger.close().unwrap();
}
