//! The namespaces a run lives in: the program starts itself again through `unshare`, with networks, mounts and
//! process ids of its own.
//!
//! Whatever a run makes (bridges of networks, mounts, processes) belongs to these namespaces, so the kernel removes
//! all of it when the run ends, also when it is killed. Nothing outside is touched and no name can clash with
//! another run. Knows nothing of MQTT. Start at [`enter`].

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Set in the environment of the program that runs inside.
const INSIDE: &str = "ZWERM_CHAOS_INSIDE";
/// Its value when the inside shall only be tried.
const PROBE: &str = "probe";

/// The programs that networks and namespaces are made with (Debian packages iproute2, util-linux, mount).
const TOOLS: [&str; 4] = ["unshare", "nsenter", "ip", "mount"];

/// New networks, mounts and process ids; the death of `unshare` kills everything inside.
const FLAGS: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// Where one is not root: a user namespace first.
const AS_USER: [&str; 2] = ["--user", "--map-root-user"];

/// Where this process is.
#[derive(Debug)]
pub(crate) enum Place {
    /// In its own namespaces: run.
    Inside,
    /// In its own namespaces, to see whether everything can be made.
    Probe,
    /// This machine does not allow it; why.
    Refused(String),
}

/// Whether this process is the one that was typed.
pub(crate) fn is_outside() -> bool {
    env::var_os(INSIDE).is_none()
}

/// Continues in namespaces of its own: returns inside, or with the reason why there are none.
///
/// # Errors
/// When the program does not find itself.
pub(crate) fn enter() -> Result<Place> {
    match env::var(INSIDE) {
        Ok(value) if value == PROBE => return Ok(Place::Probe),
        Ok(_) => return Ok(Place::Inside),
        Err(_) => {}
    }
    if let Some(missing) = TOOLS.into_iter().find(|tool| !is_there(tool)) {
        return Ok(Place::Refused(format!("the program `{missing}` is missing")));
    }
    let mut refusals = Vec::new();
    for user in [&[][..], &AS_USER[..]] {
        let mut probe = unshare(user)?;
        let output = probe.env(INSIDE, PROBE).output().context("running unshare")?;
        if output.status.success() {
            let mut command = unshare(user)?;
            let error = command.args(env::args_os().skip(1)).env(INSIDE, "yes").exec();
            return Err(error).context("running unshare");
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        refusals.push(if user.is_empty() { said } else { format!("as a user: {said}") });
    }
    Ok(Place::Refused(refusals.join("; ")))
}

fn unshare(user: &[&str]) -> Result<Command> {
    let program = env::current_exe().context("where this program runs from is unknown")?;
    let mut command = Command::new("unshare");
    command.args(user).args(FLAGS).arg("--").arg(program);
    Ok(command)
}

fn is_there(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}
