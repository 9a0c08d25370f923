//! `--stage-dir`: slides are copied to a near disk ahead of use, whole and with their companions, within a budget, while the
//! run works on others, and removed when their tiles are read. Ids, records and messages speak of the original.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::pipeline::Fetched;
use crate::pipeline::prepare::SlideSpec;
use crate::record::publish::{TempDir, free_bytes};
use crate::slide::companions::Companions;
use crate::slide::source::Source;

/// Bytes that are copied at a time.
const PIECE: u64 = 4 << 20;
/// How often a waiting thread looks whether the run is to stop.
const TICK: Duration = Duration::from_millis(100);

/// The staging directory of a run.
pub struct Stage {
    shared: Arc<Shared>,
    places: HashMap<String, usize>,
}

struct Shared {
    directory: TempDir,
    budget: u64,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    slots: Vec<Slot>,
    /// Bytes that lie in the directory or are being copied there.
    used: u64,
    /// The slide that was asked for last; those before it will not be asked for any more.
    asked: usize,
    closed: bool,
}

#[derive(Clone, PartialEq)]
enum Slot {
    /// Not copied yet.
    Ahead,
    /// Copied, under this name.
    Ready(PathBuf, u64),
    /// Read where it lies: too large, not copied, or not wanted.
    InPlace,
}

/// A copy in use; removed on drop.
struct Copy {
    shared: Arc<Shared>,
    number: usize,
    bytes: u64,
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.shared.evict(self.number, self.bytes);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed in single steps: whole after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    fn evict(&self, number: usize, bytes: u64) {
        // What cannot be removed goes with the directory.
        let _ = fs::remove_dir_all(self.folder(number));
        self.lock().used -= bytes;
        self.wake.notify_all();
    }
}

impl Stage {
    /// Makes a directory of this run's own below `directory` for copies of these slides, of at most `budget` bytes (half of
    /// what is free there, if not given), and removes those that killed runs of this host left there.
    ///
    /// # Errors
    /// [`Error::Usage`] where it cannot be made.
    pub fn open(directory: &Path, budget: Option<u64>, slides: &[SlideSpec]) -> Result<Self> {
        let failed =
            |e: io::Error| Error::Usage(format!("--stage-dir cannot be used: {e}: \"{}\"", directory.display()));
        TempDir::sweep_stale(directory, "paraffin-stage").map_err(failed)?;
        let own = TempDir::new_in(directory, "paraffin-stage").map_err(failed)?;
        let budget = match budget {
            Some(budget) => budget,
            None => free_bytes(directory).map_err(failed)? / 2,
        };
        let state = State { slots: vec![Slot::Ahead; slides.len()], used: 0, asked: 0, closed: false };
        let places = slides.iter().enumerate().map(|(i, s)| (s.id.clone(), i)).collect();
        let shared = Shared { directory: own, budget, state: Mutex::new(state), wake: Condvar::new() };
        Ok(Stage { shared: Arc::new(shared), places })
    }

    /// Copies slides in their order until all are there, or the run ends. A slide that cannot be copied is read where it lies,
    /// and `tell` hears why.
    pub fn copy_ahead(
        &self,
        slides: &[SlideSpec],
        wanted: &dyn Fn(&SlideSpec) -> bool,
        stop: &AtomicBool,
        tell: &dyn Fn(&str),
    ) {
        let companions = Companions::of_slides(slides.iter().map(|s| s.path.as_path()));
        for (number, slide) in slides.iter().enumerate() {
            let slot = match self.copy(number, slide, &companions, wanted, stop) {
                Ok(slot) => slot,
                Err(_) if self.ends(stop) => return,
                Err(e) => {
                    tell(&format!("{}: not staged, read where it lies: {e}", slide.id));
                    Slot::InPlace
                }
            };
            let mut state = self.shared.lock();
            // Nobody will come for it.
            let late = match &slot {
                Slot::Ready(_, bytes) if number < state.asked => Some(*bytes),
                _ => None,
            };
            state.slots[number] = slot;
            drop(state);
            if let Some(bytes) = late {
                self.shared.evict(number, bytes);
            }
            self.shared.wake.notify_all();
        }
    }

    fn ends(&self, stop: &AtomicBool) -> bool {
        stop.load(Ordering::Relaxed) || self.shared.lock().closed
    }

    fn copy(
        &self,
        number: usize,
        slide: &SlideSpec,
        companions: &Companions,
        wanted: &dyn Fn(&SlideSpec) -> bool,
        stop: &AtomicBool,
    ) -> io::Result<Slot> {
        if number < self.shared.lock().asked || !wanted(slide) {
            return Ok(Slot::InPlace);
        }
        let mut files = companions.of(&slide.path)?;
        files.push(slide.path.clone());
        let mut bytes = 0;
        for file in &files {
            bytes += fs::metadata(file)?.len();
        }
        if bytes > self.shared.budget {
            return Err(io::Error::other(format!("{bytes} bytes are more than --stage-bytes")));
        }
        {
            let mut state = self.shared.lock();
            while state.used + bytes > self.shared.budget {
                if state.closed || stop.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                state = self.shared.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.used += bytes;
        }
        let folder = self.shared.folder(number);
        let root = slide.path.parent().unwrap_or(Path::new(""));
        let place =
            |file: &Path| folder.join(file.strip_prefix(root).unwrap_or(file.file_name().unwrap_or_default().as_ref()));
        match files.iter().try_for_each(|file| self.copy_file(file, &place(file), stop)) {
            Ok(()) => Ok(Slot::Ready(place(&slide.path), bytes)),
            Err(e) => {
                self.shared.evict(number, bytes);
                Err(e)
            }
        }
    }

    fn copy_file(&self, from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<()> {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        let source = Source::open(from)?;
        let mut copy = File::create_new(to)?;
        let mut buffer = Vec::new();
        for start in (0..source.length()).step_by(PIECE as usize) {
            if self.ends(stop) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            source.read(start, PIECE.min(source.length() - start) as usize, &mut buffer)?;
            copy.write_all(&buffer)?;
        }
        Ok(())
    }

    /// Where a slide is to be read, as soon as that is known; its copy is there as long as what is returned. Slides are asked
    /// for in their order, and those that were left out are let go.
    #[must_use]
    pub fn fetch(&self, slide: &SlideSpec, stop: &AtomicBool) -> Fetched {
        let in_place = || Fetched { path: slide.path.clone(), copy: None };
        let Some(&number) = self.places.get(&slide.id) else { return in_place() };
        let mut left_out = Vec::new();
        {
            let mut state = self.shared.lock();
            state.asked = state.asked.max(number);
            for (i, slot) in state.slots.iter_mut().enumerate().take(number) {
                if let Slot::Ready(_, bytes) = std::mem::replace(slot, Slot::InPlace) {
                    left_out.push((i, bytes));
                }
            }
        }
        left_out.into_iter().for_each(|(i, bytes)| self.shared.evict(i, bytes));
        let mut state = self.shared.lock();
        loop {
            match std::mem::replace(&mut state.slots[number], Slot::Ahead) {
                Slot::Ready(path, bytes) => {
                    // Whoever asks again reads in place.
                    state.slots[number] = Slot::InPlace;
                    return Fetched { path, copy: Some(Box::new(Copy { shared: self.shared.clone(), number, bytes })) };
                }
                Slot::InPlace => {
                    state.slots[number] = Slot::InPlace;
                    return in_place();
                }
                Slot::Ahead if state.closed || stop.load(Ordering::Relaxed) => return in_place(),
                Slot::Ahead => {}
            }
            state = self.shared.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the copying: no slide is asked for any more.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slide::mpp::MppOverride;

    fn slides(root: &Path, sizes: &[usize]) -> Vec<SlideSpec> {
        let each = sizes.iter().enumerate().map(|(i, size)| {
            let path = root.join(format!("{i}.svs"));
            fs::write(&path, vec![i as u8; *size]).expect("writes");
            SlideSpec { path, id: i.to_string(), mpp: MppOverride::default() }
        });
        each.collect()
    }

    fn bytes_below(directory: &Path) -> u64 {
        let files = walkdir::WalkDir::new(directory).into_iter().filter_map(|e| e.ok()?.metadata().ok());
        files.filter(|m| m.is_file()).map(|m| m.len()).sum()
    }

    #[test]
    fn slides_come_in_order_within_the_budget_and_go() {
        let root = tempfile::tempdir().expect("temporary directory");
        let near = tempfile::tempdir().expect("temporary directory");
        // The fourth is larger than the budget; the third is not wanted; the sixth is skipped by whoever asks.
        let slides = slides(root.path(), &[100, 100, 100, 300, 100, 100, 100]);
        let stage = Stage::open(near.path(), Some(250), &slides).expect("opens");
        let stop = AtomicBool::new(false);
        let told = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tell = |text: &str| told.lock().expect("whole").push(text.to_string());
                stage.copy_ahead(&slides, &|s| s.id != "2", &stop, &tell);
            });
            for number in [0, 1, 3, 4, 6] {
                let fetched = stage.fetch(&slides[number], &stop);
                assert!(bytes_below(near.path()) <= 250);
                assert_eq!(fetched.copy.is_some(), number != 3, "{number}");
                assert_eq!(fetched.path.starts_with(near.path()), number != 3, "{number}");
                assert_eq!(fs::read(&fetched.path).expect("there"), fs::read(&slides[number].path).expect("there"));
                drop(fetched);
            }
        });
        assert_eq!(
            *told.lock().expect("whole"),
            ["3: not staged, read where it lies: 300 bytes are more than --stage-bytes"]
        );
        assert_eq!(bytes_below(near.path()), 0, "all are gone");
        drop(stage);
        assert_eq!(fs::read_dir(near.path()).expect("there").count(), 0, "and the directory");
    }

    #[test]
    fn a_stopped_run_waits_for_nothing() {
        let root = tempfile::tempdir().expect("temporary directory");
        let near = tempfile::tempdir().expect("temporary directory");
        let slides = slides(root.path(), &[100, 100]);
        let stage = Stage::open(near.path(), Some(150), &slides).expect("opens");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let copying = scope.spawn(|| stage.copy_ahead(&slides, &|_| true, &stop, &|_| {}));
            let first = stage.fetch(&slides[0], &stop);
            assert!(first.copy.is_some());
            stop.store(true, Ordering::Relaxed);
            assert!(stage.fetch(&slides[1], &stop).copy.is_none(), "read in place");
            copying.join().expect("ends");
        });
    }
}
