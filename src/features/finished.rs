//! The features that lie finished in OUT, for whatever hands them on or draws on them.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::Bag;
use crate::digest;
use crate::error::{Error, Result};
use crate::record::contract::{Contract, EncoderContract, canonical, read_contract};
use crate::record::manifest::MANIFEST_NAME;
use crate::record::{Record, artefacts, done, grid_dirs, record_path, record_paths};

/// One artefact `features_<encoder>` of one grid directory.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The grid directory.
    pub grid_dir: PathBuf,
    /// `features_<encoder>`.
    pub artefact: String,
    /// Its contract.
    pub contract: Contract,
    /// The contract's encoder.
    pub encoder: EncoderContract,
    /// sha256 of the contract in canonical JSON.
    pub contract_sha256: String,
}

impl Finished {
    /// Finds the features in OUT, or in one grid directory given as OUT. `grid` and `artefact` are the names of the directories;
    /// what is not given must be the only one.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are none such, or several; [`Error::Output`] where OUT or the contract cannot be read.
    pub fn find(out: &Path, grid: Option<&str>, artefact: Option<&str>) -> Result<Self> {
        let unlisted = |e: std::io::Error| Error::Output(format!("OUT cannot be listed: {e}"));
        let mut found: Vec<(PathBuf, String, String)> = Vec::new();
        for grid_dir in grid_dirs(out).map_err(unlisted)? {
            let name = grid_dir.canonicalize().unwrap_or_else(|_| grid_dir.clone());
            let name = name.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let features = artefacts(&grid_dir).map_err(unlisted)?.into_iter().filter(|a| a.starts_with("features_"));
            found.extend(features.map(|artefact| (grid_dir.clone(), name.clone(), artefact)));
        }
        let all: Vec<String> = found.iter().map(|(_, grid, artefact)| format!("{grid}/{artefact}")).collect();
        found.retain(|(_, g, a)| grid.is_none_or(|grid| grid == g) && artefact.is_none_or(|artefact| artefact == a));
        let list = |names: &[String]| names.join("\n  ");
        let (grid_dir, artefact) = match &found[..] {
            [(grid_dir, _, artefact)] => (grid_dir.clone(), artefact.clone()),
            [] if all.is_empty() => {
                return Err(Error::Usage("OUT holds no features: paraffin embed makes them".into()));
            }
            [] => return Err(Error::Usage(format!("no such features in OUT; it holds\n  {}", list(&all)))),
            several => {
                let names: Vec<String> = several.iter().map(|(_, grid, a)| format!("{grid}/{a}")).collect();
                return Err(Error::Usage(format!(
                    "OUT holds several features; say which with --grid and --artefact:\n  {}",
                    list(&names)
                )));
            }
        };
        let value: Value = read_contract(&grid_dir, &artefact)?
            .ok_or_else(|| Error::Output(format!("contracts/{artefact}.json is missing")))?;
        let contract_sha256 = digest::sha256(canonical(&value).as_bytes());
        let newer = |why: String| Error::Output(format!("contracts/{artefact}.json is of another kind: {why}"));
        let contract: Contract = serde_json::from_value(value).map_err(|e| newer(e.to_string()))?;
        let encoder = contract.encoder.clone().ok_or_else(|| newer("it names no encoder".into()))?;
        Ok(Finished { grid_dir, artefact, contract, encoder, contract_sha256 })
    }

    /// The grid directory's name.
    #[must_use]
    pub fn grid_name(&self) -> String {
        let directory = self.grid_dir.canonicalize().unwrap_or_else(|_| self.grid_dir.clone());
        directory.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The slides that have a record, in alphabetical order.
    ///
    /// # Errors
    /// [`Error::Output`] where the records cannot be listed.
    pub fn ids(&self) -> Result<Vec<String>> {
        ids(&self.grid_dir, &self.artefact)
    }

    /// How many slides have tiles and no features yet.
    ///
    /// # Errors
    /// As [`Finished::ids`].
    pub fn unfinished(&self) -> Result<usize> {
        let done: BTreeSet<String> = self.ids()?.into_iter().collect();
        Ok(ids(&self.grid_dir, "patches")?.iter().filter(|id| !done.contains(*id)).count())
    }

    /// A slide's record, which must be its own and of the artefact's contract.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn record(&self, id: &str) -> Result<Record> {
        let record = Record::read(&record_path(&self.grid_dir, &self.artefact, id))?;
        if record.id != id || record.artefact != self.artefact {
            return Err(Error::Output("its record is that of another slide or artefact".into()));
        }
        if record.contract_sha256 != self.contract_sha256 {
            return Err(Error::Output("it was made under another contract than its artefact's".into()));
        }
        Ok(record)
    }

    /// The sha256 of a slide's feature file, as its record has it.
    ///
    /// # Errors
    /// [`Error::Output`] where the record names no file.
    pub fn made_from(record: &Record) -> Result<&str> {
        let entry = record.files.first().ok_or_else(|| Error::Output("its record names no file".into()))?;
        Ok(&entry.sha256)
    }

    /// Opens a slide's features after comparing every byte of their file with the record's sha256.
    ///
    /// # Errors
    /// [`Error::Output`] where the file is not what the record and the contract say.
    pub fn open(&self, record: &Record) -> Result<Bag> {
        let entry = record.files.first().ok_or_else(|| Error::Output("its record names no file".into()))?;
        done::check(&self.grid_dir, entry, |_| false).map_err(Error::Output)?;
        let file = entry.locate(&self.grid_dir).ok_or_else(|| Error::Output("a file outside the grid".into()))?;
        let bag = Bag::open(&file)?;
        let said = (record.tiles.written as usize, self.encoder.dim, record.id.as_str());
        if (bag.rows(), bag.dim(), bag.attributes().name.as_str()) != said {
            return Err(Error::Output(format!(
                "its file holds {} x {} values, or another slide's; its record and contract say {} x {}",
                bag.rows(),
                bag.dim(),
                said.0,
                said.1
            )));
        }
        Ok(bag)
    }
}

fn ids(grid_dir: &Path, artefact: &str) -> Result<Vec<String>> {
    let paths = record_paths(grid_dir, artefact).map_err(|e| Error::Output(format!("OUT cannot be listed: {e}")))?;
    Ok(paths.iter().filter_map(|p| p.file_stem()).map(|stem| stem.to_string_lossy().into_owned()).collect())
}

/// Refuses a directory for results that lies in OUT: what OUT holds is what runs and `verify` know.
///
/// # Errors
/// [`Error::Usage`].
pub fn refuse_inside(out: &Path, directory: &Path) -> Result<()> {
    let resolve = |path: &Path| -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // Of a path that does not exist yet, the part that does.
        let real = path.ancestors().find_map(|a| Some((a.canonicalize().ok()?, path.strip_prefix(a).ok()?)));
        let (mut whole, rest) = real.map_or((path.clone(), PathBuf::new()), |(a, rest)| (a, rest.to_owned()));
        for part in rest.components() {
            match part {
                Component::ParentDir => _ = whole.pop(),
                part => whole.push(part),
            }
        }
        whole
    };
    // A grid directory may stand for its OUT.
    let above = out.join("records").is_dir().then(|| resolve(out).parent().map(Path::to_owned)).flatten();
    let out = above.filter(|above| above.join(MANIFEST_NAME).is_file()).unwrap_or_else(|| resolve(out));
    if resolve(directory).starts_with(out) {
        return Err(Error::Usage("-o lies in OUT: give a directory elsewhere".into()));
    }
    Ok(())
}
