//! Hands finished features on in the layouts that other tools read: one enum, one file a target.
//!
//! A slide goes out when its record is there, of the artefact's contract, and its feature file has the recorded sha256. Slides are
//! written side by side, each in pieces of [`Bag::STEP`] rows, so memory does not grow with slides or their sizes. Every file is
//! replaced whole or not at all; `export.json` is written last and says what the directory holds.
//!
//! Values are the stored ones as float32, whatever the storage. Files hold numbers, settings and the id as their name.

mod clam;
mod hdf5;
mod index;
pub mod ro_crate;
mod safetensors;
mod slideflow;
mod stamp;
mod torch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::{Bag, Finished, refuse_inside};
use crate::record::publish::{self, TempFile};
use crate::record::{FileEntry, Record};
use index::{Entry, Index};

/// Who is to read the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// CLAM and HistoFL: `pt_files/<id>.pt` and `h5_files/<id>.h5`.
    Clam,
    /// STAMP: `<id>.h5` with coordinates in µm.
    Stamp,
    /// slideflow and PathBench-MIL: `<id>.pt`, `<id>.index.npz`, `bags_config.json`.
    Slideflow,
    /// `<id>.safetensors`.
    Safetensors,
}

impl Target {
    /// Every target, in the order that help texts list them.
    pub const ALL: [Target; 4] = [Target::Clam, Target::Stamp, Target::Slideflow, Target::Safetensors];

    /// The name on the command line and in `export.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Target::Clam => "clam",
            Target::Stamp => "stamp",
            Target::Slideflow => "slideflow",
            Target::Safetensors => "safetensors",
        }
    }

    /// Whether its reader takes a slide without tiles.
    fn takes_empty(self) -> bool {
        // slideflow leaves such slides out itself.
        self != Target::Slideflow
    }

    fn write(self, slide: &Slide) -> Result<Vec<String>> {
        match self {
            Target::Clam => clam::write(slide),
            Target::Stamp => stamp::write(slide),
            Target::Slideflow => slideflow::write(slide),
            Target::Safetensors => safetensors::write(slide),
        }
    }

    /// Writes what stands beside the slides' files.
    fn write_shared(self, finished: &Finished, dir: &Path) -> Result<Vec<String>> {
        match self {
            Target::Slideflow => slideflow::write_config(finished, dir),
            Target::Clam | Target::Stamp | Target::Safetensors => Ok(Vec::new()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Target::ALL.into_iter().find(|t| t.name() == word).ok_or_else(|| {
            let names: Vec<&str> = Target::ALL.iter().map(|t| t.name()).collect();
            format!("'{word}' is none of {}", names.join(", "))
        })
    }
}

/// One slide on its way out.
struct Slide<'a> {
    /// The export's directory.
    dir: &'a Path,
    finished: &'a Finished,
    record: &'a Record,
    bag: &'a Bag,
}

impl Slide<'_> {
    /// A temporary file for `path`, relative to the export's directory.
    fn begin(&self, path: &str) -> Result<TempFile> {
        let path = self.dir.join(path);
        publish::create_dir_all(path.parent().unwrap_or(self.dir))
            .and_then(|()| TempFile::for_path(&path))
            .map_err(unwritable)
    }

    /// µm per level-0 pixel, the mean of both directions.
    fn mpp_level0(&self) -> f64 {
        f64::midpoint(self.record.slide.mpp_x, self.record.slide.mpp_y)
    }
}

fn unwritable(error: std::io::Error) -> Error {
    Error::write("an exported file", error)
}

/// What happened to one slide.
#[derive(Debug)]
pub enum Told<'a> {
    /// It was written, with so many tiles.
    Written(u64),
    /// It lay there already, of the same features.
    Kept,
    /// It has no tiles, and the target's reader takes no such slide.
    LeftOut,
    /// It is not what its record says.
    Refused(&'a Error),
}

/// What an export did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Slides that the directory now holds.
    pub slides: usize,
    /// Their tiles.
    pub tiles: u64,
    /// Their files' bytes.
    pub bytes: u64,
    /// Slides among them that lay there already.
    pub kept: usize,
    /// Slides without tiles that were left out.
    pub left_out: usize,
    /// Slides whose features are damaged, by id.
    pub refused: Vec<(String, Error)>,
    /// Slides that have tiles and no features yet.
    pub unfinished: usize,
    /// Slides of an earlier export that OUT no longer holds; their files were left.
    pub forgotten: usize,
}

/// Exports all finished slides to `dir`, which is made, with rayon's threads. `told` hears of every slide, in the order of their
/// completion, with its id.
///
/// # Errors
/// [`Error::Usage`] for a directory in `out`, [`Error::Incompatible`] where it holds another export, [`Error::Output`] where its
/// `export.json` cannot be read, [`Error::Write`], and [`Error::Interrupted`] after `stop`. Damaged slides are no error here.
pub fn export(
    out: &Path,
    finished: &Finished,
    target: Target,
    dir: &Path,
    stop: &AtomicBool,
    told: &(dyn Fn(&str, &Told) + Sync),
) -> Result<Summary> {
    refuse_inside(out, dir)?;
    let ids = finished.ids()?;
    let before = index::read(dir)?;
    let mut index = Index::new(target, finished);
    if let Some(before) = &before {
        index.refuse_another(before)?;
    }
    publish::create_dir_all(dir).map_err(unwritable)?;
    sweep(dir).map_err(unwritable)?;
    let results: Vec<(String, Result<Done>)> = ids
        .into_par_iter()
        .map(|id| {
            let result = one(finished, target, dir, before.as_ref(), &id, stop);
            match &result {
                Ok(Done::Written(entry)) => told(&id, &Told::Written(entry.tiles)),
                Ok(Done::Kept(_)) => told(&id, &Told::Kept),
                Ok(Done::LeftOut) => told(&id, &Told::LeftOut),
                Err(Error::Interrupted) => {}
                Err(e) => told(&id, &Told::Refused(e)),
            }
            (id, result)
        })
        .collect();
    let mut summary = Summary { unfinished: finished.unfinished()?, ..Summary::default() };
    let mut failed = None;
    for (id, result) in results {
        match result {
            Ok(Done::LeftOut) => summary.left_out += 1,
            Ok(Done::Written(entry)) => _ = index.slides.insert(id, entry),
            Ok(Done::Kept(entry)) => {
                summary.kept += 1;
                index.slides.insert(id, entry);
            }
            Err(e @ Error::Output(_)) => summary.refused.push((id, e)),
            // A full disk, a signal: no slide's fault.
            Err(e) => failed = Some(e),
        }
    }
    if failed.is_none() {
        for path in target.write_shared(finished, dir)? {
            index.files.push(FileEntry::of(dir, &path)?);
        }
    }
    summary.slides = index.slides.len();
    summary.tiles = index.count();
    summary.bytes = index.slides.values().flat_map(|e| &e.files).map(|f| f.bytes).sum();
    let held: BTreeMap<String, Entry> = before.map(|b| b.slides).unwrap_or_default();
    summary.forgotten = held.keys().filter(|id| !index.slides.contains_key(*id)).count();
    index.complete = failed.is_none() && summary.refused.is_empty();
    index.write(dir)?;
    match failed {
        Some(e) => Err(e),
        None => Ok(summary),
    }
}

/// How a slide ended.
enum Done {
    Written(Entry),
    Kept(Entry),
    LeftOut,
}

/// Writes one slide, or finds it written.
fn one(
    finished: &Finished,
    target: Target,
    dir: &Path,
    before: Option<&Index>,
    id: &str,
    stop: &AtomicBool,
) -> Result<Done> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let record = finished.record(id)?;
    // The source is read before anything counts as done: what is damaged since must not pass for whole.
    let bag = finished.open(&record)?;
    if bag.rows() == 0 && !target.takes_empty() {
        return Ok(Done::LeftOut);
    }
    let made_from = Finished::made_from(&record)?;
    if let Some(entry) = before.and_then(|b| b.still_holds(dir, id, made_from)) {
        return Ok(Done::Kept(entry));
    }
    let paths = target.write(&Slide { dir, finished, record: &record, bag: &bag })?;
    let files = paths.iter().map(|path| FileEntry::of(dir, path)).collect::<Result<_>>()?;
    Ok(Done::Written(Entry { made_from: made_from.to_owned(), tiles: bag.rows() as u64, files }))
}

/// Clears away what killed exports of this host left.
fn sweep(dir: &Path) -> std::io::Result<()> {
    let below = crate::record::list(dir)?.into_iter().filter(|(_, is_dir)| *is_dir).map(|(name, _)| dir.join(name));
    let directories: Vec<PathBuf> = std::iter::once(dir.to_owned()).chain(below).collect();
    directories.iter().try_for_each(|d| publish::sweep_stale_parts(d).map(|_| ()))
}
