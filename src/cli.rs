//! Command line: commands and their arguments.

mod check;
mod keygen;
pub(crate) mod operate;
mod probe;
mod route;
mod schema;
mod sign;
#[cfg(feature = "tools")]
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tollgate_config::LedgerConfig;
use tollgate_gateway::open_ledger::{environment, postgres_address};

use crate::output::{complain, say};
use crate::{explain, output, server};
use tollgate_gateway::{snapshot, telemetry};

/// A payment gateway: one request format for several payment providers, and no payment is ever made twice.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLES.join("\n"))]
struct Arguments {
    /// Directory with tollgate.toml, merchants/, channels/ and routes.toml
    #[arg(long, global = true, default_value = "conf", value_name = "DIR")]
    conf: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &[&str] = &[
    "Examples:",
    #[cfg(feature = "tools")]
    "  tollgate demo                               show everything on this machine, without any set-up",
    #[cfg(feature = "tools")]
    "  tollgate demo --keep                        the same, and leave it running for your own requests",
    "  tollgate check --conf conf                  list every configuration error with file and line",
    "  tollgate check --probe                      also test whether each channel's hosts accept its identity",
    "  tollgate route --merchant shop --method wechat.native --amount 888",
    "  tollgate run --conf conf                    run the gateway",
    "  tollgate schema --dir conf/schema           JSON Schemas of the files, for editors",
    "  tollgate explain tea-1                      show everything that happened to an order",
    #[cfg(feature = "tools")]
    "  tollgate keygen sandbox wechat-sandbox      create keys and a channel file for the local sandbox",
    #[cfg(feature = "tools")]
    "  tollgate sandbox conf/channels/wechat-sandbox",
    "  tollgate migrate data                       move an embedded ledger into the PostgreSQL of conf/tollgate.toml",
    "  tollgate sign --key shop-1 --secret env:SHOP_SECRET POST http://127.0.0.1:8080/v1/payments --data @order.json",
];

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "tools")]
    /// Run sandbox, gateway and a small shop on this machine: pay, notify, refund
    Demo {
        /// Keep everything running afterwards, until Ctrl-C
        #[arg(long)]
        keep: bool,
    },
    /// Run the gateway
    Run,
    /// Read the configuration like `run` and list every error; exit code 1 if there is one
    Check {
        /// Also contact every channel's hosts as a payment would, its published keys and Redis; needs the network
        #[arg(long)]
        probe: bool,
    },
    /// Show what the files would change compared with the configuration last in force
    Diff,
    /// Return the running gateway to an earlier generation of its configuration
    Rollback {
        /// Generation number (see GET /generations on the admin port); default: the previous one
        #[arg(long)]
        to: Option<u64>,
    },
    /// Show everything that happened to a payment, with the evidence
    Explain(explain::ExplainArgs),
    /// Show which route a payment would take, and why
    Route(route::RouteArgs),
    /// Print a JSON Schema of a configuration file for editor completion and validation
    Schema(schema::SchemaArgs),
    #[cfg(feature = "tools")]
    /// Run local simulators of the providers that check every signature, with scripted faults
    Sandbox(tools::SandboxArgs),
    #[cfg(feature = "tools")]
    /// Inject every kind of fault while payments are made, then compare what was reported, executed and delivered
    Chaos(tollgate_harness::chaos::ChaosArgs),
    /// Move an embedded ledger into the PostgreSQL of `[ledger]` in tollgate.toml; no gateway may run on either
    Migrate {
        /// Directory of the embedded ledger, the former `ledger.path`
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
    /// Sign a request and print the headers for curl
    Sign(sign::SignArgs),
    /// Generate secrets and keys
    Keygen {
        #[command(subcommand)]
        what: keygen::Keygen,
    },
}

/// Runs the command given by the arguments.
pub(crate) fn main() -> ExitCode {
    let Arguments { conf, command } = Arguments::parse();
    // Must be installed first, because Pingora would install a slower provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match command {
        Command::Check { probe } => {
            let checked = check::run(&conf);
            return if probe && checked == ExitCode::SUCCESS { probe::run(&conf) } else { checked };
        }
        Command::Diff => operate::diff(&conf),
        Command::Rollback { to } => in_runtime(operate::roll_back(&conf, to)),
        Command::Explain(arguments) => in_runtime(explain::run(&conf, &arguments)),
        Command::Route(arguments) => route::run(&conf, &arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Run => server::bind(conf).map(|bound| bound.serve()),
        #[cfg(feature = "tools")]
        Command::Demo { keep } => tools::demo(keep),
        #[cfg(feature = "tools")]
        Command::Sandbox(arguments) => in_runtime(tools::sandbox(arguments)),
        #[cfg(feature = "tools")]
        Command::Chaos(arguments) => tools::chaos(&arguments),
        Command::Migrate { from } => migrate(&conf, &from),
        Command::Sign(arguments) => sign::run(arguments),
        Command::Keygen { what } => keygen::run(&conf, what),
    };
    telemetry::log::flush();
    match result {
        Ok(()) if output::is_complete() => ExitCode::SUCCESS,
        Ok(()) => {
            complain!("tollgate: standard output could not be written completely; check whether the disk is full");
            ExitCode::FAILURE
        }
        Err(why) => {
            complain!("tollgate: {why}");
            ExitCode::FAILURE
        }
    }
}

fn migrate(conf: &std::path::Path, from: &std::path::Path) -> Result<(), String> {
    let snapshot = snapshot::load(conf, None).map_err(|mistakes| {
        let lines: String = mistakes.iter().map(|mistake| format!("\n{mistake}")).collect();
        format!("the configuration has errors, nothing was moved:{lines}")
    })?;
    let current = snapshot::put_in_force(snapshot);
    let process = std::sync::Arc::clone(&current.load().process);
    let LedgerConfig::Postgres(to) = &process.ledger else {
        return Err("set the destination in tollgate.toml: [ledger] kind = \"postgres\", url = \"env:…\"".to_owned());
    };
    let address = postgres_address(to)?;
    let moved = tollgate_ledger::migrate(from, address, environment(&current))
        .map_err(|error| format!("the ledger was not moved: {error}"))?;
    say!("{moved}are in the {to} now.");
    say!("{} is marked as moved and can no longer be opened; keep it as a backup.", from.display());
    Ok(())
}

fn in_runtime(future: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::runtime::Runtime::new().map_err(|error| error.to_string())?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Runs with and without the feature `tools`.
    #[test]
    fn commands_of_simulators_and_faults_exist_only_with_the_feature_tools() {
        let mut command = Arguments::command();
        let names = |command: &clap::Command| -> Vec<String> {
            command.get_subcommands().map(|one| one.get_name().to_owned()).collect()
        };
        let keygen: Vec<String> = command.find_subcommand("keygen").map(names).unwrap_or_default();
        let commands = names(&command);
        let help = command.render_long_help().to_string();
        for tool in ["demo", "sandbox", "chaos"] {
            assert_eq!(commands.iter().any(|name| name == tool), cfg!(feature = "tools"), "{tool}");
            assert_eq!(help.contains(&format!("\n  {tool} ")), cfg!(feature = "tools"), "{help}");
        }
        assert_eq!(keygen.iter().any(|name| name == "sandbox"), cfg!(feature = "tools"));
        assert!(["run", "check", "sign"].iter().all(|name| commands.iter().any(|other| other == name)));
        assert!(["merchant", "webhook", "rsa"].iter().all(|name| keygen.iter().any(|other| other == name)));
        assert!(cfg!(feature = "tools") || !help.contains("sandbox"), "{help}");
    }
}
