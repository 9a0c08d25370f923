//! `paraffin verify`: every file of an OUT against its record.

use std::process::ExitCode;

use super::args::VerifyArgs;
use crate::error::{Error, Result};
use crate::record::verify::verify;

/// Runs the command: exit code 0 if all files are what their records say, 1 otherwise.
///
/// # Errors
/// [`Error::Usage`] where a directory is no OUT.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let mut whole = true;
    let mut reports = Vec::new();
    for out in &args.outs {
        let report = verify(out)?;
        whole &= report.problems.is_empty();
        reports.push(report);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports).map_err(|e| Error::Internal(e.to_string()))?);
    } else {
        for (out, report) in args.outs.iter().zip(&reports) {
            for problem in &report.problems {
                println!("{}: {}", problem.what, problem.problem);
            }
            println!("{report}: \"{}\"", out.display());
        }
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
