//! Who is asking.

use std::sync::Arc;

/// An authenticated identity and the groups it is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    pub identity: Arc<str>,
    pub groups: Vec<Arc<str>>,
}
