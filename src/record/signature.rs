//! The site manifest's signature: minisign's detached Ed25519 signature beside it, which any minisign checks. Its trusted comment
//! is the file's name; minisign's own would be the time.

use std::io::Cursor;
use std::path::Path;

use minisign::{PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};

use super::manifest::MANIFEST_NAME;
use super::publish;
use crate::error::{Error, Result};

/// The signature's name in OUT.
pub const SIGNATURE_NAME: &str = "site-manifest.json.minisig";
/// The environment variable that holds the password of a secret key; without it, whoever sits at the terminal is asked.
pub const PASSWORD_VARIABLE: &str = "PARAFFIN_SIGN_PASSWORD";

fn usage(what: &str, why: impl std::fmt::Display) -> Error {
    Error::Usage(format!("{what}: {why}"))
}

/// Signs the manifest in `out` with the secret key in the file `key`; returns the key's id.
///
/// # Errors
/// [`Error::Usage`] where the key or its password is none, [`Error::Output`] where there is no manifest, [`Error::Write`].
pub fn sign(out: &Path, key: &Path) -> Result<String> {
    let text = std::fs::read_to_string(key).map_err(|e| usage("the secret key cannot be read", e))?;
    let key = secret_key(&text)?;
    let manifest = std::fs::read(out.join(MANIFEST_NAME))
        .map_err(|e| Error::Output(format!("{MANIFEST_NAME} cannot be read: {e}")))?;
    let comment = format!("file:{MANIFEST_NAME}");
    let failed = |e: minisign::PError| Error::Internal(format!("signing: {e}"));
    let public = PublicKey::from_secret_key(&key).map_err(failed)?;
    let signed = minisign::sign(Some(&public), &key, Cursor::new(manifest), Some(&comment), Some("signed by paraffin"));
    let signature = signed.map_err(failed)?.into_string();
    publish::write_atomic(&out.join(SIGNATURE_NAME), signature.as_bytes())
        .map_err(|e| Error::write(SIGNATURE_NAME, e))?;
    Ok(key_id(public.keynum()))
}

fn secret_key(text: &str) -> Result<SecretKey> {
    let unusable = |e| usage("this is no secret key of minisign", e);
    let boxed = || SecretKeyBox::from_string(text).map_err(unusable);
    if let Ok(key) = boxed()?.into_unencrypted_secret_key() {
        return Ok(key);
    }
    let given = std::env::var(PASSWORD_VARIABLE).ok();
    let wrong = format!("the secret key does not open with this password ({PASSWORD_VARIABLE}, or what was typed)");
    boxed()?.into_secret_key(given).map_err(|e| usage(&wrong, e))
}

/// Checks the signature of the manifest in `out`. `key` is a public key, or the file of one. Returns the key's id.
///
/// # Errors
/// [`Error::Usage`] where the key is none, [`Error::Output`] where there is no such signature or it does not fit.
pub fn check(out: &Path, key: &str) -> Result<String> {
    let public = public_key(key)?;
    let read =
        |name: &str| std::fs::read(out.join(name)).map_err(|e| Error::Output(format!("{name} cannot be read: {e}")));
    let (manifest, signature) = (read(MANIFEST_NAME)?, read(SIGNATURE_NAME)?);
    let damaged = |why: String| Error::Output(format!("{SIGNATURE_NAME} is damaged: {why}"));
    let signature = String::from_utf8(signature).map_err(|e| damaged(e.to_string()))?;
    let signature = SignatureBox::from_string(&signature).map_err(|e| damaged(e.to_string()))?;
    if signature.keynum() != public.keynum() {
        let (by, not) = (key_id(signature.keynum()), key_id(public.keynum()));
        return Err(Error::Output(format!("{MANIFEST_NAME} was signed by the key {by}, not by {not}")));
    }
    minisign::verify(&public, &signature, Cursor::new(manifest), true, false, true).map_err(|_| {
        Error::Output(format!(
            "{MANIFEST_NAME} is not what was signed: it was changed, or runs were added ('paraffin manifest OUT --sign KEY' \
             signs anew)"
        ))
    })?;
    Ok(key_id(public.keynum()))
}

fn public_key(key: &str) -> Result<PublicKey> {
    if Path::new(key).is_file() {
        let text = std::fs::read_to_string(key).map_err(|e| usage("the public key cannot be read", e))?;
        let boxed = PublicKeyBox::from_string(&text).and_then(PublicKeyBox::into_public_key);
        return boxed.map_err(|e| usage("this is no public key of minisign", e));
    }
    PublicKey::from_base64(key).map_err(|e| usage("--pubkey is neither a file nor a public key of minisign", e))
}

/// A key's id as minisign prints it.
fn key_id(number: &[u8]) -> String {
    number.iter().rev().map(|b| format!("{b:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::KeyPair;

    #[test]
    fn only_what_was_signed_passes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let key = out.join("site.key");
        std::fs::write(&key, pair.sk.to_box(None).unwrap().into_string()).unwrap();
        let public = pair.pk.to_base64();
        assert!(sign(out, &key).unwrap_err().to_string().contains("cannot be read"), "no manifest");
        std::fs::write(out.join(MANIFEST_NAME), "{}").unwrap();
        let id = sign(out, &key).unwrap();
        assert_eq!(check(out, &public).unwrap(), id);
        let file = out.join("site.pub");
        std::fs::write(&file, pair.pk.to_box().unwrap().into_string()).unwrap();
        assert_eq!(check(out, file.to_str().unwrap()).unwrap(), id);
        let signature = std::fs::read_to_string(out.join(SIGNATURE_NAME)).unwrap();
        assert!(signature.contains("trusted comment: file:site-manifest.json") && !signature.contains("timestamp"));
        let other = KeyPair::generate_unencrypted_keypair().unwrap().pk.to_base64();
        assert!(check(out, &other).unwrap_err().to_string().contains("was signed by the key"));
        std::fs::write(out.join(MANIFEST_NAME), "{ }").unwrap();
        assert!(check(out, &public).unwrap_err().to_string().contains("is not what was signed"));
        std::fs::write(out.join(SIGNATURE_NAME), "untrusted").unwrap();
        assert!(check(out, &public).unwrap_err().to_string().contains("is damaged"));
        assert_eq!(check(out, "RWnonsense").unwrap_err().exit_code(), 2);
        assert_eq!(sign(out, &file).unwrap_err().exit_code(), 2, "a public key signs nothing");
    }
}
