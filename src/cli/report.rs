//! `paraffin report`: a cohort as one HTML file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::ReportArgs;
use crate::error::{Error, Result};
use crate::job::summary::plural;
use crate::record::publish;
use crate::record::publish::PRIVATE;
use crate::report::cohort::Cohort;
use crate::report::html::{self, ReportOptions};

/// Pictures that could not be drawn, of which the reason is told.
const TOLD: usize = 10;

/// Runs the command.
///
/// # Errors
/// [`Error::Usage`] where OUT is none or holds several artefacts, [`Error::Output`], [`Error::Write`].
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let cohort = Cohort::open(&args.out, args.artefact.as_deref())?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None if args.shareable => cohort.root.join("report.html"),
        None => private_path(&cohort.root)?,
    };
    let written = html::write(&cohort, ReportOptions { shareable: args.shareable }, &path)?;
    for missing in written.missing.iter().take(TOLD) {
        eprintln!("left out: {missing}");
    }
    if written.missing.len() > TOLD {
        eprintln!("left out: {} more", written.missing.len() - TOLD);
    }
    let slides = format!("{} {}", written.slides, plural(written.slides, "slide"));
    let what = if args.shareable {
        "without ids, overviews and failures' messages; it still holds numbers and feature maps of each slide"
    } else {
        "it stays at home: it holds ids, paths and pictures (--shareable makes one without)"
    };
    eprintln!("report of {slides}, {} failed, {:.1} MB: {what}", written.failed, written.bytes as f64 / 1e6);
    out!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// A private report lies with what is private.
fn private_path(root: &Path) -> Result<PathBuf> {
    let directory = root.join(PRIVATE);
    let made = publish::create_dir_all(&directory);
    made.and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)))
        .map_err(|e| Error::write(PRIVATE, e))?;
    Ok(directory.join("report.html"))
}
