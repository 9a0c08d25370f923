//! Slides that go on where an earlier run stopped, and how a run stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::features::Bag;

/// How far a slide came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// The first tile of the plan that is not done.
    pub next: usize,
    /// Tiles before it, by their place in the plan, that could not be read and have no row.
    pub unreadable: Vec<usize>,
}

/// Where a slide goes on.
pub struct Resume {
    /// How far it came.
    pub begun: Begun,
    /// Its rows.
    pub rows: Bag,
}

/// How long a run that is to stop waits for the batches in flight.
pub(super) struct Patience<'a> {
    stop: &'a AtomicBool,
    patience: Duration,
    since: Option<Instant>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(stop: &'a AtomicBool, patience: Duration) -> Self {
        Patience { stop, patience, since: None }
    }

    /// Whether the run was told to stop longer ago than it waits.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.stop.load(Ordering::Relaxed) {
            return false;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_begins_with_the_signal() {
        let stop = AtomicBool::new(false);
        let mut none = Patience::new(&stop, Duration::ZERO);
        let mut long = Patience::new(&stop, Duration::from_secs(3600));
        assert!(!none.is_over() && !long.is_over());
        stop.store(true, Ordering::Relaxed);
        assert!(none.is_over() && !long.is_over());
    }
}
