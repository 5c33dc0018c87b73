//! The commands of the feature `tools`: `demo`, `sandbox` and `chaos`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tollgate_harness::chaos::{self, ChaosArgs};
use tollgate_harness::demo;

use crate::output;

/// Arguments of `tollgate sandbox`.
#[derive(Args)]
pub(super) struct SandboxArgs {
    /// Address of the providers' interfaces (TLS)
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Address of the control interface (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:8444")]
    control: SocketAddr,
    /// Directories with a sandbox.toml each, as created by `tollgate keygen sandbox`
    #[arg(required = true, value_name = "DIR")]
    accounts: Vec<PathBuf>,
}

pub(super) fn demo(keep: bool) -> Result<(), String> {
    demo::run(keep, print)
}

pub(super) async fn sandbox(arguments: SandboxArgs) -> Result<(), String> {
    let SandboxArgs { listen, control, accounts } = arguments;
    tollgate_sandbox::run_command(listen, control, accounts).await.map_err(|error| error.to_string())
}

pub(super) fn chaos(arguments: &ChaosArgs) -> Result<(), String> {
    chaos::run(arguments, print)
}

fn print(line: fmt::Arguments<'_>) {
    output::line(&mut io::stdout(), line);
}
