//! Who a node is, kept on its volume: `node.toml`, and a lock so that one process uses it at a time.
//!
//! The id is random and made once per volume; the incarnation grows at every start and is on the disk
//! before anybody is told of it, so that no two lives of a node are ever confused. Knows no cluster.
//! Start at [`open_or_create`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The format that this version writes and the newest it reads.
const FORMAT: u32 = 1;

const IDENTITY_FILE: &str = "node.toml";
const LOCK_FILE: &str = "lock";
/// Names the running process, for people and for `zwerm up`.
pub const PID_FILE: &str = "zwerm.pid";
/// Where `zwerm up` keeps the plan of its cluster; such a directory is no node's.
pub const CLUSTER_FILE: &str = "cluster.toml";
/// The database, a directory inside the node's.
const DATABASE: &str = "db";

/// Why a node cannot use a data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another process has it.
    #[error("{} is already in use by {}; stop it, or choose another data directory", dir.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}")))]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Who has it, if it said so.
        pid: Option<u32>,
    },
    /// A newer version wrote it.
    #[error("{} has format {found}, this version reads up to {FORMAT}; start a newer zwerm", path.display())]
    Newer {
        /// node.toml
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// The file is there but says nothing sensible.
    #[error("{}: {problem}; restore it from a backup, or move the data directory away to start empty", path.display())]
    Broken {
        /// node.toml
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The directory is the parent of several nodes' directories.
    #[error("{} holds a cluster made by `zwerm up`; start that, or serve one node with --data-dir {}", dir.display(),
        dir.join("node-1").display())]
    BelongsToUp {
        /// The data directory.
        dir: PathBuf,
    },
    /// Something is in a directory that must be empty.
    #[error("{} is not empty ({found} is in it); give another directory, or move what is there away", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The name of something in it.
        found: String,
    },
    /// The cluster id is known and another one.
    #[error(
        "this node belongs to cluster {ours}, not to {theirs}; point it at its own peers, or start it with an empty data directory"
    )]
    OtherCluster {
        /// From this volume.
        ours: String,
        /// What it was to become.
        theirs: String,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// `node.toml` as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    /// 16 hexadecimal digits: TOML integers have 63 bits.
    id: String,
    name: String,
    incarnation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    /// The node has left its cluster: the next start is that of a new, empty one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    left: bool,
}

/// Only the format; read first, because a newer file may have more keys.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A node's identity. The data directory is locked as long as this lives.
#[derive(Debug)]
pub struct Identity {
    /// Random, fixed for this volume.
    pub id: u64,
    /// From the configuration.
    pub name: String,
    /// Greater than at any earlier start on this volume.
    pub incarnation: u64,
    /// Of the cluster this node belongs to; `None` until it was formed.
    cluster_id: Option<String>,
    dir: PathBuf,
    /// Held, not read: the lock ends with the process, however it ends.
    _lock: File,
}

/// Locks `dir`, creating it if need be, and starts a new incarnation of its node.
///
/// # Errors
/// When the directory is in use, of a newer format, damaged, not a node's, or not writable.
pub fn open_or_create(dir: &Path, name: &str) -> Result<Identity, IdentityError> {
    if dir.join(CLUSTER_FILE).exists() {
        return Err(IdentityError::BelongsToUp { dir: dir.to_owned() });
    }
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let lock = lock(dir)?;
    let mut record = match read(dir)? {
        Some(record) if record.left => {
            tracing::info!(dir = %dir.display(), "the node that was here has left its cluster: this is a new one, and empty");
            remove_database(dir)?;
            new_record(dir, name)?
        }
        Some(record) => record,
        None => new_record(dir, name)?,
    };
    let id = record_id(dir, &record)?;
    record.incarnation += 1;
    name.clone_into(&mut record.name);
    write(dir, &record)?;
    write_pid(dir)?;
    Ok(Identity {
        id,
        name: record.name,
        incarnation: record.incarnation,
        cluster_id: record.cluster_id,
        dir: dir.to_owned(),
        _lock: lock,
    })
}

impl Identity {
    /// Of the cluster this node belongs to; `None` until it was formed.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Where the database belongs.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// Remembers the cluster for good; it is on the disk when this returns. The same id again is fine.
    ///
    /// # Errors
    /// When this node belongs to another cluster, or the file cannot be written.
    pub fn set_cluster_id(&mut self, cluster_id: &str) -> Result<(), IdentityError> {
        match &self.cluster_id {
            Some(ours) if ours == cluster_id => return Ok(()),
            Some(ours) => {
                return Err(IdentityError::OtherCluster {
                    ours: ours.clone(),
                    theirs: cluster_id.to_owned(),
                });
            }
            None => {}
        }
        let record = Record { cluster_id: Some(cluster_id.to_owned()), ..self.record() };
        write(&self.dir, &record)?;
        self.cluster_id = record.cluster_id;
        Ok(())
    }

    /// Remembers that this node has left its cluster, where nothing of it is missed: the next start begins with another
    /// id and without data.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_left(&self) -> Result<(), IdentityError> {
        write(&self.dir, &Record { left: true, ..self.record() })
    }

    fn record(&self) -> Record {
        Record {
            format: FORMAT,
            id: format!("{:016x}", self.id),
            name: self.name.clone(),
            incarnation: self.incarnation,
            cluster_id: self.cluster_id.clone(),
            left: false,
        }
    }
}

impl Drop for Identity {
    /// A clean end leaves no pid behind; after a kill the stale one says what was running.
    fn drop(&mut self) {
        fs::remove_file(self.dir.join(PID_FILE)).ok();
    }
}

/// A data directory that a node's data is written to before there is a node. Dropped unfinished, what was written is
/// deleted again.
#[derive(Debug)]
pub(crate) struct Prepared {
    dir: PathBuf,
    finished: bool,
    _lock: File,
}

/// Locks an empty directory, creating it if need be.
///
/// # Errors
/// [`IdentityError::NotEmpty`], or when it cannot be used.
pub(crate) fn prepare(dir: &Path) -> Result<Prepared, IdentityError> {
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let name = entry.map_err(failed("read", dir))?.file_name();
        // what mkfs leaves on a volume
        if name != "lost+found" {
            return Err(IdentityError::NotEmpty { dir: dir.to_owned(), found: name.display().to_string() });
        }
    }
    let lock = lock(dir)?;
    Ok(Prepared { dir: dir.to_owned(), finished: false, _lock: lock })
}

impl Prepared {
    /// Where the database belongs.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// Makes it a node's, which belongs to a cluster already and has never run. Last of all: until then no node starts
    /// here.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self, id: u64, cluster_id: &str) -> Result<(), IdentityError> {
        let record = Record {
            format: FORMAT,
            id: format!("{id:016x}"),
            name: String::new(),
            incarnation: 0,
            cluster_id: Some(cluster_id.to_owned()),
            left: false,
        };
        write(&self.dir, &record)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.finished {
            // what cannot be deleted keeps a node from starting here all the same
            remove_database(&self.dir).ok();
            fs::remove_file(self.dir.join(LOCK_FILE)).ok();
        }
    }
}

/// The process that uses a data directory: `None` when nobody does, `Some(None)` when it did not say who it is.
///
/// # Errors
/// When the lock cannot be read.
pub(crate) fn in_use_by(dir: &Path) -> Result<Option<Option<u32>>, IdentityError> {
    let path = dir.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(said_pid(&path))),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// Whether a node ever ran here.
pub(crate) fn is_nodes_directory(dir: &Path) -> bool {
    dir.join(IDENTITY_FILE).exists()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { action, path, source }
}

fn lock(dir: &Path) -> Result<File, IdentityError> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(IdentityError::InUse { dir: dir.to_owned(), pid: said_pid(&path) });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    file.set_len(0).map_err(failed("write", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(failed("write", &path))?;
    Ok(file)
}

fn said_pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn write_pid(dir: &Path) -> Result<(), IdentityError> {
    let path = dir.join(PID_FILE);
    fs::write(&path, format!("{}\n", std::process::id())).map_err(failed("write", &path))
}

fn read(dir: &Path) -> Result<Option<Record>, IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let broken = |error: toml::de::Error| IdentityError::Broken {
        path: path.clone(),
        problem: error.message().to_owned(),
    };
    let FormatOnly { format } = toml::from_str(&text).map_err(broken)?;
    if format > FORMAT {
        return Err(IdentityError::Newer { path, found: format });
    }
    toml::from_str(&text).map(Some).map_err(broken)
}

/// A new node, but never over the data of one whose identity was lost: its votes would be cast twice.
fn new_record(dir: &Path, name: &str) -> Result<Record, IdentityError> {
    if dir.join(DATABASE).exists() {
        let problem = format!("is missing although {} has a database", dir.display());
        return Err(IdentityError::Broken { path: dir.join(IDENTITY_FILE), problem });
    }
    let id = new_id();
    Ok(Record {
        format: FORMAT,
        id: format!("{id:016x}"),
        name: name.to_owned(),
        incarnation: 0,
        cluster_id: None,
        left: false,
    })
}

/// Random, and never 0.
pub(crate) fn new_id() -> u64 {
    loop {
        let id = rand::random();
        if id != 0 {
            return id;
        }
    }
}

/// Before the identity is: a start that is cut short in between does it again.
fn remove_database(dir: &Path) -> Result<(), IdentityError> {
    let path = dir.join(DATABASE);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", &path)(error)),
        _ => Ok(()),
    }
}

fn record_id(dir: &Path, record: &Record) -> Result<u64, IdentityError> {
    match u64::from_str_radix(&record.id, 16) {
        Ok(id) if id != 0 && record.id.len() == 16 => Ok(id),
        _ => Err(IdentityError::Broken {
            path: dir.join(IDENTITY_FILE),
            problem: format!("id {:?} is not 16 hexadecimal digits", record.id),
        }),
    }
}

/// Replaces the file as a whole, durably: a power cut leaves the old one or the new one.
fn write(dir: &Path, record: &Record) -> Result<(), IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    let text = toml::to_string(record)
        .map_err(|error| IdentityError::Broken { path: path.clone(), problem: error.to_string() })?;
    replace_durably(&path, &text).map_err(failed("write", &path))
}

/// Writes a file beside `path`, syncs it, renames it over `path` and syncs the directory.
pub(crate) fn replace_durably(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_stays_and_its_incarnation_grows() {
        let dir = tempfile::tempdir().unwrap();
        let first = open_or_create(dir.path(), "node-1").unwrap();
        let (id, incarnation) = (first.id, first.incarnation);
        assert_eq!(
            fs::read_to_string(dir.path().join(PID_FILE)).unwrap(),
            format!("{}\n", std::process::id())
        );
        drop(first);
        assert!(!dir.path().join(PID_FILE).exists());
        let second = open_or_create(dir.path(), "renamed").unwrap();
        assert_eq!((second.id, second.name.as_str()), (id, "renamed"));
        assert_eq!((incarnation, second.incarnation), (1, 2));
        assert_ne!(id, 0);
    }

    #[test]
    fn a_cluster_id_is_kept_and_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = open_or_create(dir.path(), "node-1").unwrap();
        assert_eq!(node.cluster_id(), None);
        node.set_cluster_id("c1").unwrap();
        node.set_cluster_id("c1").unwrap();
        drop(node);
        let mut node = open_or_create(dir.path(), "node-1").unwrap();
        assert_eq!(node.cluster_id(), Some("c1"));
        let error = node.set_cluster_id("c2").unwrap_err();
        assert!(error.to_string().starts_with("this node belongs to cluster c1, not to c2"), "{error}");
        assert_eq!(node.cluster_id(), Some("c1"));
    }

    #[test]
    fn an_empty_directory_is_prepared_and_becomes_a_nodes_at_the_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("lost+found")).unwrap();
        let prepared = prepare(&data).unwrap();
        assert!(matches!(prepare(&data), Err(IdentityError::NotEmpty { .. })), "somebody else is at it");
        fs::create_dir(prepared.database()).unwrap();
        drop(prepared);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing is left of one that was given up");
        let prepared = prepare(&data).unwrap();
        fs::create_dir(prepared.database()).unwrap();
        prepared.finish(7, "c1").unwrap();
        let error = prepare(&data).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        let node = open_or_create(&data, "node-1").unwrap();
        assert_eq!((node.id, node.incarnation, node.cluster_id()), (7, 1, Some("c1")));
        assert_eq!(node.name, "node-1");
    }

    #[test]
    fn a_node_that_left_is_another_one_at_its_next_start_and_empty() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = open_or_create(dir.path(), "node-1").unwrap();
        node.set_cluster_id("c1").unwrap();
        fs::create_dir(node.database()).unwrap();
        fs::write(node.database().join("data"), "old").unwrap();
        node.set_left().unwrap();
        let id = node.id;
        drop(node);
        let node = open_or_create(dir.path(), "node-1").unwrap();
        assert_ne!(node.id, id);
        assert_eq!((node.cluster_id(), node.incarnation, node.database().exists()), (None, 1, false));
        let id = node.id;
        drop(node);
        assert_eq!(open_or_create(dir.path(), "node-1").unwrap().id, id, "and stays what it is now");
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_pid_of_its_user() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(in_use_by(dir.path()).unwrap(), None);
        let node = open_or_create(dir.path(), "node-1").unwrap();
        let error = open_or_create(dir.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains(&format!("already in use by pid {}", std::process::id())), "{error}");
        assert_eq!(in_use_by(dir.path()).unwrap(), Some(Some(std::process::id())));
        drop(node);
        assert_eq!(in_use_by(dir.path()).unwrap(), None);
        assert_eq!(open_or_create(dir.path(), "node-1").unwrap().incarnation, 2);
    }

    #[test]
    fn a_newer_format_is_refused_even_with_keys_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IDENTITY_FILE), "format = 2\nnovelty = true\n").unwrap();
        let error = open_or_create(dir.path(), "node-1").unwrap_err().to_string();
        assert!(error.ends_with("has format 2, this version reads up to 1; start a newer zwerm"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_refused_not_replaced() {
        for text in ["format = 1", "format = 1\nid = \"xyz\"\nname = \"a\"\nincarnation = 1", "{", ""] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(IDENTITY_FILE);
            fs::write(&path, text).unwrap();
            let error = open_or_create(dir.path(), "node-1").unwrap_err();
            assert!(matches!(error, IdentityError::Broken { .. }), "{error}");
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn a_database_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(DATABASE)).unwrap();
        let error = open_or_create(dir.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains("node.toml: is missing although"), "{error}");
    }

    #[test]
    fn the_directory_of_a_whole_cluster_is_no_nodes_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CLUSTER_FILE), "").unwrap();
        let error = open_or_create(dir.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains("holds a cluster made by `zwerm up`"), "{error}");
    }

    #[test]
    fn what_is_on_disk_reads_like_this() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record {
            format: 1,
            id: "00000000000000ff".into(),
            name: "node-1".into(),
            incarnation: 7,
            cluster_id: Some("c1".into()),
            left: false,
        };
        write(dir.path(), &record).unwrap();
        let text = fs::read_to_string(dir.path().join(IDENTITY_FILE)).unwrap();
        assert_eq!(
            text,
            "format = 1\nid = \"00000000000000ff\"\nname = \"node-1\"\nincarnation = 7\ncluster_id = \"c1\"\n"
        );
        assert_eq!(read(dir.path()).unwrap(), Some(record));
    }
}
