//! Which slides a run is about: files, directories (all that lies below them) and slide lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::slide::EXTENSIONS;
use crate::slide::mpp::{MppOverride, MppSource, parse_number};

/// A slide that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it lies; for a DICOM series its first file.
    pub path: PathBuf,
    /// Its place below the directory that was searched, without ending; names it apart from others with the same stem.
    pub place: PathBuf,
    /// The id that the slide list gives it.
    pub listed_id: Option<String>,
    /// What the user says about its resolution.
    pub mpp: MppOverride,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Slides, sorted by path, none twice.
    pub slides: Vec<Found>,
    /// Files that are no slides, by ending (lower case; empty for none).
    pub skipped: BTreeMap<String, usize>,
}

impl Discovery {
    /// Slides by ending, for the summary.
    #[must_use]
    pub fn formats(&self) -> BTreeMap<String, usize> {
        let mut formats = BTreeMap::new();
        for slide in &self.slides {
            *formats.entry(extension(&slide.path)).or_default() += 1;
        }
        formats
    }
}

fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// A row of a slide list.
#[derive(Deserialize)]
struct Row {
    path: PathBuf,
    mpp: Option<String>,
    id: Option<String>,
}

/// Finds the slides that `inputs` and `list` name. `mpp` holds for all of them, a list's own value goes before it.
///
/// # Errors
/// [`Error::Usage`] where an input does not exist or the list cannot be read; says where.
pub fn discover(inputs: &[PathBuf], list: Option<&Path>, mpp: MppOverride) -> Result<Discovery> {
    let mut found = Discovery::default();
    for input in inputs {
        let there = std::fs::metadata(input)
            .map_err(|e| Error::Usage(format!("cannot look for slides: {e}: \"{}\"", input.display())))?;
        if there.is_dir() {
            search(input, mpp, &mut found)?;
        } else {
            let place = PathBuf::from(input.file_stem().unwrap_or_default());
            found.slides.push(Found { path: input.clone(), place, listed_id: None, mpp });
        }
    }
    if let Some(list) = list {
        read_list(list, mpp, &mut found)?;
    }
    found.slides.sort_by(|a, b| a.path.cmp(&b.path));
    let mut seen = BTreeSet::new();
    found.slides.retain(|s| seen.insert(std::fs::canonicalize(&s.path).unwrap_or_else(|_| s.path.clone())));
    Ok(found)
}

fn search(root: &Path, mpp: MppOverride, found: &mut Discovery) -> Result<()> {
    // A series of DICOM files in one directory is one slide, opened by its first file.
    let mut series: BTreeSet<PathBuf> = BTreeSet::new();
    let walk = walkdir::WalkDir::new(root).follow_links(true).sort_by_file_name();
    let walk = walk.into_iter().filter_entry(|e| {
        let hidden = e.depth() > 0 && e.file_name().to_string_lossy().starts_with('.');
        // name.mrxs keeps its data in the directory name/.
        let companion = e.depth() > 0 && e.file_type().is_dir() && e.path().with_extension("mrxs").is_file();
        !hidden && !companion
    });
    for entry in walk {
        let entry = entry.map_err(|e| Error::Usage(format!("cannot look for slides: {e}")))?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.into_path();
        let ending = extension(&path);
        if !EXTENSIONS.contains(&ending.as_str()) {
            *found.skipped.entry(ending).or_default() += 1;
            continue;
        }
        let mut place = path.strip_prefix(root).unwrap_or(&path).with_extension("");
        if ending == "dcm" {
            let directory = path.parent().unwrap_or(root).to_path_buf();
            if !series.insert(directory.clone()) {
                continue;
            }
            place = match directory.strip_prefix(root) {
                Ok(below) if !below.as_os_str().is_empty() => below.to_path_buf(),
                _ => PathBuf::from(directory.file_name().unwrap_or_default()),
            };
        }
        found.slides.push(Found { path, place, listed_id: None, mpp });
    }
    Ok(())
}

fn read_list(list: &Path, mpp: MppOverride, found: &mut Discovery) -> Result<()> {
    let wrong = |why: String| Error::Usage(format!("slide list: {why}: \"{}\"", list.display()));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .flexible(true)
        .from_path(list)
        .map_err(|e| wrong(e.to_string()))?;
    let headers = reader.headers().map_err(|e| wrong(e.to_string()))?.clone();
    // TRIDENT's lists call the column `wsi`.
    let headers: csv::StringRecord = headers.iter().map(|h| if h == "wsi" { "path" } else { h }).collect();
    if !headers.iter().any(|h| h == "path") {
        return Err(wrong("the first line must name the columns: path[,mpp][,id]".into()));
    }
    let directory = list.parent().unwrap_or(Path::new(""));
    for record in reader.records() {
        let record = record.map_err(|e| wrong(e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(|e| wrong(format!("line {line}: {e}")))?;
        if row.path.as_os_str().is_empty() {
            continue;
        }
        let given = row.mpp.filter(|m| !m.is_empty());
        let given = given
            .map(|m| parse_number(&m).ok_or_else(|| wrong(format!("line {line}: '{m}' is no number of µm per pixel"))))
            .transpose()?;
        let mpp = match given {
            Some(value) => MppOverride { given: Some((value, MppSource::SlideList)), ..mpp },
            None => mpp,
        };
        let listed_id = row.id.filter(|id| !id.is_empty());
        if let Some(id) = &listed_id
            && !is_plain(id)
        {
            return Err(wrong(format!(
                "line {line}: the id may hold letters, digits, '-', '_', '.' and must not start with '.'"
            )));
        }
        // As written, or beside the list.
        let path = if row.path.exists() { row.path } else { directory.join(row.path) };
        let place = PathBuf::from(path.file_stem().unwrap_or_default());
        found.slides.push(Found { path, place, listed_id, mpp });
    }
    Ok(())
}

/// Whether a name can be a file's name everywhere.
pub(super) fn is_plain(id: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
    !id.is_empty() && id.len() <= 200 && !id.starts_with(['.', ' ']) && id.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
            std::fs::write(path, b"x").expect("writes");
        }
    }

    #[test]
    fn directories_are_searched_to_the_bottom() {
        let root = tempfile::tempdir().expect("temporary directory");
        let names = [
            "b.svs",
            "a/b.SVS",
            "a/notes.txt",
            "m.mrxs",
            "m/Data0001.dat",
            "m/inner.tif",
            ".hidden.svs",
            "series/2.dcm",
            "series/1.dcm",
            "LICENSE",
        ];
        touch(root.path(), &names);
        let found = discover(&[root.path().to_path_buf()], None, MppOverride::default()).expect("searches");
        let places: Vec<_> = found.slides.iter().map(|s| s.place.to_string_lossy().into_owned()).collect();
        assert_eq!(places, ["a/b", "b", "m", "series"]);
        assert!(found.slides[3].path.ends_with("series/1.dcm"));
        assert_eq!(found.skipped.get("txt"), Some(&1));
        assert_eq!(found.skipped.get(""), Some(&1));
        assert_eq!(found.formats().get("svs"), Some(&2));
        let twice = [root.path().to_path_buf(), root.path().join("b.svs")];
        assert_eq!(discover(&twice, None, MppOverride::default()).expect("searches").slides.len(), 4);
    }

    #[test]
    fn slide_lists_name_path_mpp_and_id() {
        let root = tempfile::tempdir().expect("temporary directory");
        touch(root.path(), &["a.svs", "b.svs"]);
        let list = root.path().join("slides.csv");
        std::fs::write(&list, "wsi,mpp,id\na.svs,\"0,25\",case-1\nb.svs,,\nmissing.svs\n").expect("writes");
        let found = discover(&[], Some(&list), MppOverride::default()).expect("reads");
        assert_eq!(found.slides.len(), 3);
        assert_eq!(found.slides[0].mpp.given, Some((0.25, MppSource::SlideList)));
        assert_eq!(found.slides[0].listed_id.as_deref(), Some("case-1"));
        assert_eq!((found.slides[1].mpp.given, found.slides[1].listed_id.clone()), (None, None));
        for (text, words) in [
            ("a.svs\n", "name the columns"),
            ("path,mpp\na.svs,fine\n", "line 2: 'fine'"),
            ("path,id\na.svs,../x\n", "line 2: the id"),
        ] {
            std::fs::write(&list, text).expect("writes");
            let error = discover(&[], Some(&list), MppOverride::default()).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_input_that_does_not_exist_is_told() {
        let error = discover(&["nowhere".into()], None, MppOverride::default()).expect_err("refused");
        assert!(matches!(error, Error::Usage(_)));
    }
}
