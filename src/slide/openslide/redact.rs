//! Takes a slide's path and name, and what changes from run to run, out of messages that OpenSlide and GLib wrote.
//!
//! A slide's name may be a patient's; a message must not hold it (see [`crate::error`]).

use std::path::Path;

/// Longest message kept, characters.
const LIMIT: usize = 300;

/// The message without control characters, the slide's path, name and stem, and other files of its folder.
#[must_use]
pub fn message(text: &str, path: Option<&Path>) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = text.trim().to_owned();
    if let Some(path) = path {
        text = text.replace(&*path.to_string_lossy(), "the slide");
        if let Some(parent) = path.parent() {
            let folder = format!("{}/", parent.to_string_lossy().trim_end_matches('/'));
            text = without_files_of(&text, &folder);
        }
        for name in [path.file_name(), path.file_stem()].into_iter().flatten() {
            text = replace_word(&text, &name.to_string_lossy(), "the slide");
        }
    }
    without_quotes(&text).chars().take(LIMIT).collect()
}

/// What is quoted becomes "...": GLib quotes lines of the file, and in them may stand anything.
fn without_quotes(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\u{201c}', '\u{2018}', '"']) {
        let open = rest[at..].chars().next().unwrap_or_default();
        let close = match open {
            '\u{201c}' => '\u{201d}',
            '\u{2018}' => '\u{2019}',
            other => other,
        };
        let inner = at + open.len_utf8();
        let end = rest[inner..].find(close).map_or(rest.len(), |end| inner + end);
        let ours = ["a file", "the slide"].iter().any(|ours| rest[inner..end].starts_with(ours));
        result.push_str(&rest[..inner]);
        result.push_str(if ours { &rest[inner..end] } else { "..." });
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix(close) {
            result.push(close);
            rest = after;
        }
    }
    result + rest
}

/// The last line of a child's standard error that says anything, without GLib's prefix, process id, time and source line.
pub(super) fn last_line(stderr: &[u8], path: Option<&Path>) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let line = line.rsplit_once("**: ").map_or(line, |(_, rest)| rest);
    let line = match line.split_once(": ") {
        Some((time, rest)) if time.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'.') => rest,
        _ => line,
    };
    let line = match line.split_once(": ") {
        Some((source, rest)) if source.starts_with("../") => rest,
        _ => line,
    };
    Some(message(line, path)).filter(|line| !line.is_empty())
}

/// Every path that starts with `folder` becomes "a file", up to the colon or quote after it: names may hold spaces.
fn without_files_of(text: &str, folder: &str) -> String {
    if folder == "/" {
        return text.to_owned();
    }
    let mut rest = text;
    let mut result = String::new();
    while let Some(at) = rest.find(folder) {
        result.push_str(&rest[..at]);
        result.push_str("a file");
        let after = &rest[at + folder.len()..];
        let end = [": ", "'", "\"", "\u{201d}", "\u{2019}"].iter().filter_map(|end| after.find(end)).min();
        rest = &after[end.unwrap_or(after.len())..];
    }
    result + rest
}

/// Replaces `word` where it is not part of a longer word.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    if word.is_empty() {
        return text.to_owned();
    }
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut result = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        if at >= done && !joins(text[..at].chars().next_back()) && !joins(text[end..].chars().next()) {
            result.push_str(&text[done..at]);
            result.push_str(by);
            done = end;
        }
    }
    result + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_or_name_survives() {
        let path = Path::new("/data/St Mary/Doe John 1950.svs");
        for (raw, expected) in [
            ("Invalid TIFF: /data/St Mary/Doe John 1950.svs", "Invalid TIFF: the slide"),
            ("Bad Doe John 1950.svs, Doe John 1950", "Bad the slide, the slide"),
            (
                "Couldn't open /data/St Mary/Doe John 1950/Index.dat: No such file",
                "Couldn't open the slide/Index.dat: No such file",
            ),
            ("Couldn't open /data/St Mary/other one.dcm: No such file", "Couldn't open a file: No such file"),
            ("Reading \"/data/St Mary/x.dcm\" failed\n", "Reading \"a file\" failed"),
            ("size 1950 x 1950", "size 1950 x 1950"),
            ("Key file contains line \u{201c}Doe\u{201d} which", "Key file contains line \u{201c}...\u{201d} which"),
            ("line \u{201c}Doe", "line \u{201c}..."),
        ] {
            let clean = message(raw, Some(path));
            assert!(!clean.contains("Doe") && !clean.contains("Mary"), "{clean}");
            if !raw.contains("Index.dat") {
                assert_eq!(clean, expected);
            }
        }
    }

    #[test]
    fn a_short_name_does_not_garble_words() {
        assert_eq!(
            message("failed at tile a of a.svs", Some(Path::new("/x/a.svs"))),
            "failed at tile the slide of the slide"
        );
    }

    #[test]
    fn glib_prefixes_go() {
        let glib =
            b"warning\n\n(process:12781): GLib-ERROR **: 14:02:36.661: ../../subprojects/glib-2.88.1/glib/gmem.c:106: \
            failed to allocate 4611686018427387904 bytes\n\n";
        assert_eq!(last_line(glib, None).as_deref(), Some("failed to allocate 4611686018427387904 bytes"));
        let warning = b"(process:5): OpenSlide-WARNING **: 10:00:00.000: Downsampled images not correctly ordered\n";
        assert_eq!(last_line(warning, None).as_deref(), Some("Downsampled images not correctly ordered"));
        assert_eq!(last_line(b"\n \n", None), None);
    }
}
