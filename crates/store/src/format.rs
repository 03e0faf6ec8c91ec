//! The version of the layout of the whole database, checked before anything else is read.
//!
//! | version | released | change |
//! |---|---|---|
//! | 1 | 0.1.0 | first: Raft votes, logs and snapshots |
//!
//! Each record has a version of its own as well (`zwerm-raft`'s `record`); this number changes when an older
//! release would misread or damage the data.

use crate::keyspace::{Format, KeySpace};
use crate::{Batch, Engine, StoreError};

/// Version that this release writes.
pub const CURRENT: u32 = 1;

/// Checks the version of the data and writes it into an empty database. Returns the version found.
///
/// # Errors
/// [`StoreError::NewerFormat`] if a newer release wrote the data; otherwise as [`Engine`].
pub fn check(engine: &dyn Engine) -> Result<u32, StoreError> {
    let Some(found) = engine.get(&Format::key(()))? else {
        let mut batch = Batch::new();
        batch.put(Format::key(()), CURRENT.to_be_bytes().to_vec());
        engine.commit(batch)?;
        engine.sync()?;
        return Ok(CURRENT);
    };
    let found: [u8; 4] = found
        .as_ref()
        .try_into()
        .map_err(|_| StoreError::Damaged("format version is not four bytes".into()))?;
    match u32::from_be_bytes(found) {
        0 => Err(StoreError::Damaged("format version is 0".into())),
        newer if newer > CURRENT => Err(StoreError::NewerFormat { found: newer, supported: CURRENT }),
        version => Ok(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryEngine;

    fn with_format(bytes: &'static [u8]) -> MemoryEngine {
        let engine = MemoryEngine::new();
        let mut batch = Batch::new();
        batch.put(Format::key(()), bytes);
        engine.commit(batch).unwrap();
        engine
    }

    #[test]
    fn an_empty_database_gets_the_current_version_durably() {
        let engine = MemoryEngine::new();
        assert_eq!(check(&engine).unwrap(), CURRENT);
        engine.crash();
        assert_eq!(engine.get(&[0]).unwrap().as_deref(), Some(&[0, 0, 0, 1][..]));
        assert_eq!(check(&engine).unwrap(), CURRENT);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let error = check(&with_format(&[0, 0, 0, 9])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the data has format 9, this release reads up to 1: start a newer release"
        );
    }

    #[test]
    fn bytes_that_are_no_version_are_damage() {
        assert!(matches!(check(&with_format(&[0, 0, 0, 0])), Err(StoreError::Damaged(_))));
        assert!(matches!(check(&with_format(&[1])), Err(StoreError::Damaged(_))));
    }
}
