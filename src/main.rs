//! The command line of Tollgate; `tollgate --help` says it all.

use std::process::ExitCode;

fn main() -> ExitCode {
    tollgate::cli::main()
}
