//! `--wait-for-space`: where OUT has no room left, what can be done again is, and feature files reserve room before rows go to
//! them, so that no row is lost and no file is torn.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::features::{FeatureFile, FeatureWriter, Published};

/// Waits a moment for room in OUT; `false` when the run is to stop.
pub type WaitForSpace = dyn Fn(&Error) -> bool + Send + Sync;

/// What a run does where OUT has no room left; nothing, unless it is told to wait.
#[derive(Clone, Default)]
pub(super) struct Space(Arc<OnceLock<Box<WaitForSpace>>>);

impl Space {
    /// Tells the run to wait.
    pub(super) fn wait(&self, wait: Box<WaitForSpace>) {
        let _ = self.0.set(wait);
    }

    /// Does something that leaves nothing where it fails, again and again until it does not fail for want of room.
    ///
    /// # Errors
    /// Its own, or [`Error::Interrupted`] where the run was stopped while it waited.
    pub(super) fn patiently<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match (work(), self.0.get()) {
                (Err(e), Some(wait)) if e.wants_space() => {
                    if !wait(&e) {
                        return Err(Error::Interrupted);
                    }
                }
                (result, _) => return result,
            }
        }
    }
}

/// A feature file that waits for room before rows go to the disk.
pub(super) struct Patient {
    file: FeatureFile,
    space: Space,
}

impl Patient {
    pub(super) fn new(file: FeatureFile, space: &Space) -> Self {
        Patient { file, space: space.clone() }
    }

    fn reserve(&mut self) -> Result<()> {
        match self.space.0.get() {
            Some(_) => self.space.patiently(|| self.file.reserve()),
            None => Ok(()),
        }
    }
}

impl FeatureWriter for Patient {
    fn dim(&self) -> usize {
        self.file.dim()
    }

    fn push(&mut self, rows: &[f32], coords: &[[i64; 2]]) -> Result<()> {
        if self.file.is_due(coords.len()) {
            self.reserve()?;
        }
        self.file.push(rows, coords)
    }

    fn finish(mut self: Box<Self>) -> Result<Published> {
        self.reserve()?;
        self.file.finish()
    }

    fn keep(mut self: Box<Self>, checkpoint: &Path) -> Result<Published> {
        self.reserve()?;
        Box::new(self.file).keep(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_want_of_room_is_waited_for() {
        let failing = |errno| move || -> Result<()> { Err(Error::write("x", io::Error::from_raw_os_error(errno))) };
        let space = Space::default();
        assert!(space.patiently(failing(libc::ENOSPC)).is_err_and(|e| e.wants_space()), "nobody waits unasked");
        let waits = Arc::new(AtomicU32::new(0));
        let counted = waits.clone();
        space.wait(Box::new(move |_| counted.fetch_add(1, Ordering::Relaxed) < 3));
        assert!(space.patiently(failing(libc::EROFS)).is_err_and(|e| e.shuts_out()));
        assert_eq!(waits.load(Ordering::Relaxed), 0);
        assert!(matches!(space.patiently(failing(libc::EDQUOT)), Err(Error::Interrupted)));
        assert_eq!(waits.load(Ordering::Relaxed), 4, "waited three times, then stopped");
        let mut left = 2;
        waits.store(0, Ordering::Relaxed);
        let done = space.patiently(|| {
            left -= 1;
            if left == 0 { Ok(7) } else { failing(libc::ENOSPC)().map(|()| 0) }
        });
        assert!(matches!(done, Ok(7)));
    }
}
