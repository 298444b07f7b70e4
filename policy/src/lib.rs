//! Judgement: facts in, verdicts out. Pure: opens nothing, waits for nothing, and does not know what a wire protocol is.
#![forbid(unsafe_code)]

pub mod cache;
pub mod catalog;
pub mod detect;
pub mod facts;
pub mod judge;
pub mod lineage;
pub mod mask;
pub mod plan;
pub mod reach;
pub mod rule;
pub mod shape;
pub mod sql;
pub mod subject;
pub mod trial;
pub mod verdict;

pub use cache::DecisionCache;
pub use catalog::Catalog;
pub use facts::{Column, Format};
pub use judge::{Decision, Judge, Kept, Origin, Probe, ProbeValue};
pub use plan::{CopyPlan, Plan};
pub use rule::{Policy, RowLimit, Scope, compile};
pub use sql::mentions::Mentions;
pub use subject::Subject;
pub use trial::{Outcome, TestResult, run_tests};
pub use verdict::{Block, Pass, Verdict};
