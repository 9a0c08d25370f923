//! The slides of a run that wait for their turn, shared with other workers through leases.
//!
//! Slides come in the list's order. Where others are at work already a worker starts at a place of its own, so that it meets
//! them only when it comes to where one of them started; there the slides are done. A slide that another one has
//! is put off to the end, and there waited for: it is done, or fails, or its worker gives it back or dies and it is taken over.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Job;
use super::lease::Leases;
use crate::error::{Error, Result};
use crate::pipeline::prepare::SlideSpec;
use crate::record::failures::FailureNote;

/// Shortest and longest time between two looks at slides that others have.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(8));
/// Time after which a wait looks for a signal.
const NAP: Duration = Duration::from_millis(50);

/// Hears of a slide that failed in another worker since this run began.
pub type FailedElsewhere<'a> = dyn Fn(&SlideSpec, &FailureNote) + Sync + 'a;

/// A run's slides.
pub struct Queue<'a> {
    job: &'a Job,
    leases: &'a Leases,
    failed_before: BTreeMap<String, FailureNote>,
    failed_elsewhere: &'a FailedElsewhere<'a>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Not looked at yet.
    coming: VecDeque<SlideSpec>,
    /// Leased, and next.
    ready: Option<SlideSpec>,
    /// Seen with other workers.
    put_off: Vec<SlideSpec>,
    done_elsewhere: usize,
    error: Option<Error>,
}

enum Turn {
    Mine,
    Others,
    /// Done or failed by another worker.
    Over,
}

impl<'a> Queue<'a> {
    /// The slides `specs`, of which none is leased yet. `failed_before` are the failures that were there when the run began.
    #[must_use]
    pub fn new(
        job: &'a Job,
        leases: &'a Leases,
        specs: Vec<SlideSpec>,
        failed_before: BTreeMap<String, FailureNote>,
        failed_elsewhere: &'a FailedElsewhere<'a>,
    ) -> Self {
        let mut coming = VecDeque::from(specs);
        if leases.others_at_start() && !coming.is_empty() {
            // Every `RandomState` has its own random keys.
            let random = RandomState::new().build_hasher().finish();
            let start = random % coming.len() as u64;
            coming.rotate_left(start as usize);
        }
        let state = Mutex::new(State { coming, ..State::default() });
        Queue { job, leases, failed_before, failed_elsewhere, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slides that wait, in the order in which [`Queue::next`] comes to them.
    #[must_use]
    pub fn coming(&self) -> Vec<SlideSpec> {
        self.state().coming.iter().cloned().collect()
    }

    /// Whether a slide is neither done nor another worker's, as far as can be seen now.
    #[must_use]
    pub fn is_free(&self, spec: &SlideSpec) -> bool {
        !self.job.status(&spec.id).is_done() && !self.leases.is_others(&spec.id)
    }

    /// The next slide, leased, or `None` where there is none without waiting.
    #[must_use]
    pub fn next(&self) -> Option<SlideSpec> {
        loop {
            let spec = {
                let mut state = self.state();
                if state.error.is_some() {
                    return None;
                }
                if let Some(spec) = state.ready.take() {
                    return Some(spec);
                }
                state.coming.pop_front()?
            };
            match self.take(&spec) {
                Ok(Turn::Mine) => return Some(spec),
                Ok(Turn::Others) => self.state().put_off.push(spec),
                Ok(Turn::Over) => {}
                Err(e) => self.state().error = Some(e),
            }
        }
    }

    /// Waits until [`Queue::next`] has a slide; false where none is left, by whoever they were done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after `stop`, [`Error::Write`] where leases cannot be written.
    pub fn wait(&self, stop: &AtomicBool) -> Result<bool> {
        let mut pause = POLL.0;
        loop {
            let next = self.next();
            let mut state = self.state();
            if let Some(e) = state.error.take() {
                return Err(e);
            }
            if next.is_some() {
                state.ready = next;
                return Ok(true);
            }
            if state.put_off.is_empty() {
                return Ok(false);
            }
            // Asked once for all of them: near the end of a large run many workers wait for the last slides.
            let leased = self.leases.leased()?;
            let (still, free): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.put_off).into_iter().partition(|s| leased.contains(&s.id));
            state.put_off = still;
            state.coming.extend(free);
            for i in (0..state.put_off.len()).rev() {
                if self.leases.wake(&state.put_off[i].id)? {
                    let spec = state.put_off.remove(i);
                    state.coming.push_back(spec);
                }
            }
            if !state.coming.is_empty() {
                continue;
            }
            drop(state);
            let mut waited = Duration::ZERO;
            while waited < pause {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                std::thread::sleep(NAP);
                waited += NAP;
            }
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Puts a slide whose lease was lost to those of others.
    pub fn lost(&self, spec: &SlideSpec) {
        self.state().put_off.push(spec.clone());
    }

    /// Slides that other workers have done meanwhile.
    #[must_use]
    pub fn done_elsewhere(&self) -> usize {
        self.state().done_elsewhere
    }

    fn take(&self, spec: &SlideSpec) -> Result<Turn> {
        if self.is_over(spec) {
            return Ok(Turn::Over);
        }
        if !self.job.patiently(|| self.leases.acquire(&spec.id))? {
            return Ok(Turn::Others);
        }
        // It may have been finished between the look and the lease.
        if self.is_over(spec) {
            self.leases.release(&spec.id);
            return Ok(Turn::Over);
        }
        Ok(Turn::Mine)
    }

    fn is_over(&self, spec: &SlideSpec) -> bool {
        if self.job.status(&spec.id).is_done() {
            self.state().done_elsewhere += 1;
            return true;
        }
        // Tried once by the workers of one time, not once by each; the failures of earlier runs are tried again.
        match self.job.failures().of(&spec.id) {
            Some(note) if self.failed_before.get(&spec.id) != Some(&note) => {
                (self.failed_elsewhere)(spec, &note);
                true
            }
            _ => false,
        }
    }
}
