//! What the audit looks for: names of slides, parts of their paths, values of their identifying fields, and whose machine this
//! is. Terms stay in this process: reports name a term's kind, never the term.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use data_encoding::BASE64;
use rayon::prelude::*;

use crate::error::Result;
use crate::job::discover::discover;
use crate::job::ids;
use crate::job::ids::naming::IdMode;
use crate::record::sealed::Identities;
use crate::slide::identifying;
use crate::slide::mpp::MppOverride;

/// What a term is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A slide's stem, or its id in a slide list.
    SlideName,
    /// A directory above a slide.
    PathPart,
    /// The value of an identifying field, by the field's name.
    Field(String),
    /// This machine.
    Host,
    /// Who runs this.
    User,
}

/// Something to look for.
pub struct Term {
    /// In lower case, at least three characters.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// The terms of an audit, and what could not be looked for.
#[derive(Default)]
pub struct Terms {
    found: BTreeMap<String, Kind>,
    /// Terms of fewer than three characters, and numbers of fewer than five digits.
    pub too_short: BTreeSet<String>,
    /// Names of files and folders that are common words.
    pub common: BTreeSet<String>,
    /// Slides whose fields could not be read, by the error's kind.
    pub unread: BTreeMap<&'static str, u64>,
    /// Slides whose fields were read.
    pub slides: u64,
    /// Ids of OUT's table whose slide is encrypted.
    pub sealed: u64,
    /// Whether OUT's table was read.
    pub table: bool,
}

/// Words that folders and files are called by whoever owns them, and that name nobody.
const COMMON_WORDS: &[&str] = &[
    "archive",
    "cohort",
    "data",
    "dataset",
    "datasets",
    "export",
    "home",
    "image",
    "images",
    "label",
    "level",
    "macro",
    "mask",
    "media",
    "mnt",
    "opt",
    "out",
    "output",
    "patches",
    "project",
    "projects",
    "root",
    "scan",
    "scans",
    "scratch",
    "share",
    "shared",
    "slide",
    "slides",
    "srv",
    "storage",
    "study",
    "test",
    "thumbnail",
    "tile",
    "tiles",
    "tissue",
    "tmp",
    "user",
    "users",
    "usr",
    "var",
    "volume",
    "work",
    "wsi",
];
/// Accounts and machines that are called so everywhere.
const COMMON_ACCOUNTS: &[&str] =
    &["admin", "build", "docker", "localhost", "nobody", "root", "runner", "ubuntu", "user"];
/// Longest part of a value that is looked for; the beginning of a longer one tells as much.
const LONGEST: usize = 64;

impl Terms {
    /// Takes in a term.
    pub fn add(&mut self, text: &str, kind: Kind) {
        let text = text.trim().trim_matches(|c: char| c.is_control() || c == '\0');
        // Of a text of several lines, each.
        for line in text.lines() {
            let line: String = line.trim().chars().take(LONGEST).collect::<String>().to_lowercase();
            let length = line.chars().count();
            // Numbers of a few digits (a rack, a year, a resolution) stand everywhere.
            let number = line.parse::<f64>().is_ok() && length < 5;
            if line.is_empty() {
                continue;
            }
            if length < 3 || number {
                self.too_short.insert(line);
                continue;
            }
            let kept = self.found.entry(line).or_insert_with(|| kind.clone());
            *kept = (*kept).clone().min(kind.clone());
        }
    }

    /// Takes in a slide's path.
    pub fn add_path(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        if let Some(stem) = path.file_stem() {
            self.add_name(&stem.to_string_lossy(), Kind::SlideName);
        }
        for part in path.parent().into_iter().flat_map(Path::components) {
            if let Component::Normal(part) = part {
                self.add_name(&part.to_string_lossy(), Kind::PathPart);
            }
        }
    }

    fn add_name(&mut self, name: &str, kind: Kind) {
        let lower = name.to_lowercase();
        if COMMON_WORDS.contains(&lower.as_str()) {
            self.common.insert(lower);
        } else {
            self.add(name, kind);
        }
    }

    /// Takes in the value of an identifying field: as it stands, decoded where it is Base64 (barcodes), and of a person's name
    /// its parts.
    pub fn add_field(&mut self, name: &str, value: &str) {
        let kind = || Kind::Field(name.to_string());
        self.add(value, kind());
        // DICOM lists values with backslashes, the parts of a name with carets.
        if value.contains(['\\', '^']) {
            value.split(['\\', '^', '=']).for_each(|part| self.add(part, kind()));
        }
        let decoded = (value.len() >= 8).then(|| BASE64.decode(value.trim().as_bytes()).ok()).flatten();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(text) = decoded.filter(|text| text.chars().all(|c| !c.is_control())) {
            self.add(&text, kind());
        }
    }

    /// Takes in the slides that are found at `paths`: their names and the values of their identifying fields.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where a path does not exist.
    pub fn add_slides(&mut self, paths: &[std::path::PathBuf]) -> Result<()> {
        let found = discover(paths, None, MppOverride::default(), IdMode::Random)?;
        let fields: Vec<_> = found.slides.par_iter().map(|slide| identifying::of_slide(&slide.path)).collect();
        for (slide, fields) in found.slides.iter().zip(fields) {
            self.add_path(&slide.path);
            if let Some(name) = slide.place.file_name() {
                self.add_name(&name.to_string_lossy(), Kind::SlideName);
            }
            if let Ok(real) = std::fs::canonicalize(&slide.path) {
                self.add_path(&real);
            }
            match fields {
                Ok(fields) => {
                    self.slides += 1;
                    fields.iter().for_each(|field| self.add_field(&field.name, &field.value));
                }
                Err(e) => *self.unread.entry(e.kind()).or_default() += 1,
            }
        }
        Ok(())
    }

    /// Takes in the names that `site-private` keeps of OUT's slides, where they can be read.
    ///
    /// # Errors
    /// [`crate::Error::Output`] where the table is there and damaged.
    pub fn add_table(&mut self, out: &Path, identities: &Identities) -> Result<()> {
        if !out.join(ids::PRIVATE).join("ids.json").exists() {
            return Ok(());
        }
        self.table = true;
        for row in ids::rows(out, identities)? {
            let Some(slide) = row.slide else {
                self.sealed += 1;
                continue;
            };
            if !ids::is_made(&row.id) {
                self.add(&row.id, Kind::SlideName);
            }
            self.add_path(Path::new(&slide.path));
            slide.listed_id.iter().for_each(|id| self.add(id, Kind::SlideName));
        }
        Ok(())
    }

    /// Takes in this machine's name and the account's.
    pub fn add_machine(&mut self) {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let short = host.split('.').next().unwrap_or_default().to_string();
        let users = ["USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
        let home = std::env::home_dir().and_then(|home| Some(home.file_name()?.to_string_lossy().into_owned()));
        for (names, kind) in [(vec![host, short], Kind::Host), (users.chain(home).collect(), Kind::User)] {
            for name in names.iter().filter(|name| !COMMON_ACCOUNTS.contains(&name.trim().to_lowercase().as_str())) {
                self.add(name, kind.clone());
            }
        }
    }

    /// All terms.
    #[must_use]
    pub fn into_list(self) -> Vec<Term> {
        self.found.into_iter().map(|(text, kind)| Term { text, kind }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_values_become_terms() {
        let mut terms = Terms::default();
        terms.add_path(Path::new("/data/Slides/Doe^John 1950/S24-123.svs"));
        terms.add_field("dicom.PatientName", "Roe^Jane");
        terms.add_field("philips.PIM_DP_UFS_BARCODE", "TUgxMjM0NTY=");
        terms.add_field("aperio.Rack", "1");
        terms.add_field("aperio.Time", "09:59:15");
        terms.add_field("tiff.XMP", "0.25");
        let too_short = terms.too_short.clone();
        let list = terms.into_list();
        let texts: Vec<&str> = list.iter().map(|t| t.text.as_str()).collect();
        let expected = ["09:59:15", "doe^john 1950", "jane", "mh123456", "roe", "roe^jane", "s24-123", "tugxmjm0nty="];
        assert_eq!(texts, expected);
        assert_eq!(too_short.into_iter().collect::<Vec<_>>(), ["0.25", "1"]);
        assert_eq!(list.iter().find(|t| t.text == "s24-123").map(|t| &t.kind), Some(&Kind::SlideName));
    }
}
