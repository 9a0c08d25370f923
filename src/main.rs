//! The program: see `paraffin::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    paraffin::cli::main()
}
