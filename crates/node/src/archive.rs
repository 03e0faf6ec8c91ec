//! An archive as a file: checked, and told of to people and programs.
//!
//! Knows no node and no network. Start at [`check`].

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::{Value, json};
use zwerm_cluster::{Summary, inspect};

/// Bytes read from the file at a time.
const READ: usize = 1 << 20;

/// Reads a file.
///
/// # Errors
/// It cannot be opened.
pub(crate) fn open(file: &Path) -> anyhow::Result<BufReader<File>> {
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    Ok(BufReader::with_capacity(READ, opened))
}

/// Checks the whole file and says what is in it.
///
/// # Errors
/// It is no archive, or not whole.
pub(crate) fn check(file: &Path) -> anyhow::Result<Summary> {
    inspect(open(file)?).with_context(|| file.display().to_string())
}

/// For programs.
pub(crate) fn to_json(file: &Path, summary: &Summary) -> Value {
    json!({
        "file": file.display().to_string(),
        "bytes": summary.bytes,
        "cluster_id": summary.cluster_id,
        "taken_at": taken_at(summary),
        "taken_at_ms": summary.taken_at_ms,
        "version": summary.version,
        "shards": summary.shards,
        "nodes": summary.nodes,
        "clients": summary.clients,
        "connected": summary.connected,
        "sessions": summary.sessions,
        "queued": summary.queued,
        "retained": summary.retained,
        "delayed": summary.delayed,
        "outbox": summary.outbox,
        "messages": summary.messages,
        "message_bytes": summary.message_bytes,
    })
}

/// For people, in some lines.
pub(crate) fn to_text(file: &Path, summary: &Summary) -> String {
    let Summary { cluster_id, version, shards, nodes, .. } = summary;
    format!(
        "{}: backup of cluster {cluster_id}, whole ({} bytes)\n\
         taken      {}, by zwerm {version}\n\
         cluster    {} nodes ({}), {shards} shards\n\
         clients    {} ({} connected), {} durable sessions\n\
         queues     {} messages, {} published later, {} being published\n\
         retained   {} messages\n\
         kept once  {} messages, {} bytes\n",
        file.display(),
        summary.bytes,
        taken_at(summary),
        nodes.len(),
        nodes.join(", "),
        summary.clients,
        summary.connected,
        summary.sessions,
        summary.queued,
        summary.delayed,
        summary.outbox,
        summary.retained,
        summary.messages,
        summary.message_bytes,
    )
}

fn taken_at(summary: &Summary) -> String {
    // what cannot be a time on a calendar is told as its beginning
    let latest = Duration::from_secs(253_370_764_800);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(summary.taken_at_ms).min(latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_an_archive_is_told_in_full() {
        let summary = Summary {
            cluster_id: "c1".to_owned(),
            taken_at_ms: 1_795_829_533_000,
            version: "0.1.0".to_owned(),
            shards: 16,
            nodes: vec!["node-1".to_owned(), "node-2".to_owned()],
            clients: 12,
            connected: 2,
            sessions: 10,
            queued: 5_000,
            retained: 3,
            delayed: 1,
            outbox: 0,
            messages: 4_000,
            message_bytes: 1_000_000,
            bytes: 1_100_000,
        };
        let text = to_text(Path::new("c.zwermbak"), &summary);
        let wanted = "\
c.zwermbak: backup of cluster c1, whole (1100000 bytes)
taken      Sat, 28 Nov 2026 01:32:13 GMT, by zwerm 0.1.0
cluster    2 nodes (node-1, node-2), 16 shards
clients    12 (2 connected), 10 durable sessions
queues     5000 messages, 1 published later, 0 being published
retained   3 messages
kept once  4000 messages, 1000000 bytes
";
        assert_eq!(text, wanted, "\n{text}");
        assert_eq!(to_json(Path::new("c.zwermbak"), &summary)["queued"], 5_000);
    }
}
