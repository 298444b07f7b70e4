//! Secrets on their way in: environment, files, commands. They are zeroized, and no message or `Debug` shows one.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use zeroize::Zeroizing;

/// Longest secret we take: a token may be a long JWT.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// What an environment variable holds.
pub(crate) fn env(name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Zeroizing<String>, String> {
    lookup(name).map(Zeroizing::new).ok_or_else(|| format!("the environment variable {name} is not set"))
}

/// What a file holds, without the newline editors put at its end. Only a file nobody else can read is a secret.
pub(crate) fn file(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let mut file = std::fs::File::open(path).map_err(|e| format!("cannot open {shown}: {e}"))?;
    let facts = file.metadata().map_err(|e| format!("cannot open {shown}: {e}"))?;
    if !facts.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    private(path, &facts)?;
    take(&mut file).map_err(|e| format!("cannot read {shown}: {e}"))
}

/// Refuses a file that others can read. As PostgreSQL does for its key: a file of root's may be readable by its group.
pub(crate) fn private(path: &Path, facts: &std::fs::Metadata) -> Result<(), String> {
    let mode = facts.mode() & 0o777;
    let allowed = if facts.uid() == 0 { 0o740 } else { 0o700 };
    if mode & !allowed == 0 {
        return Ok(());
    }
    Err(format!("{} can be read by others (mode {mode:04o}): chmod 600 it", path.display()))
}

/// What a program prints. No shell; nothing of its output is ever shown.
pub(crate) fn command(run: &[String], timeout: Duration, dir: &Path) -> Result<Zeroizing<String>, String> {
    let (program, arguments) = run.split_first().ok_or("`run` names no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    let mut out = child.stdout.take().ok_or_else(|| format!("cannot read from {program}"))?;
    let (send, receive) = std::sync::mpsc::channel();
    // A thread, because a pipe has no read timeout. It ends when the program does, or is killed.
    std::thread::spawn(move || send.send(take(&mut out)));
    let read = receive.recv_timeout(timeout);
    if read.is_err() {
        let _ = child.kill();
    }
    let ended = child.wait().map_err(|e| format!("{program}: {e}"))?;
    match read {
        Err(_) => Err(format!("{program} did not answer within {} ms", timeout.as_millis())),
        Ok(_) if !ended.success() => Err(format!("{program} failed: {ended}")),
        Ok(secret) => secret.map_err(|e| format!("{program}: {e}")),
    }
}

/// Everything `from` has, as text without its last newline.
pub(crate) fn take(from: &mut dyn Read) -> Result<Zeroizing<String>, String> {
    // Room for all of it at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    from.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(format!("a secret of more than {SECRET_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "a secret must be UTF-8 text".to_owned())?;
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o644, false), (0o604, false), (0o660, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = file(&path);
            assert_eq!(read.is_ok(), fine, "{mode:o}");
            match read {
                Ok(secret) => assert_eq!(*secret, "hunter2"),
                Err(message) => assert!(!message.contains("hunter2")),
            }
        }
        assert!(file(&dir.path().join("nothing")).is_err());
        assert!(file(dir.path()).is_err());
    }

    #[test]
    fn commands_have_no_shell_and_no_patience() {
        let run = |words: &[&str], ms| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            command(&words, Duration::from_millis(ms), Path::new("")).map(|s| s.to_string())
        };
        assert_eq!(run(&["echo", "a;b $HOME"], 5000), Ok("a;b $HOME".to_owned()));
        assert!(run(&["false"], 5000).unwrap_err().contains("failed"));
        assert!(run(&["sleep", "60"], 100).unwrap_err().contains("within 100 ms"));
        assert!(run(&["/nonexistent/program"], 100).unwrap_err().contains("cannot run"));
        assert!(run(&["head", "-c", "100000", "/dev/zero"], 5000).is_err());
    }
}
