//! All Raft calls to one peer over one stream: many in flight, answered by id.
//!
//! A unary gRPC call costs tens of microseconds; an item on an open stream about two. The link opens
//! itself at the first call and again after a failure. Knows nothing of what it carries. Start at
//! [`RaftLink::call`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::calls::{CallError, Client};
use super::gathered::Gathered;
use super::proto::{RaftCall, RaftReply};

/// Calls that wait to be written; more wait in `call`.
const QUEUE: usize = 256;
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// No Raft call takes longer; the caller asks again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls without an answer by id; `None` once the stream broke.
type Waiting = Option<BTreeMap<u64, oneshot::Sender<Result<Bytes, CallError>>>>;

#[derive(Debug)]
struct Open {
    calls: mpsc::Sender<RaftCall>,
    waiting: Arc<Mutex<Waiting>>,
    /// Reads the answers; aborted with the link.
    _reader: JoinSet<()>,
}

/// The stream to one peer.
#[derive(Debug)]
pub(super) struct RaftLink {
    client: Client,
    open: tokio::sync::Mutex<Option<Open>>,
    next_id: std::sync::atomic::AtomicU64,
}

/// Removes the waiting entry when its call is given up.
struct Waiter {
    id: u64,
    waiting: Arc<Mutex<Waiting>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

impl RaftLink {
    pub(super) fn new(client: Client) -> Self {
        Self { client, open: tokio::sync::Mutex::default(), next_id: Default::default() }
    }

    /// Sends a call and waits for its answer.
    pub(super) async fn call(&self, group: u32, payload: Bytes) -> Result<Bytes, CallError> {
        let (calls, waiting) = self.stream().await?;
        let id = self.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let broken = || CallError::Failed("the Raft stream broke".to_owned());
        waiting.lock().as_mut().ok_or_else(broken)?.insert(id, answer);
        let _waiter = Waiter { id, waiting };
        calls.send(RaftCall { id, group, payload }).await.map_err(|_| broken())?;
        let answered = tokio::time::timeout(CALL_TIMEOUT, answered).await.map_err(|_| CallError::Timeout)?;
        answered.unwrap_or_else(|_| Err(broken()))
    }

    /// The open stream, opened if need be. The lock is held while opening: others want the same.
    async fn stream(&self) -> Result<(mpsc::Sender<RaftCall>, Arc<Mutex<Waiting>>), CallError> {
        let mut slot = self.open.lock().await;
        if let Some(open) = slot.as_ref().filter(|open| open.waiting.lock().is_some()) {
            return Ok((open.calls.clone(), Arc::clone(&open.waiting)));
        }
        let (calls, receiver) = mpsc::channel(QUEUE);
        let mut client = self.client.clone();
        let opening = client.raft(Gathered::new(ReceiverStream::new(receiver)));
        let replies = tokio::time::timeout(OPEN_TIMEOUT, opening).await.map_err(|_| CallError::Timeout)??;
        let waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let mut reader = JoinSet::new();
        reader.spawn(read(replies.into_inner(), Arc::clone(&waiting)));
        *slot = Some(Open { calls: calls.clone(), waiting: Arc::clone(&waiting), _reader: reader });
        Ok((calls, waiting))
    }
}

async fn read(mut replies: tonic::Streaming<RaftReply>, waiting: Arc<Mutex<Waiting>>) {
    while let Some(Ok(reply)) = replies.next().await {
        let answer = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&reply.id));
        if let Some(answer) = answer {
            let result =
                if reply.error.is_empty() { Ok(reply.payload) } else { Err(CallError::Failed(reply.error)) };
            // Nobody waits any more: the call was given up.
            drop(answer.send(result));
        }
    }
    // Dropping the senders tells all that wait; the next call opens a new stream.
    *waiting.lock() = None;
}
