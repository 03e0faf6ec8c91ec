//! Whether shards and leaderships are where they belong, as the members themselves say.
//!
//! Knows their HTTP ports and nothing of how they came to be members. Start at [`leaders`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use zwerm_tests::get;

/// How many shards each member leads, when every shard has as many voters as it should, all of them members, and
/// every member leads as many shards as any other, or one less.
///
/// # Errors
/// What is not as it should be.
pub(crate) async fn leaders<M: Copy + Debug + Ord>(
    members: impl Iterator<Item = (M, SocketAddr)>,
) -> Result<BTreeMap<M, usize>> {
    let (mut ids, mut leaders) = (BTreeMap::new(), BTreeMap::new());
    let (mut shards, mut replicas): (BTreeMap<String, Vec<String>>, _) = (BTreeMap::new(), 0);
    for (member, http) in members {
        let status: Value = serde_json::from_str(&get(http, "/api/v1/status").await?.body)?;
        ids.insert(status.pointer("/node/id").context("a node without id")?.to_string(), member);
        leaders.insert(member, 0);
        replicas = status.pointer("/replicas").and_then(Value::as_u64).context("no replicas")?;
        for group in status.pointer("/groups").and_then(Value::as_array).context("no groups")? {
            let name = group.pointer("/group").and_then(Value::as_str).context("a group without name")?;
            if !name.starts_with("shard-") {
                continue;
            }
            // Empty: nobody said yet that it leads it.
            let known = shards.entry(name.to_owned()).or_default();
            if group.pointer("/state").and_then(Value::as_str) == Some("leader") {
                ensure!(known.is_empty(), "two lead {name}");
                let voters = group.pointer("/voters").and_then(Value::as_array).context("no voters")?;
                *known = voters.iter().map(Value::to_string).collect();
                *leaders.entry(member).or_default() += 1;
            }
        }
    }
    for (shard, voters) in shards {
        let wanted = ids.len().min(usize::try_from(replicas)?);
        ensure!(voters.len() == wanted, "{shard} has {} voters", voters.len());
        ensure!(voters.iter().all(|id| ids.contains_key(id)), "{shard} has a voter that is no member");
    }
    let (most, least) = (leaders.values().max(), leaders.values().min());
    let difference = most.zip(least).map_or(0, |(most, least)| most - least);
    ensure!(difference <= 1, "leaders are not spread evenly: {leaders:?}");
    Ok(leaders)
}
