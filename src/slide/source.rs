//! Positioned reads from a slide file: any number of threads, no shared cursor, no lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An open slide file.
pub struct Source {
    file: File,
    length: u64,
}

impl Source {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Source { file, length })
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

    /// Reads exactly `count` bytes at `offset` into `out` (cleared first).
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] before anything is allocated where the file is shorter.
    pub fn read(&self, offset: u64, count: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if !self.holds(offset, count as u64) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{count} bytes at {offset} lie past the file's end ({} bytes)", self.length),
            ));
        }
        out.resize(count, 0);
        self.file.read_exact_at(out, offset)
    }
}
