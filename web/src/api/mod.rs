//! JSON for the same things as the pages, under /api/v1.

pub mod bottlenecks;
pub mod traces;
pub mod status;
pub mod services;
pub mod edges;
pub mod statements;
pub mod endpoints;
pub mod profiles;
pub mod alerts;
pub mod deployments;
pub mod regressions;
pub mod compare;
