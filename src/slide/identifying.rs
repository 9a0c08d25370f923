//! What in a slide's metadata may identify it, a patient, a person, a place, a day or a device.
//!
//! A reader reports the names of such fields ([`super::SlideInfo::identifying_fields`]) and forgets their values.
//! [`of_slide`] hands out the values for one purpose: the audit looks for them in what would leave the site. They are never
//! printed, logged or written.

use std::path::Path;

use super::{FORMATS, Probe, dicom, openslide};
use crate::error::Result;

/// A field that may identify. Its value is kept out of [`std::fmt::Debug`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    /// Vendor and field, as `aperio.User`.
    pub name: String,
    /// What stands there; may be empty or long.
    pub value: String,
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Field({}, {} bytes)", self.name, self.value.len())
    }
}

impl Field {
    /// A field.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Field { name: name.into(), value: value.into() }
    }
}

/// The fields' names, each once, in their order.
#[must_use]
pub fn names(fields: &[Field]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    fields.iter().filter(|f| seen.insert(&f.name)).map(|f| f.name.clone()).collect()
}

/// The fields of a slide, with their values: by the native format that recognises it, otherwise by OpenSlide.
///
/// # Errors
/// As [`super::Slide::open`], though the slide's pixels need not be readable.
pub fn of_slide(path: &Path) -> Result<Vec<Field>> {
    let of_directory = if path.is_dir() { Some(dicom::series::entry_of(path)?) } else { None };
    let path = of_directory.as_deref().unwrap_or(path);
    let probe = Probe::new(path)?;
    match FORMATS.iter().find(|f| (f.recognise)(&probe)) {
        Some(format) => (format.identifying)(&probe),
        None => openslide::identifying(path),
    }
}

/// Text in bytes that are no text as a whole (EXIF, PNG chunks): runs of at least four printable characters.
pub(super) fn printable_runs(bytes: &[u8]) -> Vec<String> {
    let runs = bytes.split(|b| !(b' '..=b'~').contains(b)).filter(|run| run.len() >= 4);
    runs.map(|run| String::from_utf8_lossy(run).trim().to_string()).collect()
}

/// A value whose coding nobody states: UTF-8 where it is sound, otherwise Latin-1.
#[must_use]
pub fn lenient(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(file: &str) -> Vec<(String, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
        let fields = of_slide(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        fields.into_iter().map(|f| (f.name, f.value)).collect()
    }

    #[test]
    fn values_are_found_where_names_are_reported() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let mut with_fields = 0;
        for entry in walkdir::WalkDir::new(&root).into_iter().map(|e| e.expect("readable")) {
            let Ok(slide) = super::super::Slide::open_native(entry.path()) else { continue };
            let mut reported = slide.info().identifying_fields.clone();
            let mut found = names(&of_slide(entry.path()).expect("opens"));
            reported.sort();
            found.sort();
            assert_eq!(found, reported, "{}", entry.path().display());
            with_fields += usize::from(!reported.is_empty());
        }
        assert!(with_fields > 10, "{with_fields}");
    }

    #[test]
    fn known_values_are_handed_out_and_not_shown() {
        let got = values("CMU-1-Small-Region.svs");
        // As tiffinfo prints them.
        for (name, value) in [("aperio.User", "b414003d-95c6-48b0-9369-8010ed517ba7"), ("aperio.Date", "12/29/09")] {
            assert!(got.contains(&(name.into(), value.into())), "{name}: {got:?}");
        }
        assert!(!format!("{:?}", Field::new("aperio.User", "somebody")).contains("somebody"));
    }
}
