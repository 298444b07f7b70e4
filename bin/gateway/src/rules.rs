//! Policy files on their way from YAML to a compiled policy: places, cross references, counts. What a rule means is
//! `policy`'s business.
//!
//! Invariant: a rule that can never hold because of a slip in a name (a connection, group or identity nobody has) is a mistake,
//! not a rule.

use std::collections::HashSet;

use policy::Policy;
use policy::mask::HashKey;
pub(crate) use policy::rule::{Mode, PolicyFile};
use policy::rule::{OneOrMany, Rule, Source};

use crate::yaml::{self, Node, Wrong, nearest};

/// One policy file, or the rules inside a configuration file.
pub(crate) struct Written {
    /// Which file it is, for places.
    pub(crate) source: usize,
    pub(crate) file: PolicyFile,
    pub(crate) tree: Node,
    /// As decisions and messages name it.
    pub(crate) name: String,
}

/// What rules may refer to.
pub(crate) struct Names<'a> {
    pub(crate) connections: Vec<&'a str>,
    pub(crate) identities: Vec<&'a str>,
    pub(crate) groups: Vec<&'a str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) masks: usize,
    pub(crate) blocks: usize,
    /// Of both, those that only observe.
    pub(crate) observed: usize,
}

/// A policy, and what it was made from.
pub(crate) struct Made {
    pub(crate) policy: Policy,
    pub(crate) count: Count,
    pub(crate) sources: Vec<Source>,
}

/// Compiles every file together; what is wrong is added to `wrong`. `names`: what rules may refer to, where that is known.
pub(crate) fn compile(
    files: Vec<Written>,
    key: Option<HashKey>,
    names: Option<&Names<'_>>,
    wrong: &mut Vec<Wrong>,
    warnings: &mut Vec<String>,
) -> Option<Made> {
    // A file whose shape is wrong would only give echoes here.
    let broken: HashSet<usize> = wrong.iter().map(|w| w.spot.file).collect();
    let mut count = Count::default();
    let mut sources = Vec::new();
    let mut trees = Vec::new();
    for Written { source, file, tree, name } in files {
        if broken.contains(&source) && !tree_is_whole(&tree, wrong) {
            continue;
        }
        for (n, rule) in file.rules.iter().enumerate() {
            if let Some(names) = names {
                refer(rule, n, &name, &tree, names, wrong, warnings);
            }
            count.masks += usize::from(rule.mask.is_some() || !rule.detect.is_empty());
            count.blocks += usize::from(rule.block.is_some());
            count.observed += usize::from(rule.mode.unwrap_or(file.mode) == Mode::Observe);
        }
        let lines = (0..file.rules.len())
            .map(|n| {
                u32::try_from(tree.spot(&yaml::path(&format!("rules[{n}]"))).line).ok().filter(|l| *l > 0)
            })
            .collect();
        sources.push(Source { name: name.clone(), file, lines });
        trees.push((name, tree));
    }
    match policy::compile(&sources, key) {
        Ok(policy) => Some(Made { policy, count, sources }),
        Err(problems) => {
            for problem in problems {
                let tree = trees.iter().find(|(name, _)| *name == problem.file).map(|(_, tree)| tree);
                let spot = tree.map(|t| t.spot(&yaml::path(&problem.path))).unwrap_or_default();
                wrong.push(Wrong { spot, message: problem.message, help: None });
            }
            None
        }
    }
}

/// A file with a mistake outside its rules still has rules worth checking.
fn tree_is_whole(tree: &Node, wrong: &[Wrong]) -> bool {
    let rules = tree.find(&yaml::path("rules"));
    let first = rules.map_or(usize::MAX, |r| r.spot.line);
    !wrong.iter().any(|w| w.spot.file == tree.spot.file && w.spot.line >= first)
}

/// Checks every name a rule uses.
fn refer(
    rule: &Rule,
    n: usize,
    file: &str,
    tree: &Node,
    names: &Names<'_>,
    wrong: &mut Vec<Wrong>,
    warnings: &mut Vec<String>,
) {
    let mut unknown = |path: String, what: &str, name: &str, known: &[&str]| {
        // A trailing `*` stands for any ending: it may wait for a name to come.
        if name.ends_with('*') || known.contains(&name) {
            return;
        }
        let help = nearest(name, known).map(|k| format!("did you mean `{k}`?"));
        let spot = tree.spot(&yaml::path(&path));
        wrong.push(Wrong {
            spot,
            message: format!("there is no {what} `{name}`: the rule would never hold"),
            help,
        });
    };
    match &rule.on.connection {
        None => {}
        Some(OneOrMany::One(name)) => {
            unknown(format!("rules[{n}].on.connection"), "connection", name, &names.connections);
        }
        Some(OneOrMany::Many(list)) => {
            for (at, name) in list.iter().enumerate() {
                unknown(format!("rules[{n}].on.connection[{at}]"), "connection", name, &names.connections);
            }
        }
    }
    for (at, name) in rule.on.groups.iter().enumerate() {
        unknown(format!("rules[{n}].on.groups[{at}]"), "group", name, &names.groups);
    }
    for (at, name) in rule.on.identities.iter().enumerate() {
        unknown(format!("rules[{n}].on.identities[{at}]"), "identity", name, &names.identities);
    }
    for entry in &rule.except {
        let (groups, identities, name) = match entry.split_once(':') {
            Some(("group", name)) => (true, false, name),
            Some(("identity", name)) => (false, true, name),
            _ => (true, true, entry.as_str()),
        };
        let known =
            (groups && names.groups.contains(&name)) || (identities && names.identities.contains(&name));
        // The rule holds for more people than its author thought: safe, and worth a word.
        if !known && !name.ends_with('*') {
            warnings.push(format!(
                "{file}: rule `{}` makes an exception for `{entry}`, which nobody is",
                rule.name
            ));
        }
    }
}
