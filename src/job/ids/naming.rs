//! How the slides of an OUT are named, and who may read in `site-private` which slide has which id.
//!
//! `site-private/ids.json` says it of an OUT, once: the mode, and of a keyed one the study and the key's id. A run that says
//! otherwise is refused, as its slides would get second names.

use std::io::ErrorKind;
use std::path::Path;

use clap::ValueEnum;
use data_encoding::{BASE32_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::PRIVATE;
use crate::error::{Error, Result};
use crate::record::publish;
use crate::record::sealed::Recipient;

/// What an id is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdMode {
    /// The slide's stem, or the slide list's id: for use at home, as it may name a patient.
    #[default]
    Keep,
    /// 128 random bits; which slide has which id stands in site-private alone.
    Random,
    /// A keyed hash (HMAC-SHA256) of the slide list's id or of the place below the searched directory.
    Hmac,
}

impl IdMode {
    /// The mode's name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            IdMode::Keep => "keep",
            IdMode::Random => "random",
            IdMode::Hmac => "hmac",
        }
    }

    /// Whether slides' names stay in `site-private`, so that nothing else may tell them: no message, file or name of a file.
    #[must_use]
    pub fn hides_names(self) -> bool {
        self != IdMode::Keep
    }
}

/// How slides are named.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// What ids are made of.
    pub mode: IdMode,
    /// The site's key; there where the mode is `hmac`.
    pub key: Option<SiteKey>,
    /// The study that keyed ids are for: the same slide has another id in another study.
    pub study: String,
    /// Who may read names and paths in `site-private`; nobody but the owner of its files where it is `None`.
    pub recipient: Option<Recipient>,
}

/// The secret behind keyed ids: 32 bytes.
#[derive(Clone)]
pub struct SiteKey([u8; 32]);

impl std::fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SiteKey({})", self.id())
    }
}

impl SiteKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        SiteKey(bytes)
    }

    /// A new key.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn random() -> Result<Self> {
        Ok(SiteKey(random_bytes()?))
    }

    /// Reads a key file: 32 bytes, or 64 hexadecimal digits, readable by its owner alone.
    ///
    /// # Errors
    /// [`Error::Usage`]; its words name neither the file nor what is in it.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Err(Error::Usage(format!("the key file of --ids hmac {why}")));
        let (bytes, mode) = match std::fs::read(path).and_then(|bytes| Ok((bytes, mode_of(path)?))) {
            Ok(read) => read,
            Err(e) => return wrong(format!("cannot be read: {e}")),
        };
        if mode & 0o077 != 0 {
            return wrong(format!("is open to others (mode {:03o}): chmod 600 it", mode & 0o777));
        }
        if let Ok(key) = <[u8; 32]>::try_from(&bytes[..]) {
            return Ok(SiteKey(key));
        }
        let hexadecimal = HEXLOWER_PERMISSIVE.decode(bytes.trim_ascii()).ok();
        match hexadecimal.and_then(|key| <[u8; 32]>::try_from(key).ok()) {
            Some(key) => Ok(SiteKey(key)),
            None => wrong(
                "holds neither 32 bytes nor 64 hexadecimal digits; make one with \
                 (umask 077; head -c 32 /dev/urandom > KEYFILE)"
                    .into(),
            ),
        }
    }

    /// What tells keys apart and says nothing about them: 16 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.mac("key id", &[])[..8])
    }

    /// HMAC-SHA256 of `parts` for one purpose. Every part goes in with its length, so that no two lists of parts are one text.
    pub(super) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in [b"paraffin-ids/1".as_slice(), purpose.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(unix)]
fn mode_of(path: &Path) -> std::io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::metadata(path)?.permissions().mode())
}

#[cfg(not(unix))]
fn mode_of(_: &Path) -> std::io::Result<u32> {
    Ok(0o600)
}

pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::Internal(format!("no random numbers: {e}")))?;
    Ok(bytes)
}

/// An id of 128 bits as it is written: 26 letters and digits (base32 in lower case).
#[must_use]
pub(super) fn written(bits: &[u8]) -> String {
    BASE32_NOPAD.encode(&bits[..16]).to_lowercase()
}

/// Whether a text has the form of a random or keyed id.
#[must_use]
pub fn is_made(id: &str) -> bool {
    id.len() == 26 && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

/// What `site-private/ids.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamingRecord {
    schema: String,
    /// The OUT's mode.
    pub mode: IdMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    study: Option<String>,
    /// [`SiteKey::id`]; never the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
}

impl NamingRecord {
    const SCHEMA: &str = "paraffin-ids/1";

    fn of(naming: &Naming) -> Self {
        NamingRecord {
            schema: NamingRecord::SCHEMA.into(),
            mode: naming.mode,
            study: (naming.mode == IdMode::Hmac).then(|| naming.study.clone()),
            key_id: naming.key.as_ref().filter(|_| naming.mode == IdMode::Hmac).map(SiteKey::id),
            recipient: naming.recipient.as_ref().map(ToString::to_string),
        }
    }

    /// What is known of OUT; `None` where no run has named slides there.
    ///
    /// # Errors
    /// [`Error::Output`] where it is there and cannot be read.
    pub fn read(out: &Path) -> Result<Option<Self>> {
        let damaged = |why: String| Error::Output(format!("{PRIVATE}/ids.json {why}"));
        match std::fs::read(out.join(PRIVATE).join("ids.json")) {
            // What OUT may not be is told where it is made.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(damaged(format!("cannot be read: {e}"))),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| damaged(format!("is damaged: {e}"))),
        }
    }

    /// What differs from `wanted`, in words, with what to do.
    fn conflict(&self, wanted: &Self) -> Option<String> {
        if self.mode != wanted.mode {
            let (theirs, ours) = (self.mode.name(), wanted.mode.name());
            return Some(format!(
                "OUT names its slides with --ids {theirs}, not {ours}: give --ids {theirs}, or another OUT"
            ));
        }
        if self.study != wanted.study {
            return Some(
                "OUT's ids are of another study: give the --ids-study it was begun with, or another OUT".into(),
            );
        }
        if self.key_id != wanted.key_id {
            let id = |record: &Self| record.key_id.clone().unwrap_or_default();
            return Some(format!(
                "OUT's ids were made with the key {}, not {}: give that key's file, or another OUT",
                id(self),
                id(wanted)
            ));
        }
        (self.recipient != wanted.recipient).then(|| match &self.recipient {
            Some(recipient) => format!("OUT keeps names for the --ids-recipient {recipient}: give it, or another OUT"),
            None => "OUT keeps names unencrypted: leave out --ids-recipient, or give another OUT".into(),
        })
    }
}

impl Naming {
    /// Refuses an OUT that names its slides in another way. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Incompatible`] naming what differs, or [`Error::Output`].
    pub fn check(&self, out: &Path) -> Result<()> {
        let there = NamingRecord::read(out)?;
        match there.and_then(|there| there.conflict(&NamingRecord::of(self))) {
            Some(why) => Err(Error::Incompatible(why)),
            None => Ok(()),
        }
    }

    /// Notes in OUT how its slides are named; whoever comes first decides.
    ///
    /// # Errors
    /// As [`Naming::check`], and [`Error::Write`].
    pub(super) fn claim(&self, out: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(&NamingRecord::of(self)).map_err(|e| Error::Internal(e.to_string()))?;
        publish::create_once(&out.join(PRIVATE).join("ids.json"), &text)
            .map_err(|e| Error::write(format!("{PRIVATE}/ids.json"), e))?;
        self.check(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file(bytes: &[u8], mode: u32) -> tempfile::NamedTempFile {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), bytes).expect("writes");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("sets");
        file
    }

    #[test]
    fn keys_are_bytes_or_hexadecimal_and_closed() {
        let bytes: Vec<u8> = (0..32).collect();
        let hexadecimal = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";
        let read = |bytes: &[u8], mode| SiteKey::read(key_file(bytes, mode).path());
        let key = read(&bytes, 0o600).expect("32 bytes");
        assert_eq!(key.id(), read(hexadecimal.as_bytes(), 0o400).expect("hexadecimal").id());
        assert_ne!(key.id(), read(&[7; 32], 0o600).expect("another").id());
        for (file, words) in [
            (key_file(&bytes, 0o640), "open to others (mode 640): chmod 600"),
            (key_file(&bytes[..31], 0o600), "neither 32 bytes nor 64 hexadecimal digits"),
            (key_file(b"", 0o600), "neither"),
        ] {
            let why = SiteKey::read(file.path()).expect_err("refused").to_string();
            assert!(why.contains(words), "{why}");
            assert!(!why.contains(file.path().to_str().expect("UTF-8")), "{why}");
        }
        assert!(!format!("{key:?}").contains("0, 1, 2"), "a key is never shown");
    }

    #[test]
    fn parts_are_not_mixed_up() {
        let key = SiteKey::new([1; 32]);
        assert_ne!(key.mac("a", &[b"bc"]), key.mac("ab", &[b"c"]));
        assert_ne!(key.mac("a", &[b"b", b"c"]), key.mac("a", &[b"bc"]));
        assert_eq!(written(&key.mac("a", &[])).len(), 26);
        assert!(is_made(&written(&key.mac("a", &[]))) && !is_made("CMU-1-Small-Region"));
    }

    #[test]
    fn an_out_has_one_way_of_naming() {
        let out = tempfile::tempdir().expect("temporary directory");
        publish::create_private_dir(out.path()).expect("creates");
        let keyed = |bytes, study: &str| Naming {
            mode: IdMode::Hmac,
            key: Some(SiteKey::new(bytes)),
            study: study.into(),
            recipient: None,
        };
        keyed([1; 32], "a").check(out.path()).expect("nothing there yet");
        keyed([1; 32], "a").claim(out.path()).expect("first");
        keyed([1; 32], "a").claim(out.path()).expect("again");
        for (other, words) in [
            (Naming::default(), "--ids hmac, not keep"),
            (keyed([1; 32], "b"), "another study"),
            (keyed([2; 32], "a"), "give that key's file"),
        ] {
            let error = other.claim(out.path()).expect_err("refused");
            assert!(error.exit_code() == 3 && error.to_string().contains(words), "{error}");
        }
        let text = std::fs::read_to_string(out.path().join(PRIVATE).join("ids.json")).expect("there");
        assert!(text.contains(&SiteKey::new([1; 32]).id()), "{text}");
    }
}
