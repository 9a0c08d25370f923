//! Which name a slide has in OUT.
//!
//! `site-private/ids/<id>.json` holds, for each id, the slide's path and a fingerprint of the content of all its files. It is
//! created once, so of several workers the first decides. The same content under another path (a moved archive) keeps its id;
//! other content under the same path (a slide scanned or copied again) keeps its id and is embedded anew; other content under
//! another path gets another id, so that two slides of one name never take each other's results.
//!
//! What an id is made of is [`naming::IdMode`]'s: the slide's name (`keep`), random numbers, or a keyed hash (`table`).

mod fingerprint;
mod keep;
pub mod naming;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::discover::Found;
use crate::error::{Error, Result};
pub use crate::record::publish::PRIVATE;
use crate::record::sealed::Identities;
use crate::record::{list, publish};
use crate::slide::companions::Companions;
use fingerprint::fingerprint;
pub use naming::is_made;
use naming::{IdMode, Naming, NamingRecord};
pub use table::Who;

/// Gives every slide its id. `invalidate` is told the id of a slide whose content changed, before the change is noted: what
/// OUT holds under it must no longer count as done.
///
/// # Errors
/// [`Error::Write`] where OUT cannot be written, [`Error::Incompatible`] where it names its slides in another way,
/// [`Error::Usage`] where the slide list gives one id to two slides.
pub fn assign(
    out: &Path,
    slides: &[Found],
    naming: &Naming,
    invalidate: &dyn Fn(&str) -> Result<()>,
) -> Result<Vec<String>> {
    publish::create_private_dir(out).map_err(|e| Error::write(PRIVATE, e))?;
    naming.claim(out)?;
    let directory = out.join(PRIVATE).join("ids");
    publish::create_dir_all(&directory).map_err(|e| Error::write(format!("{PRIVATE}/ids"), e))?;
    let companions = Companions::of_slides(slides.iter().map(|s| s.path.as_path()));
    let fingerprints: Vec<String> = slides.par_iter().map(|s| fingerprint(&s.path, &companions)).collect();
    if !naming.mode.hides_names() {
        return keep::assign(&directory, slides, fingerprints, invalidate);
    }
    listed_once(slides)?;
    table::Table::open(&directory, naming)?.assign(slides, &fingerprints, invalidate)
}

/// Refuses a slide list that gives one id to two slides, in words without the id.
fn listed_once(slides: &[Found]) -> Result<()> {
    let mut lines = BTreeMap::new();
    for slide in slides {
        let Some(id) = &slide.listed_id else { continue };
        let line = slide.line.unwrap_or_default();
        if let Some(first) = lines.insert(id, line) {
            let (first, second) = (first.min(line), first.max(line));
            return Err(Error::Usage(format!("the slide list gives one id to two slides: lines {first} and {second}")));
        }
    }
    Ok(())
}

/// The fingerprint of the content of the slide that has this id; `None` where it is not known.
#[must_use]
pub fn fingerprint_of(out: &Path, id: &str) -> Option<String> {
    let file = out.join(PRIVATE).join("ids").join(format!("{id}.json"));
    let listed = || table::read_entry(&file).map(|entry| entry.fingerprint);
    let known = keep::read_claim(&file).map(|claim| claim.fingerprint).or_else(listed);
    known.filter(|fingerprint| !fingerprint.is_empty())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// An id and the slide that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The id.
    pub id: String,
    /// The slide; `None` where it is encrypted and cannot be opened.
    pub slide: Option<Who>,
}

/// All ids that OUT has given, sorted.
///
/// # Errors
/// [`Error::Usage`] where OUT has none, [`Error::Output`] where they cannot be read.
pub fn rows(out: &Path, identities: &Identities) -> Result<Vec<Row>> {
    let Some(naming) = NamingRecord::read(out)? else {
        return Err(Error::Usage(format!("not an OUT of paraffin: it has no {PRIVATE}/ids.json")));
    };
    let unreadable = |e: &dyn std::fmt::Display| Error::Output(format!("{PRIVATE}/ids cannot be read: {e}"));
    let mut rows = Vec::new();
    for (name, is_dir) in list(&out.join(PRIVATE).join("ids")).map_err(|e| unreadable(&e))? {
        let Some(id) = name.strip_suffix(".json").filter(|id| !is_dir && !id.starts_with('.')) else { continue };
        let (_, slide) =
            known(out, naming.mode, id, identities).ok_or_else(|| unreadable(&"a file in it is damaged"))?;
        rows.push(Row { id: id.to_string(), slide });
    }
    Ok(rows)
}

/// The fingerprint of the slide that has an id, and, unless that is encrypted, who it is.
fn known(out: &Path, mode: IdMode, id: &str, identities: &Identities) -> Option<(String, Option<Who>)> {
    let file = out.join(PRIVATE).join("ids").join(format!("{id}.json"));
    match mode {
        IdMode::Keep => keep::read_claim(&file).map(|claim| {
            let who = Who { path: claim.path, listed_id: None };
            (claim.fingerprint, Some(who))
        }),
        _ => table::read_entry(&file).map(|entry| (entry.fingerprint, entry.slide.open(identities))),
    }
}

/// Where the slide of an id lies: where it lay when it got its id, or, after an archive was moved, a file of the same name in or
/// below `others`; any file there, where the name is encrypted. The content decides, not the name.
///
/// # Errors
/// [`Error::Usage`] where it is nowhere, or what is there has changed.
pub fn locate(out: &Path, id: &str, others: &[PathBuf]) -> Result<PathBuf> {
    let unknown = || Error::Usage(format!("{PRIVATE}/ids does not know where this slide lies"));
    let naming = NamingRecord::read(out)?.ok_or_else(unknown)?;
    let (content, who) = known(out, naming.mode, id, &Identities::default()).ok_or_else(unknown)?;
    let told = who.map(|who| PathBuf::from(who.path));
    let is_it = |path: &Path| fingerprint(path, &Companions::of_slides(std::iter::once(path))) == content;
    if let Some(told) = told.as_ref().filter(|told| told.exists() && is_it(told)) {
        return Ok(told.clone());
    }
    let named = |entry: &walkdir::DirEntry| {
        entry.file_type().is_file() && told.as_ref().is_none_or(|told| Some(entry.file_name()) == told.file_name())
    };
    for directory in others {
        let files = walkdir::WalkDir::new(directory).sort_by_file_name().into_iter().flatten();
        if let Some(found) = files.filter(named).find(|entry| is_it(entry.path())) {
            return Ok(found.into_path());
        }
    }
    Err(Error::Usage(match told.is_some_and(|told| told.exists()) {
        true => "the slide has changed since it was embedded".into(),
        false => "the slide is not where it was; --slides DIR says where to look".into(),
    }))
}

/// The directories of `site-private` in which temporary files may be left.
pub(super) fn directories(out: &Path) -> [PathBuf; 4] {
    let private = out.join(PRIVATE);
    ["", "ids", "ids/names", "ids/contents"].map(|below| private.join(below))
}
