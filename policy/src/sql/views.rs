//! What the views of users read, call and gather, each by its definition and those it stands on.
//!
//! Not where a column of theirs comes from ([`super::trace`]). Invariant: a view whose definition cannot be read calls nobody knows what.

use foldhash::{HashMap, HashMapExt as _, HashSet};

use super::facts::{self, Name};
use super::lineage::{self, Index};
use crate::catalog::Catalog;

#[derive(Debug, Default)]
pub(crate) struct View {
    /// Relations it names, by OID.
    reads: Vec<u32>,
    /// Every function called on the way, by name.
    pub functions: Vec<Box<str>>,
    /// As [`facts::Facts::collects`].
    pub collects: bool,
    /// How many rows of one relation a row of it may hold: how often the most frequent one is named.
    pub weight: u64,
    /// It reads the server's own relations.
    pub system: bool,
    /// Nobody knows what it does, or a function that it calls.
    pub opaque: bool,
    /// Its rows are kept: reading it runs nothing.
    pub stored: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Views {
    all: HashMap<u32, View>,
    /// For each relation, the views that name it.
    pub uses: HashMap<u32, Vec<u32>>,
}

impl Views {
    pub(crate) fn new(catalog: &Catalog, index: &Index) -> Views {
        let mut views = Views::default();
        for table in catalog.tables.iter().filter(|t| lineage::system(&t.schema, &t.name).is_none()) {
            let Some(definition) = table.definition.as_deref() else { continue };
            let mut view = View::read(definition, catalog, index).unwrap_or_else(View::unknown);
            view.stored = table.kind == 'm';
            for read in &view.reads {
                views.uses.entry(*read).or_default().push(table.oid);
            }
            views.all.insert(table.oid, view);
        }
        // What a view does is done by those over it: from the bottom up.
        let below = |views: &Views, oid: u32| -> Vec<u32> {
            let reads = views.all.get(&oid).into_iter().flat_map(|v| &v.reads);
            reads.copied().filter(|r| views.all.contains_key(r)).collect()
        };
        let mut waiting: HashMap<u32, usize> =
            views.all.keys().map(|oid| (*oid, below(&views, *oid).len())).collect();
        let mut ready: Vec<u32> = waiting.iter().filter(|(_, n)| **n == 0).map(|(oid, _)| *oid).collect();
        while let Some(oid) = ready.pop() {
            waiting.remove(&oid);
            if let Some(mut view) = views.all.remove(&oid) {
                view.settle(&views);
                view.opaque |= view.functions.iter().any(|f| index.stranger(f));
                views.all.insert(oid, view);
            }
            for over in views.uses.get(&oid).into_iter().flatten() {
                if let Some(n) = waiting.get_mut(over) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(*over);
                    }
                }
            }
        }
        // Names that have several meanings may seem to go in circles.
        for oid in waiting.into_keys() {
            views.all.insert(oid, View::unknown());
        }
        views
    }

    /// The relation, and those it stands on where it is a view.
    pub(crate) fn below(&self, oid: u32) -> HashSet<u32> {
        let mut found = HashSet::from_iter([oid]);
        let mut stack = vec![oid];
        while let Some(view) = stack.pop().and_then(|oid| self.all.get(&oid)) {
            stack.extend(view.reads.iter().copied().filter(|read| found.insert(*read)));
        }
        found
    }

    pub(crate) fn get(&self, oid: u32) -> Option<&View> {
        self.all.get(&oid)
    }
}

impl View {
    fn read(definition: &str, catalog: &Catalog, index: &Index) -> Option<View> {
        let tree = super::parse(definition.as_bytes()).ok()?;
        let mut view = View { weight: 1, ..View::default() };
        for statement in tree.stmts() {
            let facts = facts::read(statement).ok()?;
            let mut named: HashMap<Name<'_>, u64> = HashMap::new();
            for name in &facts.names {
                *named.entry(*name).or_default() += 1;
                // Of those that have no OID here; a definition names what users made with its schema.
                view.system |= name.schema.is_none() && name.name.starts_with("pg_");
                for table in index.candidates(catalog, *name) {
                    view.system |= lineage::system(&table.schema, &table.name).is_some();
                    view.reads.push(table.oid);
                }
            }
            view.weight = named.into_values().fold(view.weight, u64::max);
            view.collects |= facts.collects;
            view.functions.extend(facts.functions.iter().map(|f| Box::from(*f)));
        }
        Some(view)
    }

    /// Takes over what the views do that it names.
    fn settle(&mut self, views: &Views) {
        let mut weight = 1;
        for below in self.reads.iter().filter_map(|r| views.get(*r)) {
            if !below.stored {
                self.functions.extend(below.functions.iter().cloned());
                self.opaque |= below.opaque;
            }
            self.collects |= below.collects;
            self.system |= below.system;
            weight = below.weight.max(weight);
        }
        self.weight = self.weight.saturating_mul(weight);
        self.functions.sort_unstable();
        self.functions.dedup();
    }

    fn unknown() -> View {
        View { opaque: true, system: true, weight: 1, ..View::default() }
    }
}
