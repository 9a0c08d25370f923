//! Whether two slides are the same content: a fingerprint of all their files.

use std::io;
use std::path::Path;

use crate::digest::sha256;
use crate::slide::companions::Companions;
use crate::slide::source::Source;

/// Size and sha256 of the first and last 64 KiB: told apart in a moment, also over a network. Where a slide has companions,
/// their count and the sha256 of their names, sizes and samples are added. An unreadable slide has the empty fingerprint and
/// fails when it is opened.
pub(super) fn fingerprint(slide: &Path, companions: &Companions) -> String {
    let read = || -> io::Result<String> {
        let own = sample(slide)?;
        let companions = companions.of(slide)?;
        if companions.is_empty() {
            return Ok(own);
        }
        // Relative to the slide, whose archive may be moved.
        let directory = slide.parent().unwrap_or(Path::new(""));
        let mut all = String::new();
        for file in &companions {
            let name = file.strip_prefix(directory).unwrap_or(file);
            all += &format!("{}\n{}\n", name.to_string_lossy(), sample(file)?);
        }
        Ok(format!("{own}-{}-{}", companions.len(), sha256(all.as_bytes())))
    };
    read().unwrap_or_default()
}

/// Size and sha256 of a file's first and last 64 KiB.
fn sample(path: &Path) -> io::Result<String> {
    const PIECE: u64 = 64 << 10;
    let source = Source::open(path)?;
    let length = source.length();
    let piece = length.min(PIECE) as usize;
    let (mut bytes, mut last) = (Vec::new(), Vec::new());
    source.read(0, piece, &mut bytes)?;
    source.read(length - piece as u64, piece, &mut last)?;
    bytes.append(&mut last);
    Ok(format!("{length}-{}", sha256(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Copies a fixture's directory.
    fn copied(from: &str, to: &Path) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(from);
        std::fs::create_dir_all(to).expect("creates");
        for entry in std::fs::read_dir(from).expect("there").map(|e| e.expect("an entry")) {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
            }
        }
    }

    #[test]
    fn a_changed_companion_is_a_changed_slide() {
        let root = tempfile::tempdir().expect("temporary directory");
        let own = |slide: &Path| fingerprint(slide, &Companions::of_slides(std::iter::once(slide)));
        copied("openslide", &root.path().join("mirax"));
        copied("openslide/mirax", &root.path().join("mirax/mirax"));
        copied("openslide/vms", &root.path().join("vms"));
        copied("openslide/vmu", &root.path().join("vmu"));
        copied("dicom/three_levels", &root.path().join("dicom"));
        for (slide, companion) in [
            ("mirax/mirax.mrxs", "mirax/mirax/Data0000.dat"),
            ("vms/slide.vms", "vms/image.jpg"),
            ("vmu/slide.vmu", "vmu/map.ngr"),
            ("dicom/a_half.dcm", "dicom/b_full.dcm"),
        ] {
            let (slide, companion) = (root.path().join(slide), root.path().join(companion));
            let before = own(&slide);
            assert!(!before.is_empty());
            assert_eq!(before, own(&slide), "again");
            let mut bytes = std::fs::read(&companion).expect("readable");
            *bytes.last_mut().expect("not empty") ^= 1;
            std::fs::write(&companion, &bytes).expect("writes");
            let changed = own(&slide);
            assert_ne!(changed, before, "{}: a byte", companion.display());
            bytes.push(0);
            std::fs::write(&companion, &bytes).expect("writes");
            assert_ne!(own(&slide), changed, "{}: its size", companion.display());
            bytes.pop();
            *bytes.last_mut().expect("not empty") ^= 1;
            std::fs::write(&companion, &bytes).expect("writes");
            assert_eq!(own(&slide), before, "{}: as it was", companion.display());
            std::fs::remove_file(&companion).expect("removes");
            assert_ne!(own(&slide), before, "{}: gone", companion.display());
        }
    }

    #[test]
    fn another_series_in_the_directory_changes_nothing() {
        let root = tempfile::tempdir().expect("temporary directory");
        copied("dicom/concatenation", root.path());
        let slide = root.path().join("1.dcm");
        let own = || fingerprint(&slide, &Companions::of_slides(std::iter::once(slide.as_path())));
        let before = own();
        copied("dicom/eot", root.path());
        assert_eq!(own(), before);
        let moved = tempfile::tempdir().expect("temporary directory");
        copied("dicom/concatenation", moved.path());
        let slide = moved.path().join("1.dcm");
        assert_eq!(fingerprint(&slide, &Companions::of_slides(std::iter::once(slide.as_path()))), before, "moved");
    }
}
