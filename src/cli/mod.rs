//! The command line: one file a subcommand. Errors become messages and exit codes here and nowhere else.

/// Prints a line of data to standard output. Whoever reads it may close it early (`| head`): that is no failure.
macro_rules! out {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout().lock(), $($words)*);
    }};
}

pub mod args;
mod audit;
mod check;
mod compat;
mod doctor;
mod embed;
mod encoders;
mod export;
mod generate;
mod heatmap;
mod hidden;
mod ids;
mod info;
mod log;
mod manifest;
mod merge;
mod metrics;
mod outage;
mod plan;
mod progress;
mod report;
mod sampler;
mod session;
mod signals;
mod status;
mod tiles;
mod verify;
mod view;
pub mod worker_args;

use std::process::ExitCode;

use clap::Parser;

use crate::slide::openslide;
use args::{Cli, Command};
use hidden::Hidden;

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let hidden = Hidden::of_process();
    let cli = match (Cli::try_parse(), &hidden) {
        (Ok(cli), _) => cli,
        (Err(e), Some(hidden)) if e.use_stderr() => {
            eprint!("{}", hidden.clean(&e.render().to_string()));
            return ExitCode::from(2);
        }
        (Err(e), _) => e.exit(),
    };
    if hidden.is_some() {
        tell_panics_by_place();
    }
    let result = match &cli.command {
        Command::Embed(args) => embed::run(args),
        Command::Tiles(args) => tiles::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Status(args) => status::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Info(args) => info::run(args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Ids(args) => ids::run(args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(args),
        Command::Heatmap(args) => heatmap::run(args),
        Command::Report(args) => report::run(args),
        Command::View(args) => view::run(args),
        Command::Manifest(args) => manifest::run(args),
        Command::Compat(args) => compat::run(args),
        Command::Encoders(command) => encoders::run(command),
        Command::Doctor => Ok(doctor::run()),
        Command::Completions { shell } => {
            generate::completions(*shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::Manpages { directory } => generate::manpages(directory).map(|()| ExitCode::SUCCESS),
        Command::OpenslideWorker => Ok(openslide::worker_main()),
    };
    result.unwrap_or_else(|e| {
        // Whoever knows the path adds it, last.
        let message = hidden.as_ref().map_or_else(|| e.to_string(), |hidden| hidden.clean(&e.to_string()));
        match &cli.command {
            Command::Info(args) => eprintln!("paraffin: {e}: \"{}\"", args.slide.display()),
            Command::Embed(args) => args.run.log_format.error(&e, &message),
            Command::Tiles(args) => args.run.log_format.error(&e, &message),
            _ => eprintln!("paraffin: {message}"),
        }
        ExitCode::from(e.exit_code())
    })
}

/// A panic's own words may quote what was being read.
fn tell_panics_by_place() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("paraffin: a bug in paraffin, please report it: {place}");
    }));
}
