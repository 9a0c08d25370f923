//! Shell completions and manual pages, from the same words that the command line is parsed by.

use std::path::Path;

use clap::CommandFactory;

use super::args::Cli;
use crate::error::{Error, Result};

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "paraffin", &mut std::io::stdout());
}

/// Writes `paraffin.1` and a page for each subcommand.
///
/// # Errors
/// [`Error::Write`].
pub fn manpages(directory: &Path) -> Result<()> {
    let failed = |e| Error::write(directory.display().to_string(), e);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)
}
