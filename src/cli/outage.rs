//! OUT takes nothing more: which failures mean that, and waiting for room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::progress::Teller;
use crate::error::Error;
use crate::job::WaitForSpace;

/// Write failures that are not a slide's own.
#[derive(Default)]
pub struct Outage(Mutex<(usize, Option<Error>)>);

/// What a slide's failure means for the run.
pub enum Heard {
    /// Nothing.
    ItsOwn,
    /// OUT takes nothing more: the others would fail one by one.
    Total,
    /// The same again.
    Known,
}

impl Outage {
    /// Failures to write in a row that mean OUT, whatever their kind.
    const MOST: usize = 3;

    /// Judges a slide's failure.
    pub fn hears(&self, error: &Error) -> Heard {
        let Error::Write { what, source } = error else { return Heard::ItsOwn };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        if state.1.is_some() {
            return Heard::Known;
        }
        if !error.shuts_out() && state.0 < Self::MOST {
            return Heard::ItsOwn;
        }
        let advice = if error.wants_space() { ", or wait with --wait-for-space" } else { "" };
        let why = format!("{source}. The run ends here: mend that and run the same command again{advice}");
        let source = std::io::Error::new(source.kind(), why);
        state.1 = Some(Error::Write { what: format!("to OUT ({what})"), source });
        Heard::Total
    }

    /// A slide was written.
    pub fn is_over(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = 0;
    }

    /// What ended the run.
    pub fn take_error(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take()
    }
}

/// Waits a moment for room in OUT; says so once in a while. `false` when the run is to stop.
pub fn waiter(tell: Teller, stop: Arc<AtomicBool>) -> Box<WaitForSpace> {
    let said = Mutex::new(None::<Instant>);
    Box::new(move |error| {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            tell.line(&format!("{error}: waiting for space"));
            *said = Some(Instant::now());
        }
        for _ in 0..10 {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    })
}
