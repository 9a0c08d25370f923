//! Which name a slide has in OUT: its stem, unless another slide has it already.
//!
//! `site-private/ids/<id>.json` holds, for each id, the slide's path and a fingerprint of the content of all its files. It is
//! created once, so of several workers the first decides. The same content under another path (a moved archive) keeps its id;
//! other content under the same path (a slide scanned or copied again) keeps its id and is embedded anew; other content under
//! another path gets another id, so that two slides of one name never take each other's results.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::discover::{Found, is_plain};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::record::publish;
use crate::slide::companions::Companions;

/// The directory below OUT that never leaves the site.
pub const PRIVATE: &str = "site-private";

#[derive(Serialize, Deserialize, PartialEq)]
struct Claim {
    path: String,
    fingerprint: String,
}

/// Gives every slide its id. `invalidate` is told the id of a slide whose content changed, before the change is noted: what
/// OUT holds under it must no longer count as done.
///
/// # Errors
/// [`Error::Write`] where OUT cannot be written, [`Error::Usage`] where the slide list gives one id to two slides.
pub fn assign(out: &Path, slides: &[Found], invalidate: &dyn Fn(&str) -> Result<()>) -> Result<Vec<String>> {
    let directory = out.join(PRIVATE).join("ids");
    publish::create_dir_all(&directory).map_err(|e| Error::write(format!("{PRIVATE}/ids"), e))?;
    let companions = Companions::of_slides(slides.iter().map(|s| s.path.as_path()));
    let fingerprints: Vec<String> = slides.par_iter().map(|s| fingerprint(&s.path, &companions)).collect();
    let mut taken = std::collections::HashSet::new();
    let mut ids = Vec::with_capacity(slides.len());
    for (slide, fingerprint) in slides.iter().zip(fingerprints) {
        let path = std::path::absolute(&slide.path).unwrap_or_else(|_| slide.path.clone());
        let claim = Claim { path: path.to_string_lossy().into_owned(), fingerprint };
        let mut assigned = None;
        for id in candidates(slide, &claim) {
            let mine =
                !taken.contains(&id) && claim_id(&directory, &id, &claim, slide.listed_id.is_some(), invalidate)?;
            if mine {
                assigned = Some(id);
                break;
            }
        }
        let Some(id) = assigned else {
            let id = slide.listed_id.as_deref().unwrap_or_default();
            return Err(Error::Usage(format!("the slide list gives the id '{id}' to more than one slide")));
        };
        taken.insert(id.clone());
        ids.push(id);
    }
    Ok(ids)
}

/// Names to try, the plainest first; the last cannot be another slide's.
fn candidates(slide: &Found, claim: &Claim) -> Vec<String> {
    if let Some(id) = &slide.listed_id {
        return vec![id.clone()];
    }
    let clean = |text: &str| {
        let text: String = text.chars().map(|c| if is_plain(&format!("a{c}")) { c } else { '_' }).collect();
        let text: String = text.trim_start_matches(['.', ' ']).chars().take(150).collect();
        if text.is_empty() { "slide".to_string() } else { text }
    };
    let stem = clean(&slide.place.file_name().unwrap_or_default().to_string_lossy());
    let place: Vec<_> = slide.place.iter().map(|part| part.to_string_lossy()).collect();
    let place = clean(&place.join("__"));
    let unique = format!("{stem}-{}", &sha256(format!("{}\n{}", claim.path, claim.fingerprint).as_bytes())[..12]);
    vec![stem, place, unique]
}

/// Takes an id for a slide; `false` where another slide has it.
fn claim_id(
    directory: &Path,
    id: &str,
    claim: &Claim,
    listed: bool,
    invalidate: &dyn Fn(&str) -> Result<()>,
) -> Result<bool> {
    let file = directory.join(format!("{id}.json"));
    let failed = |e: io::Error| Error::write(format!("{PRIVATE}/ids"), e);
    let text = serde_json::to_vec_pretty(claim).map_err(|e| Error::Internal(e.to_string()))?;
    let mut existing = read_claim(&file);
    if existing.is_none() {
        if publish::create_once(&file, &text).map_err(failed)? {
            return Ok(true);
        }
        existing = read_claim(&file);
    }
    match existing {
        Some(existing) if existing.fingerprint == claim.fingerprint => Ok(true),
        // A list's id means the slide that the list says.
        Some(existing) if existing.path != claim.path && !listed => Ok(false),
        _ => {
            invalidate(id)?;
            publish::write_atomic(&file, &text).map_err(failed)?;
            Ok(true)
        }
    }
}

fn read_claim(file: &Path) -> Option<Claim> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Size and sha256 of the first and last 64 KiB: told apart in a moment, also over a network. Where a slide has companions,
/// their count and the sha256 of their names, sizes and samples are added. An unreadable slide has the empty fingerprint and
/// fails when it is opened.
fn fingerprint(slide: &Path, companions: &Companions) -> String {
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
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.by_ref().take(PIECE).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(length.saturating_sub(PIECE)))?;
    file.take(PIECE).read_to_end(&mut bytes)?;
    Ok(format!("{length}-{}", sha256(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slide::mpp::MppOverride;

    fn found(root: &Path, name: &str, content: &str) -> Found {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        std::fs::write(&path, content).expect("writes");
        let place = Path::new(name).with_extension("");
        Found { path, place, listed_id: None, mpp: MppOverride::default() }
    }

    /// The ids, and which of them were invalidated.
    fn ids(out: &Path, slides: &[Found]) -> (Vec<String>, Vec<String>) {
        let invalid = std::cell::RefCell::new(Vec::new());
        let invalidate = |id: &str| {
            invalid.borrow_mut().push(id.to_string());
            Ok(())
        };
        let ids = assign(out, slides, &invalidate).expect("assigns");
        (ids, invalid.into_inner())
    }

    #[test]
    fn one_stem_in_two_folders_never_collides() {
        let root = tempfile::tempdir().expect("temporary directory");
        let out = root.path().join("out");
        let slides = [found(root.path(), "a/x.svs", "1"), found(root.path(), "b/x.svs", "2")];
        assert_eq!(ids(&out, &slides).0, ["x", "b__x"]);
        assert_eq!(ids(&out, &slides), (vec!["x".into(), "b__x".into()], vec![]), "again");
        assert_eq!(ids(&out, &slides[1..]).0, ["b__x"], "alone");
        let third = found(root.path(), "c/x.svs", "3");
        assert_eq!(ids(&out, &[third]).0, ["c__x"]);
        // Another archive with the same folder and stem.
        let fourth = Found { path: root.path().join("b2.svs"), ..found(root.path(), "b/x.svs", "2") };
        std::fs::write(&fourth.path, "4").expect("writes");
        assert!(ids(&out, &[fourth]).0[0].starts_with("x-"));
    }

    #[test]
    fn moved_slides_keep_their_id_and_changed_ones_are_told() {
        let root = tempfile::tempdir().expect("temporary directory");
        let out = root.path().join("out");
        let same = (vec!["x".to_string()], vec![]);
        let changed = (vec!["x".to_string()], vec!["x".to_string()]);
        assert_eq!(ids(&out, &[found(root.path(), "a/x.svs", "1")]), same);
        assert_eq!(ids(&out, &[found(root.path(), "elsewhere/x.svs", "1")]), same);
        assert_eq!(ids(&out, &[found(root.path(), "a/x.svs", "rescanned")]), changed);
        assert_eq!(ids(&out, &[found(root.path(), "a/x.svs", "rescanned")]), same);
    }

    #[test]
    fn odd_names_become_plain_ones() {
        let root = tempfile::tempdir().expect("temporary directory");
        let out = root.path().join("out");
        let got = ids(&out, &[found(root.path(), "a:b*c?.svs", "1")]);
        assert_eq!(got.0, ["a_b_c_"]);
    }

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
