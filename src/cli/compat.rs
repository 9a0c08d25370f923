//! `paraffin compat`: may the features of these sites be trained on together?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::error::{Error, Result};
use crate::job::summary::plural;
use crate::record::SiteManifest;
use crate::record::compat::{Compared, Report, Severity, Site, check_names, compare};
use crate::record::manifest::MANIFEST_NAME;

/// Exit code where training together would be wrong.
const INCOMPATIBLE: u8 = 3;

/// What `--help` ends with.
pub const AFTER_HELP: &str = "\
Exit codes:
   0  nothing speaks against training together (warnings may)
   1  a manifest cannot be read
   2  the command line makes no sense
   3  training together would be wrong: the findings name the field";

/// `paraffin compat`.
#[derive(Args)]
pub struct CompatArgs {
    /// Sites: directories that paraffin wrote, or their site-manifest.json under any name
    #[arg(required = true, num_args = 2.., value_name = "OUT|MANIFEST")]
    pub sites: Vec<PathBuf>,
    /// Compare this artefact alone: features_ENCODER, or GRID/features_ENCODER
    #[arg(long, value_name = "NAME")]
    pub artefact: Option<String>,
    /// As JSON, for engines: compatible, sites, findings
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: exit code 0 if the sites fit together, 3 otherwise.
///
/// # Errors
/// [`Error::Output`] where a manifest cannot be read, [`Error::Usage`] where there is nothing to compare.
pub fn run(args: &CompatArgs) -> Result<ExitCode> {
    let sites = args.sites.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    check_names(&sites)?;
    let report = compare(&sites, args.artefact.as_deref())?;
    if args.json {
        out!("{}", serde_json::to_string_pretty(&report).map_err(|e| Error::Internal(e.to_string()))?);
    } else {
        table(&report);
    }
    Ok(if report.compatible { ExitCode::SUCCESS } else { ExitCode::from(INCOMPATIBLE) })
}

fn read(path: &Path) -> Result<Site> {
    let name = path.to_string_lossy().into_owned();
    let file = if path.is_dir() { path.join(MANIFEST_NAME) } else { path.to_owned() };
    let manifest = SiteManifest::read(&file).map_err(|e| match e {
        Error::Output(why) => Error::Output(format!("{why}: \"{name}\"")),
        e => e,
    })?;
    Ok(Site { name, manifest })
}

fn table(report: &Report) {
    for compared in &report.compared {
        let Compared { artefact, contract, canaries, apart } = compared;
        out!("{artefact}");
        match contract {
            Some(sha256) => out!("  contract       the same, {}", sha256.get(..16).unwrap_or(sha256)),
            None => out!("  contract       not the same"),
        }
        if let Some((cosine, difference)) = canaries {
            if *difference == 0.0 {
                out!("  canaries       equal");
            } else {
                out!("  canaries       lowest cosine {cosine:.6}, largest difference {difference:.2e}");
            }
        }
        if let Some(apart) = apart {
            out!(
                "  distributions  means of a dimension {apart:.2} standard deviations apart, in the median of the furthest two sites"
            );
        }
    }
    if !report.findings.is_empty() {
        out!("");
    }
    for finding in &report.findings {
        let sites = finding.sites.join(", ");
        out!("{:<7} {}: {} ({}; {sites})", finding.severity.name(), finding.field, finding.what, finding.artefact);
    }
    if !report.findings.is_empty() {
        out!("");
    }
    let n = report.sites.len();
    let warnings = report.findings.iter().filter(|f| f.severity == Severity::Warn).count();
    let ending = match warnings {
        0 => String::new(),
        n => format!(", with {n} {}", plural(n, "warning")),
    };
    if report.compatible {
        out!("{n} sites fit together{ending}");
    } else {
        out!("{n} sites do not fit together: training on all of them would be wrong");
    }
}
