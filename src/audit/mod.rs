//! Whether anything in an OUT identifies a slide or a patient: every byte of what would leave the site (all but
//! `site-private`) is searched, and what is there is compared with the list of what may be there.
//!
//! A finding names a file, a kind and a place, never what was found. Files are read in pieces, side by side; memory is
//! bounded by the terms, the pieces and the largest JSON file or overview.

pub mod allowed;
mod hdf5;
mod jpeg;
mod json;
pub mod patterns;
pub mod search;
pub mod terms;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::job::ids::naming::{IdMode, NamingRecord};
use crate::job::ids::{PRIVATE, is_made};
use crate::record::publish;
use crate::record::sealed::Identities;
use crate::slide::identifying::lenient;
use allowed::{Content, Place};
use patterns::Pattern;
use search::{Hit, Searcher};
use terms::{Kind, Terms};

/// Largest JSON file or overview that is taken apart; a larger one is searched byte by byte and told.
const WHOLE: u64 = 256 << 20;

/// What to look for besides what OUT's own table tells.
#[derive(Default)]
pub struct Options {
    /// The slides behind OUT, or directories of them.
    pub against: Vec<PathBuf>,
    /// What identifiers look like.
    pub patterns: Vec<Pattern>,
    /// What opens an encrypted table.
    pub identities: Identities,
}

/// Something that must not leave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, below OUT; parts of its path that identify are masked.
    pub file: String,
    /// `slide-name`, `path-part`, `field-value`, `host-name`, `user-name`, `pattern`, or `unknown`: not on the list.
    pub kind: &'static str,
    /// Which field, pattern or thing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// Where in the file.
    pub place: String,
    /// Byte of the file, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How often in this place.
    pub count: u64,
}

/// What an audit found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What must not leave; empty where nothing was found.
    pub findings: Vec<Finding>,
    /// Files searched.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How OUT's slides are named, where its table is there.
    pub ids: Option<IdMode>,
    /// Terms that were looked for.
    pub terms: u64,
    /// Patterns that were looked for.
    pub patterns: u64,
    /// Slides whose identifying values were looked for.
    pub slides: u64,
    /// What was not, or not everywhere, looked for.
    pub limits: Vec<String>,
}

/// Searches an OUT.
///
/// # Errors
/// [`Error::Usage`] where OUT or a slide is not there, [`Error::Output`] where its table or a directory cannot be read. A
/// file that cannot be read is a finding.
pub fn audit(out: &Path, options: Options) -> Result<Report> {
    if !out.is_dir() {
        return Err(Error::Usage("not a directory: nothing to audit".into()));
    }
    let entries = entries(out)?;
    let mut terms = Terms::default();
    let naming = NamingRecord::read(out)?;
    terms.add_table(out, &options.identities)?;
    terms.add_slides(&options.against)?;
    terms.add_machine();
    let mut report = Report {
        findings: Vec::new(),
        files: entries.iter().filter(|e| e.kind == EntryKind::File).count() as u64,
        bytes: 0,
        ids: naming.map(|naming| naming.mode),
        terms: 0,
        patterns: options.patterns.len() as u64,
        slides: terms.slides,
        limits: limits(&terms, &options),
    };
    let bytes = entries.iter().map(|e| e.length).sum();
    let searcher = Searcher::new(terms.into_list(), options.patterns, bytes)?;
    report.terms = searcher.terms().len() as u64;
    for (count, words) in [
        (
            searcher.short(),
            "terms are too short to be told from chance in compressed data; they were looked for in text, and in other bytes where readable ones stand around them",
        ),
        (searcher.own, "terms are words of paraffin's own files; they were looked for in values and names alone"),
    ] {
        if count > 0 {
            report.limits.push(format!("{count} {words}"));
        }
    }
    let audit = Audit { out, searcher, ids: report.ids };
    let found: Vec<Audited> = entries.par_iter().map(|entry| audit.entry(entry)).collect();
    for audited in found {
        report.bytes += audited.bytes;
        report.findings.extend(
            audited.findings.into_iter().map(|((file, kind, what, place), (offset, count))| Finding {
                file,
                kind,
                what,
                place,
                offset,
                count,
            }),
        );
    }
    report.findings.sort();
    Ok(report)
}

/// What was not looked for because it is not known.
fn limits(terms: &Terms, options: &Options) -> Vec<String> {
    let mut limits = Vec::new();
    if options.against.is_empty() {
        limits.push("values of the slides' identifying fields were not looked for: give --against SLIDES".into());
    }
    if !terms.table {
        limits.push("OUT has no site-private/ids.json: names were taken from --against alone".into());
    }
    if terms.sealed > 0 {
        limits.push(format!(
            "{} names in site-private are encrypted and were not looked for: give --identity",
            terms.sealed
        ));
    }
    for (kind, count) in &terms.unread {
        limits.push(format!("the fields of {count} slides could not be read ({kind})"));
    }
    if !terms.common.is_empty() {
        let words: Vec<&str> = terms.common.iter().map(String::as_str).collect();
        limits.push(format!("common words that name folders or slides were not looked for: {}", words.join(", ")));
    }
    if !terms.too_short.is_empty() {
        limits.push(format!(
            "{} names and values are too short to be looked for (fewer than three characters, or five digits)",
            terms.too_short.len()
        ));
    }
    limits
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    File,
    Directory,
    Link,
    Other,
}

struct Entry {
    /// Below OUT, with forward slashes.
    path: String,
    kind: EntryKind,
    length: u64,
    /// Its place among its neighbours, from 1.
    number: usize,
}

/// All that lies below OUT, but `site-private`; links are not followed.
fn entries(out: &Path) -> Result<Vec<Entry>> {
    let walk = walkdir::WalkDir::new(out).min_depth(1).sort_by_file_name().into_iter();
    let walk = walk.filter_entry(|e| e.depth() != 1 || e.file_name() != PRIVATE);
    let mut numbers: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut entries = Vec::new();
    for entry in walk {
        // Its words name the path.
        let entry = entry.map_err(|e| {
            let why = e.io_error().map_or_else(|| "a loop of links".to_string(), ToString::to_string);
            Error::Output(format!("a directory of OUT cannot be listed: {why}"))
        })?;
        let kind = match entry.file_type() {
            kind if kind.is_dir() => EntryKind::Directory,
            kind if kind.is_file() => EntryKind::File,
            kind if kind.is_symlink() => EntryKind::Link,
            _ => EntryKind::Other,
        };
        let above = entry.path().parent().unwrap_or(out).to_path_buf();
        let number = numbers.entry(above).or_default();
        *number += 1;
        let path = entry.path().strip_prefix(out).unwrap_or(entry.path());
        let length = if kind == EntryKind::File { entry.metadata().map_or(0, |m| m.len()) } else { 0 };
        entries.push(Entry { path: path.to_string_lossy().replace('\\', "/"), kind, length, number: *number });
    }
    Ok(entries)
}

struct Audit<'a> {
    out: &'a Path,
    searcher: Searcher,
    ids: Option<IdMode>,
}

type Key = (String, &'static str, String, String);

/// What was found in a file: where it stands first, and how often.
#[derive(Default)]
struct Audited {
    bytes: u64,
    findings: BTreeMap<Key, (Option<u64>, u64)>,
}

/// Adds findings of one file.
struct Teller<'a> {
    searcher: &'a Searcher,
    file: String,
    audited: Audited,
}

impl Teller<'_> {
    fn tell(&mut self, kind: &'static str, what: &str, place: &str, offset: Option<u64>) {
        let key = (self.file.clone(), kind, what.to_string(), place.to_string());
        let (first, count) = self.audited.findings.entry(key).or_insert((offset, 0));
        *first = (*first).min(offset).or(offset);
        *count += 1;
    }

    fn hit(&mut self, hit: Hit, place: &str, offset: Option<u64>) {
        let (kind, what) = self.named(hit);
        self.tell(kind, &what, place, offset);
    }

    fn named(&self, hit: Hit) -> (&'static str, String) {
        match hit {
            Hit::Pattern(number) => ("pattern", self.searcher.patterns()[number].name.clone()),
            Hit::Term(number) => match &self.searcher.terms()[number].kind {
                Kind::SlideName => ("slide-name", String::new()),
                Kind::PathPart => ("path-part", String::new()),
                Kind::Field(name) => ("field-value", name.clone()),
                Kind::Host => ("host-name", String::new()),
                Kind::User => ("user-name", String::new()),
            },
        }
    }

    fn text(&mut self, text: &str, place: &str, offset: Option<u64>) {
        if !allowed::is_own_value(text) {
            self.searcher.text(text).into_iter().for_each(|hit| self.hit(hit, place, offset));
        }
    }
}

impl Audit<'_> {
    fn entry(&self, entry: &Entry) -> Audited {
        let place = allowed::place(&entry.path, entry.kind == EntryKind::Directory);
        let mut teller =
            Teller { searcher: &self.searcher, file: self.masked(entry, &place), audited: Audited::default() };
        self.name(entry, &place, &mut teller);
        let path = self.out.join(&entry.path);
        match entry.kind {
            EntryKind::Directory => {}
            EntryKind::Link => {
                teller.tell("unknown", "a symbolic link", "name", None);
                let target = fs::read_link(&path).unwrap_or_default();
                teller.text(&target.to_string_lossy(), "target of the link", None);
            }
            EntryKind::Other => teller.tell("unknown", "neither a file nor a directory", "name", None),
            EntryKind::File => {
                if let Err(why) = self.file(&path, entry, &place, &mut teller) {
                    teller.tell("unknown", &format!("it cannot be read: {why}"), "file", None);
                }
            }
        }
        teller.audited
    }

    /// The path as it is told: what identifies, and what the list does not know, by its number in its directory.
    fn masked(&self, entry: &Entry, place: &Place) -> String {
        let unknown = matches!(place, Place::Unknown);
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        let bare = |part: &str| self.searcher.text(part).is_empty() || allowed::is_own_value(part);
        let above = entry.path.strip_suffix(name).unwrap_or_default();
        let known_above = matches!(allowed::place(above.trim_end_matches('/'), true), Place::Directory(_));
        let mut told = String::new();
        for part in above.split('/').filter(|part| !part.is_empty()) {
            told += if bare(part) && (known_above || allowed::is_plain(part)) { part } else { "***" };
            told += "/";
        }
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let made = match place {
            Place::File(_, _, Some(id)) if self.ids.is_some_and(IdMode::hides_names) => is_made(id),
            _ => true,
        };
        if !unknown && made && bare(name) && bare(stem) {
            return told + name;
        }
        let ending = name.rsplit_once('.').map(|(_, ending)| ending).filter(|e| ["h5", "jpg", "json"].contains(e));
        let ending = ending.map_or(String::new(), |ending| format!(".{ending}"));
        format!("{told}***{ending} (number {} there)", entry.number)
    }

    fn name(&self, entry: &Entry, place: &Place, teller: &mut Teller) {
        let what = if entry.kind == EntryKind::Directory { "name of the directory" } else { "name of the file" };
        let (parts, id) = match place {
            Place::File(_, parts, id) => (parts.clone(), id.clone()),
            Place::Directory(parts) => (parts.clone(), None),
            Place::Unknown => {
                let name = entry.path.rsplit('/').next().unwrap_or_default();
                let kind = match entry.kind {
                    EntryKind::Directory => "a directory that paraffin does not make",
                    _ if publish::is_part(name) => "a temporary file of a run that is not finished",
                    _ => "a file that paraffin does not write",
                };
                teller.tell("unknown", kind, "name", None);
                (vec![name.to_string()], None)
            }
        };
        for part in parts {
            if id.as_deref() != Some(part.as_str()) || !is_made(&part) {
                teller.text(&part, what, None);
            }
        }
        if self.ids.is_some_and(IdMode::hides_names) && id.is_some_and(|id| !is_made(&id)) {
            teller.tell("unknown", "an id that --ids did not make", what, None);
        }
    }

    fn file(&self, path: &Path, entry: &Entry, place: &Place, teller: &mut Teller) -> Result<(), String> {
        let content = match place {
            Place::File(content, ..) => Some(*content),
            _ => None,
        };
        let mut taken_apart = None;
        match content {
            Some(Content::Hdf5(list)) => {
                let mut seen = |seen: hdf5::Seen| match seen {
                    hdf5::Seen::Unknown(what) => teller.tell("unknown", what, "HDF5", None),
                    hdf5::Seen::Text(place, text) => teller.text(text, &format!("HDF5: {place}"), None),
                };
                if let Err(why) = hdf5::walk(path, list, &mut seen) {
                    teller.tell("unknown", &format!("it cannot be read as HDF5: {why}"), "file", None);
                }
            }
            Some(_) if entry.length > WHOLE => teller.tell("unknown", "too large to be taken apart", "file", None),
            Some(Content::Json(list)) => {
                let text = fs::read(path).map_err(|e| e.to_string())?;
                taken_apart = self.json(text, list, teller)?;
            }
            Some(Content::JsonLines(list)) => {
                let text = fs::read(path).map_err(|e| e.to_string())?;
                let lines = text.split_inclusive(|b| *b == b'\n');
                let lines = lines.map(|line| self.json(line.to_vec(), list, teller)).collect::<Result<Vec<_>, _>>()?;
                taken_apart = lines.into_iter().collect::<Option<Vec<_>>>().map(|lines| lines.concat());
            }
            Some(Content::Text) => {
                let text = fs::read(path).map_err(|e| e.to_string())?;
                let (text, coded) = without_base64(text);
                for bytes in coded {
                    self.between(&bytes, "base64", teller)?;
                }
                let text = self.without_json(text, teller);
                self.searcher
                    .raw(&mut text.as_slice(), false, &mut |hit, at| teller.hit(hit, "bytes", Some(at)))
                    .map_err(|e| e.to_string())?;
                teller.audited.bytes = entry.length;
                return Ok(());
            }
            Some(Content::Jpeg) => {
                let bytes = fs::read(path).map_err(|e| e.to_string())?;
                match jpeg::extras(&bytes) {
                    Ok(extras) => extras.iter().for_each(|extra| {
                        teller.tell("unknown", &extra.what, "JPEG", Some(extra.at as u64));
                        let place = format!("JPEG: {}", extra.what);
                        teller.text(&lenient(extra.content), &place, Some(extra.at as u64));
                    }),
                    Err(why) => teller.tell("unknown", why, "file", None),
                }
            }
            None => {}
        }
        let mut hits = Vec::new();
        let mut found = |hit, at| hits.push((hit, at));
        let read = match taken_apart {
            // The numbers of a JSON file look like dates; its texts were searched.
            Some(text) => self.searcher.raw(&mut text.as_slice(), true, &mut found),
            None => self.searcher.raw(&mut File::open(path).map_err(|e| e.to_string())?, false, &mut found),
        };
        teller.audited.bytes = read.map_err(|e| e.to_string())?;
        hits.into_iter().for_each(|(hit, at)| teller.hit(hit, "bytes", Some(at)));
        Ok(())
    }

    /// Looks between bytes that were decoded.
    fn between(&self, mut bytes: &[u8], place: &str, teller: &mut Teller) -> Result<(), String> {
        let told = self.searcher.raw(&mut bytes, false, &mut |hit, _| teller.hit(hit, place, None));
        told.map(|_| ()).map_err(|e| e.to_string())
    }

    /// A page without the JSON in it, whose numbers look like dates; its texts are searched.
    fn without_json(&self, mut page: Vec<u8>, teller: &mut Teller) -> Vec<u8> {
        let find = |page: &[u8], from: usize, what: &[u8]| {
            page[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
        };
        let mut from = 0;
        while let Some(at) = find(&page, from, b"<script type=\"application/json\"") {
            let start = find(&page, at, b">").map_or(page.len(), |at| at + 1);
            let end = find(&page, start, b"</script>").unwrap_or(page.len());
            let walked = json::walk(&page[start..end], &["**"], &mut |_, seen| {
                if let json::Seen::Text(text) = seen {
                    teller.text(text, "JSON in the page", Some(start as u64));
                }
            });
            if walked.is_ok() {
                page[start..end].fill(b' ');
            }
            from = end;
        }
        page
    }

    /// Searches the values of a JSON text. What is left to be searched between its bytes: all of it but numbers in base64,
    /// which hold every short word; these are decoded. `None` where it is no JSON.
    fn json(&self, mut text: Vec<u8>, list: &[&str], teller: &mut Teller) -> Result<Option<Vec<u8>>, String> {
        let mut coded = Vec::new();
        let walked = json::walk(&text, list, &mut |path, seen| {
            if let (Some("base64"), json::Seen::Text(value)) = (path.last().map(String::as_str), &seen)
                && let Ok(bytes) = BASE64.decode(value.as_bytes())
            {
                coded.push((value.as_bytes().to_vec(), bytes));
                return;
            }
            // Names on the way that the list does not spell out may be names of people.
            let shown = path.iter().enumerate().map(|(at, name)| match name.as_str() {
                "[]" => "[]",
                name if is_known_name(list, &path[..at], name) => name,
                name if allowed::is_plain(name) && self.searcher.text(name).is_empty() => name,
                _ => "***",
            });
            let place = shown.collect::<Vec<_>>().join("/");
            match seen {
                json::Seen::Unknown => teller.tell("unknown", "a field", &format!("JSON: /{place}"), None),
                json::Seen::Text(text) if is_made(text) => {}
                json::Seen::Text(text) if is_known_name(list, path, text) => {}
                json::Seen::Text(text) => {
                    // Paths of files are made of ids and folders.
                    let parts: Vec<&str> = text.split('/').collect();
                    let own = parts.iter().all(|p| {
                        let p = p.trim_end_matches(".h5").trim_end_matches("_patches");
                        allowed::is_own_value(p) || is_made(p)
                    });
                    if !own {
                        teller.text(text, &format!("JSON: /{place}"), None);
                    }
                }
            }
        });
        if let Err(why) = walked {
            teller.tell("unknown", &why, "file", None);
            return Ok(None);
        }
        for (value, bytes) in coded {
            self.between(&bytes, "base64", teller)?;
            if let Some(at) = text.windows(value.len().max(1)).position(|window| window == value) {
                text[at..at + value.len()].fill(b' ');
            }
        }
        Ok(Some(text))
    }
}

/// Base64 shorter than this is searched as the text it is.
const LONG: usize = 64;

/// A text with its long runs of base64 blanked, and these decoded.
fn without_base64(mut text: Vec<u8>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let is_coded = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    let (mut at, mut decoded) = (0, Vec::new());
    while at < text.len() {
        let length = text[at..].iter().take_while(|b| is_coded(b)).count();
        if length >= LONG
            && let Ok(bytes) = BASE64.decode(&text[at..at + length])
        {
            decoded.push(bytes);
            text[at..at + length].fill(b' ');
        }
        at += length.max(1);
    }
    (text, decoded)
}

/// Whether a text is the name of a field that the list spells out.
fn is_known_name(list: &[&str], path: &[String], text: &str) -> bool {
    let mut path = path.to_vec();
    path.push(text.to_string());
    // A name that only a `*` allows would be allowed with another letter too.
    let mut other = path.clone();
    if let Some(last) = other.last_mut() {
        last.push('x');
    }
    allowed::json_allows(list, &path) && !allowed::json_allows(list, &other)
}
