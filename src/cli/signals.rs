//! SIGTERM, SIGINT and SIGUSR1: a run that works finishes its batches, keeps what is done and ends; one that only starts ends
//! at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use super::args::RunArgs;
use crate::error::{Error, Result};

/// The signals that a run listens to.
pub struct Signals {
    stop: Arc<AtomicBool>,
    /// Set by signals alone, where `stop` may have other reasons.
    signalled: Arc<AtomicBool>,
    /// While it is set a signal ends the process: there is nothing to keep yet.
    starting: Arc<AtomicBool>,
    grace: Duration,
    exit_code: u8,
}

impl Signals {
    /// Listens. A second SIGINT ends the process at once.
    ///
    /// # Errors
    /// [`Error::Internal`] where the system does not let it.
    pub fn listen(run: &RunArgs) -> Result<Self> {
        let signals = Signals {
            stop: Arc::new(AtomicBool::new(false)),
            signalled: Arc::new(AtomicBool::new(false)),
            starting: Arc::new(AtomicBool::new(true)),
            grace: Duration::from_secs(run.grace),
            exit_code: run.exit_on_term,
        };
        let failed = |e: std::io::Error| Error::Internal(format!("cannot listen for signals: {e}"));
        let exit_code = i32::from(run.exit_on_term);
        // In this order: the first SIGINT finds the flag still unset.
        flag::register_conditional_shutdown(SIGINT, exit_code, signals.signalled.clone()).map_err(failed)?;
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            flag::register_conditional_shutdown(signal, exit_code, signals.starting.clone()).map_err(failed)?;
            flag::register(signal, signals.signalled.clone()).map_err(failed)?;
            flag::register(signal, signals.stop.clone()).map_err(failed)?;
        }
        Ok(signals)
    }

    /// From now on a signal sets the flag that is returned. The process then ends within the grace, come what may: what hangs
    /// (a disk, a batch of minutes) would be killed by the scheduler a moment later.
    #[must_use]
    pub fn begin(self) -> Arc<AtomicBool> {
        self.starting.store(false, Ordering::Relaxed);
        let Signals { stop, signalled, grace, exit_code, .. } = self;
        std::thread::spawn(move || {
            while !signalled.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            std::thread::sleep(grace);
            eprintln!("paraffin: {}, and not done within --grace {} s", Error::Interrupted, grace.as_secs());
            std::process::exit(i32::from(exit_code));
        });
        stop
    }
}

/// A flag that SIGINT, SIGTERM and SIGUSR1 set, for work that stops between two files; the second SIGINT ends the process at once.
///
/// # Errors
/// [`Error::Internal`] where the system does not let it.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = |e: std::io::Error| Error::Internal(format!("cannot listen for signals: {e}"));
    let exit_code = i32::from(Error::Interrupted.exit_code());
    flag::register_conditional_shutdown(SIGINT, exit_code, stop.clone()).map_err(failed)?;
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        flag::register(signal, stop.clone()).map_err(failed)?;
    }
    Ok(stop)
}
