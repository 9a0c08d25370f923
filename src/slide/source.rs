//! Positioned reads from a slide file, or from one that is compiled in: any number of threads, no shared cursor, no lock.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ahead::Ahead;

/// Gaps up to this size are read over: on a disk or a share a new request costs more.
const GAP_BYTES: u64 = 128 << 10;

/// A file is slow when this many reads or more, and half of all, took so long. The page cache takes microseconds, a solid-state disk
/// a tenth of this, a share or a disk that seeks several times as long. Not the mean: a thread that is put aside once takes long, too.
const SLOW_READS: u64 = 4;
const SLOW_NS: u64 = 1_000_000;

/// In a slow file reads of at most `SMALL_BYTES` (tags, item headers) bring a window of `WINDOW_BYTES` along.
const SMALL_BYTES: usize = 4 << 10;
const WINDOW_BYTES: u64 = 256 << 10;

/// Nanoseconds that all threads of this process spent in reads of slide files.
static SPENT_NS: AtomicU64 = AtomicU64::new(0);

/// Time that all threads of this process spent in reads of slide files so far: waiting for a disk or a share, and copying.
/// OpenSlide's own reads, in its process, are not in it.
#[must_use]
pub fn time_spent() -> Duration {
    Duration::from_nanos(SPENT_NS.load(Ordering::Relaxed))
}

/// Waits before a read that failed for the disk's or the network's sake is tried again.
const RETRIES: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// An open slide file.
pub struct Source {
    from: From,
    length: u64,
    ahead: Arc<Ahead>,
    /// The last window and where it begins.
    window: Mutex<(u64, Vec<u8>)>,
    /// Reads that somebody waited for: all, and those that took long.
    waited: [AtomicU64; 2],
    /// A read failed again and again: the others are not tried that often.
    given_up: AtomicBool,
}

enum From {
    File(Arc<File>),
    Memory(&'static [u8]),
}

impl Source {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Source::new(From::File(Arc::new(file)), length))
    }

    /// A file that is compiled in.
    #[must_use]
    pub fn of_bytes(bytes: &'static [u8]) -> Self {
        Source::new(From::Memory(bytes), bytes.len() as u64)
    }

    fn new(from: From, length: u64) -> Self {
        Source {
            from,
            length,
            ahead: Arc::default(),
            window: Mutex::default(),
            waited: Default::default(),
            given_up: AtomicBool::new(false),
        }
    }

    /// Bytes in the file when it was opened.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether `count` bytes at `offset` lie within the file.
    #[must_use]
    pub fn holds(&self, offset: u64, count: u64) -> bool {
        offset.checked_add(count).is_some_and(|end| end <= self.length)
    }

    /// Fetches these pieces (offset, count) in the background, each to be read once. Pieces with small gaps between them become
    /// one. The operating system is asked to do it; where reads prove slow all the same, threads do. Nothing can fail.
    pub fn will_need(&self, mut pieces: Vec<(u64, u64)>) {
        pieces.retain(|(offset, count)| *count > 0 && self.holds(*offset, *count));
        pieces.sort_unstable();
        pieces.dedup();
        if let From::File(file) = &self.from
            && self.is_slow()
        {
            self.ahead.order(file, &pieces, GAP_BYTES);
            return;
        }
        for (start, end) in joined(pieces) {
            self.advise(start, end);
        }
    }

    /// Whether the reads of this file so far took long: a share, a disk that seeks.
    fn is_slow(&self) -> bool {
        let [reads, slow] = [0, 1].map(|i| self.waited[i].load(Ordering::Relaxed));
        slow >= SLOW_READS && 2 * slow >= reads
    }

    fn advise(&self, start: u64, end: u64) {
        let From::File(file) = &self.from else { return };
        let (Ok(offset), Ok(length)) = (i64::try_from(start), i64::try_from(end - start)) else { return };
        // SAFETY: the descriptor is open as long as `self`; the call takes numbers only.
        #[allow(unsafe_code, reason = "the standard library has no way to ask for bytes ahead")]
        unsafe {
            libc::posix_fadvise(file.as_raw_fd(), offset, length, libc::POSIX_FADV_WILLNEED);
        }
    }

    /// Reads exactly `count` bytes at `offset` into `out` (cleared first). A failure that may pass, of a disk or a share, is
    /// tried three times more.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] before anything is allocated where the file is shorter; the system's reason.
    pub fn read(&self, offset: u64, count: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if !self.holds(offset, count as u64) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{count} bytes at {offset} lie past the file's end ({} bytes)", self.length),
            ));
        }
        out.resize(count, 0);
        let file = match &self.from {
            From::File(file) => file,
            From::Memory(bytes) => {
                out.copy_from_slice(&bytes[offset as usize..][..count]);
                return Ok(());
            }
        };
        let start = Instant::now();
        let was_ahead = self.ahead.take(file, offset, count, out) || self.in_window(file, offset, out);
        let result = if was_ahead { Ok(()) } else { self.read_patiently(file, out, offset) };
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        SPENT_NS.fetch_add(spent, Ordering::Relaxed);
        if !was_ahead {
            self.waited[0].fetch_add(1, Ordering::Relaxed);
            self.waited[1].fetch_add(u64::from(spent >= SLOW_NS), Ordering::Relaxed);
        }
        result
    }

    /// Reads a few bytes of a slow file with those after them, which are often wanted next.
    fn in_window(&self, file: &File, offset: u64, out: &mut [u8]) -> bool {
        if out.len() > SMALL_BYTES || !self.is_slow() {
            return false;
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, bytes) = &mut *window;
        if offset < *start || offset + out.len() as u64 > *start + bytes.len() as u64 {
            bytes.resize(WINDOW_BYTES.min(self.length - offset) as usize, 0);
            *start = offset;
            if file.read_exact_at(bytes, offset).is_err() {
                bytes.clear();
                return false;
            }
        }
        let from = (offset - *start) as usize;
        out.copy_from_slice(&bytes[from..from + out.len()]);
        true
    }

    fn read_patiently(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
        let mut result = file.read_exact_at(out, offset);
        for wait in RETRIES {
            match &result {
                Err(e) if may_pass(e) && !self.given_up.load(Ordering::Relaxed) => {
                    std::thread::sleep(wait);
                    result = file.read_exact_at(out, offset);
                }
                _ => return result,
            }
        }
        if result.as_ref().is_err_and(may_pass) {
            self.given_up.store(true, Ordering::Relaxed);
        }
        result.map_err(|e| io::Error::new(e.kind(), format!("{e}, {} times", RETRIES.len() + 1)))
    }
}

/// Whether a read may succeed a moment later.
fn may_pass(error: &io::Error) -> bool {
    let passing = [libc::EIO, libc::EAGAIN, libc::ETIMEDOUT, libc::EREMOTEIO, libc::ECONNRESET, libc::EHOSTUNREACH];
    error.raw_os_error().is_some_and(|e| passing.contains(&e))
}

/// Pieces (offset, count) in the file's order as ranges (start, end), those with small gaps between them as one.
fn joined(mut pieces: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    pieces.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (offset, count) in pieces {
        match ranges.last_mut() {
            Some((_, end)) if offset <= *end + GAP_BYTES => *end = (*end).max(offset + count),
            _ => ranges.push((offset, offset + count)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_in_one_go() {
        let far = 2 * GAP_BYTES;
        assert_eq!(joined(vec![(200, 50), (0, 100), (120, 10)]), [(0, 250)]);
        assert_eq!(joined(vec![(far, 10), (0, 100), (far + 2, 3)]), [(0, 100), (far, far + 10)]);
        assert_eq!(joined(Vec::new()), []);
    }
}
