//! What identifiers look like: dates, accession numbers, record numbers; a site adds its own.

use std::path::Path;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::error::{Error, Result};

/// A regular expression that an identifier matches.
pub struct Pattern {
    /// What it is called in the report.
    pub name: String,
    /// In text: attributes, JSON strings, names of files.
    pub text: Regex,
    /// Between a file's bytes, where chance must not match it; `None` where it might.
    pub raw: Option<Regex>,
}

/// A pattern file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Whether the built-in patterns are searched as well.
    #[serde(default = "yes")]
    defaults: bool,
    #[serde(default)]
    pattern: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    regex: String,
    #[serde(default)]
    binary: bool,
}

fn yes() -> bool {
    true
}

const MONTH: &str = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}";

/// Name, expression, and one strict enough for compressed data, less than one match by chance in 10¹² bytes: between bytes no
/// end of a word can be counted on, as what follows a text may be a letter by chance.
fn defaults() -> Vec<(&'static str, String, Option<String>)> {
    let year = r"(?:19|20)\d{2}";
    let (month, day) = (r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])");
    let loose = r"(?:0?[1-9]|[12]\d|3[01])";
    let word = |expression: String| (format!(r"\b(?:{expression})\b"), Some(expression));
    let text_alone = |expression: String| (format!(r"\b(?:{expression})\b"), None);
    let all = [
        ("date", (format!(r"\b{year}[-/.]{month}[-/.]{day}(?:\b|T|_)"), Some(format!("{year}[-/.]{month}[-/.]{day}")))),
        ("date", word(format!("{year}{month}{day}"))),
        ("date", word(format!("{loose}[-/.]{loose}[-/.]{year}"))),
        // Two digits of a year are as common as versions and fractions.
        ("date", text_alone(format!(r"{loose}/{loose}/\d{{2}}"))),
        ("date", word(format!(r"(?i:{loose}[ -]{MONTH}\.?[ -]{year})"))),
        ("date", word(format!(r"(?i:{MONTH}\.? {loose},? {year})"))),
        (
            "accession number",
            (
                format!(r"\b[A-Z]{{1,3}}-?(?:\d{{2}}|{year})[-/]\d{{4,8}}\b"),
                Some(format!(r"[A-Z]{{1,3}}-?(?:\d{{2}}|{year})[-/]\d{{5,8}}")),
            ),
        ),
        (
            "medical record number",
            (r"(?i)\bMRN?[ :#=._-]{0,3}\d{5,12}\b".into(), Some(r"(?i)MRN[ :#=._-]{0,3}\d{6,12}".into())),
        ),
        ("social security number", word(r"\d{3}-\d{2}-\d{4}".into())),
        ("UID", word(r"[0-2](?:\.(?:0|[1-9]\d{0,20})){6,}".into())),
        ("e-mail address", text_alone(r"(?i:[a-z0-9._+-]{2,}@[a-z0-9-]{2,}(?:\.[a-z0-9-]{2,})+)".into())),
    ];
    all.into_iter().map(|(name, (text, raw))| (name, text, raw)).collect()
}

fn compiled(name: &str, text: &str, raw: Option<&str>) -> Result<Pattern> {
    let build = |regex, unicode| {
        let built = RegexBuilder::new(regex).unicode(unicode).size_limit(1 << 20).build();
        built.map_err(|e| Error::Usage(format!("pattern '{name}': {e}")))
    };
    Ok(Pattern { name: name.into(), text: build(text, true)?, raw: raw.map(|raw| build(raw, false)).transpose()? })
}

/// The patterns to search: the built-in ones, and those of a file.
///
/// # Errors
/// [`Error::Usage`] where the file cannot be read or a pattern is none.
pub fn load(file: Option<&Path>) -> Result<Vec<Pattern>> {
    let mut patterns = Vec::new();
    let own = match file {
        None => File { defaults: true, pattern: Vec::new() },
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::Usage(format!("--patterns: {e}")))?;
            toml::from_str(&text).map_err(|e| Error::Usage(format!("--patterns: {e}")))?
        }
    };
    if own.defaults {
        for (name, text, raw) in defaults() {
            patterns.push(compiled(name, &text, raw.as_deref())?);
        }
    }
    for entry in own.pattern {
        let pattern = compiled(&entry.name, &entry.regex, entry.binary.then_some(entry.regex.as_str()))?;
        if pattern.text.is_match(b"") {
            return Err(Error::Usage(format!("pattern '{}' matches the empty text", entry.name)));
        }
        patterns.push(pattern);
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_recognised_and_numbers_are_not() {
        let patterns = load(None).expect("built in");
        let names = |text: &str| -> Vec<&str> {
            let hits = patterns.iter().filter(|p| p.text.is_match(text.as_bytes()));
            hits.map(|p| p.name.as_str()).collect()
        };
        for (text, name) in [
            ("on 2023-04-05", "date"),
            ("2023-04-05T10:11:12", "date"),
            ("20091229", "date"),
            ("5.4.2023", "date"),
            ("12/29/09", "date"),
            ("29-Dec-2009", "date"),
            ("December 29, 2009", "date"),
            ("S24-12345", "accession number"),
            ("sent as H2024/0012345.", "accession number"),
            ("MRN: 0012345", "medical record number"),
            ("mrn12345678", "medical record number"),
            ("123-45-6789", "social security number"),
            ("1.2.840.10008.5.1.4.1.1.77.1.6", "UID"),
            ("jane.doe@hospital.org", "e-mail address"),
        ] {
            assert!(names(text).contains(&name), "{text}: {:?}", names(text));
        }
        for text in [
            "20x_224px_0px_overlap",
            "0.4990",
            "1.31.1",
            "paraffin-record/1",
            "efficientnet-lite0",
            "fp16 to fp32",
            "at x 2023, y 1204",
            "c2f8693823807260896f246a053a3c955b03cc8c38c4fc30f8ef654b76f883bf",
        ] {
            assert_eq!(names(text), Vec::<&str>::new(), "{text}");
        }
    }

    #[test]
    fn a_file_adds_to_them_or_takes_their_place() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let load = |text: &str| {
            std::fs::write(file.path(), text).expect("writes");
            load(Some(file.path()))
        };
        let own = "[[pattern]]\nname = 'biobank'\nregex = '\\bBB\\d{6}\\b'\nbinary = true\n";
        let more = load(own).expect("reads").len();
        let alone = load(&format!("defaults = false\n{own}")).expect("reads");
        assert_eq!((more, alone.len()), (defaults().len() + 1, 1));
        assert!(alone[0].text.is_match(b"x BB123456.") && alone[0].raw.is_some());
        for (bad, words) in [
            ("[[pattern]]\nname = 'x'\nregex = '('\n", "pattern 'x'"),
            ("[[pattern]]\nname = 'x'\nregex = 'a*'\n", "matches the empty text"),
            ("[[patern]]\n", "unknown field"),
        ] {
            let why = load(bad).err().expect("refused").to_string();
            assert!(why.contains(words), "{why}");
        }
    }
}
