//! A stream that brings together what is made at the same moment.
//!
//! The calls of many Raft groups, and their answers, come from many tasks that were all woken at once. A stream that
//! hands the first one on as soon as it is there costs a write and a wake-up at the other end for each of them. This
//! one lets all that can run at that moment run before it hands on the first item after a pause; what has come until
//! then follows it without another stop, into the same write. It waits for no time and for nobody who waits himself.
//! Start at [`Gathered`].

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::Stream;

/// See the module.
#[derive(Debug)]
pub(super) struct Gathered<S: Stream> {
    inner: S,
    /// The first after a pause, while the others run.
    first: Option<S::Item>,
    /// The item before was handed on, and the next one follows it without a pause.
    follows: bool,
}

impl<S: Stream> Gathered<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, first: None, follows: false }
    }
}

impl<S: Stream<Item: Unpin> + Unpin> Stream for Gathered<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if let Some(first) = self.first.take() {
            self.follows = true;
            return Poll::Ready(Some(first));
        }
        let next = Pin::new(&mut self.inner).poll_next(cx);
        match next {
            Poll::Ready(Some(item)) if !self.follows => {
                self.first = Some(item);
                // Behind everybody who is ready to run.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                self.follows = false;
                Poll::Pending
            }
            next => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test]
    async fn what_others_send_at_the_same_moment_comes_without_a_pause() {
        let (sender, receiver) = mpsc::channel(8);
        let mut gathered = Gathered::new(ReceiverStream::new(receiver));
        for round in 0..3 {
            for number in 0..3 {
                let sender = sender.clone();
                tokio::spawn(async move { sender.send(3 * round + number).await });
            }
            assert_eq!(gathered.next().await, Some(3 * round));
            for number in 1..3 {
                assert_eq!(gathered.next().now_or_never(), Some(Some(3 * round + number)));
            }
            assert_eq!(gathered.next().now_or_never(), None);
        }
        drop(sender);
        assert_eq!(gathered.next().await, None);
    }
}
