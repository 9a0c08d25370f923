//! Leases: how any number of workers share one OUT without a plan and without a server.
//!
//! ```text
//! site-private/workers/<worker>                     a worker's sign of life, rewritten in place every few seconds
//! site-private/leases/<grid>/<artefact>/<id>.lease  who works on a slide: the worker's name; gone when the slide is done
//! ```
//!
//! `<worker>` is [`publish::process_token`]: this boot of this host, pid, random. A lease is created exclusively by a hard
//! link, as in [`publish::create_once`], never renewed and never replaced; what is renewed is the one file of its worker, so
//! thousands of leases cost no more than one. Nothing lies here of slides that are done.
//!
//! **Whether a worker lives** is judged by those who want its slide, without anybody's clock but their own: its file's content
//! (a counter) has not changed between looks of theirs that span the time that the worker itself stated (`--lease-timeout`).
//! Between two looks at most 30 s count, so that an observer that was stopped itself does not take
//! everybody for dead when it goes on. A process of the observer's own host that has ended is seen at once.
//!
//! **Take-over**: the lease is renamed to a name of the taker's own, which only one of several can do; if it is not the
//! lease that was judged, it is put back. After that the slide is free, and whoever creates the lease has it.
//!
//! **A worker that lost its lease does not publish**: it looks before it does ([`Leases::check`]). One that is stopped between
//! that look and its last rename still may. This does no harm: the same slide under the same contract gives the same bytes, a file
//! appears whole or not at all, and the record comes last. Only where the workers' machines round differently can a record
//! be that of the other's file; `verify` tells, and the slide is done again.
//!
//! **NFS**: the link's answer may be lost, so the link count is asked (`publish`); a rename's, so the new name is looked
//! for. Content is read by opening the file anew, which close-to-open consistency makes current.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::ids::PRIVATE;
use crate::error::{Error, Result};
use crate::record::{list, publish};

/// The time without a sign of life after which a worker's slides are taken over, in seconds, unless it states another.
pub const TIMEOUT_SECONDS: u64 = 120;
/// The longest time between two looks that counts as watched.
const LONGEST_STEP: Duration = Duration::from_secs(30);
/// Least and longest time between two signs of life.
const BEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Signs of life in a lease timeout.
const BEATS: u32 = 6;
/// A worker's file has this size whatever it says, so that rewriting it needs no space on a full disk.
const WORKER_BYTES: usize = 1024;
/// Age after which a worker's file is removed whoever owns it, as with temporary files.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a worker tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerState {
    /// [`WorkerState::SCHEMA`].
    pub schema: String,
    /// Counts its signs of life.
    pub beat: u64,
    /// Without a sign of life for so long it counts as dead.
    pub lease_timeout_seconds: f64,
    /// The grid directory's name.
    pub grid: String,
    /// What it makes.
    pub artefact: String,
    /// Slides of its run that were to be done when it started.
    pub slides: u64,
    /// Slides it has published.
    pub slides_done: u64,
    /// Slides that failed in it.
    pub slides_failed: u64,
    /// Tiles it has embedded.
    pub tiles_done: u64,
    /// Seconds since it started.
    pub seconds: f64,
    /// The id of the slide that tiles are read from.
    pub current: String,
}

impl WorkerState {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-worker/1";

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.resize(text.len().max(WORKER_BYTES - 1), b' ');
        text.push(b'\n');
        text
    }
}

/// The leases of one worker on the slides of one artefact of one grid.
pub struct Leases {
    directory: PathBuf,
    workers: PathBuf,
    name: String,
    timeout: Duration,
    held: Mutex<BTreeSet<String>>,
    watched: Mutex<HashMap<String, Watched>>,
    others_at_start: bool,
    beating: Option<(Sender<()>, JoinHandle<()>)>,
}

/// A worker as it was seen last.
struct Watched {
    content: Vec<u8>,
    looked: Instant,
    unchanged: Duration,
}

impl Watched {
    /// Adds a look, and says for how long the content has been seen unchanged.
    fn look(&mut self, content: Vec<u8>, now: Instant) -> Duration {
        if content == self.content {
            self.unchanged += (now - self.looked).min(LONGEST_STEP);
        } else {
            self.content = content;
            self.unchanged = Duration::ZERO;
        }
        self.looked = now;
        self.unchanged
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(e: io::Error) -> Error {
    Error::write("a lease", e)
}

impl Leases {
    /// Joins the workers of `out`, removes what dead ones of this host left, and shows signs of life from now on. `state` is asked for
    /// what to tell; its counter and times are filled in.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn join(
        out: &Path,
        grid: &str,
        artefact: &str,
        timeout: Duration,
        state: impl Fn() -> WorkerState + Send + 'static,
    ) -> Result<Self> {
        let private = out.join(PRIVATE);
        let (workers, directory) = (private.join("workers"), private.join("leases").join(grid).join(artefact));
        publish::create_dir_all(&workers).and_then(|()| publish::create_dir_all(&directory)).map_err(failed)?;
        let name = publish::process_token();
        let mut leases = Leases {
            directory,
            workers,
            name,
            timeout,
            held: Mutex::default(),
            watched: Mutex::default(),
            others_at_start: false,
            beating: None,
        };
        let file = leases.worker_file(&leases.name);
        let (grid, artefact, started) = (grid.to_string(), artefact.to_string(), Instant::now());
        let beat = move |number| {
            let state = WorkerState {
                schema: WorkerState::SCHEMA.into(),
                beat: number,
                lease_timeout_seconds: timeout.as_secs_f64(),
                grid: grid.clone(),
                artefact: artefact.clone(),
                seconds: started.elapsed().as_secs_f64(),
                ..state()
            };
            // In place: two operations on the server a beat. Made anew where somebody took this worker for dead.
            let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
            opened.and_then(|mut file| file.write_all(&state.to_bytes()))
        };
        beat(0).map_err(failed)?;
        let (stop, stopped) = bounded::<()>(0);
        let period = (timeout / BEATS).clamp(BEAT.0, BEAT.1);
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                number += 1;
                // One that fails is followed by others; if all fail, the slides are taken over, as they should be.
                let _ = beat(number);
            }
        });
        leases.beating = Some((stop, thread));
        leases.others_at_start = bury_the_dead(&private, &leases.name).map_err(failed)?;
        Ok(leases)
    }

    /// This worker's name.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.name
    }

    /// Whether other workers were at this OUT when this one came.
    #[must_use]
    pub fn others_at_start(&self) -> bool {
        self.others_at_start
    }

    /// Takes the lease of a slide; false where another worker has it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn acquire(&self, id: &str) -> Result<bool> {
        let content = format!("{}\n", self.name);
        let mine = publish::create_once_volatile(&self.file(id), content.as_bytes()).map_err(failed)?;
        if mine {
            locked(&self.held).insert(id.to_string());
        }
        Ok(mine)
    }

    /// That this worker still has the lease of a slide.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub fn check(&self, id: &str) -> Result<()> {
        if self.holder(id).as_ref() == Some(&self.name) { Ok(()) } else { Err(Error::LeaseLost) }
    }

    /// Gives the lease of a slide back, if this worker has it.
    pub fn release(&self, id: &str) {
        if locked(&self.held).remove(id) && self.check(id).is_ok() {
            // What stays is taken over in time.
            let _ = fs::remove_file(self.file(id));
        }
    }

    /// Whether another worker has a slide, as far as can be seen now.
    #[must_use]
    pub fn is_others(&self, id: &str) -> bool {
        !locked(&self.held).contains(id) && self.file(id).exists()
    }

    /// The ids that anybody has a lease of.
    ///
    /// # Errors
    /// [`Error::Write`] where they cannot be listed.
    pub fn leased(&self) -> Result<BTreeSet<String>> {
        leased(&self.directory).map_err(failed)
    }

    /// Looks at the worker that has the lease of a slide; where it counts as dead, its leases are taken from it, so that they can
    /// be acquired. True where the slide is free.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn wake(&self, id: &str) -> Result<bool> {
        let Some(holder) = self.holder(id) else { return Ok(true) };
        if self.is_dead(&holder) {
            bury(self.private(), &holder).map_err(failed)?;
        }
        Ok(self.holder(id).is_none())
    }

    /// Gives all leases back and leaves; true where no other worker is left.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn leave(mut self) -> Result<bool> {
        self.end();
        // After its own file is gone: of workers that leave together, the last one sees nobody.
        Ok(!bury_the_dead(self.private(), &self.name).map_err(failed)?)
    }

    fn file(&self, id: &str) -> PathBuf {
        lease_file(&self.directory, id)
    }

    fn private(&self) -> &Path {
        self.workers.parent().unwrap_or(&self.workers)
    }

    fn worker_file(&self, worker: &str) -> PathBuf {
        self.workers.join(worker)
    }

    fn holder(&self, id: &str) -> Option<String> {
        // Empty for a moment where there are no hard links: held by somebody.
        fs::read_to_string(self.file(id)).ok().map(|text| text.trim_end().to_string())
    }

    fn is_dead(&self, worker: &str) -> bool {
        let file = self.worker_file(worker);
        if worker == self.name {
            return false;
        }
        if fs::metadata(&file).is_ok_and(|metadata| publish::has_ended(worker, &metadata)) {
            return true;
        }
        // A file that is missing is watched as well: its worker may be about to write it anew.
        let content = fs::read(&file).unwrap_or_default();
        let stated = serde_json::from_slice::<WorkerState>(&content).ok();
        let stated = stated.and_then(|s| Duration::try_from_secs_f64(s.lease_timeout_seconds).ok());
        let now = Instant::now();
        let mut watched = locked(&self.watched);
        let watched = watched.entry(worker.to_string()).or_insert_with(|| Watched {
            content: content.clone(),
            looked: now,
            unchanged: Duration::ZERO,
        });
        watched.look(content, now) > stated.unwrap_or(self.timeout)
    }

    fn end(&mut self) {
        let held = std::mem::take(&mut *locked(&self.held));
        for id in held {
            if self.check(&id).is_ok() {
                let _ = fs::remove_file(self.file(&id));
            }
        }
        if let Some((stop, thread)) = self.beating.take() {
            drop(stop);
            let _ = thread.join();
            let _ = fs::remove_file(self.worker_file(&self.name));
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.end();
    }
}

/// Removes what dead workers of this host left, and the files of any that have been silent for 7 days; true where there are
/// other workers than `me`.
pub(super) fn bury_the_dead(private: &Path, me: &str) -> io::Result<bool> {
    let workers = private.join("workers");
    let mut others = false;
    for (worker, _) in list(&workers)?.into_iter().filter(|(worker, _)| worker != me) {
        let Ok(metadata) = fs::metadata(workers.join(&worker)) else { continue };
        let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if publish::has_ended(&worker, &metadata) || age.is_some_and(|age| age > STALE) {
            bury(private, &worker)?;
        } else {
            others = true;
        }
    }
    Ok(others)
}

/// Takes all leases from a worker, of whatever grid and artefact, and removes its file.
fn bury(private: &Path, worker: &str) -> io::Result<()> {
    for directory in directories(private)? {
        for id in leased(&directory)? {
            take_away(&directory, &id, worker)?;
        }
    }
    // A power cut may leave leases without contents, which no worker's name is in.
    if worker.is_empty() {
        return Ok(());
    }
    match fs::remove_file(private.join("workers").join(worker)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The directories that hold leases, below `site-private`.
pub(super) fn directories(private: &Path) -> io::Result<Vec<PathBuf>> {
    let root = private.join("leases");
    let mut found = Vec::new();
    for (grid, _) in list(&root)? {
        let grid = root.join(grid);
        found.extend(list(&grid)?.into_iter().map(|(artefact, _)| grid.join(artefact)));
    }
    Ok(found)
}

/// The ids of the leases in a directory.
pub(super) fn leased(directory: &Path) -> io::Result<BTreeSet<String>> {
    let names = list(directory)?.into_iter().filter(|(name, _)| !name.starts_with('.'));
    Ok(names.filter_map(|(name, _)| name.strip_suffix(".lease").map(str::to_owned)).collect())
}

/// The workers of an OUT, by name, with what they told last; `None` of one whose file cannot be read just now.
///
/// # Errors
/// The directory cannot be listed.
pub fn workers(out: &Path) -> io::Result<Vec<(String, Option<WorkerState>)>> {
    let directory = out.join(PRIVATE).join("workers");
    let state = |name: &str| serde_json::from_slice(&fs::read(directory.join(name)).ok()?).ok();
    Ok(list(&directory)?.into_iter().map(|(name, _)| (name.clone(), state(&name))).collect())
}

fn lease_file(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}.lease"))
}

/// Whether a lease is this worker's.
fn names(lease: &Path, worker: &str) -> bool {
    fs::read_to_string(lease).is_ok_and(|text| text.trim_end() == worker)
}

/// Takes the lease of a slide from `worker`; leaves it where it is another's.
fn take_away(directory: &Path, id: &str, worker: &str) -> io::Result<()> {
    if names(&lease_file(directory, id), worker) { rename_away(directory, id, worker) } else { Ok(()) }
}

/// [`take_away`] after the look.
fn rename_away(directory: &Path, id: &str, worker: &str) -> io::Result<()> {
    let lease = lease_file(directory, id);
    let aside = directory.join(publish::temporary_name(id));
    match fs::rename(&lease, &aside) {
        Ok(()) => {}
        // Over NFS the answer may be lost, and the repeated call says that there is no such file.
        Err(e) if e.kind() == io::ErrorKind::NotFound && !aside.exists() => return Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) => {}
    }
    if !names(&aside, worker) {
        // Another one took it over between the look and the rename: this is the new lease. If a third one has taken the
        // slide meanwhile, the second finds out before it publishes.
        let _ = fs::hard_link(&aside, &lease);
    }
    fs::remove_file(&aside)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
