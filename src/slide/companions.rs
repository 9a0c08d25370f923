//! The files that a slide has beside the one that it is opened by.
//!
//! DICOM: the other files of the series. 3DHISTECH MIRAX (`name.mrxs`): all in the directory `name`. Hamamatsu VMS and VMU:
//! the files that the index names, which lie beside it. All other formats are one file.
//! Reference: openslide.org/formats/mirax and /formats/hamamatsu; DICOM: `dicom::series`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::dicom::series::{self, Directory};

/// Largest VMS or VMU index that is looked into, in bytes.
const MAX_INDEX_BYTES: u64 = 1 << 20;

/// Finds companions; every directory of DICOM files is looked at once.
#[derive(Default)]
pub struct Companions {
    dicom: BTreeMap<PathBuf, Directory>,
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

impl Companions {
    /// Looks at the directories that these slides lie in, where they are DICOM.
    #[must_use]
    pub fn of_slides<'a>(slides: impl Iterator<Item = &'a Path>) -> Self {
        let mut dicom = BTreeMap::new();
        for directory in slides.filter(|s| ending(s) == "dcm").filter_map(Path::parent) {
            if !dicom.contains_key(directory) {
                dicom.insert(directory.to_path_buf(), series::in_directory(directory).unwrap_or_default());
            }
        }
        Companions { dicom }
    }

    /// The companions of a slide, sorted by path; without the slide itself.
    ///
    /// # Errors
    /// Where a directory cannot be listed or an index cannot be read.
    pub fn of(&self, slide: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = match ending(slide).as_str() {
            "dcm" => self.series_of(slide),
            "mrxs" => below(&slide.with_extension(""))?,
            "vms" | "vmu" => named_by(slide)?,
            _ => series::of_file(slide),
        };
        files.retain(|file| file != slide);
        files.sort();
        files.dedup();
        Ok(files)
    }

    fn series_of(&self, slide: &Path) -> Vec<PathBuf> {
        let (Some(directory), Some(name)) = (slide.parent(), slide.file_name()) else { return Vec::new() };
        let all = self.dicom.get(directory).map_or(&[][..], |there| &there.series[..]);
        let own = all.iter().find(|series| series.files.iter().any(|file| file == name));
        own.map_or(Vec::new(), |series| series.files.iter().map(|file| directory.join(file)).collect())
    }
}

/// All files below a directory; none where it is not there.
fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let entries = walkdir::WalkDir::new(directory).follow_links(true);
    let files = entries.into_iter().filter(|e| e.as_ref().map_or(true, |e| e.file_type().is_file()));
    files.map(|entry| Ok(entry?.into_path())).collect()
}

/// The files beside an index that are values in it (`key=value`).
fn named_by(index: &Path) -> io::Result<Vec<PathBuf>> {
    if std::fs::metadata(index)?.len() > MAX_INDEX_BYTES {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(index)?;
    let text = String::from_utf8_lossy(&bytes);
    let values = text.lines().filter_map(|line| line.split_once('=')).map(|(_, value)| value.trim());
    let plain = values.filter(|value| !value.is_empty() && Path::new(value).file_name() == Some((*value).as_ref()));
    Ok(plain.map(|name| index.with_file_name(name)).filter(|path| path.is_file()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_of_another_ending_is_found_too() {
        let series = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dicom/concatenation");
        let directory = tempfile::tempdir().expect("temporary directory");
        for part in ["1", "2"] {
            std::fs::copy(series.join(part).with_extension("dcm"), directory.path().join(part).with_extension("dicom"))
                .expect("copies");
        }
        let found = Companions::default().of(&directory.path().join("2.dicom")).expect("listed");
        assert_eq!(found, [directory.path().join("1.dicom")]);
    }

    #[test]
    fn an_index_names_only_files_beside_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("a.jpg"), "a").expect("writes");
        let index = directory.path().join("slides").join("x.vms");
        std::fs::create_dir(directory.path().join("slides")).expect("creates");
        std::fs::write(&index, "ImageFile=../a.jpg\nMapFile=..\nMacroImage=gone.jpg\nNoLayers=1\n=\n").expect("writes");
        assert!(Companions::default().of(&index).expect("listed").is_empty());
    }

    fn companions(file: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let slide = root.join(file);
        let found = Companions::of_slides(std::iter::once(slide.as_path())).of(&slide).expect("listed");
        let below = |path: &PathBuf| path.strip_prefix(&root).expect("below").to_string_lossy().replace('\\', "/");
        found.iter().map(below).collect()
    }

    #[test]
    fn every_file_of_a_slide_is_found() {
        assert_eq!(companions("dicom/concatenation/1.dcm"), ["dicom/concatenation/2.dcm"]);
        assert_eq!(companions("dicom/three_levels/a_half.dcm").len(), 5);
        assert_eq!(companions("generated/generic_none.tif"), [""; 0]);
        let mirax = ["Data0000.dat", "Index.dat", "Slidedat.ini"].map(|name| format!("openslide/mirax/{name}"));
        assert_eq!(companions("openslide/mirax.mrxs"), mirax);
        let vms = ["image.jpg", "macro.jpg", "map.jpg", "slide.opt"].map(|name| format!("openslide/vms/{name}"));
        assert_eq!(companions("openslide/vms/slide.vms"), vms);
        let vmu = ["image.ngr", "macro.jpg", "map.ngr"].map(|name| format!("openslide/vmu/{name}"));
        assert_eq!(companions("openslide/vmu/slide.vmu"), vmu);
    }
}
