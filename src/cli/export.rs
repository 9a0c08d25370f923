//! `paraffin export`: finished features in the layouts that other tools read.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::args::ProgressKind;
use super::progress::Count;
use super::session::{SOME_FAILED, use_threads};
use super::signals::stop_on_signals;
use crate::error::{Error, Result};
use crate::export::{Summary, Target, Told, export, ro_crate};
use crate::features::Finished;
use crate::job::summary::plural;

/// `paraffin export`.
#[derive(Args)]
pub struct ExportArgs {
    /// Directory that paraffin wrote
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Who is to read it: clam (also HistoFL), stamp, slideflow (also PathBench-MIL), safetensors; ro-crate wraps the site manifest
    /// alone
    #[arg(long, value_name = "TARGET")]
    to: To,
    /// Directory for the export, outside OUT; made if it does not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Which features, as features_uni2-h [default: the only ones]
    #[arg(long, value_name = "NAME")]
    artefact: Option<String>,
    /// Which grid, as 20x_224px_0px_overlap [default: the only one]
    #[arg(long, value_name = "DIR")]
    grid: Option<String>,
    /// Date of the crate, which RO-Crate demands; a year will do
    #[arg(long, value_name = "YYYY[-MM[-DD]]", required_if_eq("to", "ro-crate"))]
    date_published: Option<String>,
    /// Slides side by side [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Progress: bars on a terminal and lines elsewhere (auto), or one of them, or none
    #[arg(long, value_enum, default_value_t = ProgressKind::Auto)]
    progress: ProgressKind,
}

/// What is made.
#[derive(Clone, Copy)]
enum To {
    /// Features.
    Features(Target),
    /// The site manifest in its wrapping.
    RoCrate,
}

impl FromStr for To {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "ro-crate" => Ok(To::RoCrate),
            word => word.parse().map(To::Features).map_err(|why| format!("{why}, ro-crate")),
        }
    }
}

/// Runs the command: exit code 4 if damaged slides were refused.
///
/// # Errors
/// What keeps the export from starting, or ends it.
pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let target = match args.to {
        To::Features(target) => target,
        To::RoCrate => return run_ro_crate(args),
    };
    if args.date_published.is_some() {
        return Err(Error::Usage("--date-published goes with --to ro-crate".into()));
    }
    let finished = Finished::find(&args.out, args.grid.as_deref(), args.artefact.as_deref())?;
    use_threads(args.threads);
    let count = Count::start(args.progress, finished.ids()?.len() as u64);
    let told = |id: &str, told: &Told| match told {
        Told::Written(tiles) => count.line(&format!("{id}: {tiles} {}", plural(*tiles as usize, "tile"))),
        Told::Kept => count.line(&format!("{id}: there already")),
        Told::LeftOut => count.line(&format!("{id}: no tiles, left out")),
        Told::Refused(why) => count.line(&format!("{id}: refused: {why}")),
    };
    let stop = stop_on_signals()?;
    let result = export(&args.out, &finished, target, &args.output, &stop, &told);
    drop(count);
    let summary = result?;
    tell(&summary, &finished, args);
    Ok(if summary.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(SOME_FAILED) })
}

fn tell(summary: &Summary, finished: &Finished, args: &ExportArgs) {
    let Summary { slides, tiles, bytes, kept, left_out, refused, unfinished, forgotten } = summary;
    if args.progress != ProgressKind::None {
        let mut line = format!("{slides} {}, {tiles} tiles of {}", plural(*slides, "slide"), finished.artefact);
        line += &format!(", {:.1} MB in \"{}\"", *bytes as f64 / 1e6, args.output.display());
        for (n, what) in [(kept, "there already"), (left_out, "without tiles left out")] {
            if *n > 0 {
                line += &format!("; {n} {what}");
            }
        }
        eprintln!("{line}");
        if *unfinished > 0 {
            eprintln!("{unfinished} {} without features yet: not in it", plural(*unfinished, "slide"));
        }
        if *forgotten > 0 {
            let them = plural(*forgotten, "slide");
            eprintln!("files of {forgotten} {them} of an earlier export were left; export.json no longer names them");
        }
    }
    if !refused.is_empty() {
        eprintln!("refused, because their features are not what their records say:");
        for (id, why) in refused {
            eprintln!("  {id}: {why}");
        }
    }
}

fn run_ro_crate(args: &ExportArgs) -> Result<ExitCode> {
    if args.artefact.is_some() || args.grid.is_some() {
        return Err(Error::Usage("--to ro-crate wraps the manifest of the whole OUT: no --artefact, no --grid".into()));
    }
    let artefacts = ro_crate::write(&args.out, &args.output, args.date_published.as_deref().unwrap_or_default())?;
    if args.progress != ProgressKind::None {
        let them = plural(artefacts, "artefact");
        eprintln!("site manifest of {artefacts} {them} as RO-Crate 1.2 in \"{}\"", args.output.display());
    }
    Ok(ExitCode::SUCCESS)
}
