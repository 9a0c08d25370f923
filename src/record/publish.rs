//! Publishing: a file appears under its name when it is whole, or not at all.
//!
//! Temporary file in the destination directory, fsync, rename, fsync of the directory. A temporary file is named
//! `.<final>.<owner>-<pid>-<random>.part`; `owner` is 16 hexadecimal digits that stand for this boot of this host and its
//! pid namespace, so that several hosts and containers can share a directory without taking each other's dead for theirs.
//!
//! What lies in `site-private` is closed to others: directories are made with mode 0700 there, files with 0600, whatever the
//! umask and whoever writes.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::digest;

/// The directory below OUT that never leaves the site.
pub const PRIVATE: &str = "site-private";

/// Age after which a temporary file is removed whoever owns it.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of the final name that a temporary name keeps: file names end at 255 bytes.
const KEPT_NAME: usize = 180;

/// A file that is being written beside its destination; removed on drop unless committed.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    destination: PathBuf,
    committed: bool,
}

impl TempFile {
    /// Creates an empty temporary file, exclusively, for `directory/final_name`. The directory must exist.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn new_in(directory: &Path, final_name: &str) -> io::Result<Self> {
        for _ in 0..16 {
            let path = directory.join(temporary_name(final_name));
            match create_new(&path) {
                Ok(_) => return Ok(TempFile { path, destination: directory.join(final_name), committed: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free temporary name"))
    }

    /// [`TempFile::new_in`] for a destination path.
    ///
    /// # Errors
    /// Also where `destination` has no UTF-8 file name.
    pub fn for_path(destination: &Path) -> io::Result<Self> {
        let name = destination.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a UTF-8 file name"))?;
        TempFile::new_in(directory_of(destination), name)
    }

    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where [`TempFile::commit`] will put it.
    #[must_use]
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Makes sure that `bytes` more can be written at the end; the file's length stays. `Ok` also where the file system cannot
    /// do that.
    ///
    /// # Errors
    /// The operating system's reason, such as a full disk.
    pub fn reserve(&self, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let end = i64::try_from(file.metadata()?.len() + bytes).unwrap_or(i64::MAX);
        // SAFETY: the descriptor is open until the end of this function; the call takes numbers only.
        #[allow(unsafe_code, reason = "the standard library cannot reserve room")]
        let result = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, end) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if result == 0 => Ok(()),
            Some(libc::ENOSPC | libc::EDQUOT) => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives back what was reserved and not written.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn release(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(file.metadata()?.len())
    }

    /// Makes the content durable and gives it its name, replacing what was there. After `Ok` it survives a power cut.
    ///
    /// # Errors
    /// The operating system's reason; the destination is then as it was, or already replaced if only the directory could
    /// not be synced.
    pub fn commit(self) -> io::Result<()> {
        let destination = self.destination.clone();
        self.commit_as(&destination)
    }

    /// [`TempFile::commit`] under another name on the same file system, in a directory that exists.
    ///
    /// # Errors
    /// As [`TempFile::commit`].
    pub fn commit_as(mut self, destination: &Path) -> io::Result<()> {
        destination.clone_into(&mut self.destination);
        File::open(&self.path)?.sync_all()?;
        fs::rename(&self.path, &self.destination)?;
        self.committed = true;
        sync_directory(directory_of(&self.destination))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing can be done about a failure here; `sweep_stale_parts` gets what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A directory for files of this process alone; removed with all that is in it on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Creates one in `directory`, which must exist, named like a temporary file for `name`.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn new_in(directory: &Path, name: &str) -> io::Result<Self> {
        let path = directory.join(temporary_name(name));
        fs::create_dir(&path)?;
        Ok(TempDir(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes those for `name` whose process on this boot of this host is gone.
    ///
    /// # Errors
    /// The directory cannot be listed. One that cannot be removed is left.
    pub fn sweep_stale(directory: &Path, name: &str) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let own = entry.file_name().to_str().filter(|n| n.starts_with(&format!(".{name}."))).and_then(parse_part);
            let Some((part, metadata)) = own.zip(entry.metadata().ok()) else { continue };
            if metadata.is_dir() && abandoned(&part, &metadata) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // `sweep_stale` gets what is left.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that this user may still write on the file system of `directory`.
///
/// # Errors
/// The operating system's reason.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte, and the structure is filled where the call succeeds.
    #[allow(unsafe_code, reason = "the standard library does not tell")]
    let stats = unsafe {
        if libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stats.assume_init()
    };
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}

/// Writes `path` as a whole or not at all, replacing what was there.
///
/// # Errors
/// The operating system's reason.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = TempFile::for_path(path)?;
    OpenOptions::new().write(true).open(temp.path())?.write_all(bytes)?;
    temp.commit()
}

/// Creates `path` with `bytes` unless it exists. Of several callers, on one host or on several that share the file system,
/// exactly one gets true; whoever gets false finds a whole file.
///
/// # Errors
/// The operating system's reason.
pub fn create_once(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    create_exclusive(path, bytes, true)
}

/// [`create_once`] of what need not outlive a power cut, such as a lease: nothing is synced.
///
/// # Errors
/// The operating system's reason.
pub fn create_once_volatile(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    create_exclusive(path, bytes, false)
}

fn create_exclusive(path: &Path, bytes: &[u8], durable: bool) -> io::Result<bool> {
    if path.try_exists()? {
        return Ok(false);
    }
    let sync = |file: &File| if durable { file.sync_all() } else { Ok(()) };
    let temp = TempFile::for_path(path)?;
    let mut file = OpenOptions::new().write(true).open(temp.path())?;
    file.write_all(bytes)?;
    sync(&file)?;
    drop(file);
    match fs::hard_link(temp.path(), path) {
        Ok(()) => {}
        // Over NFS the answer to a successful link can be lost, and the repeated call then says that it exists.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if links(temp.path())? < 2 {
                return Ok(false);
            }
        }
        Err(_) if path.try_exists()? => return Ok(false),
        // No hard links here (exFAT, some SMB and FUSE mounts): exclusive creation, whole but for a power cut.
        Err(_) => match create_new(path) {
            Ok(mut file) => {
                if let Err(e) = file.write_all(bytes).and_then(|()| sync(&file)) {
                    let _ = fs::remove_file(path);
                    return Err(e);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e),
        },
    }
    if durable {
        sync_directory(directory_of(path))?;
    }
    Ok(true)
}

/// Creates a directory and those above it, durably: a directory that is created is synced into its parent.
///
/// # Errors
/// The operating system's reason.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = directory_of(path);
    create_dir_all(parent)?;
    match make_dir(path) {
        Ok(()) => sync_directory(parent),
        // Another process was faster.
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes `site-private` in `out`, and closes it where it is there already and open.
///
/// # Errors
/// The operating system's reason.
pub fn create_private_dir(out: &Path) -> io::Result<()> {
    let path = out.join(PRIVATE);
    create_dir_all(&path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Not where it is closed: of a directory that a colleague made, only the colleague may.
        if fs::metadata(&path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

fn is_private(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == PRIVATE)
}

fn make_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    if is_private(path) {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    }
    builder.create(path)
}

/// Creates a file that must not exist; in `site-private` for its owner alone.
fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if is_private(path) {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    options.open(path)
}

/// Removes the temporary files in `directory` that nobody will finish, and says how many: those of this user whose process
/// on this boot of this host is gone, and any that has not been written for 7 days. Everything else is left alone, also
/// what another host's process is writing. A missing directory holds none.
///
/// # Errors
/// The directory cannot be listed. A file that cannot be removed is left.
pub fn sweep_stale_parts(directory: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let Some(part) = entry.file_name().to_str().and_then(parse_part) else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        let old =
            metadata.modified().is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > STALE));
        if metadata.is_file() && (old || abandoned(&part, &metadata)) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a file name is that of a temporary file of ours.
#[must_use]
pub fn is_part(name: &str) -> bool {
    parse_part(name).is_some()
}

/// Whose a temporary file or lease is.
struct Part {
    owner: String,
    pid: u32,
}

/// `.<final>.<owner>-<pid>-<random>.part`
fn parse_part(name: &str) -> Option<Part> {
    let (_, tail) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    parse_token(tail)
}

/// `<owner>-<pid>-<random>`
fn parse_token(token: &str) -> Option<Part> {
    let mut fields = token.split('-');
    let (owner, pid, random) = (fields.next()?, fields.next()?, fields.next()?);
    let hexadecimal = |s: &str| s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit());
    (hexadecimal(owner) && hexadecimal(random) && fields.next().is_none())
        .then(|| Some(Part { owner: owner.to_owned(), pid: pid.parse().ok()? }))?
}

/// A name beside `final_name` that nobody else has or will have, and that is swept when this process has left it behind.
pub(crate) fn temporary_name(final_name: &str) -> String {
    let end = (0..=final_name.len().min(KEPT_NAME)).rev().find(|i| final_name.is_char_boundary(*i)).unwrap_or(0);
    format!(".{}.{}.part", &final_name[..end], process_token())
}

/// A name that this process may go by among all that share a file system, `<owner>-<pid>-<random>`; another one each time.
#[must_use]
pub fn process_token() -> String {
    // Every `RandomState` has its own random keys.
    let random = RandomState::new().build_hasher().finish();
    let owner = owner().unwrap_or("0000000000000000");
    format!("{owner}-{}-{random:016x}", std::process::id())
}

/// Whether the process of a [`process_token`] is known to have ended: it ran on this boot of this host, and as the user that
/// owns `file`. False where that cannot be known from here.
#[must_use]
pub fn has_ended(token: &str, file: &fs::Metadata) -> bool {
    parse_token(token).is_some_and(|part| abandoned(&part, file))
}

/// What tells this boot of this host and this pid namespace from every other; `None` where the system does not say (then
/// only age makes a temporary file stale).
fn owner() -> Option<&'static str> {
    static OWNER: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        let pids = fs::read_link("/proc/self/ns/pid").ok()?;
        let text = format!("{}\n{}\n{}", boot.trim(), host.trim(), pids.display());
        Some(digest::sha256(text.as_bytes())[..16].to_owned())
    };
    OWNER.get_or_init(find).as_deref()
}

#[cfg(unix)]
fn abandoned(part: &Part, metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    // With hidepid, /proc shows only one's own processes: judge only one's own files.
    let mine = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == metadata.uid());
    // A process that nobody has waited for yet is still listed, as a zombie (Z).
    let ended = || match fs::read_to_string(format!("/proc/{}/stat", part.pid)) {
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => !Path::new(&format!("/proc/{}", part.pid)).exists(),
    };
    mine && owner() == Some(&part.owner) && ended()
}

#[cfg(not(unix))]
fn abandoned(_: &Part, _: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
fn links(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.nlink())
}

#[cfg(not(unix))]
fn links(_: &Path) -> io::Result<u64> {
    Ok(1)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes names in a directory durable. File systems that cannot (some FUSE and SMB mounts) say so and are let be.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|d| d.sync_all()) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        Err(_) if cfg!(windows) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    #[test]
    fn what_is_private_is_closed_to_the_bottom() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        create_private_dir(dir.path()).unwrap();
        create_dir_all(&dir.path().join("site-private/a/b")).unwrap();
        write_atomic(&dir.path().join("site-private/a/b/x"), b"1").unwrap();
        create_once(&dir.path().join("site-private/a/y"), b"1").unwrap();
        assert_eq!(["site-private", "site-private/a", "site-private/a/b"].map(mode), [0o700; 3]);
        assert_eq!(["site-private/a/b/x", "site-private/a/y"].map(mode), [0o600; 2]);
        // One that was open is closed.
        fs::set_permissions(dir.path().join(PRIVATE), fs::Permissions::from_mode(0o755)).unwrap();
        create_private_dir(dir.path()).unwrap();
        assert_eq!(mode(PRIVATE), 0o700);
    }

    #[test]
    fn nothing_appears_before_commit_and_nothing_stays_after_drop() {
        let dir = tempfile::tempdir().unwrap();
        let temp = TempFile::new_in(dir.path(), "a.h5").unwrap();
        fs::write(temp.path(), b"half").unwrap();
        assert!(!dir.path().join("a.h5").exists());
        assert!(is_part(temp.path().file_name().unwrap().to_str().unwrap()));
        drop(temp);
        assert!(names(dir.path()).is_empty());
        write_atomic(&dir.path().join("a.h5"), b"old").unwrap();
        let temp = TempFile::new_in(dir.path(), "a.h5").unwrap();
        fs::write(temp.path(), b"new").unwrap();
        assert_eq!(fs::read(dir.path().join("a.h5")).unwrap(), b"old");
        temp.commit().unwrap();
        assert_eq!(fs::read(dir.path().join("a.h5")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.h5"]);
    }

    #[test]
    fn the_first_of_many_wins() {
        for round in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("contract.json");
            let barrier = std::sync::Barrier::new(8);
            let won: Vec<bool> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|i| {
                        let (path, barrier) = (&path, &barrier);
                        scope.spawn(move || {
                            barrier.wait();
                            let won = create_once(path, vec![b'0' + i; 10_000].as_slice()).unwrap();
                            let seen = fs::read(path).unwrap();
                            assert_eq!(seen.len(), 10_000, "round {round}");
                            assert!(seen.iter().all(|b| *b == seen[0]));
                            assert!(!won || seen[0] == b'0' + i);
                            won
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(won.iter().filter(|w| **w).count(), 1);
            assert_eq!(names(dir.path()), ["contract.json"]);
        }
    }

    #[test]
    fn only_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let random = "0123456789abcdef";
        let owner = owner().unwrap();
        let put = |name: &str| fs::write(dir.path().join(name), b"x").unwrap();
        let mine = format!(".a.h5.{owner}-{dead}-{random}.part");
        let elsewhere = format!(".a.h5.{random}-{dead}-{random}.part");
        let ancient = format!(".b.h5.{random}-{dead}-{random}.part");
        let foreign = ".c.h5.1-2.part";
        for name in [&mine, &elsewhere, &ancient, foreign, "d.h5"] {
            put(name);
        }
        let long_ago = SystemTime::now() - STALE - Duration::from_secs(60);
        File::options().write(true).open(dir.path().join(&ancient)).unwrap().set_modified(long_ago).unwrap();
        let alive = TempFile::new_in(dir.path(), "e.h5").unwrap();
        assert_eq!(sweep_stale_parts(dir.path()).unwrap(), 2);
        let left = names(dir.path());
        assert!(!left.contains(&mine) && !left.contains(&ancient));
        assert!(left.contains(&elsewhere) && left.iter().any(|n| n == foreign) && alive.path().exists());
        assert_eq!(sweep_stale_parts(&dir.path().join("missing")).unwrap(), 0);
    }

    #[test]
    fn long_names_fit() {
        let dir = tempfile::tempdir().unwrap();
        let name = "é".repeat(120) + ".h5";
        let temp = TempFile::new_in(dir.path(), &name).unwrap();
        temp.commit().unwrap();
        assert_eq!(names(dir.path()), [name]);
    }

    #[test]
    fn directories_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_dir_all(&dir.path().join("file/x")).is_err());
    }
}
