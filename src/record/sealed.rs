//! Names and paths in `site-private`: as they are, or encrypted (age) for whoever holds the identity.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whom names and paths are encrypted for: an age recipient, `age1...`.
#[derive(Clone, Debug)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Recipient).map_err(|why| format!("{why}; age-keygen makes one (age1...) with its identity"))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something in `site-private` that names a slide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Kept<T> {
    /// Encrypted.
    Sealed {
        /// JSON in age's armour.
        age: String,
    },
    /// As it is.
    Plain(T),
}

impl<T: Serialize + for<'a> Deserialize<'a>> Kept<T> {
    /// Keeps `value` for `recipient`, or as it is where there is none.
    ///
    /// # Errors
    /// [`Error::Internal`] where it cannot be encrypted.
    pub fn new(value: T, recipient: Option<&Recipient>) -> Result<Self> {
        let Some(Recipient(recipient)) = recipient else { return Ok(Kept::Plain(value)) };
        let failed = |e: &dyn fmt::Display| Error::Internal(format!("cannot encrypt for --ids-recipient: {e}"));
        let text = serde_json::to_vec(&value).map_err(|e| failed(&e))?;
        let age = age::encrypt_and_armor(recipient, &text).map_err(|e| failed(&e))?;
        Ok(Kept::Sealed { age })
    }

    /// What is kept; `None` where it is encrypted and `identities` do not open it.
    #[must_use]
    pub fn open(self, identities: &Identities) -> Option<T> {
        match self {
            Kept::Plain(value) => Some(value),
            Kept::Sealed { age } => identities.decrypt(&age).and_then(|text| serde_json::from_slice(&text).ok()),
        }
    }
}

/// What opens encrypted names.
#[derive(Default)]
pub struct Identities(Vec<Box<dyn age::Identity>>);

impl Identities {
    /// Reads an identity file as `age-keygen` writes it.
    ///
    /// # Errors
    /// [`Error::Usage`] where it cannot be read or holds none.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |e: &dyn fmt::Display| Error::Usage(format!("--identity: {e}"));
        let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
        let file = age::IdentityFile::from_buffer(std::io::BufReader::new(file)).map_err(|e| wrong(&e))?;
        let identities = file.into_identities().map_err(|e| wrong(&e))?;
        Ok(Identities(identities.into_iter().map(|identity| identity as Box<dyn age::Identity>).collect()))
    }

    fn decrypt(&self, text: &str) -> Option<Vec<u8>> {
        let decryptor = age::Decryptor::new(age::armor::ArmoredReader::new(text.as_bytes())).ok()?;
        let mut plain = Vec::new();
        let mut reader = decryptor.decrypt(self.0.iter().map(AsRef::as_ref)).ok()?;
        std::io::Read::read_to_end(&mut reader, &mut plain).ok()?;
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_identity_alone() {
        use age::secrecy::ExposeSecret;
        let identity = age::x25519::Identity::generate();
        let recipient: Recipient = identity.to_public().to_string().parse().expect("age1...");
        let sealed = Kept::new("/archive/Doe John.svs".to_string(), Some(&recipient)).expect("encrypts");
        let text = serde_json::to_string(&sealed).expect("JSON");
        assert!(text.starts_with("{\"age\":\"-----BEGIN AGE") && !text.contains("Doe"), "{text}");
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), identity.to_string().expose_secret()).expect("writes");
        let identities = Identities::read(file.path()).expect("reads");
        let back: Kept<String> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back.clone().open(&identities).as_deref(), Some("/archive/Doe John.svs"));
        assert_eq!(back.open(&Identities::default()), None);
        assert_eq!(Kept::new(1, None).expect("plain").open(&Identities::default()), Some(1));
        assert!("age1nonsense".parse::<Recipient>().is_err());
    }
}
