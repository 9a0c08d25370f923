//! The parent's side: starting children, asking them with a deadline, and telling what became of those that died.
//!
//! A child that failed in any way, even by reporting an error, is never asked again: OpenSlide's handle is poisoned by its
//! first error. The next request gets a new child. Nothing is retried.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::protocol::{self, FailureKind, Info, Region, Reply, Request};
use super::redact;
use super::{Options, WORKER_COMMAND};
use crate::error::{Error, Result};

/// How much of a child's standard error is kept, bytes from its end.
const STDERR_TAIL: usize = 4096;

/// A point in time that a request must be answered by, and the limit it came from.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Deadline { at: Instant::now() + limit, limit }
    }
}

/// One child.
pub(super) struct Worker {
    child: Child,
    stream: UnixStream,
    /// The memory file that the child puts pixels into.
    pixels: File,
    /// Collects the end of the child's standard error until the child ends.
    stderr: Option<JoinHandle<Vec<u8>>>,
    /// The last reply.
    content: Vec<u8>,
    version: String,
}

impl Worker {
    /// Starts a child and waits for its greeting.
    pub(super) fn start(program: &Path, deadline: Deadline) -> Result<Self> {
        let cannot = |e: io::Error| Error::Internal(format!("cannot start OpenSlide's process: {e}"));
        let (stream, theirs) = UnixStream::pair().map_err(cannot)?;
        let pixels = memory_file().map_err(cannot)?;
        let their_pixels = pixels.try_clone().map_err(cannot)?;
        let mut child = Command::new(program)
            .arg0("paraffin")
            .arg(WORKER_COMMAND)
            // Set by developers of GTK programs, it would turn harmless warnings into aborts.
            .env_remove("G_DEBUG")
            .stdin(OwnedFd::from(theirs))
            .stdout(their_pixels)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let pipe = child.stderr.take();
        let drain = move || pipe.map(tail).unwrap_or_default();
        let drain = thread::Builder::new().name("openslide-stderr".into()).stack_size(128 << 10).spawn(drain);
        let mut worker = Worker { child, stream, pixels, stderr: None, content: Vec::new(), version: String::new() };
        worker.stderr = Some(drain.map_err(cannot)?);
        match worker.receive(deadline, None)? {
            Reply::Hello(version) => worker.version = version,
            _ => return Err(out_of_turn()),
        }
        Ok(worker)
    }

    /// OpenSlide's version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The child's process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request and waits for its reply. `path` is taken out of messages. After an error the child is useless.
    pub(super) fn ask(&mut self, request: &Request, path: &Path, deadline: Deadline) -> Result<Reply> {
        // A broken pipe shows again, with its cause, when the reply is read.
        let _ = protocol::write_frame(&mut self.stream, &request.encode());
        self.receive(deadline, Some(path))
    }

    /// Copies the pixels that a [`Reply::Pixels`] announced to the front of `target`.
    pub(super) fn take_pixels(&self, target: &mut [u8]) -> Result<()> {
        self.pixels.read_exact_at(target, 0).map_err(|e| Error::Internal(format!("OpenSlide's process: {e}")))
    }

    fn receive(&mut self, deadline: Deadline, path: Option<&Path>) -> Result<Reply> {
        let mut timed = Timed { stream: &self.stream, deadline };
        match protocol::read_frame(&mut timed, protocol::REPLY_LIMIT, &mut self.content) {
            Ok(true) => {}
            Ok(false) => return Err(self.ended(path)),
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Err(self.ended(path));
            }
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                return Err(Error::Damaged(format!("OpenSlide did not answer in {} s", deadline.limit.as_secs_f64())));
            }
            Err(e) => return Err(Error::Internal(format!("OpenSlide's process: {e}"))),
        }
        match Reply::decode(&self.content) {
            Ok(Reply::Failed(kind, why)) => Err(self.failed(kind, why, path)),
            Ok(reply) => Ok(reply),
            Err(e) => Err(Error::Internal(format!("OpenSlide's process: {e}"))),
        }
    }

    fn failed(&mut self, kind: FailureKind, why: String, path: Option<&Path>) -> Error {
        match kind {
            FailureKind::Library => Error::Library(why),
            FailureKind::NotASlide => Error::NotASlide(redact::message(&why, path)),
            FailureKind::Error => {
                let (_, warning) = self.bury();
                let mut why = redact::message(&why, path);
                if let Some(warning) =
                    redact::last_line(&warning, path).filter(|warning| !why.contains(warning.as_str()))
                {
                    why = format!("{why} ({warning})");
                }
                Error::Damaged(format!("OpenSlide: {why}"))
            }
        }
    }

    /// The error for a child that closed its end.
    fn ended(&mut self, path: Option<&Path>) -> Error {
        let (status, stderr) = self.bury();
        let how = match status.map(|status| (status.signal(), status.code())) {
            Some((Some(signal), _)) if signal == libc::SIGKILL => "was killed (signal 9; out of memory?)".to_owned(),
            Some((Some(signal), _)) => format!("aborted (signal {signal})"),
            Some((None, Some(code))) => format!("ended (exit code {code})"),
            _ => "ended".to_owned(),
        };
        let last = redact::last_line(&stderr, path).map(|line| format!(": {line}")).unwrap_or_default();
        Error::Damaged(format!("OpenSlide {how}{last}"))
    }

    /// Makes sure that the child is gone. How it ended (its own end, where it came before the kill) and what it said last.
    fn bury(&mut self) -> (Option<ExitStatus>, Vec<u8>) {
        // Failing means that it is gone already.
        let _ = self.child.kill();
        let status = self.child.wait().ok();
        let stderr = self.stderr.take().and_then(|drain| drain.join().ok()).unwrap_or_default();
        (status, stderr)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.bury();
    }
}

fn out_of_turn() -> Error {
    Error::Internal("OpenSlide's process spoke out of turn".into())
}

/// A file without a name, in memory: pixels never reach a disk.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "std cannot make memory files")]
fn memory_file() -> io::Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a C string that lives as long as the call.
    let fd = unsafe { libc::memfd_create(c"paraffin-pixels".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, valid and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A temporary file whose name is removed at once.
#[cfg(not(target_os = "linux"))]
fn memory_file() -> io::Result<File> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("paraffin-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Reads until the end; the last [`STDERR_TAIL`] bytes.
fn tail(mut pipe: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => return kept,
            Ok(count) => {
                kept.extend(&piece[..count]);
                let excess = kept.len().saturating_sub(STDERR_TAIL);
                kept.drain(..excess);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}

/// Reads that end in `TimedOut` at the deadline.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Deadline,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.at.saturating_duration_since(Instant::now());
            // What has arrived already is taken even after the deadline: this process may have been suspended meanwhile.
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.stream.read(buffer) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= self.deadline.at {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// The children of one slide; each is used by one thread at a time.
pub(super) struct Pool {
    path: PathBuf,
    options: Options,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Worker>,
    /// Idle and lent ones.
    alive: usize,
    /// What the first child said about the slide.
    info: Option<Info>,
}

impl Pool {
    /// A pool for the slide at `path`, which should be absolute: messages are cleared of it and of its folder.
    pub(super) fn new(path: PathBuf, options: Options) -> Self {
        Pool { path, options, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Opens the slide in a first child. OpenSlide's version and what it says about the slide.
    pub(super) fn open(&self) -> Result<(String, Info)> {
        let worker = self.lend()?;
        let info = self.state().info.clone().unwrap_or_default();
        let version = worker.version().to_owned();
        self.give_back(worker);
        Ok((version, info))
    }

    /// Reads a region with an idle child, or a new one; waits where [`Options::workers`] are busy. `target` receives the
    /// region's RGB without padding. The background's colour where the region holds no pixel, `target` then being as it was.
    pub(super) fn read(&self, region: Region, target: &mut [u8]) -> Result<Option<[u8; 3]>> {
        self.ask(&Request::Region(region), |worker, reply| match reply {
            Reply::Pixels => worker.take_pixels(target).map(|()| None),
            Reply::Background(colour) => Ok(Some(colour)),
            _ => Err(out_of_turn()),
        })
    }

    /// The slide's colour profile; `None` where it has none.
    pub(super) fn profile(&self) -> Result<Option<Vec<u8>>> {
        self.ask(&Request::Profile, |worker, reply| match reply {
            Reply::Profile(0) => Ok(None),
            Reply::Profile(bytes) if bytes <= protocol::PROFILE_LIMIT => {
                let mut profile = vec![0; bytes as usize];
                worker.take_pixels(&mut profile).map(|()| Some(profile))
            }
            _ => Err(out_of_turn()),
        })
    }

    /// Names and values of properties that may identify.
    pub(super) fn identifying(&self) -> Result<Vec<(String, String)>> {
        self.ask(&Request::Identifying, |_, reply| match reply {
            Reply::Identifying(fields) => Ok(fields),
            _ => Err(out_of_turn()),
        })
    }

    /// Asks an idle child, or a new one, and has `take` take its reply.
    fn ask<T>(&self, request: &Request, take: impl FnOnce(&Worker, Reply) -> Result<T>) -> Result<T> {
        let mut worker = self.lend()?;
        let deadline = Deadline::after(self.options.read_timeout);
        let result = worker.ask(request, &self.path, deadline).and_then(|reply| take(&worker, reply));
        if result.is_ok() {
            self.give_back(worker);
        } else {
            drop(worker);
            self.forget();
        }
        result
    }

    /// Process ids of the children that are idle now.
    pub(super) fn idle_ids(&self) -> Vec<u32> {
        self.state().idle.iter().map(Worker::id).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self) -> Result<Worker> {
        let mut state = self.state();
        loop {
            if let Some(worker) = state.idle.pop() {
                return Ok(worker);
            }
            if state.alive < self.options.workers.max(1) {
                state.alive += 1;
                break;
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.start().inspect_err(|_| self.forget())
    }

    fn give_back(&self, worker: Worker) {
        self.state().idle.push(worker);
        self.freed.notify_one();
    }

    fn forget(&self) {
        self.state().alive -= 1;
        self.freed.notify_one();
    }

    /// Starts a child and has it open the slide, which must be the slide that the first child found.
    fn start(&self) -> Result<Worker> {
        // Tells "no such file" and "no permission" in the system's words; OpenSlide's would be "not a slide".
        File::open(&self.path).map_err(Error::Read)?;
        let deadline = Deadline::after(self.options.open_timeout);
        let mut worker = Worker::start(&self.options.program, deadline)?;
        let request = Request::Open(self.path.as_os_str().as_bytes().to_vec());
        let Reply::Opened(info) = worker.ask(&request, &self.path, deadline)? else {
            return Err(out_of_turn());
        };
        let mut state = self.state();
        match &state.info {
            None => state.info = Some(info),
            Some(first) if *first == info => {}
            Some(_) => return Err(Error::Damaged("the slide changed while it was being read".into())),
        }
        drop(state);
        Ok(worker)
    }
}

/// The child that [`detect`] asks, kept for the next file.
static DETECTOR: Mutex<Option<Worker>> = Mutex::new(None);

/// OpenSlide's vendor name for the file, `None` where it recognises no format.
pub(super) fn detect(path: &Path, options: &Options) -> Result<Option<String>> {
    File::open(path).map_err(Error::Read)?;
    let deadline = Deadline::after(options.open_timeout);
    let mut kept = DETECTOR.lock().unwrap_or_else(PoisonError::into_inner);
    let mut worker = match kept.take() {
        Some(worker) => worker,
        None => Worker::start(&options.program, deadline)?,
    };
    let Reply::Vendor(vendor) = worker.ask(&Request::Detect(path.as_os_str().as_bytes().to_vec()), path, deadline)?
    else {
        return Err(out_of_turn());
    };
    *kept = Some(worker);
    Ok(Some(vendor).filter(|vendor| !vendor.is_empty()))
}

/// OpenSlide's version, from a child that is started and ended for this.
pub(super) fn version(options: &Options) -> Result<String> {
    Worker::start(&options.program, Deadline::after(options.open_timeout)).map(|worker| worker.version().to_owned())
}

/// The executable to start as a child: this program, even where its file has been replaced since it was started.
pub(super) fn own_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("paraffin"))
}
