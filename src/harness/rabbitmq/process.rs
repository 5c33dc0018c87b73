//! A broker as a child process that takes commands, such as `tests/servers/rabbitmq`.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// Running program of a broker. It prints the broker's port, and `done` after each command. It ends with its input.
pub struct BrokerProcess {
    port: u16,
    process: Child,
    /// Locked while a command is executed.
    line: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl BrokerProcess {
    /// Starts the program and waits until the broker listens.
    pub async fn start(program: &str) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot start the broker with `{program}`: {error}");
        let mut command = Command::new(program);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(format!("`{program}` has no standard input and output"));
        };
        let mut output = BufReader::new(output).lines();
        let ports = output.next_line().await.map_err(cannot)?.unwrap_or_default();
        let port = ports.split(' ').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| format!("`{program}` must print the broker's port, but printed `{ports}`"))?;
        Ok(Self { port, process, line: Mutex::new((input, output)) })
    }

    /// Returns the URL of the broker. It has RabbitMQ's default user.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// Executes `stop` (like a crash), `start`, `freeze`, `thaw`, or a command of `rabbitmqctl`. Must not be cancelled.
    pub async fn execute(&self, command: &str) -> Result<(), String> {
        let mut line = self.line.lock().await;
        let (input, output) = &mut *line;
        let cannot = |error: std::io::Error| format!("the broker's program does not take `{command}`: {error}");
        input.write_all(format!("{command}\n").as_bytes()).await.map_err(cannot)?;
        match output.next_line().await.map_err(cannot)?.as_deref() {
            Some("done") => Ok(()),
            other => Err(format!("the broker's program answered `{command}` with {other:?}")),
        }
    }

    /// Ends the program and the broker.
    pub async fn end(mut self) -> Result<(), String> {
        drop(self.line);
        self.process.wait().await.map(drop).map_err(|error| format!("cannot end the broker: {error}"))
    }
}
