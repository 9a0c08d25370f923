//! `paraffin manifest`: what a site may tell others, written anew and signed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::{Error, Result};
use crate::job::summary::plural;
use crate::job::write_manifest;
use crate::record::manifest::MANIFEST_NAME;
use crate::record::signature::{self, SIGNATURE_NAME};
use crate::record::{SiteManifest, grid_dirs};

/// What `--help` ends with.
pub const AFTER_HELP: &str = "\
A pair of keys is made by minisign -G (with -W without a password). Others check the signature with
'paraffin verify OUT --pubkey KEY', or with minisign -Vm site-manifest.json -P KEY.";

/// `paraffin manifest`.
#[derive(Args)]
pub struct ManifestArgs {
    /// Directory that paraffin wrote
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Sign it with this file of a minisign secret key, to site-manifest.json.minisig. The password, where the key has one, is
    /// taken from the environment variable PARAFFIN_SIGN_PASSWORD, or asked for
    #[arg(long, value_name = "KEY")]
    pub sign: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Output`] where OUT is none or cannot be read, [`Error::Usage`] for a key that is none, [`Error::Write`].
pub fn run(args: &ManifestArgs) -> Result<ExitCode> {
    let unreadable = |e: std::io::Error| Error::Output(format!("OUT cannot be listed: {e}"));
    if grid_dirs(&args.out).map_err(unreadable)?.is_empty() || args.out.join("records").is_dir() {
        return Err(Error::Output("holds no grids with records: not an output directory of paraffin".into()));
    }
    write_manifest(&args.out)?;
    let manifest = SiteManifest::read(&args.out.join(MANIFEST_NAME))?;
    for a in &manifest.artefacts {
        let (slides, canaries) = (a.slides as usize, a.canaries.len());
        let (slide, canary) = (plural(slides, "slide"), if canaries == 1 { "canary" } else { "canaries" });
        out!("{}/{}: {slides} {slide}, {} tiles, {canaries} {canary}", a.grid, a.artefact, a.tiles);
    }
    if let Some(key) = &args.sign {
        let id = signature::sign(&args.out, key)?;
        out!("{SIGNATURE_NAME}: signed by the key {id}");
    }
    Ok(ExitCode::SUCCESS)
}
