//! Plain ids: the slide's stem, unless another slide has it already; then the place below the searched directory, then a hash.
//!
//! The same content under another path keeps its id where its name is the same; other content under another path gets
//! another id.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::discover::{Found, is_plain};
use super::{PRIVATE, absolute};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::record::publish;

#[derive(Serialize, Deserialize, PartialEq)]
pub(super) struct Claim {
    pub(super) path: String,
    pub(super) fingerprint: String,
}

/// As [`super::assign`].
pub(super) fn assign(
    directory: &Path,
    slides: &[Found],
    fingerprints: Vec<String>,
    invalidate: &dyn Fn(&str) -> Result<()>,
) -> Result<Vec<String>> {
    let mut taken = HashSet::new();
    let mut ids = Vec::with_capacity(slides.len());
    for (slide, fingerprint) in slides.iter().zip(fingerprints) {
        let claim = Claim { path: absolute(&slide.path).to_string_lossy().into_owned(), fingerprint };
        let mut assigned = None;
        for id in candidates(slide, &claim) {
            let mine = !taken.contains(&id) && claim_id(directory, &id, &claim, slide.listed_id.is_some(), invalidate)?;
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
        // It cannot be read now. That says nothing of its content, and what is done stays done.
        Some(existing) if existing.path == claim.path && claim.fingerprint.is_empty() => Ok(true),
        // A list's id means the slide that the list says.
        Some(existing) if existing.path != claim.path && !listed => Ok(false),
        _ => {
            invalidate(id)?;
            publish::write_atomic(&file, &text).map_err(failed)?;
            Ok(true)
        }
    }
}

pub(super) fn read_claim(file: &Path) -> Option<Claim> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::naming::Naming;
    use super::*;
    use crate::slide::mpp::MppOverride;

    fn found(root: &Path, name: &str, content: &str) -> Found {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        std::fs::write(&path, content).expect("writes");
        let place = Path::new(name).with_extension("");
        Found { path, place, listed_id: None, line: None, mpp: MppOverride::default() }
    }

    /// The ids, and which of them were invalidated.
    fn ids(out: &Path, slides: &[Found]) -> (Vec<String>, Vec<String>) {
        let invalid = std::cell::RefCell::new(Vec::new());
        let invalidate = |id: &str| {
            invalid.borrow_mut().push(id.to_string());
            Ok(())
        };
        let ids = super::super::assign(out, slides, &Naming::default(), &invalidate).expect("assigns");
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
}
