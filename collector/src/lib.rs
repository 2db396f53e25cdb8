//! Unattended: OTLP in, Postgres, loops, alerts.
//!
//! A span's way: [`receiver`] (limits, decode) → [`journal`] (durable, then the OK) → [`handoff`] →
//! [`assembly`] (traces in flight, idle, analyse, one transaction) → [`store`] → [`review`] → [`alert`].

pub mod calendar;
pub mod clock;
pub mod postgres;
pub mod otlp;
pub mod receiver;
pub mod journal;
pub mod backlog;
pub mod handoff;
pub mod assembly;
pub mod contribution;
pub mod block_filter;
mod buffers;
mod packer;
pub mod span_conditions;
pub mod deltas;
pub mod compaction;
pub mod keeping;
pub mod disk;
pub mod housekeeping;
pub mod store;
pub mod life;
pub mod review;
pub mod deployments;
pub mod looked;
pub mod sent_calls;
pub mod regression;
pub mod plans;
pub mod alert;
pub mod verify;
pub mod histogram;
pub mod repeated;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// This project's own protobuf messages (`proto/`): what is stored encoded.
pub mod proto {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/culprit.stored.v1.rs"));
}
