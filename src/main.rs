//! The `tollgate` binary; `tollgate --help` lists its commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    tollgate::cli::main()
}
