//! The program: see `paraffin::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // ONNX Runtime's switch in the interface (`with_telemetry(false)`) comes too late for its first event, which names the
    // program and the machine and is kept in the user's cache until it can be sent. This variable comes in time.
    // SAFETY: the first statement of the program: no other thread is there to read the environment.
    #[allow(unsafe_code, reason = "the only way to set a variable for a library of this process")]
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
    paraffin::cli::main()
}
