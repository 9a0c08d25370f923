//! ONNX Runtime's library, loaded when the first model is; its telemetry is switched off.

use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use libloading::os::unix as os;

use crate::error::{Error, Result};
use crate::runtime;

/// Oldest ONNX Runtime whose interface this program speaks.
const OLDEST_MINOR: u32 = 24;

pub(super) struct Loaded {
    pub(super) environment: ort::environment::Environment,
    version: String,
    path: PathBuf,
}

/// Loads ONNX Runtime, once per process.
pub(super) fn library() -> Result<&'static Loaded> {
    static LIBRARY: OnceLock<Result<Loaded, String>> = OnceLock::new();
    LIBRARY.get_or_init(load).as_ref().map_err(|why| Error::Library(why.clone()))
}

fn load() -> Result<Loaded, String> {
    const STEM: &str = "libonnxruntime.so";
    let mut reasons = Vec::new();
    for path in runtime::library_candidates(STEM) {
        match load_from(&path) {
            Ok(loaded) => return Ok(loaded),
            Err(why) => reasons.push(format!("{}: {why}", path.display())),
        }
    }
    Err(runtime::library_missing("ONNX Runtime", STEM, &reasons.join("; ")).to_string())
}

fn load_from(path: &Path) -> Result<Loaded, String> {
    if path.is_absolute() && !path.is_file() {
        return Err("no such file".into());
    }
    let resolved = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let version = version_in_name(&resolved);
    if let Some(minor) = version.as_deref().and_then(|v| v.split('.').nth(1)?.parse::<u32>().ok())
        && minor < OLDEST_MINOR
    {
        return Err(format!("too old, 1.{OLDEST_MINOR} or newer is needed"));
    }
    // An unfit library makes the binding panic; that is this library's failure, not the program's.
    let environment = std::panic::catch_unwind(|| {
        let builder = ort::init_from(path).map_err(|e| e.to_string())?;
        builder.with_name("paraffin").with_telemetry(false).build().map_err(|e| e.to_string())
    })
    .unwrap_or_else(|_| Err(format!("it does not offer the interface of version 1.{OLDEST_MINOR}")))?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    Ok(Loaded { environment, version: version.unwrap_or_else(|| "unknown".into()), path: resolved })
}

/// `1.31.1` of `libonnxruntime.so.1.31.1`.
fn version_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let version = name.split_once(".so.")?.1;
    version.contains('.').then(|| version.to_string())
}

/// The version of ONNX Runtime in use.
///
/// # Errors
/// [`Error::Library`] where it cannot be loaded; says where it was looked for.
pub fn version() -> Result<&'static str> {
    Ok(&library()?.version)
}

/// The file of the library in use.
///
/// # Errors
/// As [`version`].
pub fn path() -> Result<&'static Path> {
    Ok(&library()?.path)
}

/// The folder of CUDA libraries beside ONNX Runtime, which `scripts/setup --cuda` fills.
const CUDA_DIR: &str = "cuda";

/// Loads what the CUDA provider needs from the folder beside ONNX Runtime, if there is one, so that nobody has to set
/// LD_LIBRARY_PATH. What is not there is left to the system.
pub(super) fn preload_cuda() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(folder) = path().ok().and_then(Path::parent).map(|dir| dir.join(CUDA_DIR)) else { return };
        let entries = folder.read_dir().into_iter().flatten().flatten();
        let mut waiting: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        waiting.sort();
        // They need each other: again, as long as one more can be loaded.
        loop {
            let before = waiting.len();
            waiting.retain(|file| open_for_good(file).is_err());
            if waiting.is_empty() || waiting.len() == before {
                return;
            }
        }
    });
}

/// Loads a library for the rest of the process, for others to find.
fn open_for_good(file: &Path) -> Result<(), String> {
    // SAFETY: NVIDIA's and ONNX Runtime's libraries, whose initialisers ask nothing of us; never unloaded.
    #[allow(unsafe_code, reason = "loading a library runs its initialisers")]
    let library = unsafe { os::Library::open(Some(file), os::RTLD_NOW | os::RTLD_GLOBAL) };
    library.map(std::mem::forget).map_err(|e| {
        // The loader's own words name the library that is missing.
        std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)
    })
}

/// What keeps this machine from computing on an NVIDIA card, and what to do about it, as far as can be told without
/// trying; empty where nothing is missing.
#[must_use]
pub fn cuda_lacks() -> Vec<String> {
    let Some(folder) = path().ok().and_then(Path::parent) else { return Vec::new() };
    let mut lacks = Vec::new();
    if open_for_good(Path::new("libcuda.so.1")).is_err() {
        lacks.push(
            "no NVIDIA driver (libcuda.so.1): install the driver; in a container give it the card (--gpus all)".into(),
        );
    } else if !Path::new("/dev/nvidiactl").exists() {
        lacks.push("the driver is there and no card (/dev/nvidiactl): in a container or a job ask for one".into());
    }
    let provider = folder.join("libonnxruntime_providers_cuda.so");
    if !provider.is_file() {
        lacks.push(
            "this ONNX Runtime computes on processors only: scripts/setup --cuda installs the one for cards".into(),
        );
        return lacks;
    }
    preload_cuda();
    let shared = open_for_good(&folder.join("libonnxruntime_providers_shared.so"));
    if let Err(why) = shared.and_then(|()| open_for_good(&provider))
        && !why.contains("libcuda.so.1")
    {
        lacks.push(format!("its CUDA provider cannot be loaded: {why}; scripts/setup --cuda installs what it needs"));
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_in_file_names() {
        assert_eq!(version_in_name(Path::new("/x/libonnxruntime.so.1.31.1")), Some("1.31.1".into()));
        assert_eq!(version_in_name(Path::new("/x/libonnxruntime.so")), None);
        assert_eq!(version_in_name(Path::new("/x/libonnxruntime.so.1")), None);
    }
}
