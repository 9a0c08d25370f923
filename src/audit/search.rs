//! Looks for terms and patterns: in text, and between the bytes of a file that is read once, in pieces.
//!
//! In text every term counts; one of fewer than eight characters must be a whole word. Between bytes chance has to be kept
//! out: in n bytes of compressed data a given letter of either case stands at a place with probability 2⁻⁷, any other byte with
//! 2⁻⁸. So a match counts where its bits, and those of the printable characters or zeros around it, make a match by
//! chance in the whole OUT less likely than 1 in 1000. UTF-16 is found by its zeros: every second byte of Latin letters is one.

use std::io::{self, Read};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::allowed;
use super::patterns::Pattern;
use super::terms::Term;
use crate::error::{Error, Result};

/// Terms shorter than this, in characters, must be whole words.
const WORD: usize = 8;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;
/// Bytes kept from the piece before: more than the longest match with what stands around it.
const OVERLAP: usize = 2048;
/// Bytes around a match that may speak for it.
const AROUND: usize = 32;
/// log₂ of 256 bytes to 95 printable ones.
const PRINTABLE_BITS: f64 = 1.43;

/// A term or pattern that was found, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// Of the terms.
    Term(usize),
    /// Of the patterns.
    Pattern(usize),
}

/// A term as bytes.
struct Coded {
    term: usize,
    bits: f64,
    short: bool,
}

/// Looks for terms and patterns.
pub struct Searcher {
    terms: Vec<Term>,
    patterns: Vec<Pattern>,
    text: AhoCorasick,
    raw: AhoCorasick,
    coded: Vec<Coded>,
    /// Bits that a match between bytes must have.
    needed: f64,
    /// Terms that are words of paraffin's own files and so are looked for in text alone.
    pub own: usize,
}

impl Searcher {
    /// Prepares the search through `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] for more terms than a machine holds.
    pub fn new(terms: Vec<Term>, patterns: Vec<Pattern>, bytes: u64) -> Result<Self> {
        let too_many = |e: aho_corasick::BuildError| Error::Usage(format!("too many slides for one audit: {e}"));
        let build = |texts: &[Vec<u8>], insensitive| {
            AhoCorasick::builder()
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .ascii_case_insensitive(insensitive)
                .build(texts)
                .map_err(too_many)
        };
        let texts: Vec<Vec<u8>> = terms.iter().map(|t| t.text.clone().into_bytes()).collect();
        let text = build(&texts, false)?;
        let mut searcher =
            Searcher { raw: build(&[], true)?, text, coded: Vec::new(), needed: 0.0, own: 0, terms, patterns };
        let mut own = vec![false; searcher.terms.len()];
        for word in allowed::own_words() {
            searcher.text(word).into_iter().for_each(|hit| {
                if let Hit::Term(term) = hit {
                    own[term] = true;
                }
            });
        }
        searcher.own = own.iter().filter(|own| **own).count();
        let mut codings = Vec::new();
        for (number, term) in searcher.terms.iter().enumerate().filter(|(number, _)| !own[*number]) {
            for coding in codings_of(&term.text) {
                let bits = bits(&coding);
                let short = term.text.chars().count() < WORD;
                searcher.coded.push(Coded { term: number, bits, short });
                codings.push(coding);
            }
        }
        searcher.raw = build(&codings, true)?;
        let choices = 2.0 * (codings.len().max(1) as f64);
        searcher.needed = (bytes.max(1) as f64).log2() + choices.log2() + 10.0;
        Ok(searcher)
    }

    /// The terms.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The patterns.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Terms too short to be told from chance between bytes, where nothing readable stands around them.
    #[must_use]
    pub fn short(&self) -> usize {
        let mut terms: Vec<usize> = self.coded.iter().filter(|c| c.bits < self.needed).map(|c| c.term).collect();
        terms.dedup();
        terms.len()
    }

    /// What stands in a text; each once.
    #[must_use]
    pub fn text(&self, text: &str) -> Vec<Hit> {
        let lower = text.to_lowercase();
        let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let mut hits = Vec::new();
        for found in self.text.find_overlapping_iter(&lower) {
            let term = found.pattern().as_usize();
            let whole =
                || !joins(lower[..found.start()].chars().next_back()) && !joins(lower[found.end()..].chars().next());
            if self.terms[term].text.chars().count() >= WORD || whole() {
                hits.push(Hit::Term(term));
            }
        }
        let patterns = self.patterns.iter().enumerate().filter(|(_, p)| p.text.is_match(text.as_bytes()));
        hits.extend(patterns.map(|(number, _)| Hit::Pattern(number)));
        hits.sort();
        hits.dedup();
        hits
    }

    /// Looks between the bytes of a file; `found` is told what and where. Patterns are left out where `terms_only`: the numbers
    /// of a JSON file are no dates. Returns the number of bytes read.
    ///
    /// # Errors
    /// The source's.
    pub fn raw(&self, source: &mut dyn Read, terms_only: bool, found: &mut dyn FnMut(Hit, u64)) -> io::Result<u64> {
        let mut window: Vec<u8> = Vec::with_capacity(PIECE + OVERLAP);
        let mut base = 0u64;
        // Matches that begin before it have been told.
        let mut told = 0usize;
        loop {
            let before = window.len();
            let read = source.take((PIECE) as u64).read_to_end(&mut window)?;
            let end = read < PIECE;
            debug_assert!(window.len() == before + read);
            let until = if end { window.len() } else { window.len().saturating_sub(OVERLAP) };
            self.window(&window, told..until, terms_only, &mut |hit, at| found(hit, base + at as u64));
            if end {
                return Ok(base + window.len() as u64);
            }
            let keep_from = until.saturating_sub(AROUND);
            window.drain(..keep_from);
            base += keep_from as u64;
            told = until - keep_from;
        }
    }

    fn window(&self, bytes: &[u8], range: std::ops::Range<usize>, terms_only: bool, found: &mut dyn FnMut(Hit, usize)) {
        for hit in self.raw.find_overlapping_iter(bytes) {
            let coded = &self.coded[hit.pattern().as_usize()];
            if range.contains(&hit.start()) && self.counts(coded, bytes, hit.start(), hit.end()) {
                found(Hit::Term(coded.term), hit.start());
            }
        }
        if !terms_only {
            for (number, pattern) in self.patterns.iter().enumerate() {
                let Some(regex) = &pattern.raw else { continue };
                for hit in regex.find_iter(bytes).filter(|hit| range.contains(&hit.start())) {
                    found(Hit::Pattern(number), hit.start());
                }
            }
        }
        for (start, text) in wide_runs(bytes) {
            if !range.contains(&start) {
                continue;
            }
            for hit in self.raw.find_overlapping_iter(&text) {
                let coded = &self.coded[hit.pattern().as_usize()];
                let zeros = 8.0 * (hit.end() - hit.start()) as f64;
                if coded.bits + zeros >= self.needed && (!coded.short || is_word(&text, hit.start(), hit.end())) {
                    found(Hit::Term(coded.term), start + 2 * hit.start());
                }
            }
            if !terms_only {
                let raw = self.patterns.iter().enumerate().filter_map(|(n, p)| Some((n, p.raw.as_ref()?)));
                for (number, regex) in raw {
                    regex.find_iter(&text).for_each(|hit| found(Hit::Pattern(number), start + 2 * hit.start()));
                }
            }
        }
    }

    /// Whether a match between bytes is none by chance.
    fn counts(&self, coded: &Coded, bytes: &[u8], start: usize, end: usize) -> bool {
        if coded.short && !is_word(bytes, start, end) {
            return false;
        }
        let printable = |b: &&u8| (b' '..=b'~').contains(*b);
        let before = bytes[start.saturating_sub(AROUND)..start].iter().rev();
        let after = bytes[end..bytes.len().min(end + AROUND)].iter();
        let readable = before.clone().take_while(printable).count() + after.clone().take_while(printable).count();
        let zeros = usize::from(before.clone().next().is_none_or(|b| *b == 0))
            + usize::from(after.clone().next().is_none_or(|b| *b == 0));
        coded.bits + PRINTABLE_BITS * readable as f64 + 8.0 * zeros as f64 >= self.needed
    }
}

fn is_word(bytes: &[u8], start: usize, end: usize) -> bool {
    let joins = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    !joins(start.checked_sub(1).and_then(|at| bytes.get(at))) && !joins(bytes.get(end))
}

/// What a term's bytes are worth against chance, either case of an ASCII letter being a match.
fn bits(coding: &[u8]) -> f64 {
    coding.iter().map(|b| if b.is_ascii_alphabetic() { 7.0 } else { 8.0 }).sum()
}

/// A term in UTF-8 and Latin-1, and in UTF-16 where that is no zero-padded Latin-1; letters beyond ASCII in either case.
fn codings_of(lower: &str) -> Vec<Vec<u8>> {
    let mut codings: Vec<Vec<u8>> = Vec::new();
    let mut add = |coding: Vec<u8>| {
        if !codings.contains(&coding) {
            codings.push(coding);
        }
    };
    let mut cases = vec![lower.to_string()];
    if !lower.is_ascii() {
        cases.push(lower.to_uppercase());
        let mut words = String::new();
        let mut first = true;
        for c in lower.chars() {
            if first {
                words.extend(c.to_uppercase())
            } else {
                words.push(c)
            }
            first = !c.is_alphanumeric();
        }
        cases.push(words);
    }
    for text in cases {
        let latin: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        if latin.is_none() {
            add(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
            add(text.encode_utf16().flat_map(u16::to_be_bytes).collect());
        }
        latin.into_iter().for_each(&mut add);
        add(text.into_bytes());
    }
    codings
}

/// Texts of at least three characters whose every second byte is zero (UTF-16 of either order), with where they begin.
fn wide_runs(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let letter = |b: u8| (b' '..=b'~').contains(&b) || b >= 0xa0;
    let mut runs = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        // Two zeros with a letter between them; the letters before and after belong to it, whichever order the text has.
        if bytes[at] != 0 || bytes.get(at + 2) != Some(&0) {
            at += 1;
            continue;
        }
        let before = at.checked_sub(1).and_then(|place| bytes.get(place)).filter(|b| letter(**b));
        let mut text: Vec<u8> = before.into_iter().copied().collect();
        let start = at.saturating_sub(1);
        while bytes.get(at) == Some(&0) && bytes.get(at + 1).is_some_and(|b| letter(*b)) {
            text.push(bytes[at + 1]);
            at += 2;
        }
        if text.len() >= 3 {
            runs.push((start, text));
        }
        at += 1;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::patterns;
    use crate::audit::terms::Kind;

    fn searcher(terms: &[&str], bytes: u64) -> Searcher {
        let terms = terms.iter().map(|text| Term { text: text.to_lowercase(), kind: Kind::SlideName });
        Searcher::new(terms.collect(), patterns::load(None).expect("built in"), bytes).expect("builds")
    }

    fn raw(searcher: &Searcher, bytes: &[u8]) -> Vec<(Hit, u64)> {
        let mut hits = Vec::new();
        let read = searcher.raw(&mut &bytes[..], false, &mut |hit, at| hits.push((hit, at))).expect("reads");
        assert_eq!(read, bytes.len() as u64);
        hits
    }

    /// Bytes that look like compressed ones, the same each time.
    fn noise(count: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn text_is_searched_by_words_or_parts() {
        let searcher = searcher(&["Doe", "S24-123456", "Müller"], 1 << 20);
        assert_eq!(searcher.text("by JOHN_DOE, md"), [Hit::Term(0)]);
        assert_eq!(searcher.text("does it hoedown"), []);
        assert_eq!(searcher.text("xS24-123456y"), [Hit::Term(1)]);
        assert_eq!(searcher.text("MÜLLER"), [Hit::Term(2)]);
        assert!(matches!(searcher.text("2023-04-05")[..], [Hit::Pattern(_)]));
    }

    #[test]
    fn bytes_are_searched_in_every_coding() {
        let searcher = searcher(&["Schneider-Ammann", "Müllerová", "Çelik Özgür", "Иванов Пётр"], 1 << 20);
        let mut expected = 0;
        for (number, text) in ["schneider-AMMANN", "Müllerová", "Çelik Özgür", "Иванов Пётр"].iter().enumerate()
        {
            let latin: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
            let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            for coded in [Some(text.as_bytes().to_vec()), latin, Some(little), Some(big)].into_iter().flatten() {
                let mut bytes = noise(4000);
                bytes.splice(1000..1000, coded.iter().copied());
                let hits = raw(&searcher, &bytes);
                assert!(
                    hits.iter().any(|(hit, at)| *hit == Hit::Term(number) && at.abs_diff(1000) <= 2),
                    "{text} as {coded:02x?}: {hits:?}"
                );
                expected += 1;
            }
        }
        assert_eq!(expected, 15, "the last has no Latin-1");
    }

    #[test]
    fn short_terms_count_where_something_readable_is_around_them() {
        let searcher = searcher(&["Doe"], 1 << 20);
        let plant = |text: &[u8]| {
            let mut bytes = vec![0xff; 100];
            bytes.splice(50..50, text.iter().copied());
            !raw(&searcher, &bytes).is_empty()
        };
        assert!(plant(b"\0patient: John Doe, room 1\0"));
        assert!(!plant(b"Doe"), "by chance in compressed data");
        assert!(!plant(b"does this go well with that"));
        assert_eq!(searcher.short(), 1);
    }

    #[test]
    fn chance_finds_nothing_and_piece_borders_hide_nothing() {
        let size = 3 * PIECE;
        let terms: Vec<String> = (0..200).map(|n| format!("{}{n}", ["ab", "case", "sample-", "p"][n % 4])).collect();
        let terms: Vec<&str> = terms.iter().map(String::as_str).chain(["Schneider-Ammann"]).collect();
        let searcher = searcher(&terms, size as u64);
        let mut bytes = noise(size);
        assert_eq!(raw(&searcher, &bytes), [], "nothing was planted");
        let last = terms.len() - 1;
        let name = b"Schneider-Ammann";
        for border in [PIECE, PIECE - OVERLAP, 2 * PIECE - OVERLAP, 2 * PIECE] {
            for at in [border - name.len(), border - 7, border - 1, border, border + 1] {
                let saved = bytes[at..at + name.len()].to_vec();
                bytes[at..at + name.len()].copy_from_slice(name);
                assert_eq!(raw(&searcher, &bytes), [(Hit::Term(last), at as u64)], "once, at {at}");
                bytes[at..at + name.len()].copy_from_slice(&saved);
            }
        }
    }

    #[test]
    fn words_of_our_own_files_are_looked_for_in_text_alone() {
        let searcher = searcher(&["features", "coords"], 1 << 20);
        assert_eq!(searcher.own, 2);
        assert_eq!(raw(&searcher, b"\0features\0 coords and more of that kind"), []);
        assert_eq!(searcher.text("my features"), [Hit::Term(0)]);
    }
}
