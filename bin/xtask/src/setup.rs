//! What a machine must have before the build and the tests can run, and the one line that installs the rest.
//!
//! Not a package manager: Debian and its children are installed on (when root), everybody else is told what is missing.
//! Invariant: nothing is installed that was not printed first.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Enough to compile: a C compiler (ring, SQLite, libpg_query) and libclang (bindgen reads libpg_query's headers).
    Build,
    /// Also what the end-to-end tests start: servers and unmodified clients.
    Tests,
}

struct Tool {
    what: &'static str,
    package: &'static str,
    need: Need,
    found: fn() -> bool,
}

const TOOLS: &[Tool] = &[
    Tool { what: "a C compiler", package: "gcc", need: Need::Build, found: || answers("cc", &["--version"]) },
    // A compiler without headers is found by `cc --version` and fails in the middle of the build.
    Tool {
        what: "the C library's headers",
        package: "libc6-dev",
        need: Need::Build,
        found: || Path::new("/usr/include/stdio.h").exists(),
    },
    Tool { what: "libclang", package: "libclang-dev", need: Need::Build, found: libclang },
    Tool {
        what: "PostgreSQL 15 (server)",
        package: "postgresql-15",
        need: Need::Tests,
        found: || Path::new("/usr/lib/postgresql/15/bin/initdb").exists(),
    },
    Tool {
        what: "psql and pgbench",
        package: "postgresql-client-15",
        need: Need::Tests,
        found: || answers("psql", &["--version"]) && answers("pgbench", &["--version"]),
    },
    Tool {
        what: "python3 with venv",
        package: "python3-venv",
        need: Need::Tests,
        found: || answers("python3", &["-c", "import venv, ensurepip"]),
    },
    Tool { what: "Node.js", package: "nodejs", need: Need::Tests, found: || answers("node", &["--version"]) },
    Tool { what: "npm", package: "npm", need: Need::Tests, found: || answers("npm", &["--version"]) },
    Tool {
        what: "valgrind",
        package: "valgrind",
        need: Need::Tests,
        found: || answers("valgrind", &["--version"]),
    },
    Tool {
        what: "openssl",
        package: "openssl",
        need: Need::Tests,
        found: || answers("openssl", &["version"]),
    },
    Tool {
        what: "setpriv",
        package: "util-linux",
        need: Need::Tests,
        found: || answers("setpriv", &["--version"]),
    },
];

/// # Errors
/// Something is missing and could not be installed; the message is the line to type.
pub(crate) fn check(need: Need) -> Result<()> {
    let missing = missing(need);
    if missing.is_empty() {
        println!("xtask: setup: everything needed is here");
        return Ok(());
    }
    for tool in &missing {
        println!("xtask: setup: missing {} (Debian: {})", tool.what, tool.package);
    }
    let packages: Vec<&str> = missing.iter().map(|t| t.package).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !answers("apt-get", &["--version"]) {
        bail!("please install the above; on Debian that would be: {line}");
    }
    if !is_root()? {
        bail!("not root, so please run: sudo apt-get update && sudo {line}");
    }
    println!("xtask: setup: apt-get update && {line}");
    apt(&["update"])?;
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)?;
    let still: Vec<&str> = self::missing(need).iter().map(|t| t.what).collect();
    if still.is_empty() { Ok(()) } else { bail!("still missing after installing: {}", still.join(", ")) }
}

fn missing(need: Need) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|t| t.need <= need && !(t.found)()).collect()
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args).status();
    let status = status.context("start apt-get")?;
    if status.success() { Ok(()) } else { bail!("apt-get {} failed ({status})", args.join(" ")) }
}

fn answers(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
}

fn is_root() -> Result<bool> {
    let id = Command::new("id").arg("-u").output().context("run id -u")?;
    Ok(id.stdout.trim_ascii() == b"0")
}

/// Where clang-sys (bindgen's loader) looks: `LIBCLANG_PATH`, LLVM's own folders, the linker's.
fn libclang() -> bool {
    let mut folders: Vec<std::path::PathBuf> =
        std::env::var_os("LIBCLANG_PATH").map(Into::into).into_iter().collect();
    if let Ok(entries) = std::fs::read_dir("/usr/lib") {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("llvm-") {
                folders.push(entry.path().join("lib"));
            } else if name.ends_with("-linux-gnu") {
                folders.push(entry.path());
            }
        }
    }
    folders.extend(["/usr/lib64", "/usr/lib", "/usr/local/lib"].map(Into::into));
    folders.iter().any(|folder| {
        std::fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|e| {
                let name = e.file_name();
                let name = name.to_string_lossy();
                // libclang.so, libclang-14.so.1, … but not libclang-cpp.so.
                (name.starts_with("libclang.so") || name.starts_with("libclang-"))
                    && name.contains(".so")
                    && !name.starts_with("libclang-cpp")
            })
        })
    })
}
