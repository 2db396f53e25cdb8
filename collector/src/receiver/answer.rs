//! What an exporter is told, and how both transports and both encodings say it.
//!
//! | answer | HTTP | gRPC | comes again? |
//! |---|---|---|---|
//! | taken, wholly or in part | 200 | OK | no |
//! | malformed | 400 | INVALID_ARGUMENT | no |
//! | too large | 413 | RESOURCE_EXHAUSTED | no, because there is no RetryInfo |
//! | unsupported | 415 | UNIMPLEMENTED | no |
//! | unauthenticated | 401 | UNAUTHENTICATED | no |
//! | overloaded | 429 | UNAVAILABLE | after Retry-After, RetryInfo |
//! | unavailable, too slow | 503 | UNAVAILABLE | after Retry-After, RetryInfo |
//!
//! A fault of ours that passes is never 500 or INTERNAL: exporters drop what they cannot retry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use tonic::Code;

use super::stats::Refusal;
use crate::journal::Refused;
use crate::otlp::wire::{VARINT, put_delimited, put_tag, put_varint};

/// The outcome of one export request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Durable, except so many spans.
    Taken {
        /// How many spans were not taken; the client must not send them again.
        rejected: u64,
        /// Why, or a warning if none was rejected; empty if all is well.
        message: String,
    },
    /// The bytes are not what they should be.
    Malformed(String),
    /// More bytes, after decompression, than are taken at once.
    TooLarge {
        /// The limit, bytes.
        bytes_max: usize,
    },
    /// A content type or encoding that is not understood.
    Unsupported(String),
    /// No token, or none that is valid.
    Unauthenticated(&'static str),
    /// More is in flight than may be.
    Overloaded {
        /// When to come again; jitter is added.
        retry_after: Duration,
    },
    /// The body did not arrive in time.
    TooSlow {
        /// When to come again; jitter is added.
        retry_after: Duration,
        /// How long it had.
        deadline: Duration,
    },
    /// Spans cannot be stored right now.
    Unavailable {
        /// When to come again; jitter is added.
        retry_after: Duration,
        /// Why.
        reason: String,
    },
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded { retry_after } => Answer::Overloaded { retry_after },
            Refused::Unavailable {
                retry_after,
                reason,
            } => Answer::Unavailable {
                retry_after,
                reason,
            },
        }
    }
}

impl Answer {
    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Answer::Malformed(why.into())
    }

    pub(super) fn too_large(bytes_max: usize) -> Self {
        Answer::TooLarge { bytes_max }
    }

    /// Why the request was refused whole; `None` if it was taken.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            Answer::Taken { .. } => None,
            Answer::Malformed(_) => Some(Refusal::Malformed),
            Answer::TooLarge { .. } => Some(Refusal::TooLarge),
            Answer::Unsupported(_) => Some(Refusal::Unsupported),
            Answer::Unauthenticated(_) => Some(Refusal::Unauthenticated),
            Answer::Overloaded { .. } => Some(Refusal::Overloaded),
            Answer::TooSlow { .. } => Some(Refusal::TooSlow),
            Answer::Unavailable { .. } => Some(Refusal::Unavailable),
        }
    }

    /// The HTTP status.
    pub(super) fn http_status(&self) -> StatusCode {
        match self {
            Answer::Taken { .. } => StatusCode::OK,
            Answer::Malformed(_) => StatusCode::BAD_REQUEST,
            Answer::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Answer::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Answer::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Answer::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Answer::TooSlow { .. } | Answer::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status and its reason, with a delay if the client should come again.
    pub(super) fn status(&self) -> RpcStatus {
        let (code, message) = match self {
            Answer::Taken { .. } => (Code::Ok, String::new()),
            Answer::Malformed(why) => (Code::InvalidArgument, why.clone()),
            Answer::TooLarge { bytes_max } => (
                Code::ResourceExhausted,
                format!(
                    "the request is larger than {} MiB after decompression; send smaller batches",
                    bytes_max >> 20
                ),
            ),
            Answer::Unsupported(what) => (Code::Unimplemented, what.clone()),
            Answer::Unauthenticated(why) => (Code::Unauthenticated, (*why).to_owned()),
            Answer::Overloaded { .. } => (
                Code::Unavailable,
                "more spans are arriving than can be stored; come again".to_owned(),
            ),
            Answer::TooSlow { deadline, .. } => (
                Code::Unavailable,
                format!(
                    "the request took longer than {} s to arrive",
                    deadline.as_secs()
                ),
            ),
            Answer::Unavailable { reason, .. } => (Code::Unavailable, reason.clone()),
        };
        let retry_after = match self {
            Answer::Overloaded { retry_after }
            | Answer::TooSlow { retry_after, .. }
            | Answer::Unavailable { retry_after, .. } => Some(jittered(*retry_after)),
            _ => None,
        };
        RpcStatus {
            code,
            message,
            retry_after,
        }
    }
}

/// One to three times the delay, whole seconds, at least one. Different for each answer, so that
/// refused clients do not come back all at once; a counter is chance enough for that.
fn jittered(delay: Duration) -> Duration {
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    let count = ANSWERS.fetch_add(1, Ordering::Relaxed);
    let spread = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let millis = delay.as_millis() as u64;
    let millis = millis.saturating_add(millis.saturating_mul(2 * spread) >> 16);
    Duration::from_secs(millis.div_ceil(1000).max(1))
}

/// `google.rpc.Status`: what every refusal's body is, on both transports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RpcStatus {
    /// The gRPC status code.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// When to come again, whole seconds; `None` if that would not help.
    pub retry_after: Option<Duration>,
}

/// What a refused request's body is called in a `BadRequest`.
const BODY: &str = "body";

const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

impl RpcStatus {
    /// A refusal that is not worth a retry.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Says more than code and message: when to come again, or which part of the request is bad.
    pub(super) fn has_details(&self) -> bool {
        self.retry_after.is_some() || self.is_bad_request()
    }

    fn is_bad_request(&self) -> bool {
        self.code == Code::InvalidArgument
    }

    /// Encoded as protobuf.
    pub(super) fn to_protobuf(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_tag(&mut out, 1, VARINT);
        put_varint(&mut out, self.code as u64);
        put_delimited(&mut out, 2, self.message.as_bytes());
        if let Some(delay) = self.retry_after {
            let mut duration = Vec::new();
            put_tag(&mut duration, 1, VARINT);
            put_varint(&mut duration, delay.as_secs());
            let mut retry_info = Vec::new();
            put_delimited(&mut retry_info, 1, &duration);
            put_detail(&mut out, RETRY_INFO, &retry_info);
        }
        if self.is_bad_request() {
            let mut violation = Vec::new();
            put_delimited(&mut violation, 1, BODY.as_bytes());
            put_delimited(&mut violation, 2, self.message.as_bytes());
            let mut bad_request = Vec::new();
            put_delimited(&mut bad_request, 1, &violation);
            put_detail(&mut out, BAD_REQUEST, &bad_request);
        }
        out
    }

    /// Encoded as ProtoJSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut status = serde_json::json!({"code": self.code as i32, "message": self.message});
        if let Some(delay) = self.retry_after {
            let delay = format!("{}s", delay.as_secs());
            status["details"] = serde_json::json!([{"@type": RETRY_INFO, "retryDelay": delay}]);
        }
        if self.is_bad_request() {
            let violation = serde_json::json!({"field": BODY, "description": self.message});
            let detail = serde_json::json!({"@type": BAD_REQUEST, "fieldViolations": [violation]});
            status["details"] = serde_json::json!([detail]);
        }
        status.to_string().into_bytes()
    }
}

/// A `google.protobuf.Any` among a status' details.
fn put_detail(status: &mut Vec<u8>, name: &str, message: &[u8]) {
    let mut any = Vec::new();
    put_delimited(&mut any, 1, name.as_bytes());
    put_delimited(&mut any, 2, message);
    put_delimited(status, 3, &any);
}

/// An `ExportTraceServiceResponse`; `partial_success` is set only if there is something to say.
pub(super) fn success_protobuf(rejected: u64, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if rejected > 0 || !message.is_empty() {
        let mut partial = Vec::new();
        if rejected > 0 {
            put_tag(&mut partial, 1, VARINT);
            put_varint(&mut partial, rejected);
        }
        put_delimited(&mut partial, 2, message.as_bytes());
        put_delimited(&mut out, 1, &partial);
    }
    out
}

/// The same as OTLP/JSON, whose 64-bit numbers are text.
pub(super) fn success_json(rejected: u64, message: &str) -> Vec<u8> {
    if rejected == 0 && message.is_empty() {
        return b"{}".to_vec();
    }
    let partial = serde_json::json!({
        "rejectedSpans": rejected.to_string(),
        "errorMessage": message,
    });
    serde_json::json!({ "partialSuccess": partial })
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn n3_n4_n5_j10_partial_success_is_set_only_if_there_is_something_to_say() {
        let decode = |rejected, message| {
            let bytes = success_protobuf(rejected, message);
            ExportTraceServiceResponse::decode(&bytes[..]).unwrap()
        };
        assert_eq!(success_protobuf(0, ""), b"");
        assert_eq!(success_json(0, ""), b"{}");
        let partial = ExportTracePartialSuccess {
            rejected_spans: 300,
            error_message: "why".into(),
        };
        assert_eq!(decode(300, "why").partial_success, Some(partial));
        assert_eq!(
            decode(0, "warning").partial_success.unwrap().rejected_spans,
            0
        );
        let json = String::from_utf8(success_json(3, "a \"quote\"")).unwrap();
        assert_eq!(
            json,
            r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"a \"quote\""}}"#
        );
    }

    #[test]
    fn n7_n8_n9_n10_n13_only_refusals_that_pass_carry_a_delay() {
        let retry_after = Duration::from_millis(900);
        let reason = "Postgres is restarting".to_owned();
        for (answer, retries) in [
            (Answer::malformed("no"), false),
            (Answer::too_large(20 << 20), false),
            (Answer::Unsupported("br".into()), false),
            (Answer::Unauthenticated("no token"), false),
            (Answer::Overloaded { retry_after }, true),
            (
                Answer::TooSlow {
                    retry_after,
                    deadline: retry_after,
                },
                true,
            ),
            (
                Answer::Unavailable {
                    retry_after,
                    reason,
                },
                true,
            ),
        ] {
            let status = answer.status();
            let proto = tonic_types::pb::Status::decode(&status.to_protobuf()[..]).unwrap();
            assert_eq!(
                (proto.code, &proto.message),
                (status.code as i32, &status.message)
            );
            let grpc = tonic::Status::with_details(
                status.code,
                status.message.clone(),
                status.to_protobuf().into(),
            );
            let details: ErrorDetails = grpc.get_error_details();
            assert_eq!(details.retry_info().is_some(), retries, "{answer:?}");
            assert_eq!(is_retried(&answer), retries, "{answer:?}");
            let malformed = matches!(answer, Answer::Malformed(_));
            let violations = details.bad_request().map(|it| &it.field_violations);
            assert_eq!(violations.is_some(), malformed, "{answer:?}");
            if let Some(violations) = violations {
                assert_eq!(violations[0].description, status.message);
            }
            if let Some(delay) = details.retry_info().and_then(|it| it.retry_delay) {
                assert!((1..=3).contains(&delay.as_secs()), "{delay:?}");
            }
            let json: serde_json::Value = serde_json::from_slice(&status.to_json()).unwrap();
            assert_eq!(json["code"], status.code as i32);
            assert_eq!(json.get("details").is_some(), retries || malformed);
        }
    }

    /// By what OTLP tells clients: the statuses they come again for.
    fn is_retried(answer: &Answer) -> bool {
        let by_http = matches!(answer.http_status().as_u16(), 429 | 502 | 503 | 504);
        let code = answer.status().code;
        let by_grpc = matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        );
        assert_eq!(by_http, by_grpc, "both transports say the same: {answer:?}");
        assert!(answer.http_status() != 500 && code != Code::Internal && code != Code::Unknown);
        by_http
    }

    #[test]
    fn n10_delays_differ_and_are_at_least_a_second() {
        let delays: Vec<u64> = (0..64)
            .map(|_| jittered(Duration::from_millis(1500)).as_secs())
            .collect();
        assert!(delays.iter().all(|it| (2..=5).contains(it)), "{delays:?}");
        assert!(delays.iter().any(|it| *it != delays[0]), "{delays:?}");
        assert_eq!(jittered(Duration::ZERO), Duration::from_secs(1));
    }
}
