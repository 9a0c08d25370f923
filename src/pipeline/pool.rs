//! Buffers of batches that go round between readers and encoders.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The empty buffers. Readers fill them in bursts: when all are taken they rest until half are back. A reader that woke for
/// each single one would push the model out of the processor's cache, and the encoder off its core, at every tile.
pub struct Pool {
    size: usize,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    buffers: Vec<Vec<u8>>,
    resting: bool,
    closed: bool,
}

impl Pool {
    /// `size` buffers of `bytes` each.
    pub fn new(size: usize, bytes: usize) -> Self {
        let buffers = (0..size).map(|_| vec![255; bytes]).collect();
        Pool { size, state: Mutex::new(State { buffers, resting: false, closed: false }), wake: Condvar::new() }
    }

    /// An empty buffer, as soon as it is time to fill it; `None` when nobody wants batches any more.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        while state.resting && !state.closed {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let taken = state.buffers.pop().filter(|_| !state.closed);
        state.resting = state.buffers.is_empty();
        taken
    }

    /// Gives a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut state = self.lock();
        state.buffers.push(buffer);
        if state.resting && 2 * state.buffers.len() >= self.size {
            state.resting = false;
            self.wake.notify_all();
        }
    }

    /// Ends the readers' waiting: there are no encoders any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed in single steps: whole after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn readers_rest_until_half_is_back() {
        let pool = Pool::new(4, 1);
        let taken: Vec<_> = (0..4).map(|_| pool.take().expect("free")).collect();
        std::thread::scope(|scope| {
            let (told, tells) = mpsc::channel();
            let pool = &pool;
            scope.spawn(move || {
                let buffer = pool.take();
                let _ = told.send(buffer.is_some());
            });
            let mut taken = taken.into_iter();
            pool.give(taken.next().expect("taken"));
            assert!(tells.recv_timeout(Duration::from_millis(50)).is_err(), "one of four is not half");
            pool.give(taken.next().expect("taken"));
            assert_eq!(tells.recv_timeout(Duration::from_secs(10)), Ok(true));
        });
    }

    #[test]
    fn closing_ends_waiting() {
        let pool = Pool::new(1, 1);
        let _taken = pool.take();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.take());
            pool.close();
            assert_eq!(waiting.join().expect("ends"), None);
        });
        pool.give(vec![1]);
        assert_eq!(pool.take(), None);
    }
}
