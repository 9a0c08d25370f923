//! The command line: one file a subcommand. Errors become messages and exit codes here and nowhere else.

/// Prints a line of data to standard output. Whoever reads it may close it early (`| head`): that is no failure.
macro_rules! out {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout().lock(), $($words)*);
    }};
}

pub mod args;
mod check;
mod doctor;
mod embed;
mod encoders;
mod generate;
mod info;
mod progress;
mod session;
mod tiles;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::slide::openslide;
use args::{Cli, Command};

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Embed(args) => embed::run(args),
        Command::Tiles(args) => tiles::run(args),
        Command::Info(args) => info::run(args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(args),
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
        match &cli.command {
            Command::Info(args) => eprintln!("paraffin: {e}: \"{}\"", args.slide.display()),
            _ => eprintln!("paraffin: {e}"),
        }
        ExitCode::from(e.exit_code())
    })
}
