//! `paraffin audit`: does anything in an OUT identify a slide or a patient?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::audit::{self, Finding, Options, Report, patterns};
use crate::error::{Error, Result};
use crate::job::ids::naming::IdMode;
use crate::job::summary::plural;
use crate::record::sealed::Identities;

/// Exit code where something was found.
const FOUND: u8 = 5;
/// Most findings that are listed without --json.
const LISTED: usize = 100;

/// `paraffin audit`.
#[derive(Args)]
pub struct AuditArgs {
    /// Directory that paraffin wrote; all of it but site-private is searched
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// The slides behind it: their names, paths and the values of their identifying fields must not be there
    #[arg(long, value_name = "SLIDE|DIR", num_args = 1..)]
    pub against: Vec<PathBuf>,
    /// TOML file with more patterns: [[pattern]] with name, regex, and where wanted binary = true
    #[arg(long, value_name = "TOML")]
    pub patterns: Option<PathBuf>,
    /// age identity that opens names encrypted for --ids-recipient
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: exit code 0 where nothing was found, 5 otherwise.
///
/// # Errors
/// What keeps OUT from being searched.
pub fn run(args: &AuditArgs) -> Result<ExitCode> {
    let options = Options {
        against: args.against.clone(),
        patterns: patterns::load(args.patterns.as_deref())?,
        identities: args.identity.as_deref().map(Identities::read).transpose()?.unwrap_or_default(),
    };
    let report = audit::audit(&args.out, options)?;
    if args.json {
        out!("{}", serde_json::to_string_pretty(&report).map_err(|e| Error::Internal(e.to_string()))?);
    } else {
        tell(&report);
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn tell(report: &Report) {
    for finding in report.findings.iter().take(LISTED) {
        out!("{}", line(finding));
    }
    if report.findings.len() > LISTED {
        out!("... and {} more (--json lists all)", report.findings.len() - LISTED);
    }
    for limit in &report.limits {
        out!("note: {limit}");
    }
    let (files, terms, patterns) = (report.files as usize, report.terms as usize, report.patterns as usize);
    out!(
        "{files} {}, {:.1} MB searched for {terms} {} and {patterns} {}: {}",
        plural(files, "file"),
        report.bytes as f64 / 1e6,
        plural(terms, "term"),
        plural(patterns, "pattern"),
        match report.findings.len() {
            0 => "nothing found".to_string(),
            n => format!("{n} {}", plural(n, "finding")),
        }
    );
    let named = |f: &Finding| f.kind == "slide-name";
    if report.ids == Some(IdMode::Keep) && report.findings.iter().any(named) {
        out!(
            "slides go by their names here (--ids keep): for what leaves, embed to another OUT with --ids random or hmac"
        );
    }
}

fn line(finding: &Finding) -> String {
    let what = match (finding.kind, finding.what.as_str()) {
        ("slide-name", _) => "a slide's name".to_string(),
        ("path-part", _) => "part of a slide's path".into(),
        ("field-value", field) => format!("a slide's {field}"),
        ("host-name", _) => "this machine's name".into(),
        ("user-name", _) => "the name of a user of this machine".into(),
        ("pattern", name) => format!("what looks like a {name}"),
        (_, what) => what.into(),
    };
    let mut line = format!("{}: {what} ({}", finding.file, finding.place);
    if let Some(offset) = finding.offset {
        line += &format!(", byte {offset}");
    }
    if finding.count > 1 {
        line += &format!(", {} times", finding.count);
    }
    line + ")"
}
