//! What can be typed after the programs that measure rounds and write tables, and what they do with it.
//!
//! Start at [`Options`].

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use zwerm_tests::{Measured, Surroundings, build_zwerm};

/// What they have in common.
#[derive(Debug, Args)]
pub struct Options {
    /// Measurements whose name contains this; repeat it for more [default: all]
    #[arg(long, value_name = "WORDS")]
    pub only: Vec<String>,
    /// Write the tables into this document, between their marks
    #[arg(long, value_name = "FILE")]
    pub document: Option<PathBuf>,
    /// Write every single report into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// One round with tiny numbers, of other brokers mosquitto only: shows that the tool works, measures nothing
    #[arg(long, conflicts_with = "document")]
    pub quick: bool,
    /// Take the zwerm that is there
    #[arg(long)]
    pub no_build: bool,
}

impl Options {
    /// Builds zwerm, and lets it open as many files as it may.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn prepare(&self) -> Result<()> {
        if !self.no_build {
            build_zwerm()?;
        }
        zwerm_bench::raise_open_files()
    }

    /// Prints what was measured, and writes it where it was asked for.
    ///
    /// # Errors
    /// When it cannot be written, or the document has no marks.
    pub fn tell(
        &self,
        surroundings: &Surroundings,
        reports: &[Value],
        marks: &Measured,
        text: &str,
    ) -> Result<()> {
        if let Some(path) = &self.json {
            let all = json!({ "surroundings": surroundings, "reports": reports });
            fs::write(path, serde_json::to_vec_pretty(&all)?)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        println!("{text}");
        if let Some(path) = &self.document {
            marks.update(path, text)?;
        }
        Ok(())
    }
}
