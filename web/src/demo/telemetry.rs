//! How an application sets up the OpenTelemetry SDK: resource, exporter, batch processor.
//!
//! The shop and the services it calls share a process here, so each has a tracer provider, and with it
//! a resource and an exporter, of its own; nothing is registered globally. The log service has
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

/// The tracers of the demo's services, and the pipelines behind them.
pub struct Telemetry {
    /// Makes the shop's spans.
    pub shop: SdkTracer,
    /// Makes the payment API's spans.
    pub payments: SdkTracer,
    /// Makes the pricing service's spans.
    pub pricing: SdkTracer,
    /// Makes the shipping service's spans.
    pub shipping: SdkTracer,
    providers: [SdkTracerProvider; 4],
}

impl Telemetry {
    /// Pipelines to the collector at `endpoint` (OTLP/gRPC). Connects when the first spans are
    /// exported. Must be called inside a Tokio runtime.
    pub fn new(endpoint: &str) -> anyhow::Result<Self> {
        let shop = provider(endpoint, "shop", "1.0.0")?;
        let payments = provider(endpoint, "payments", "2.3.1")?;
        let pricing = provider(endpoint, "pricing", "1.8.0")?;
        let shipping = provider(endpoint, "shipping", "0.9.2")?;
        Ok(Telemetry {
            shop: shop.tracer("culprit.demo"),
            payments: payments.tracer("culprit.demo"),
            pricing: pricing.tracer("culprit.demo"),
            shipping: shipping.tracer("culprit.demo"),
            providers: [shop, payments, pricing, shipping],
        })
    }

    /// Exports every span that has ended so far, and waits for the collector's answer.
    pub async fn flush(&self) -> anyhow::Result<()> {
        for provider in self.providers.clone() {
            tokio::task::spawn_blocking(move || provider.force_flush())
                .await?
                .context("the collector did not take the demo's spans (does it listen?)")?;
        }
        Ok(())
    }

    /// Exports what is left and stops. What the collector does not take now is lost, and logged.
    pub async fn shutdown(self) {
        for provider in self.providers {
            let stopped =
                tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_MAX));
            if let Ok(Err(error)) = stopped.await {
                tracing::warn!(%error, "the demo's last spans were not exported");
            }
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
