//! What arrived and is not analysed yet: durable before it is acknowledged.

use bytes::Bytes;
use std::time::Duration;

/// The spans of one export request, split by shard. Committed together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One per shard that has spans.
    pub parts: Vec<Part>,
}

/// One shard's spans of a request.
#[derive(Clone, Debug)]
pub struct Part {
    /// `hash(trace id) % shards`.
    pub shard: i16,
    /// How many spans.
    pub spans: u32,
    /// A valid encoded `ExportTraceServiceRequest` with only these spans.
    pub otlp: Bytes,
}

/// Why a batch was not taken; the client should come again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// More is waiting for the disk than may wait.
    Overloaded {
        /// When to come again.
        retry_after: Duration,
    },
    /// Postgres cannot be written to right now.
    Unavailable {
        /// When to come again.
        retry_after: Duration,
        /// For the log and the client's message.
        reason: String,
    },
}

/// The way into the journal table. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {}

impl Journal {
    /// Returns after the commit that holds the batch, or refuses it whole.
    pub async fn append(&self, batch: Batch) -> Result<(), Refused> {
        let _ = batch;
        todo!()
    }

    /// How many shards the schema was created with.
    pub fn shards(&self) -> u16 {
        todo!()
    }

    /// Batches can be taken right now (for `/readyz` and the gRPC health service).
    pub fn is_ready(&self) -> bool {
        todo!()
    }
}
