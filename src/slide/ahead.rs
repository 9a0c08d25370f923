//! Bytes of a slide file that are fetched before they are read: on storage where every read takes milliseconds, a few long reads
//! in the background take the place of many short ones that somebody waits for.
//!
//! Memory: at most [`MOST_BYTES`] a file; what would be more is not fetched but read when it is needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crossbeam_channel::{Sender, unbounded};

/// Most bytes that are fetched and not taken yet.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of a fetch, at about which it is cut: several are on their way at a time.
const FETCH_BYTES: u64 = 1 << 20;
/// Threads that fetch, for all files. They wait rather than work.
const FETCHERS: usize = 4;

/// The fetched bytes of one file.
#[derive(Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// By the offset where they begin.
    fetches: BTreeMap<u64, Fetch>,
    held: u64,
}

struct Fetch {
    end: u64,
    /// Bytes that somebody will come for.
    left: u64,
    bytes: Bytes,
}

enum Bytes {
    Asked,
    Coming,
    Here(Arc<Vec<u8>>),
}

/// What a fetching thread is given.
struct Order {
    ahead: Weak<Ahead>,
    file: Arc<File>,
    start: u64,
}

fn fetchers() -> &'static Sender<Order> {
    static FETCHERS_IN: OnceLock<Sender<Order>> = OnceLock::new();
    FETCHERS_IN.get_or_init(|| {
        let (sender, orders) = unbounded::<Order>();
        for _ in 0..FETCHERS {
            let orders = orders.clone();
            std::thread::spawn(move || {
                for order in orders {
                    // The file may have been closed meanwhile, or a reader was faster.
                    if let Some(ahead) = order.ahead.upgrade() {
                        ahead.fetch(&order.file, order.start);
                    }
                }
            });
        }
        sender
    })
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed in single steps: whole after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders pieces (offset, count), sorted and within the file. Those with gaps of at most `gap` bytes come together.
    pub(super) fn order(self: &Arc<Self>, file: &Arc<File>, pieces: &[(u64, u64)], gap: u64) {
        for (start, end, left) in cut(pieces, gap) {
            let mut state = self.lock();
            let overlaps = state.fetches.range(..end).next_back().is_some_and(|(_, f)| f.end > start);
            if overlaps || state.held + (end - start) > MOST_BYTES {
                continue;
            }
            state.held += end - start;
            state.fetches.insert(start, Fetch { end, left, bytes: Bytes::Asked });
            drop(state);
            // Without the threads it is read when it is needed.
            let _ = fetchers().send(Order { ahead: Arc::downgrade(self), file: file.clone(), start });
        }
    }

    /// Fetches what was ordered at `start`, unless that is done or begun.
    fn fetch(&self, file: &File, start: u64) {
        let end = match self.lock().fetches.get_mut(&start) {
            Some(Fetch { end, bytes: bytes @ Bytes::Asked, .. }) => {
                *bytes = Bytes::Coming;
                *end
            }
            _ => return,
        };
        let mut bytes = vec![0; (end - start) as usize];
        let result = file.read_exact_at(&mut bytes, start);
        let mut state = self.lock();
        match result {
            Ok(()) => {
                if let Some(fetch) = state.fetches.get_mut(&start) {
                    fetch.bytes = Bytes::Here(Arc::new(bytes));
                }
            }
            // Whoever needs it reads it again, and says why it fails.
            Err(_) => state.remove(start),
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Gives `count` bytes at `offset`, if they were ordered, as soon as they are there; `false` where they must be read.
    pub(super) fn take(&self, file: &File, offset: u64, count: usize, out: &mut [u8]) -> bool {
        let mut state = self.lock();
        loop {
            let Some((&start, fetch)) = state.fetches.range_mut(..=offset).next_back() else { return false };
            if offset + count as u64 > fetch.end {
                return false;
            }
            match &fetch.bytes {
                Bytes::Here(bytes) => {
                    let bytes = bytes.clone();
                    fetch.left = fetch.left.saturating_sub(count as u64);
                    if fetch.left == 0 {
                        state.remove(start);
                    }
                    drop(state);
                    let from = (offset - start) as usize;
                    out.copy_from_slice(&bytes[from..from + count]);
                    return true;
                }
                // The fetchers are busy with what is needed sooner, or with other files: this thread would only wait.
                Bytes::Asked => {
                    drop(state);
                    self.fetch(file, start);
                    state = self.lock();
                }
                Bytes::Coming => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl State {
    fn remove(&mut self, start: u64) {
        if let Some(fetch) = self.fetches.remove(&start) {
            self.held -= fetch.end - start;
        }
    }
}

/// Sorted pieces (offset, count) as ranges (start, end, bytes that are wanted): those with small gaps between them as one, of
/// about [`FETCH_BYTES`].
fn cut(pieces: &[(u64, u64)], gap: u64) -> Vec<(u64, u64, u64)> {
    let mut ranges: Vec<(u64, u64, u64)> = Vec::new();
    for &(offset, count) in pieces {
        match ranges.last_mut() {
            Some((start, end, wanted)) if offset <= *end + gap && (offset < *end || *end - *start < FETCH_BYTES) => {
                *end = (*end).max(offset + count);
                *wanted += count;
            }
            _ => ranges.push((offset, offset + count, count)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_long_and_cut_between_pieces() {
        assert_eq!(cut(&[(0, 10), (10, 10), (25, 5), (100, 1)], 8), [(0, 30, 25), (100, 101, 1)]);
        let blocks: Vec<(u64, u64)> = (0..5).map(|i| (i * FETCH_BYTES / 2, FETCH_BYTES / 2)).collect();
        let half = FETCH_BYTES / 2;
        assert_eq!(
            cut(&blocks, 0),
            [(0, 2 * half, 2 * half), (2 * half, 4 * half, 2 * half), (4 * half, 5 * half, half)]
        );
        // Pieces that share bytes are never cut apart.
        assert_eq!(cut(&[(0, 2 * FETCH_BYTES), (5, 10)], 0), [(0, 2 * FETCH_BYTES, 2 * FETCH_BYTES + 10)]);
    }

    #[test]
    fn what_was_ordered_is_taken_once_and_let_go() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(directory.path().join("a"), &bytes).expect("writes");
        let file = Arc::new(File::open(directory.path().join("a")).expect("opens"));
        let ahead = Arc::new(Ahead::default());
        let pieces: Vec<(u64, u64)> = (0..300).map(|i| (i * 10_000, 9_000)).collect();
        ahead.order(&file, &pieces, 1000);
        ahead.order(&file, &pieces, 1000);
        // Three fetches of a mebibyte; the two gaps between them are not read.
        assert_eq!(ahead.lock().held, 2_997_000, "ordered once");
        let mut out = vec![0; 9_000];
        assert!(!ahead.take(&file, 2_999_500, 1000, &mut out[..1000]), "past what was ordered");
        std::thread::scope(|scope| {
            for part in pieces.chunks(100) {
                let (ahead, file, bytes) = (&ahead, &file, &bytes);
                scope.spawn(move || {
                    let mut out = vec![0; 9_000];
                    for &(offset, count) in part {
                        assert!(ahead.take(file, offset, count as usize, &mut out));
                        assert!(out == bytes[offset as usize..][..9_000]);
                    }
                });
            }
        });
        assert_eq!(ahead.lock().held, 0);
        assert_eq!(ahead.lock().fetches.len(), 0);
        assert!(!ahead.take(&file, 0, 9_000, &mut out), "read directly from now on");
        // What cannot be fetched is left to whoever reads it.
        file.set_len(0).expect_err("read-only");
        ahead.order(&file, &[(2_999_999, 10)], 0);
        assert!(!ahead.take(&file, 2_999_999, 10, &mut out[..10]));
        assert_eq!(ahead.lock().held, 0);
    }
}
