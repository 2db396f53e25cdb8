//! (being written)
pub mod waterfall;
pub mod trace_flame;
pub mod headline;
pub mod span_details;
