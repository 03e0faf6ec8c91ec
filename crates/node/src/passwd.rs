//! `zwerm passwd`: the file of users that `auth.users_file` names.
//!
//! Writes a line per mechanism for a name, in place of those that it had; all other lines stay as they are. The new
//! file takes the place of the old one at once. Knows no node: those that use the file read it again. Start at [`run`].

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use zwerm_auth::{Credential, ITERATIONS, MAX_ITERATIONS, MIN_ITERATIONS, Mechanism, SALT_BYTES, Users};

const EXAMPLES: &str = "\
Examples:
  zwerm passwd /etc/zwerm/users anna                   asks for the password of anna
  echo \"$SECRET\" | zwerm passwd /etc/zwerm/users pump  reads it from standard input
  zwerm passwd /etc/zwerm/users anna -D                anna may connect no more

A node whose auth.users_file names the file takes the change within seconds.";

/// Arguments of `zwerm passwd`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// File of users; made if it is not there
    file: PathBuf,
    /// Name of the user
    name: String,
    /// Delete the user
    #[arg(short = 'D', long, conflicts_with = "iterations")]
    delete: bool,
    /// Rounds of the hash; more make guessing and logging in slower
    #[arg(long, default_value_t = ITERATIONS,
        value_parser = clap::value_parser!(u32).range(i64::from(MIN_ITERATIONS)..=i64::from(MAX_ITERATIONS)))]
    iterations: u32,
}

/// Changes the file.
///
/// # Errors
/// The file is wrong or cannot be written, the name or password cannot be one, or there is nobody to delete.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { file, name, .. } = arguments;
    let old = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    Users::parse(&old, rand::random()).with_context(|| format!("{} is no list of users", file.display()))?;
    let is_of_name = |line: &&str| line.split_once(':').is_some_and(|(of, _)| of.trim() == name);
    let mut lines: Vec<String> = old.lines().filter(|line| !is_of_name(line)).map(str::to_owned).collect();
    if arguments.delete {
        ensure!(lines.len() < old.lines().count(), "{} has no user {name}", file.display());
    } else {
        let password = password(name)?;
        for mechanism in Mechanism::ALL {
            let salt: [u8; SALT_BYTES] = rand::random();
            let credential = Credential::derive(mechanism, &password, &salt, arguments.iterations)?;
            lines.push(format!("{name}:{credential}"));
        }
    }
    let new = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    Users::parse(&new, rand::random()).with_context(|| format!("{name:?} cannot be a user"))?;
    replace(file, &new).with_context(|| format!("cannot write {}", file.display()))?;
    let done = if arguments.delete { "is deleted from" } else { "is in" };
    Ok(writeln!(io::stdout(), "{name} {done} {}", file.display())?)
}

/// Asks for it twice if somebody is there to be asked; otherwise the first line of standard input.
fn password(name: &str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let first = rpassword::prompt_password(format!("Password of {name}: "))?;
    if rpassword::prompt_password("Again: ")? != first {
        bail!("the two passwords differ; nothing was changed");
    }
    Ok(first)
}

/// Writes beside the file and renames, so that nobody ever reads a part of it. Others may not read a new file.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let permissions =
        fs::metadata(file).map_or_else(|_| Permissions::from_mode(0o600), |old| old.permissions());
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut new = File::options().write(true).create(true).truncate(true).open(&beside)?;
    new.set_permissions(permissions)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_alone_and_an_old_one_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        replace(&file, "# nobody\n").unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        replace(&file, "# still nobody\n").unwrap();
        assert_eq!(mode(), 0o640);
        assert_eq!(fs::read_to_string(&file).unwrap(), "# still nobody\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_user_is_deleted_and_the_others_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        let line = |name, password| {
            let credential =
                Credential::derive(Mechanism::Sha256, password, b"salt", MIN_ITERATIONS).unwrap();
            format!("{name}:{credential}\n")
        };
        let (anna, ben) = (line("anna", "a"), line("ben", "b"));
        fs::write(&file, format!("# people\n{anna}{ben}")).unwrap();
        let delete = |name: &str| {
            run(&Arguments { file: file.clone(), name: name.into(), delete: true, iterations: ITERATIONS })
        };
        delete("anna").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("# people\n{ben}"));
        let error = delete("anna").unwrap_err().to_string();
        assert!(error.ends_with("has no user anna"), "{error}");
        fs::write(&file, "anna\n").unwrap();
        let error = format!("{:#}", delete("anna").unwrap_err());
        assert!(error.contains("is no list of users: line 1"), "{error}");
    }
}
