//! Where the libraries that are loaded at run time (OpenSlide, ONNX Runtime) are looked for.
//!
//! paraffin links against neither, so that it starts, explains itself and does everything else without them. The user
//! sets no variable: `scripts/setup` puts the libraries into one of [`library_dirs`], and the system's own come last.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The folders that are searched, in order, before the system's loader is asked:
/// `$PARAFFIN_LIB_DIR`, then `lib`, `../lib` and `../lib/paraffin` beside the executable, then
/// `${XDG_DATA_HOME:-$HOME/.local/share}/paraffin/lib`.
#[must_use]
pub fn library_dirs() -> Vec<PathBuf> {
    let exe_dir = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    dirs(exe_dir.as_deref(), |name| env::var_os(name).filter(|value| !value.is_empty()))
}

/// Files and names to try, in order, for a library named by its stem: `libopenslide.so.1` or `libonnxruntime.so`.
///
/// From each of [`library_dirs`] come the files that exist, the best version first; the bare names for the system's
/// loader come last. A library that the user names outright (`$OPENSLIDE_DYLIB_PATH`, `$ORT_DYLIB_PATH`) is the only
/// candidate, so that a mistake there is told and not papered over.
#[must_use]
pub fn library_candidates(stem: &str) -> Vec<PathBuf> {
    match named(stem) {
        Some((_, library)) => vec![library],
        None => candidates_in(&library_dirs(), stem),
    }
}

/// The error for a library that none of the candidates could provide: where it was looked for and what to do.
///
/// `library` is the name that users know, `stem` what [`library_candidates`] was asked for, `why` the loader's reasons;
/// they are told where there was a file to load.
#[must_use]
pub fn library_missing(library: &str, stem: &str, why: &str) -> Error {
    if let Some((variable, _)) = named(stem) {
        return Error::Library(format!("{library} cannot be loaded from where {variable} points: {why}"));
    }
    let dirs = library_dirs();
    let why = if candidates_in(&dirs, stem).iter().any(|file| file.is_file()) { why } else { "" };
    missing(library, &dirs, why)
}

fn missing(library: &str, dirs: &[PathBuf], why: &str) -> Error {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let state = if why.is_empty() { "is not installed".to_owned() } else { format!("cannot be loaded ({why})") };
    Error::Library(format!(
        "{library} {state}: run scripts/setup, or set PARAFFIN_LIB_DIR to the folder that holds it (looked in {}, and \
         among the system's libraries)",
        dirs.join(", ")
    ))
}

/// The variable by which a user names this library, and its value, if it is set.
fn named(stem: &str) -> Option<(&'static str, PathBuf)> {
    let variable = if stem.starts_with("libonnxruntime") { "ORT_DYLIB_PATH" } else { "OPENSLIDE_DYLIB_PATH" };
    env::var_os(variable).filter(|value| !value.is_empty()).map(|value| (variable, value.into()))
}

fn dirs(exe_dir: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    dirs.extend(variable("PARAFFIN_LIB_DIR").map(PathBuf::from));
    if let Some(exe_dir) = exe_dir {
        dirs.push(exe_dir.join("lib"));
        if let Some(prefix) = exe_dir.parent() {
            dirs.push(prefix.join("lib"));
            dirs.push(prefix.join("lib/paraffin"));
        }
    }
    dirs.extend(data_dir_by(variable).map(|data| data.join("lib")));
    dirs
}

/// `${XDG_DATA_HOME:-$HOME/.local/share}/paraffin`: what the user's paraffin keeps.
#[must_use]
pub fn data_dir() -> Option<PathBuf> {
    data_dir_by(|name| env::var_os(name).filter(|value| !value.is_empty()))
}

fn data_dir_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let data = variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    data.map(|data| data.join("paraffin"))
}

fn candidates_in(dirs: &[PathBuf], stem: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if stem.starts_with("libonnxruntime") {
        for dir in dirs {
            found.extend(onnxruntime_files(dir, stem));
        }
        found.push(stem.into());
        found.push(format!("{stem}.1").into());
    } else {
        // The two interfaces of OpenSlide that exist: 4 (.so.1) and, with fewer formats, 3.4 (.so.0).
        let names = [stem.to_owned(), stem.strip_suffix(".1").map_or_else(|| stem.to_owned(), |s| format!("{s}.0"))];
        for dir in dirs {
            found.extend(names.iter().map(|name| dir.join(name)).filter(|file| file.is_file()));
        }
        found.extend(names.iter().map(PathBuf::from));
    }
    found.dedup();
    found
}

/// `stem` itself and `stem.<version>`, newest version first.
fn onnxruntime_files(dir: &Path, stem: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(Vec<u64>, PathBuf)> = Vec::new();
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(version) = name.to_str().and_then(|name| name.strip_prefix(stem)).and_then(|v| v.strip_prefix('.'))
        else {
            continue;
        };
        if let Ok(version) = version.split('.').map(str::parse).collect::<Result<Vec<u64>, _>>() {
            versions.push((version, entry.path()));
        }
    }
    versions.sort_by(|a, b| b.cmp(a));
    let plain = dir.join(stem);
    plain.is_file().then_some(plain).into_iter().chain(versions.into_iter().map(|(_, path)| path)).collect()
}

/// A line `<name>:  <number> kB` of a file below `/proc`, in bytes.
#[must_use]
pub fn proc_bytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn folders_come_in_the_documented_order() {
        let variables = |name: &str| match name {
            "PARAFFIN_LIB_DIR" => Some("/own".into()),
            "HOME" => Some("/home/u".into()),
            _ => None,
        };
        let expected =
            ["/own", "/opt/p/bin/lib", "/opt/p/lib", "/opt/p/lib/paraffin", "/home/u/.local/share/paraffin/lib"];
        assert_eq!(dirs(Some(Path::new("/opt/p/bin")), variables), expected.map(PathBuf::from));
        let xdg = dirs(None, |name| (name == "XDG_DATA_HOME").then(|| "/data".into()));
        assert_eq!(xdg, [PathBuf::from("/data/paraffin/lib")]);
    }

    #[test]
    fn newest_onnxruntime_first_and_the_system_last() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime.so.1.31.1.bak"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = candidates_in(&[dir.path().to_path_buf()], "libonnxruntime.so");
        let expected = [
            dir.path().join("libonnxruntime.so.1.31.1"),
            dir.path().join("libonnxruntime.so.1.9.0"),
            "libonnxruntime.so".into(),
            "libonnxruntime.so.1".into(),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let dirs = [PathBuf::from("/a/lib"), PathBuf::from("/b")];
        let told = "OpenSlide is not installed: run scripts/setup, or set PARAFFIN_LIB_DIR to the folder that holds it \
            (looked in /a/lib, /b, and among the system's libraries)";
        assert_eq!(missing("OpenSlide", &dirs, "").to_string(), told);
        assert!(
            missing("OpenSlide", &dirs, "wrong ELF class").to_string().contains("cannot be loaded (wrong ELF class)")
        );
    }

    #[test]
    fn openslide_4_before_3() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("libopenslide.so.0"), "").unwrap();
        let found = candidates_in(&[dir.path().to_path_buf()], "libopenslide.so.1");
        let expected = [dir.path().join("libopenslide.so.0"), "libopenslide.so.1".into(), "libopenslide.so.0".into()];
        assert_eq!(found, expected);
    }
}
