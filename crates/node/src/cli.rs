//! The command line: what can be typed, and which command gets it.
//!
//! Knows nothing of what the commands do. Exit codes: 0 done, 1 failed (one line on standard error says
//! why and what to do), 2 wrong usage. Start at [`main`].

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::{ctl, passwd, pubsub, restore, serve, status, up};

const EXAMPLES: &str = "\
Examples:
  zwerm up                                    a cluster of three nodes on this machine
  zwerm sub -p 1884 -t 'sensors/#' -v         subscribe at node 2
  zwerm pub -p 1885 -t sensors/1 -m 21.5 -q 1 publish at node 3
  zwerm status                                nodes, leaders, clients, rates";

/// A clustered MQTT broker that behaves like one broker that cannot be killed.
#[derive(Debug, Parser)]
#[command(name = "zwerm", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine, one process per node
    Up(up::Arguments),
    /// Run one node
    Serve(serve::Arguments),
    /// Show nodes, groups with their leaders and lag, clients and rates
    Status(status::Arguments),
    /// Administrate the nodes of a cluster over their HTTP ports
    Ctl(ctl::Arguments),
    /// Write the data directory of the first node of a new cluster from a backup
    Restore(restore::Arguments),
    /// Publish messages (flags as in mosquitto_pub)
    Pub(pubsub::PublishArguments),
    /// Subscribe and print messages (flags as in mosquitto_sub)
    Sub(pubsub::SubscribeArguments),
    /// Put load on any MQTT broker and measure it
    Bench(zwerm_bench::Arguments),
    /// Add, change or delete a user in a file of users
    Passwd(passwd::Arguments),
}

/// The command line is understood but makes no sense: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see --help")]
pub(crate) struct WrongUsage(pub(crate) String);

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nothing can be done about a standard error that is closed
            writeln!(io::stderr(), "zwerm: {}", in_one_line(&error)).ok();
            if error.is::<WrongUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Passwd(arguments) => passwd::run(&arguments),
        Command::Bench(arguments) => zwerm_bench::run(&arguments),
        Command::Up(arguments) => blocking(Builder::new_current_thread(), up::run(arguments)),
        Command::Status(arguments) => blocking(Builder::new_current_thread(), status::run(arguments)),
        Command::Ctl(arguments) => blocking(Builder::new_current_thread(), ctl::run(arguments)),
        Command::Pub(arguments) => blocking(Builder::new_current_thread(), pubsub::publish(arguments)),
        Command::Sub(arguments) => blocking(Builder::new_current_thread(), pubsub::subscribe(arguments)),
    }
}

fn blocking(mut builder: Builder, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime: Runtime = builder.enable_all().build()?;
    let done = runtime.block_on(work);
    // a blocked read of standard input must not hold the exit up
    runtime.shutdown_background();
    done
}

/// The error and its causes, each said once.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_examples() {
        fn explains_itself(command: &mut clap::Command) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
            command
                .get_subcommands_mut()
                .filter(|command| command.get_name() != "help")
                .for_each(explains_itself);
        }
        Cli::command().get_subcommands_mut().for_each(explains_itself);
    }

    fn parses(line: &str) -> Result<Cli, clap::error::ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn the_flags_of_mosquitto_are_understood() {
        let lines = [
            "zwerm pub -h localhost -p 1885 -t sensors/1/temp -m 21.5 -q 1 -r -i me -u name -P secret -V mqttv311",
            "zwerm pub -t t -l -q 2 -k 10 -V 31",
            "zwerm pub -t t -n -r",
            "zwerm pub -t t -s -D PUBLISH user-property a b -D publish content-type text/plain -x 5",
            "zwerm pub -t t -f file --repeat 3 --repeat-delay 0.5 --will-topic w --will-payload gone --will-qos 1 --will-retain",
            "zwerm sub -p 1884 -t sensors/# -v -q 1",
            "zwerm sub -t a -t b -T a/x -C 3 -W 10 -N -R -c -i me -V 5 -D subscribe subscription-identifier 1",
            "zwerm sub -t a --retained-only --retain-as-published --retain-handling new",
            "zwerm sub -t a -E",
            "zwerm passwd users anna --iterations 100000",
            "zwerm passwd users anna -D",
            "zwerm ctl node list --json",
            "zwerm ctl node drain node-2 --for-good --force --timeout 60 --http http://10.0.0.1:8080",
            "zwerm ctl node drain --no-wait --token-file /etc/zwerm/token",
            "zwerm ctl node undrain node-2",
            "zwerm ctl backup cluster.zwermbak --http http://10.0.0.1:8080 --token-file /etc/zwerm/token --json",
            "zwerm ctl backup verify cluster.zwermbak --json",
            "zwerm restore cluster.zwermbak --data-dir /var/lib/zwerm --json",
            "zwerm bench fan-out --publish-to n1:1883 --subscribe-to n2:1883,n3:1883 -q 1 --json",
        ];
        for line in lines {
            assert!(parses(line).is_ok(), "{line}: {:?}", parses(line).err());
        }
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        use clap::error::ErrorKind::*;
        let lines = [
            ("zwerm pub -t t", MissingRequiredArgument),
            ("zwerm pub -t t -m a -n", ArgumentConflict),
            ("zwerm pub -t t -m a -q 3", ValueValidation),
            ("zwerm pub -t t -m a -P secret", MissingRequiredArgument),
            ("zwerm sub -v", MissingRequiredArgument),
            ("zwerm sub -t a -c", MissingRequiredArgument),
            ("zwerm sub -t a -C 0", ValueValidation),
            ("zwerm sub --help", DisplayHelp),
            ("zwerm up --nodes 0", ValueValidation),
            ("zwerm up --node 1 --nodes 3", ArgumentConflict),
            ("zwerm down", InvalidSubcommand),
            ("zwerm ctl node", DisplayHelpOnMissingArgumentOrSubcommand),
            ("zwerm ctl node evict", InvalidSubcommand),
            ("zwerm ctl backup", MissingRequiredArgument),
            ("zwerm ctl backup verify", MissingRequiredArgument),
            ("zwerm restore file", MissingRequiredArgument),
            ("zwerm ctl node drain --no-wait --timeout 5", ArgumentConflict),
            ("zwerm bench pub-sub -q 3", ValueValidation),
            ("zwerm bench pub-sub -m 1 --seconds 1", ArgumentConflict),
        ];
        for (line, wanted) in lines {
            assert_eq!(parses(line).err(), Some(wanted), "{line}");
        }
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow::anyhow!("connection refused").context("cannot connect\nto the broker");
        assert_eq!(in_one_line(&error), "cannot connect to the broker: connection refused");
        let repeated = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(in_one_line(&repeated), "cannot read x: no such file");
    }
}
