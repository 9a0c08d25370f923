//! Which slides a run is about: files, directories (all that lies below them) and slide lists.
//!
//! Where ids hide names, messages name an input by its place (the 2nd path, line 3 of the slide list).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ids::naming::IdMode;
use crate::error::{Error, Result};
use crate::slide::EXTENSIONS;
use crate::slide::dicom::series::{self, Directory};
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
    /// Its line in the slide list.
    pub line: Option<u64>,
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

/// An input as messages name it.
struct Place<'a> {
    input: &'a Path,
    number: usize,
    ids: IdMode,
}

impl Place<'_> {
    /// That it cannot be searched for slides, and why; `at` is the file or directory below it that is the matter.
    fn unsearchable(&self, why: impl std::fmt::Display, at: Option<&Path>) -> Error {
        let at = at.unwrap_or(self.input);
        let place = match (self.ids.hides_names(), at == self.input) {
            (false, _) => format!("\"{}\"", at.display()),
            (true, true) => format!("path number {}", self.number),
            (true, false) => format!("below path number {}", self.number),
        };
        Error::Usage(format!("cannot look for slides: {why}: {place}"))
    }
}

/// Finds the slides that `inputs` and `list` name. `mpp` holds for all of them, a list's own value goes before it.
///
/// # Errors
/// [`Error::Usage`] where an input does not exist or the list cannot be read; says where.
pub fn discover(inputs: &[PathBuf], list: Option<&Path>, mpp: MppOverride, ids: IdMode) -> Result<Discovery> {
    let mut found = Discovery::default();
    let mut dicom = DicomNames::default();
    for (number, input) in inputs.iter().enumerate() {
        let place = Place { input, number: number + 1, ids };
        let there = std::fs::metadata(input).map_err(|e| place.unsearchable(e, None))?;
        if there.is_dir() {
            search(&place, mpp, &mut found)?;
        } else {
            let (path, place) = dicom.entry_of(input);
            found.slides.push(Found { path, place, listed_id: None, line: None, mpp });
        }
    }
    if let Some(list) = list {
        read_list(list, mpp, ids, &mut dicom, &mut found)?;
    }
    found.slides.sort_by(|a, b| a.path.cmp(&b.path));
    let mut seen = BTreeSet::new();
    found.slides.retain(|s| seen.insert(std::fs::canonicalize(&s.path).unwrap_or_else(|_| s.path.clone())));
    Ok(found)
}

fn search(place: &Place, mpp: MppOverride, found: &mut Discovery) -> Result<()> {
    let root = place.input;
    // A series of DICOM files in one directory is one slide, opened by its first file.
    let mut dicom: BTreeSet<PathBuf> = BTreeSet::new();
    let walk = walkdir::WalkDir::new(root).follow_links(true).sort_by_file_name();
    let walk = walk.into_iter().filter_entry(|e| {
        let hidden = e.depth() > 0 && e.file_name().to_string_lossy().starts_with('.');
        // name.mrxs keeps its data in the directory name/.
        let companion = e.depth() > 0 && e.file_type().is_dir() && e.path().with_extension("mrxs").is_file();
        !hidden && !companion
    });
    for entry in walk {
        let entry = entry.map_err(|e| {
            let at = e.path().map(Path::to_path_buf);
            // Its own words name the path.
            match e.into_io_error() {
                Some(why) => place.unsearchable(why, at.as_deref()),
                None => place.unsearchable("a symbolic link leads back to a directory above it", at.as_deref()),
            }
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.into_path();
        let ending = extension(&path);
        if !EXTENSIONS.contains(&ending.as_str()) {
            *found.skipped.entry(ending).or_default() += 1;
            continue;
        }
        if ending == "dcm" {
            let directory = path.parent().unwrap_or(root).to_path_buf();
            if dicom.insert(directory.clone()) {
                let there = series::in_directory(&directory).map_err(|e| place.unsearchable(e, Some(&directory)))?;
                if !there.others.is_empty() {
                    *found.skipped.entry(ending).or_default() += there.others.len();
                }
                for number in 0..there.series.len() {
                    let path = directory.join(&there.series[number].files[0]);
                    let name = dicom_name(&directory, &there, number);
                    // Below the root as other slides; the root itself is not below it.
                    let below = directory.strip_prefix(root).unwrap_or(Path::new(""));
                    let by_directory = there.series[number].files.len() > 1 && there.series.len() == 1;
                    let place =
                        if by_directory { below.parent().unwrap_or(below).join(name) } else { below.join(name) };
                    found.slides.push(Found { path, place, listed_id: None, line: None, mpp });
                }
            }
            continue;
        }
        let place = path.strip_prefix(root).unwrap_or(&path).with_extension("");
        found.slides.push(Found { path, place, listed_id: None, line: None, mpp });
    }
    Ok(())
}

/// What a DICOM series is called: by its file where it is one; by the directory that it fills; otherwise by its first file.
fn dicom_name(directory: &Path, there: &Directory, number: usize) -> PathBuf {
    let files = &there.series[number].files;
    if files.len() > 1 && there.series.len() == 1 {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
        if let Some(name) = directory.file_name() {
            return name.into();
        }
    }
    PathBuf::from(Path::new(&files[0]).file_stem().unwrap_or_default())
}

/// Finds the series that DICOM files belong to; every directory is looked at once.
#[derive(Default)]
struct DicomNames {
    directories: BTreeMap<PathBuf, Directory>,
}

impl DicomNames {
    /// The file that stands for a slide, and the slide's place: of a DICOM file the first of its series, so that a series is
    /// one slide under one name, whichever of its files are given.
    fn entry_of(&mut self, path: &Path) -> (PathBuf, PathBuf) {
        let as_it_is = || (path.to_path_buf(), PathBuf::from(path.file_stem().unwrap_or_default()));
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return as_it_is() };
        if extension(path) != "dcm" {
            return as_it_is();
        }
        let there = self.directories.entry(directory.to_path_buf());
        let there = there.or_insert_with(|| series::in_directory(directory).unwrap_or_default());
        match there.series.iter().position(|s| s.files.iter().any(|f| f == name)) {
            Some(number) => (path.with_file_name(&there.series[number].files[0]), dicom_name(directory, there, number)),
            None => as_it_is(),
        }
    }
}

fn read_list(list: &Path, mpp: MppOverride, ids: IdMode, dicom: &mut DicomNames, found: &mut Discovery) -> Result<()> {
    let wrong = |why: String| match ids.hides_names() {
        false => Error::Usage(format!("slide list: {why}: \"{}\"", list.display())),
        true => Error::Usage(format!("slide list: {why}")),
    };
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
            .map(|m| {
                let given = if ids.hides_names() { "the mpp".to_string() } else { format!("'{m}'") };
                parse_number(&m).ok_or_else(|| wrong(format!("line {line}: {given} is no number of µm per pixel")))
            })
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
        // A directory is a slide where it holds one DICOM series.
        let path =
            if path.is_dir() { series::entry_of(&path).map_err(|e| wrong(format!("line {line}: {e}")))? } else { path };
        let (path, place) = dicom.entry_of(&path);
        found.slides.push(Found { path, place, listed_id, line: Some(line), mpp });
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
        let found =
            discover(&[root.path().to_path_buf()], None, MppOverride::default(), IdMode::Keep).expect("searches");
        let places: Vec<_> = found.slides.iter().map(|s| s.place.to_string_lossy().into_owned()).collect();
        assert_eq!(places, ["a/b", "b", "m", "series"]);
        assert!(found.slides[3].path.ends_with("series/1.dcm"));
        assert_eq!(found.skipped.get("txt"), Some(&1));
        assert_eq!(found.skipped.get(""), Some(&1));
        assert_eq!(found.formats().get("svs"), Some(&2));
        let twice = [root.path().to_path_buf(), root.path().join("b.svs")];
        assert_eq!(discover(&twice, None, MppOverride::default(), IdMode::Keep).expect("searches").slides.len(), 4);
    }

    fn copy(from: &str, to: &Path) {
        std::fs::create_dir_all(to.parent().expect("has a parent")).expect("creates");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dicom").join(from);
        std::fs::copy(from, to).expect("copies");
    }

    #[test]
    fn a_dicom_series_is_one_slide() {
        let root = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| root.path().join(name);
        let names = ["a_half", "b_full", "c_quarter", "d_label"];
        for name in names {
            copy(&format!("three_levels/{name}.dcm"), &path(&format!("x/one/{name}.dcm")));
            copy(&format!("three_levels/{name}.dcm"), &path(&format!("two/{name}.dcm")));
        }
        copy("sparse/sparse.dcm", &path("two/z.dcm"));
        copy("eot/eot.dcm", &path("alone/scan.dcm"));
        copy("three_levels/d_label.dcm", &path("labels/l.dcm"));
        let places = |inputs: &[PathBuf]| -> Vec<String> {
            let found = discover(inputs, None, MppOverride::default(), IdMode::Keep).expect("searches");
            found.slides.iter().map(|s| s.place.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(places(&[root.path().to_path_buf()]), ["alone/scan", "two/a_half", "two/z", "x/one"]);
        let found = discover(&[path("x")], None, MppOverride::default(), IdMode::Keep).expect("searches");
        assert!(found.slides[0].path.ends_with("x/one/a_half.dcm") && found.skipped.is_empty());
        let labels = discover(&[path("labels")], None, MppOverride::default(), IdMode::Keep).expect("searches");
        assert_eq!((labels.slides.len(), labels.skipped.get("dcm")), (0, Some(&1)));
        // By directory, by one of its files, by all of them (a shell's glob), or by the slide list: one slide, one name.
        assert_eq!(places(&[path("x/one")]), ["one"]);
        assert_eq!(places(&[path("x/one/c_quarter.dcm")]), ["one"]);
        assert_eq!(places(&names.map(|n| path(&format!("x/one/{n}.dcm")))), ["one"]);
        let list = path("slides.csv");
        std::fs::write(&list, "path,mpp\nx/one,0.5\n").expect("writes");
        let listed = discover(&[], Some(&list), MppOverride::default(), IdMode::Keep).expect("reads");
        assert_eq!(
            (listed.slides[0].path.clone(), listed.slides[0].place.clone()),
            (path("x/one/a_half.dcm"), "one".into())
        );
        std::fs::write(&list, "path\ntwo\n").expect("writes");
        let error = discover(&[], Some(&list), MppOverride::default(), IdMode::Keep).expect_err("refused").to_string();
        assert!(error.contains("2 DICOM series"), "{error}");
    }

    #[test]
    fn flat_images_are_taken_only_where_they_are_named() {
        let root = tempfile::tempdir().expect("temporary directory");
        touch(root.path(), &["a.svs", "b.png", "c.jpg"]);
        let find = |inputs: &[PathBuf], list: Option<&Path>| {
            discover(inputs, list, MppOverride::default(), IdMode::Keep).expect("searches").slides.len()
        };
        assert_eq!(find(&[root.path().to_path_buf()], None), 1);
        assert_eq!(find(&[root.path().to_path_buf(), root.path().join("b.png")], None), 2);
        let list = root.path().join("slides.csv");
        std::fs::write(&list, "path,mpp\nb.png,0.5\nc.jpg,0.5\n").expect("writes");
        assert_eq!(find(&[], Some(&list)), 2);
    }

    #[test]
    fn slide_lists_name_path_mpp_and_id() {
        let root = tempfile::tempdir().expect("temporary directory");
        touch(root.path(), &["a.svs", "b.svs"]);
        let list = root.path().join("slides.csv");
        std::fs::write(&list, "wsi,mpp,id\na.svs,\"0,25\",case-1\nb.svs,,\nmissing.svs\n").expect("writes");
        let found = discover(&[], Some(&list), MppOverride::default(), IdMode::Keep).expect("reads");
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
            let error =
                discover(&[], Some(&list), MppOverride::default(), IdMode::Keep).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn where_names_are_hidden_inputs_are_told_by_their_place() {
        let root = tempfile::tempdir().expect("temporary directory");
        let person = root.path().join("Doe John");
        std::fs::create_dir(&person).expect("creates");
        let told = |inputs: &[PathBuf], list: Option<&Path>| {
            let error =
                discover(inputs, list, MppOverride::default(), IdMode::Random).expect_err("refused").to_string();
            assert!(!error.contains("Doe") && !error.contains("secret"), "{error}");
            error
        };
        assert!(told(&[person.clone(), person.join("secret.svs")], None).ends_with(": path number 2"));
        std::os::unix::fs::symlink(&person, person.join("secret")).expect("links");
        assert!(told(std::slice::from_ref(&person), None).ends_with(": below path number 1"));
        let list = person.join("secret.csv");
        std::fs::write(&list, "path,mpp,id\na.svs,secret,\n").expect("writes");
        assert!(told(&[], Some(&list)).contains("line 2: the mpp is no number"));
        std::fs::write(&list, "path,mpp,id\na.svs,,secret/1\n").expect("writes");
        assert!(told(&[], Some(&list)).contains("line 2: the id may hold"));
    }

    #[test]
    fn an_input_that_does_not_exist_is_told() {
        let error = discover(&["nowhere".into()], None, MppOverride::default(), IdMode::Keep).expect_err("refused");
        assert!(matches!(error, Error::Usage(_)));
    }
}
