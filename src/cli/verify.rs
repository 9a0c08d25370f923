//! `paraffin verify`: every file of an OUT against its record.

use std::process::ExitCode;

use super::args::VerifyArgs;
use crate::error::{Error, Result};
use crate::features::verify::{Problem, verify};
use crate::job::summary::plural;
use crate::record::manifest::MANIFEST_NAME;
use crate::record::signature;

/// Runs the command: exit code 0 if all files are what their records say and the signature fits, 1 otherwise.
///
/// # Errors
/// [`Error::Output`] where a directory is no OUT, [`Error::Usage`] for a key that is none.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let mut whole = true;
    let mut reports = Vec::new();
    for out in &args.outs {
        let mut report = verify(out)?;
        let signed = args.pubkey.as_ref().map(|key| signature::check(out, key)).transpose();
        let signed = match signed {
            Ok(by) => by,
            Err(Error::Output(why)) => {
                report.problems.push(Problem { what: MANIFEST_NAME.into(), problem: why });
                None
            }
            Err(e) => return Err(e),
        };
        whole &= report.problems.is_empty();
        if !args.json {
            for problem in &report.problems {
                out!("{}: {}", problem.what, problem.problem);
            }
            if let Some(key) = signed {
                out!("{MANIFEST_NAME}: signed by the key {key}");
            }
            let (records, files, problems) = (report.records, report.files, report.problems.len());
            out!(
                "{records} {}, {files} {}, {} rows, {:.1} MB: {} (\"{}\")",
                plural(records as usize, "record"),
                plural(files as usize, "file"),
                report.rows,
                report.bytes as f64 / 1e6,
                match (problems, report.begun) {
                    (0, 0) => "all whole".to_string(),
                    (0, begun) => format!("all whole; {begun} {} begun", plural(begun as usize, "slide")),
                    (n, _) => format!("{n} {}", plural(n, "problem")),
                },
                out.display()
            );
        }
        reports.push(report);
    }
    if args.json {
        out!("{}", serde_json::to_string_pretty(&reports).map_err(|e| Error::Internal(e.to_string()))?);
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
