//! Commands and their arguments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::LedgerConfig;
use crate::output::{complain, say};
use crate::{chaos, config, demo, explain, keygen, ledger, output, probe, routing, sandbox, server, sign, telemetry};

/// A payment gateway: one request format in front of the payment companies, and never a payment made twice.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLES)]
struct Arguments {
    /// The directory with tollgate.toml, merchants/, channels/ and routes.toml
    #[arg(long, global = true, default_value = "conf", value_name = "DIR")]
    conf: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tollgate demo                               see everything work on this machine, without any set-up
  tollgate demo --keep                        the same, and leave it running for your own requests
  tollgate check --conf conf                  every mistake in a configuration, with file and line
  tollgate check --probe                      … and whether each channel's hosts let its identity in
  tollgate route --merchant shop --method wechat.native --amount 888
  tollgate run --conf conf                    serve
  tollgate schema --dir conf/schema           JSON Schemas of the files, for editors
  tollgate explain tea-1                      where is my money: what happened to this order, also while the gateway runs
  tollgate keygen sandbox wechat-sandbox      keys and a channel file for the local sandbox
  tollgate sandbox conf/channels/wechat-sandbox
  tollgate migrate data                       an embedded ledger into the PostgreSQL of conf/tollgate.toml
  tollgate sign --key shop-1 --secret env:SHOP_SECRET POST http://127.0.0.1:8080/v1/payments --data @order.json";

#[derive(Subcommand)]
enum Command {
    /// The whole thing on one machine: sandbox, gateway and a small shop; pays, notifies, refunds
    Demo {
        /// Leave everything running afterwards, until Ctrl-C
        #[arg(long)]
        keep: bool,
    },
    /// The gateway
    Run,
    /// Reads the configuration as `run` would and says every mistake; exit code 1 if there is one
    Check {
        /// Then also reaches every channel's hosts as a payment would, and says what happened there; needs the network
        #[arg(long)]
        probe: bool,
    },
    /// What the files would change of the configuration that was last in force
    Diff,
    /// Takes the running gateway back to an earlier generation of its configuration
    Rollback {
        /// Its number, as GET /generations on the admin port lists them; the one before unless it is given
        #[arg(long)]
        to: Option<u64>,
    },
    /// Where is my money: everything that happened to a payment, with the evidence
    Explain(explain::ExplainArgs),
    /// Which route a payment would take, and why
    Route(routing::RouteArgs),
    /// What a configuration file may hold, as a JSON Schema: for editors that complete and complain
    Schema(config::schema::SchemaArgs),
    /// A local stand-in for WeChat Pay v3 and Alipay that checks every signature, with scripted faults
    Sandbox {
        /// Where the provider's interface is served (TLS)
        #[arg(long, default_value = "127.0.0.1:8443")]
        listen: SocketAddr,
        /// Where the control interface is served (plain HTTP)
        #[arg(long, default_value = "127.0.0.1:8444")]
        control: SocketAddr,
        /// Directories with a sandbox.toml each, as `tollgate keygen sandbox` makes them
        #[arg(required = true, value_name = "DIR")]
        accounts: Vec<PathBuf>,
    },
    /// Breaks everything at once while payments are made, then reconciles what was told, executed and delivered
    Chaos(chaos::ChaosArgs),
    /// Moves an embedded ledger into the PostgreSQL that `[ledger]` of tollgate.toml names; no gateway may run on either
    Migrate {
        /// The directory of the embedded ledger, `ledger.path` before
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
    /// Signs a request and prints the headers for curl
    Sign(sign::SignArgs),
    /// Makes secrets and keys
    Keygen {
        #[command(subcommand)]
        what: Keygen,
    },
}

#[derive(Subcommand)]
enum Keygen {
    /// A secret for a merchant's `keys`
    Merchant,
    /// A secret for a merchant's `webhook.secrets`
    Webhook,
    /// An RSA key pair: NAME_key.pem and NAME_pub.pem
    Rsa {
        /// The files' name
        name: String,
    },
    /// Keys for both sides of a sandbox account, and the channel file that uses them
    Sandbox {
        /// The channel's name
        name: String,
        /// Whom the sandbox stands in for
        #[arg(long, value_enum, default_value_t)]
        provider: keygen::SandboxProvider,
        /// Where the sandbox will listen
        #[arg(long, default_value = "127.0.0.1:8443")]
        address: String,
    },
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let Arguments { conf, command } = Arguments::parse();
    // Before anybody else chooses one: Pingora would take a slower one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match command {
        Command::Check { probe } => {
            let checked = config::diagnostics::check_command(&conf);
            return if probe && checked == ExitCode::SUCCESS { probe::check(&conf) } else { checked };
        }
        Command::Diff => config::operate::diff(&conf),
        Command::Rollback { to } => in_runtime(config::operate::roll_back(&conf, to)),
        Command::Explain(arguments) => in_runtime(explain::run(&conf, &arguments)),
        Command::Route(arguments) => routing::run(&conf, &arguments),
        Command::Schema(arguments) => config::schema::run(&arguments),
        Command::Run => server::bind(conf).map(|bound| bound.serve()),
        Command::Demo { keep } => demo::run(keep),
        Command::Sandbox { listen, control, accounts } => in_runtime(async {
            sandbox::run_command(listen, control, accounts).await.map_err(|error| error.to_string())
        }),
        Command::Chaos(arguments) => chaos::run(&arguments),
        Command::Migrate { from } => migrate(&conf, &from),
        Command::Sign(arguments) => sign::run(arguments),
        Command::Keygen { what } => generate(&conf, what),
    };
    telemetry::log::flush();
    match result {
        Ok(()) if output::is_complete() => ExitCode::SUCCESS,
        Ok(()) => {
            complain!("tollgate: not everything could be written to standard output; is the disk full?");
            ExitCode::FAILURE
        }
        Err(why) => {
            complain!("tollgate: {why}");
            ExitCode::FAILURE
        }
    }
}

fn generate(conf: &std::path::Path, what: Keygen) -> Result<(), String> {
    match what {
        Keygen::Merchant => say!("{}", keygen::merchant_secret()),
        Keygen::Webhook => say!("{}", keygen::webhook_secret()),
        Keygen::Rsa { name } => {
            let pair = keygen::rsa_key_pair().map_err(|error| error.to_string())?;
            for (suffix, text) in [("key", &pair.private_key), ("pub", &pair.public_key)] {
                let path = format!("{name}_{suffix}.pem");
                keygen::write_new(std::path::Path::new(&path), text).map_err(|error| format!("{path}: {error}"))?;
                say!("{path}");
            }
        }
        Keygen::Sandbox { name, provider, address } => {
            let made = keygen::sandbox_channel_of(provider, &conf.join("channels"), &name, &address)
                .map_err(|error| error.to_string())?;
            let account = made.account.display();
            say!("channel    {}", made.channel.display());
            say!("account    {account}");
            say!("start it   tollgate sandbox --listen {address} {account}");
        }
    }
    Ok(())
}

fn migrate(conf: &std::path::Path, from: &std::path::Path) -> Result<(), String> {
    let snapshot = config::file::load(conf, None).map_err(|mistakes| {
        let lines: String = mistakes.iter().map(|mistake| format!("\n{mistake}")).collect();
        format!("the configuration has mistakes, nothing was moved:{lines}")
    })?;
    let LedgerConfig::Postgres(to) = &snapshot.process.ledger else {
        return Err("say in tollgate.toml where to: [ledger] kind = \"postgres\", url = \"env:…\"".to_owned());
    };
    let moved = ledger::migrate(from, to.as_ref().clone()).map_err(|error| format!("not moved: {}", error.0))?;
    say!("{moved}are in the {to} now.");
    say!("{} is marked as moved and opens no more; keep it as a backup.", from.display());
    Ok(())
}

fn in_runtime(future: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::runtime::Runtime::new().map_err(|error| error.to_string())?.block_on(future)
}
