//! Which files of a directory are one slide: those of one SeriesInstanceUID.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::super::source::Source;
use super::header::{self, Brief, Kind};
use crate::error::{Error, Result};

/// Files of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Names of its files, sorted; never empty.
    pub files: Vec<OsString>,
}

/// The DICOM files (`.dcm`) of one directory.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Whole-slide series, by their first file. Files whose header cannot be read are taken for one more, so that they are
    /// not passed over in silence.
    pub series: Vec<Series>,
    /// Files of other kinds: reports, annotations, series of labels alone.
    pub others: Vec<OsString>,
}

/// Names of the files in `directory` that may be DICOM: `.dcm`, or the ending `like`.
fn candidates(directory: &Path, like: Option<&OsStr>) -> io::Result<Vec<OsString>> {
    // The directory of a bare file name.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let ending = Path::new(&name).extension();
        let fits = ending.is_some_and(|e| e.eq_ignore_ascii_case("dcm")) || (like.is_some() && ending == like);
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if fits && !hidden && std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn brief(path: &Path) -> Result<Brief> {
    header::brief(&Source::open(path).map_err(Error::Read)?)
}

/// Looks at every `.dcm` file of a directory.
///
/// # Errors
/// Where the directory cannot be listed.
pub fn in_directory(directory: &Path) -> io::Result<Directory> {
    let mut groups: BTreeMap<String, (Series, bool)> = BTreeMap::new();
    let mut found = Directory::default();
    for name in candidates(directory, None)? {
        let (series, is_slide) = match brief(&directory.join(&name)) {
            Ok(brief) if brief.whole_slide => (brief.series, brief.kind == Kind::Volume),
            Ok(_) => {
                found.others.push(name);
                continue;
            }
            Err(_) => (String::new(), true),
        };
        let group = groups.entry(series).or_insert((Series { files: Vec::new() }, false));
        group.0.files.push(name);
        group.1 |= is_slide;
    }
    for (series, is_slide) in groups.into_values() {
        if is_slide {
            found.series.push(series);
        } else {
            found.others.extend(series.files);
        }
    }
    found.series.sort_by(|a, b| a.files.cmp(&b.files));
    Ok(found)
}

/// The file that stands for a directory: the first of its only series.
///
/// # Errors
/// [`Error::NotASlide`] where there is none or more than one, [`Error::Read`] where it cannot be listed.
pub fn entry_of(directory: &Path) -> Result<PathBuf> {
    let found = in_directory(directory).map_err(Error::Read)?;
    match &found.series[..] {
        [only] => Ok(directory.join(&only.files[0])),
        [] => Err(Error::NotASlide("a directory without DICOM slides".into())),
        several => Err(Error::NotASlide(format!(
            "a directory with {} DICOM series; name one file of the series that is meant",
            several.len()
        ))),
    }
}

/// All files of the series that `path` belongs to; none where it is no whole-slide DICOM file of a series.
#[must_use]
pub fn of_file(path: &Path) -> Vec<PathBuf> {
    match brief(path) {
        Ok(own) if own.whole_slide && !own.series.is_empty() => members(path, &own.series).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// All files of the series that `path` belongs to, itself among them, sorted by name.
///
/// # Errors
/// [`Error::Read`] where the directory cannot be listed.
pub fn members(path: &Path, series: &str) -> Result<Vec<PathBuf>> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let own = path.file_name().unwrap_or_default();
    let mut names = candidates(directory, path.extension()).map_err(Error::Read)?;
    names.retain(|name| name == own || brief(&directory.join(name)).is_ok_and(|b| b.whole_slide && b.series == series));
    if !names.iter().any(|name| name == own) {
        names.push(own.to_os_string());
    }
    Ok(names.into_iter().map(|name| path.with_file_name(name)).collect())
}
