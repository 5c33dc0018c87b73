//! The `tollgate` binary: command line, server process, admin port. `tollgate --help` lists the commands.
//!
//! `cli` reads the command, `server` runs the gateway of the crate `tollgate_gateway`, `admin` serves metrics, health checks
//! and operator commands, and `explain` prints what happened to an order.

mod admin;
mod admin_client;
mod cli;
mod explain;
mod output;
mod server;

use std::process::ExitCode;

/// The C library's allocator contends where one thread frees what another allocated, as the ledger's threads do. It
/// cost a sixth of a claim's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
