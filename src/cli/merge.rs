//! `paraffin merge`: what all workers have done, in one table and in the manifest.

use std::process::ExitCode;

use super::worker_args::MergeArgs;
use crate::error::{Error, Result};
use crate::job::ids::PRIVATE;
use crate::job::summary::plural;
use crate::job::{self, table};
use crate::record::publish;

/// Runs the command.
///
/// # Errors
/// Where OUT is none or cannot be read, or the table cannot be written.
pub fn run(args: &MergeArgs) -> Result<ExitCode> {
    if !args.out.join(PRIVATE).is_dir() {
        return Err(Error::Usage(format!("no directory that paraffin wrote: \"{}\"", args.out.display())));
    }
    let mut text = Vec::new();
    let rows = table::write(&args.out, &mut text)?;
    match &args.output {
        Some(path) => publish::write_atomic(path, &text).map_err(|e| Error::write("the table", e))?,
        None => {
            use std::io::Write;
            // Whoever reads it may close it early.
            let _ = std::io::stdout().lock().write_all(&text);
        }
    }
    job::write_manifest(&args.out)?;
    let mut line = format!("{} {}", rows.done, plural(rows.done, "record"));
    if rows.failed > 0 {
        line += &format!(", {} failed", rows.failed);
    }
    if rows.damaged > 0 {
        line += &format!(", {} damaged and left out (paraffin verify names them)", rows.damaged);
    }
    eprintln!("{line}; site-manifest.json is up to date");
    Ok(ExitCode::SUCCESS)
}
