//! How an application sets up the OpenTelemetry SDK: resource, exporter, batch processor.
//!
//! The shop's instances and the services they call share a process here, so each has a tracer provider,
//! and with it a resource and an exporter, of its own; nothing is registered globally. The log service has
//! none: it is a black box to whoever traces the shop.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use uuid::Uuid;

/// Ten times as often as the SDK's default: who starts a demo wants to see something.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Spans waiting for export; more are dropped by the SDK. The demo makes about 60 a second, so
/// this is two minutes of a collector that does not answer, in a few megabytes.
const QUEUE_SPANS_MAX: usize = 8192;

/// Spans in one export request: the SDK's default, far below any collector's limit.
const BATCH_SPANS_MAX: usize = 512;

/// How long a request to the collector may take, and how long shutting down waits for the last one.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// A service's way to the collector.
pub struct Pipeline {
    provider: SdkTracerProvider,
}

impl Pipeline {
    /// Of one instance of `service`, to the collector at `endpoint` (OTLP/gRPC). Connects when the first
    /// spans are exported. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// `endpoint` is no URL.
    pub fn new(
        endpoint: &str,
        service: &'static str,
        version: &'static str,
    ) -> anyhow::Result<Self> {
        let provider = provider(endpoint, service, version)?;
        Ok(Pipeline { provider })
    }

    /// Makes the service's spans.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("culprit.demo")
    }

    /// Exports every span that has ended so far, and waits for the collector's answer.
    ///
    /// # Errors
    /// The collector does not take them.
    pub async fn flush(&self) -> anyhow::Result<()> {
        let provider = self.provider.clone();
        tokio::task::spawn_blocking(move || provider.force_flush())
            .await?
            .context("the collector did not take the demo's spans (does it listen?)")
    }

    /// Exports what is left and stops. What the collector does not take now is lost, and logged.
    pub async fn shutdown(self) {
        let stopped =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(EXPORT_MAX));
        if let Ok(Err(error)) = stopped.await {
            tracing::warn!(%error, "the demo's last spans were not exported");
        }
    }
}

fn provider(
    endpoint: &str,
    service: &'static str,
    version: &'static str,
) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_MAX)
        .build()
        .with_context(|| format!("cannot export spans to {endpoint:?}"))?;
    let config = BatchConfigBuilder::default()
        .with_scheduled_delay(FLUSH_EVERY)
        .with_max_queue_size(QUEUE_SPANS_MAX)
        .with_max_export_batch_size(BATCH_SPANS_MAX)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(config)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource(service, version))
        // Said aloud, because OTEL_TRACES_SAMPLER in somebody's shell means another service.
        .with_sampler(Sampler::AlwaysOn)
        .with_span_processor(processor)
        .build())
}

/// Who sends. Made from nothing, because OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES in
/// somebody's shell mean another service.
fn resource(service: &'static str, version: &'static str) -> Resource {
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            KeyValue::new("service.namespace", "demo"),
            KeyValue::new("service.name", service),
            KeyValue::new("service.version", version),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
            KeyValue::new("deployment.environment.name", "demo"),
        ])
        .build()
}
