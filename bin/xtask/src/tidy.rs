//! What no compiler checks: the promises the README and the manifests make, held against the tree.
//!
//! Not a style checker (rustfmt and clippy are). Reads what git tracks, so half-written files of a working tree do not count until
//! they are added. Invariant: every rule prints all its findings, with file and line; one finding fails the run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::license;

/// The list of functions that let a message cross without a judgement: what a security reviewer reads.
const HOUSEKEEPING: &str = "bin/xtask/lists/housekeeping.txt";
/// Files that may contain `unsafe`, each with its reason.
const UNSAFE: &str = "bin/xtask/lists/unsafe.txt";

/// Crates that may import anything of ours (benches) or nothing (black box tools); the others stand in the README's table.
const IMPORTS_ANYTHING: &[&str] = &["benches"];
const IMPORTS_NOTHING: &[&str] = &["loadtest", "xtask"];

/// What a crate must not have anywhere below it, in a normal build: a crate is a thing that forbids something.
const FORBIDDEN_BELOW: &[(&str, &[&str])] = &[
    ("policy", &["tokio", "monoio", "mio", "socket2", "rustls"]),
    ("flow", &["tokio", "monoio", "mio", "socket2"]),
    ("postgres", &["tokio", "monoio", "mio", "socket2", "pgwire"]),
    ("engine", &["tokio"]),
    ("side", &["monoio"]),
    ("xtask", &["tokio", "serde"]),
];

/// What must not be linked at all. .deny.toml bans the same, with the reasons; a test compares them.
const BANNED: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "native-tls",
    "openssl",
    "openssl-sys",
    "pg_query",
    "serde_yaml",
    "serde_yml",
];

pub(crate) fn run(root: &Path, bless: bool) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut findings = Findings::default();
    readme_map(&tree, &mut findings)?;
    imports(&tree, &mut findings)?;
    forbidden_below(&tree, &mut findings)?;
    dependencies(&tree, &mut findings)?;
    headers(&tree, &mut findings);
    unsafe_code(&tree, &mut findings);
    housekeeping(&tree, bless, &mut findings)?;
    leftovers(&tree, &mut findings);
    for finding in &findings.0 {
        eprintln!("tidy: {finding}");
    }
    match findings.0.len() {
        0 => {
            println!("xtask: tidy: {} crates, {} files: ok", tree.crates.len(), tree.files.len());
            Ok(())
        }
        n => bail!("{n} finding(s)"),
    }
}

#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, place: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{place}: {what}"));
    }
}

struct Tree {
    /// Crate name → folder.
    crates: BTreeMap<String, String>,
    /// Tracked text files, by path.
    files: BTreeMap<String, String>,
}

impl Tree {
    fn read(root: &Path) -> Result<Tree> {
        let listed = output("git", &["ls-files", "-z"])?;
        let mut files = BTreeMap::new();
        for path in listed.split('\0').filter(|p| !p.is_empty()) {
            let on_disk = root.join(path);
            // Removed in the working tree but not yet in the index; or not text.
            let Ok(bytes) = std::fs::read(&on_disk) else { continue };
            if let Ok(text) = String::from_utf8(bytes) {
                files.insert(path.to_owned(), text);
            }
        }
        let manifest = files.get("Cargo.toml").context("no Cargo.toml at the top")?;
        let mut crates = BTreeMap::new();
        for folder in members(manifest) {
            let path = format!("{folder}/Cargo.toml");
            let text = files.get(&path).with_context(|| format!("{path} is a member but not tracked"))?;
            let name = text.lines().find_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"'));
            crates.insert(name.with_context(|| format!("{path} has no name"))?.to_owned(), folder);
        }
        Ok(Tree { crates, files })
    }

    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter(|(p, _)| p.ends_with(".rs")).map(|(p, t)| (p.as_str(), t.as_str()))
    }

    fn readme(&self) -> Result<&str> {
        self.files.get("README.md").map(String::as_str).context("README.md is not tracked")
    }
}

fn members(manifest: &str) -> Vec<String> {
    let inside = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let lines = inside.map(|(inside, _)| inside.lines()).into_iter().flatten();
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// Every crate has a paragraph in the README's map, and every paragraph a crate.
fn readme_map(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let section = section(tree.readme()?, "## The map").context("README.md has no section `## The map`")?;
    let named: BTreeSet<&str> = section
        .lines()
        .filter_map(|l| l.strip_prefix("**`")?.split_once("`**").map(|(name, _)| name))
        .collect();
    for (name, folder) in &tree.crates {
        if !named.contains(folder.as_str()) {
            findings.add("README.md", format!("the map has no paragraph for `{folder}` (crate {name})"));
        }
    }
    for name in named {
        if !tree.crates.values().any(|folder| folder == name) {
            findings.add("README.md", format!("the map names `{name}`, which is no member of the workspace"));
        }
    }
    let manifest = tree.files.get("Cargo.toml").context("Cargo.toml")?;
    for folder in tree.crates.values() {
        let quoted = format!("\"{folder}\",");
        if !manifest.lines().any(|l| l.trim_start().starts_with(&quoted) && l.contains('#')) {
            findings.add("Cargo.toml", format!("member {folder} has no comment saying what it is"));
        }
    }
    Ok(())
}

fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("\n{heading}\n"))?;
    Some(after.split_once("\n## ").map_or(after, |(inside, _)| inside))
}

/// `policy ← flow ← { postgres · engine · side } ← gateway`: each only from its left.
fn imports(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let readme = tree.readme()?;
    let line = readme.lines().find(|l| l.starts_with("policy ←"));
    let line = line.context("README.md has no import table (a line that starts with `policy ←`)")?;
    let table = table(line);
    let known: BTreeSet<&str> = table.iter().flatten().map(String::as_str).collect();
    for name in tree.crates.keys() {
        let free = IMPORTS_ANYTHING.contains(&name.as_str()) || IMPORTS_NOTHING.contains(&name.as_str());
        if !free && !known.contains(name.as_str()) {
            findings.add("README.md", format!("the import table does not place {name}"));
        }
    }
    for (name, folder) in &tree.crates {
        if IMPORTS_ANYTHING.contains(&name.as_str()) {
            continue;
        }
        let column = table.iter().position(|c| c.contains(name)).unwrap_or(0);
        let left: BTreeSet<&str> = table.iter().take(column).flatten().map(String::as_str).collect();
        for dependency in packages(&["-p", name, "--depth", "1", "-e", "normal,build,dev"])? {
            let ours = tree.crates.contains_key(&dependency.name) && dependency.name != *name;
            if ours && !left.contains(dependency.name.as_str()) {
                let why = format!(
                    "{name} must not import {}: each only from its left in `{line}`",
                    dependency.name
                );
                findings.add(&format!("{folder}/Cargo.toml"), why);
            }
        }
    }
    Ok(())
}

fn table(line: &str) -> Vec<Vec<String>> {
    let column = |c: &str| {
        let inside = c.trim().trim_start_matches('{').trim_end_matches('}');
        inside.split('·').map(|n| n.trim().to_owned()).collect()
    };
    line.split('←').map(column).collect()
}

fn forbidden_below(tree: &Tree, findings: &mut Findings) -> Result<()> {
    for (name, forbidden) in FORBIDDEN_BELOW {
        let folder = tree.crates.get(*name).with_context(|| format!("no crate {name}"))?;
        for package in packages(&["-p", name, "-e", "normal"])? {
            if forbidden.contains(&package.name.as_str()) {
                let why = format!("{name} must not depend on {}, not even through others", package.name);
                findings.add(&format!("{folder}/Cargo.toml"), why);
            }
        }
    }
    Ok(())
}

/// Licences, bans and sources of everything we link or build with.
fn dependencies(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let mut rustls = BTreeSet::new();
    for package in packages(&["--workspace", "-e", "normal,build,dev"])? {
        if tree.crates.contains_key(&package.name) {
            continue;
        }
        let place = format!("{} {}", package.name, package.version);
        let excepted = license::EXCEPTIONS.contains(&(package.name.as_str(), package.license.as_str()));
        if !excepted && !license::allowed(&package.license) {
            findings.add(&place, format!("licence `{}` is not on the list in license.rs", package.license));
        }
        if BANNED.contains(&package.name.as_str()) {
            findings.add(&place, "is banned; .deny.toml says why");
        }
        if package.name == "rustls" {
            rustls.insert(package.version);
        }
    }
    if rustls.len() > 1 {
        findings.add("Cargo.lock", format!("more than one rustls: {rustls:?}"));
    }
    let lock = tree.files.get("Cargo.lock").context("Cargo.lock is not tracked")?;
    for (number, line) in lock.lines().enumerate() {
        if line.starts_with("source = ")
            && !line.contains("registry+https://github.com/rust-lang/crates.io-index")
        {
            findings.add(&format!("Cargo.lock:{}", number + 1), format!("not from crates.io: {line}"));
        }
    }
    Ok(())
}

fn headers(tree: &Tree, findings: &mut Findings) {
    for (path, text) in tree.rust() {
        // A `#!` line would be a script's; nothing else may stand before the header.
        if !text.starts_with("//!") {
            findings.add(&format!("{path}:1"), "starts without a `//!` header: what is it, what is it not?");
        }
    }
    for (name, folder) in &tree.crates {
        let roots = ["lib.rs", "main.rs"].map(|f| format!("{folder}/src/{f}"));
        let allowed = list(tree, UNSAFE);
        let unsafe_inside = allowed.keys().any(|p| p.starts_with(&format!("{folder}/src/")));
        for root in roots.iter().filter_map(|r| tree.files.get_key_value(r)) {
            let says = if unsafe_inside { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
            if !root.1.contains(says) {
                findings.add(root.0, format!("crate {name} does not say {says}"));
            }
        }
    }
}

fn unsafe_code(tree: &Tree, findings: &mut Findings) {
    let allowed = list(tree, UNSAFE);
    let mut used = BTreeSet::new();
    for (path, text) in tree.rust() {
        for (number, line) in code(text) {
            let word = concat!("un", "safe");
            let starts =
                [" {", " fn ", " impl ", " extern "].iter().any(|s| line.contains(&format!("{word}{s}")));
            if starts {
                used.insert(path.to_owned());
                if !allowed.contains_key(path) {
                    findings
                        .add(&format!("{path}:{number}"), format!("{word} outside the files of {UNSAFE}"));
                }
            }
        }
    }
    for path in allowed.keys().filter(|p| !used.contains(*p)) {
        findings.add(UNSAFE, format!("{path} is listed but has none: take it off the list"));
    }
}

/// `path function` → how often it makes a [`Pass`] without a judgement, outside tests.
fn housekeeping(tree: &Tree, bless: bool, findings: &mut Findings) -> Result<()> {
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for (path, text) in tree.rust() {
        // policy makes the evidence; the rest never ships.
        let elsewhere = ["/tests/", "/examples/", "policy/", "protocols/fuzz/", "bin/xtask/", "benches/"];
        if elsewhere.iter().any(|e| path.contains(e)) {
            continue;
        }
        let mut function = "?".to_owned();
        for (_, line) in code(text) {
            if line.starts_with("#[cfg(test)]") {
                break;
            }
            if let Some((_, after)) = line.split_once("fn ") {
                let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !name.is_empty() {
                    function = name;
                }
            }
            let times = line.matches("Pass::housekeeping").count();
            if times > 0 {
                *calls.entry(format!("{path} {function}")).or_default() += times;
            }
        }
    }
    let mut now = String::from(
        "# Who lets bytes cross without a judgement (policy::Pass::housekeeping), and how often in that function.\n\
         # Read every new line as a security reviewer would, then: cargo xtask tidy --bless\n",
    );
    for (place, times) in &calls {
        let _infallible = writeln!(now, "{place} {times}");
    }
    if bless {
        return std::fs::write(HOUSEKEEPING, now).context(HOUSEKEEPING);
    }
    let before = tree.files.get(HOUSEKEEPING).map(String::as_str).unwrap_or_default();
    for line in now.lines().filter(|l| !before.lines().any(|b| b == *l)) {
        findings.add(HOUSEKEEPING, format!("new: {line}"));
    }
    for line in before.lines().filter(|l| !now.lines().any(|b| b == *l)) {
        findings.add(HOUSEKEEPING, format!("gone: {line}"));
    }
    Ok(())
}

fn leftovers(tree: &Tree, findings: &mut Findings) {
    // In two pieces, or this file would be its own finding.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let paths =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home", "/user/"), concat!("/tmp", "/t-")];
    for (path, text) in &tree.files {
        for (number, line) in text.lines().enumerate() {
            let place = format!("{path}:{}", number + 1);
            if path.ends_with(".rs") {
                let later = words.iter().any(|w| line.split(|c: char| !c.is_alphanumeric()).any(|x| x == *w));
                if later || line.contains(words[2]) {
                    findings.add(&place, "later is now: an issue, or nothing");
                }
                if line.contains(concat!("#[al", "low(")) && !line.contains("reason") {
                    findings.add(&place, "use #[expect(lint, reason = \"…\")]: it says when it is stale");
                }
            }
            if let Some(found) = paths.iter().find(|p| line.contains(**p)) {
                findings.add(&place, format!("a path of one machine: {found}"));
            }
        }
    }
}

/// The lines of a list: first word → the rest.
fn list(tree: &Tree, path: &str) -> BTreeMap<String, String> {
    let text = tree.files.get(path).map(String::as_str).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines.filter_map(|l| l.split_once(' ')).map(|(p, why)| (p.to_owned(), why.trim().to_owned())).collect()
}

/// Lines that are not comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, l)| (n + 1, l.trim_start())).filter(|(_, l)| !l.starts_with("//"))
}

struct Package {
    name: String,
    version: String,
    license: String,
}

/// `cargo tree` says what the resolver says, for every platform, one package a line.
fn packages(args: &[&str]) -> Result<Vec<Package>> {
    let mut all = vec!["tree", "--locked", "--prefix", "none", "-f", "{p}\t{l}"];
    all.extend(args);
    let text = output(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), &all)?;
    let mut seen = BTreeMap::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('[')) {
        let (package, license) = line.trim_end_matches(" (*)").split_once('\t').unwrap_or((line, ""));
        let mut words = package.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let version = words.next().unwrap_or_default().trim_start_matches('v').to_owned();
        let license = license.to_owned();
        seen.entry((name.clone(), version.clone())).or_insert(Package { name, version, license });
    }
    Ok(seen.into_values().collect())
}

fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} did not answer in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_set_per_arrow() {
        assert_eq!(
            table("policy ← flow ← { postgres · engine } ← gateway"),
            [vec!["policy"], vec!["flow"], vec!["postgres", "engine"], vec!["gateway"]]
        );
    }

    #[test]
    fn a_section_ends_at_the_next_heading() {
        assert_eq!(section("a\n## The map\nx\ny\n## Next\nz", "## The map"), Some("x\ny"));
        assert_eq!(section("a\n## Other\nx", "## The map"), None);
    }

    #[test]
    fn members_are_read_with_their_comments() {
        assert_eq!(members("members = [\n  \"a\", # x\n  \"b/c\", # y\n]\nother = [\"z\"]"), ["a", "b/c"]);
    }

    #[test]
    fn comments_are_not_code() {
        let lines: Vec<_> = code("a\n  // b\n//! c\n d").collect();
        assert_eq!(lines, [(1, "a"), (4, "d")]);
    }

    #[test]
    fn deny_toml_bans_the_same() {
        let deny = include_str!("../../../.deny.toml");
        for name in BANNED {
            assert!(deny.contains(&format!("crate = \"{name}\"")), "{name} is not in .deny.toml");
        }
    }
}
