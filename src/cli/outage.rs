//! OUT takes nothing more: which failures mean that, and waiting for room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::progress::Teller;
use crate::error::{Error, Result};
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
        if !matches!(error, Error::Write { .. }) {
            return Heard::ItsOwn;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        if state.1.is_some() {
            return Heard::Known;
        }
        if !error.shuts_out() && state.0 < Self::MOST {
            return Heard::ItsOwn;
        }
        state.1 = Some(ending(error));
        Heard::Total
    }

    /// A slide was written.
    pub fn is_over(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = 0;
    }

    /// The run's result, given what ended it: a stop that has OUT for its reason is not a signal's.
    pub fn judge(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(Error::Interrupted) => {
                let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take();
                Err(known.unwrap_or(Error::Interrupted))
            }
            Err(e) if e.shuts_out() => Err(ending(&e)),
            result => result,
        }
    }
}

/// A failure to write that ends the run, with what to do.
fn ending(error: &Error) -> Error {
    let Error::Write { what, source } = error else { return Error::Interrupted };
    let advice = if error.wants_space() { ", or wait with --wait-for-space" } else { "" };
    let why = format!("{source}. The run ends here: mend that and run the same command again{advice}");
    Error::Write { what: format!("to OUT ({what})"), source: std::io::Error::new(source.kind(), why) }
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
