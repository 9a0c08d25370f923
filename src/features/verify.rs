//! Checks everything in OUT against its records: `paraffin verify`.
//!
//! For each record: every file has the size and sha256 that the record says; a feature file has the record's rows, the
//! contract's encoder, dimension and type, finite values and the coordinates of the slide's patches file; a slide vector was
//! made of the feature file that is there; a canary's name is its content's. What no record names is listed too. Messages name files relative to the checked directory.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::inspect::{Contents, inspect};
use super::{FEATURES_SCHEMA, PATCHES_SCHEMA, Precision, SLIDE_FEATURES_SCHEMA};
use crate::digest;
use crate::error::{Error, Result};
use crate::record::canary::Canary;
use crate::record::checkpoint::{self, Checkpoint};
use crate::record::contract::{Contract, canonical, read_contract};
use crate::record::{Record, artefacts, done, grid_dirs, list, publish, record_path, record_paths};

/// What was checked and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records looked at.
    pub records: u64,
    /// Files read through.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows in the feature files.
    pub rows: u64,
    /// Slides that a stopped run has begun, and the next one will go on with.
    pub begun: u64,
    /// Everything that is wrong, in alphabetical order of `what`.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, relative to the checked directory.
    pub what: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Checks OUT, or one grid directory. Reads every byte, with rayon's threads.
///
/// # Errors
/// [`Error::Output`] where `root` cannot be listed or holds no records.
pub fn verify(root: &Path) -> Result<Report> {
    let unreadable = |e: std::io::Error| Error::Output(format!("cannot be listed: {e}"));
    let grids = grid_dirs(root).map_err(unreadable)?;
    if grids.is_empty() {
        return Err(Error::Output("holds no records: not an output directory of paraffin".into()));
    }
    let mut report = Report::default();
    for grid in grids {
        let prefix = grid.strip_prefix(root).unwrap_or(&grid).to_string_lossy().into_owned();
        let found = check_grid(&grid).map_err(unreadable)?;
        report.add(found, &prefix);
    }
    report.problems.sort();
    Ok(report)
}

impl Report {
    fn add(&mut self, other: Report, prefix: &str) {
        self.records += other.records;
        self.files += other.files;
        self.bytes += other.bytes;
        self.rows += other.rows;
        self.begun += other.begun;
        let place = |what: String| if prefix.is_empty() { what } else { format!("{prefix}/{what}") };
        self.problems.extend(other.problems.into_iter().map(|p| Problem { what: place(p.what), ..p }));
    }

    fn tell(&mut self, what: impl Into<String>, problem: impl Into<String>) {
        self.problems.push(Problem { what: what.into(), problem: problem.into() });
    }
}

fn check_grid(grid: &Path) -> std::io::Result<Report> {
    let mut report = Report::default();
    let mut named = BTreeSet::new();
    let mut folders = BTreeSet::from(["patches".to_owned(), "overviews".to_owned(), "contracts".to_owned()]);
    let patches_grid = read_contract(grid, "patches").ok().flatten().and_then(|c| c.get("grid").cloned());
    for artefact in artefacts(grid)? {
        folders.extend([artefact.clone(), format!("records/{artefact}")]);
        let contract_name = format!("contracts/{artefact}.json");
        let expected = match Expected::read(grid, &artefact) {
            Ok(expected) => Some(expected),
            Err(why) => {
                report.tell(&contract_name, why);
                None
            }
        };
        if let (Some(expected), Some(patches)) = (&expected, &patches_grid)
            && expected.grid.as_ref() != Some(patches)
        {
            report.tell(&contract_name, "its grid is not that of contracts/patches.json");
        }
        for (path, canary) in Canary::files(grid, &artefact)? {
            if canary.is_none() {
                report.tell(path, "it is no canary, or not the one that its name says");
            }
        }
        let checked: Vec<(Report, Vec<String>)> = record_paths(grid, &artefact)?
            .par_iter()
            .map(|path| check_record(grid, &artefact, path, expected.as_ref()))
            .collect();
        for (found, files) in checked {
            report.add(found, "");
            named.extend(files);
        }
    }
    for artefact in checkpoint::artefacts(grid)? {
        let folder = format!("{}/{artefact}", checkpoint::DIRECTORY);
        for id in checkpoint::ids(grid, &artefact)? {
            match Checkpoint::read(grid, &artefact, &id).and_then(|c| c.map(|c| c.check_rows(grid)).transpose()) {
                Ok(Some(_)) => report.begun += 1,
                Ok(None) => {
                    report.tell(format!("{folder}/{id}.h5"), "rows of no checkpoint (of a run that was cut off)")
                }
                Err(e) => {
                    report.tell(format!("{folder}/{id}.json"), format!("{e} (the next run begins the slide anew)"))
                }
            }
        }
        folders.insert(folder);
    }
    for (name, is_dir) in list(grid)? {
        if is_dir && (name.starts_with("features_") || name.starts_with("slide_features_")) {
            folders.insert(name);
        }
    }
    for folder in folders {
        for (name, is_dir) in list(&grid.join(&folder))? {
            let path = format!("{folder}/{name}");
            if publish::is_part(&name) {
                report.tell(path, "unfinished: a run is at work, or was cut off (the next run removes it)");
            } else if !is_dir
                && name.ends_with(".h5")
                && !folder.starts_with(checkpoint::DIRECTORY)
                && !named.contains(&path)
            {
                report.tell(path, "no record names it");
            }
        }
    }
    Ok(report)
}

/// What an artefact's contract asks of its files.
struct Expected {
    sha256: String,
    grid: Option<Value>,
    /// `None` for a later kind of contract, of which only the sha256 is compared.
    contract: Option<Contract>,
}

impl Expected {
    fn read(grid: &Path, artefact: &str) -> Result<Self, String> {
        let value = read_contract(grid, artefact).map_err(|e| e.to_string())?.ok_or("missing")?;
        let sha256 = digest::sha256(canonical(&value).as_bytes());
        let member = value.get("grid").cloned();
        Ok(Expected { sha256, grid: member, contract: serde_json::from_value(value).ok() })
    }
}

fn check_record(grid: &Path, artefact: &str, path: &Path, expected: Option<&Expected>) -> (Report, Vec<String>) {
    let mut report = Report { records: 1, ..Report::default() };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let what = format!("records/{artefact}/{name}");
    let record = match Record::read(path) {
        Ok(record) => record,
        Err(e) => {
            report.tell(what, e.to_string());
            return (report, Vec::new());
        }
    };
    if name != format!("{}.json", record.id) || record.artefact != artefact {
        report.tell(&what, "it is the record of another slide or artefact");
    }
    if expected.is_some_and(|e| e.sha256 != record.contract_sha256) {
        report.tell(&what, "it was made under another contract than its artefact's");
    }
    if record.files.is_empty() {
        report.tell(&what, "it names no file");
    }
    for entry in &record.files {
        report.files += 1;
        report.bytes += entry.bytes;
        if let Err(why) = done::check(grid, entry, |_| false) {
            report.tell(&entry.path, why);
            continue;
        }
        let Some(file) = entry.locate(grid).filter(|f| f.extension().is_some_and(|e| e == "h5")) else { continue };
        match inspect(&file) {
            Ok(contents) => {
                for why in check_contents(grid, &record, &contents, expected.and_then(|e| e.contract.as_ref())) {
                    report.tell(&entry.path, why);
                }
                report.rows += contents.features.map_or(0, |f| f.rows as u64);
            }
            Err(e) => report.tell(&entry.path, e.to_string()),
        }
    }
    (report, record.files.into_iter().map(|f| f.path).collect())
}

fn check_contents(grid: &Path, record: &Record, contents: &Contents, contract: Option<&Contract>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut equal = |what: &str, found: &str, wanted: &str| {
        if found != wanted {
            problems.push(format!("{what} is {found}, not {wanted}"));
        }
    };
    equal("its contract", &contents.contract_sha256, &record.contract_sha256);
    equal("its id", &contents.name, &record.id);
    if contents.vector.is_some() {
        problems.extend(check_vector(grid, record, contents, contract));
        return problems;
    }
    let Some(features) = &contents.features else {
        equal("its schema", &contents.schema, PATCHES_SCHEMA);
        equal("its number of coordinates", &contents.coords_rows.to_string(), &record.tiles.written.to_string());
        if record.artefact != "patches" {
            problems.push("it holds no features".into());
        }
        return problems;
    };
    equal("its schema", &contents.schema, FEATURES_SCHEMA);
    equal("its number of rows", &features.rows.to_string(), &record.tiles.written.to_string());
    equal("its number of coordinates", &contents.coords_rows.to_string(), &features.rows.to_string());
    if let Some(encoder) = contract.and_then(|c| c.encoder.as_ref()) {
        let (id, sha256) = contents.encoder.clone().unwrap_or_default();
        equal("its encoder", &id, &encoder.id);
        equal("its encoder's sha256", &sha256, &encoder.sha256);
        equal("its dimension", &features.dim.to_string(), &encoder.dim.to_string());
    }
    let precision = contract.and_then(|c| c.storage.as_ref()).and_then(|s| s.precision.parse::<Precision>().ok());
    if let Some(precision) = precision {
        equal("its type", features.dtype, precision.dtype());
    }
    if !features.finite {
        problems.push("it holds values that are infinite or not a number".into());
    }
    problems.extend(check_coords(grid, record, contents));
    problems
}

/// What a slide vector must be beside its contract and id.
fn check_vector(grid: &Path, record: &Record, contents: &Contents, contract: Option<&Contract>) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(vector) = &contents.vector else { return problems };
    let mut equal = |what: &str, found: &str, wanted: &str| {
        if found != wanted {
            problems.push(format!("{what} is {found}, not {wanted}"));
        }
    };
    equal("its schema", &contents.schema, SLIDE_FEATURES_SCHEMA);
    equal("its number of coordinates", &contents.coords_rows.to_string(), &record.tiles.written.to_string());
    equal("its type", vector.dtype, "float32");
    if let Some(slide) = contract.and_then(|c| c.slide.as_ref()) {
        let dim = if contents.coords_rows == 0 { 0 } else { slide.dim };
        equal("its slide encoder", &vector.slide_encoder, &slide.id);
        equal("its dimension", &vector.dim.to_string(), &dim.to_string());
    }
    if !vector.finite {
        problems.push("it holds values that are infinite or not a number".into());
    }
    if let Some(encoder) = contract.and_then(|c| c.encoder.as_ref()) {
        let features = Record::read(&record_path(grid, &format!("features_{}", encoder.id), &record.id)).ok();
        let made_of = features.as_ref().and_then(|f| f.files.first()).map(|f| f.sha256.as_str());
        if made_of.is_none() || made_of != record.made_from.as_deref() {
            problems.push("it was made of another feature file than the slide's".into());
        }
    }
    problems.extend(check_coords(grid, record, contents));
    problems
}

/// Whether the coordinates are those of the slide's patches file.
fn check_coords(grid: &Path, record: &Record, contents: &Contents) -> Vec<String> {
    let mut problems = Vec::new();
    let patches = grid.join("patches").join(format!("{}_patches.h5", record.id));
    match inspect(&patches) {
        _ if !patches.exists() => problems.push("the slide has no patches file".into()),
        Err(_) => problems.push("the slide's patches file cannot be read".into()),
        // Unreadable tiles have a place in the plan and no row.
        Ok(patches) if record.tiles.failed > 0 => {
            if patches.coords_rows < contents.coords_rows {
                problems.push("it has more rows than the slide's patches file".into());
            }
        }
        Ok(patches) if patches.coords_sha256 != contents.coords_sha256 => {
            problems.push("its coordinates are not those of the slide's patches file".into());
        }
        Ok(_) => {}
    }
    problems
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
