//! The program: see `paraffin::cli`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// glibc's switch for huge pages in `malloc`: a model's weights and intermediate values lie in a few large pieces. Measured in
/// whole runs with the default encoder: 3 % less time, 57 % fewer page faults, the same peak memory (benches/RESULTS.md).
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

fn main() -> ExitCode {
    // ONNX Runtime's switch in the interface (`with_telemetry(false)`) comes too late for its first event, which names the
    // program and the machine and is kept in the user's cache until it can be sent. This variable comes in time.
    // SAFETY: the first statement of the program: no other thread is there to read the environment.
    #[allow(unsafe_code, reason = "the only way to set a variable for a library of this process")]
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "embed") && std::env::var_os(HUGE_PAGES.0).is_none() {
        restart_with_huge_pages();
    }
    paraffin::cli::main()
}

/// glibc reads its tunables when a process starts and never again, so this process begins anew: same id, same words. Where
/// that cannot be done the run goes on as it is.
fn restart_with_huge_pages() {
    if let Ok(program) = std::env::current_exe() {
        let _ = Command::new(program).args(std::env::args_os().skip(1)).env(HUGE_PAGES.0, HUGE_PAGES.1).exec();
    }
}
