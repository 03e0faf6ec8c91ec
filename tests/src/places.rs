//! Where the programs under test and the tools of the tests are.
//!
//! Knows no process. `tests/prepare` puts the tools where this looks for them.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The `zwerm` program: `ZWERM_BIN`, or the one cargo built beside this test (`target/PROFILE/zwerm`).
///
/// # Errors
/// When there is none.
pub fn zwerm_binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os("ZWERM_BIN") {
        let path = PathBuf::from(named);
        ensure!(path.is_file(), "ZWERM_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    let test = env::current_exe().context("where this test runs from is unknown")?;
    let found = test.ancestors().skip(1).take(3).map(|dir| dir.join("zwerm")).find(|path| path.is_file());
    found.with_context(|| {
        format!("no zwerm beside {}: run ./tests/run, or cargo build --workspace --bins", test.display())
    })
}

/// The folder of the foreign client programs.
#[must_use]
pub fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The Python that has paho-mqtt and the data set.
///
/// # Errors
/// When `tests/prepare` was not run.
pub fn python() -> Result<PathBuf> {
    installed_python("venv")
}

/// The Python that has the schemas of what is under `deploy/`.
///
/// # Errors
/// When `tests/prepare` was not run.
pub fn deploy_python() -> Result<PathBuf> {
    installed_python("deploy")
}

fn installed_python(environment: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".tools/{environment}/bin/python"));
    ensure!(path.exists(), "{} is missing: run ./tests/prepare", path.display());
    Ok(path)
}

/// The Node.js that runs MQTT.js, which must be installed.
///
/// # Errors
/// When `tests/prepare` was not run.
pub fn node_js() -> Result<PathBuf> {
    let module = clients_dir().join("js/node_modules/mqtt");
    ensure!(module.is_dir(), "{} is missing: run ./tests/prepare", module.display());
    Ok(PathBuf::from("node"))
}

/// Chromium or Chrome, under the names that systems give it; `None` where none is installed.
#[must_use]
pub fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = env::split_paths(&path).collect();
    names.iter().flat_map(|name| places.iter().map(move |place| place.join(name))).find(|path| path.is_file())
}
