//! The local store of models: `<data>/encoders/<id>/` with the ONNX file, its external data, its card, and `stored.json`,
//! which says what was checked when they came. A model that computes in fp16 lies in `<id>@fp16/`, and so on. Nothing is
//! downloaded.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::card::{Card, Compute};
use super::registry::{self, Available};
use crate::error::{Error, Result};
use crate::runtime;

/// Beside a stored model: what was checked.
const STORED: &str = "stored.json";

/// A file as it was when it was checked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Checked {
    name: String,
    bytes: u64,
    modified_ns: u64,
}

/// `stored.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    sha256: String,
    bytes: u64,
    files: Vec<Checked>,
}

fn checked(path: &Path) -> std::io::Result<Checked> {
    let facts = path.metadata()?;
    let since = facts.modified()?.duration_since(UNIX_EPOCH).map(|d| d.as_nanos() as u64).unwrap_or_default();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Checked { name, bytes: facts.len(), modified_ns: since })
}

/// The store's directory.
///
/// # Errors
/// [`Error::Encoder`] where neither XDG_DATA_HOME nor HOME is set.
pub fn directory() -> Result<PathBuf> {
    let data = runtime::data_dir().ok_or_else(|| {
        Error::Encoder("no place for encoders: neither XDG_DATA_HOME nor HOME is set; name the model's file".into())
    })?;
    Ok(data.join("encoders"))
}

/// The name of a model's folder.
fn folder_name(id: &str, compute: Option<Compute>) -> String {
    match compute {
        None | Some(Compute::Fp32) => id.to_string(),
        Some(other) => format!("{id}@{other}"),
    }
}

/// Where the model of this id lies, if it is here: the one that computes so, or, where nothing is said, the plain one and
/// else the first that there is.
#[must_use]
pub fn folder(id: &str, compute: Option<Compute>) -> Option<PathBuf> {
    let store = directory().ok()?;
    let kinds = Compute::ALL.into_iter().filter(|kind| compute.is_none_or(|wanted| wanted == *kind));
    let mut folders = kinds.map(|kind| store.join(folder_name(id, Some(kind))));
    folders.find(|folder| folder.join(STORED).is_file())
}

/// Ids of all models that are here, sorted.
#[must_use]
pub fn ids() -> Vec<String> {
    let entries = directory().ok().and_then(|d| d.read_dir().ok()).into_iter().flatten().flatten();
    let mut ids: Vec<String> = entries
        .filter(|e| e.path().join(STORED).is_file())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .map(|name| name.split('@').next().unwrap_or_default().to_string())
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// The sha256 and size of a stored model: as they were when it came, if none of its files was touched since.
pub(super) fn identity(model: &Path) -> Option<(String, u64)> {
    let folder = model.parent()?;
    let stored: Stored = serde_json::from_slice(&std::fs::read(folder.join(STORED)).ok()?).ok()?;
    let same = |file: &Checked| checked(&folder.join(&file.name)).is_ok_and(|now| now == *file);
    (!stored.files.is_empty() && stored.files.iter().all(same)).then_some((stored.sha256, stored.bytes))
}

/// Copies a model into the store, with its external data and its card, and returns its folder there. It appears as a whole.
///
/// # Errors
/// [`Error::Encoder`] where its id is taken and not to be replaced, or belongs to the built-in default;
/// [`Error::Write`] where the store cannot be written.
pub fn add(encoder: &Available, replace: bool) -> Result<PathBuf> {
    let registry::Model::File(model) = &encoder.model else {
        return Err(Error::Encoder(format!("'{}' is part of the program", encoder.card.id)));
    };
    let card = &encoder.card;
    if card.id == registry::DEFAULT_ID {
        return Err(Error::Encoder(format!(
            "'{}' is part of the program: give the model another id in its card",
            card.id
        )));
    }
    let store = directory()?;
    let target = store.join(folder_name(&card.id, card.compute));
    if target.exists() && !replace {
        return Err(Error::Encoder(format!(
            "'{}' is here already (\"{}\"); --replace takes the new one",
            card.id,
            target.display()
        )));
    }
    let failed = |path: &Path, e: std::io::Error| Error::write(path.display().to_string(), e);
    std::fs::create_dir_all(&store).map_err(|e| failed(&store, e))?;
    let part = store.join(format!(".part-{}-{}", std::process::id(), card.id));
    let result = fill(&part, model, encoder).map_err(|e| failed(&part, e)).and_then(|()| {
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(|e| failed(&target, e))?;
        }
        std::fs::rename(&part, &target).map_err(|e| failed(&target, e))
    });
    if result.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    result.map(|()| target)
}

fn fill(part: &Path, model: &Path, encoder: &Available) -> std::io::Result<()> {
    std::fs::create_dir_all(part)?;
    let mut files = vec![model.to_path_buf()];
    files.extend(registry::external_files(model)?);
    let mut kept = Vec::new();
    for file in &files {
        let copy = part.join(file.file_name().unwrap_or_default());
        std::fs::copy(file, &copy)?;
        std::fs::File::open(&copy)?.sync_all()?;
        kept.push(checked(&copy)?);
    }
    let (sha256, bytes) = registry::hashed(&part.join(model.file_name().unwrap_or_default()))?;
    if sha256 != encoder.sha256 {
        return Err(std::io::Error::other(
            "the copy is not what was read before: the file changes, or the disk is faulty",
        ));
    }
    let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Beside the model by its name, where it comes before a card that the model carries itself.
    let beside = part.join(&name).with_extension("toml");
    let card = Card { file: name, sha256: sha256.clone(), ..encoder.card.clone() };
    let text = toml::to_string(&card).map_err(std::io::Error::other)?;
    std::fs::write(beside, text)?;
    let stored = Stored { sha256, bytes, files: kept };
    std::fs::write(part.join(STORED), serde_json::to_vec_pretty(&stored)?)?;
    std::fs::File::open(part)?.sync_all()
}

/// Removes a model from the store, in whatever precisions it is there; gives their folders' names.
///
/// # Errors
/// [`Error::Encoder`] where it is not there, [`Error::Write`] where it cannot be removed.
pub fn remove(id: &str) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    while let Some(folder) = folder(id, None) {
        std::fs::remove_dir_all(&folder).map_err(|e| Error::write(folder.display().to_string(), e))?;
        removed.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    if removed.is_empty() { Err(Error::Encoder(format!("no model of '{id}' in the store"))) } else { Ok(removed) }
}
