package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
)

// client is instrumented; calls made with it are spans.
var client = http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport)}

// startTelemetry exports spans as the environment says.
func startTelemetry() *trace.TracerProvider {
	exporter, err := otlptracehttp.New(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return provider
}

// serve answers until the process is told to end; then what is left is exported.
func serve(mux *http.ServeMux, provider *trace.TracerProvider) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), otelhttp.NewHandler(mux, "blog")))
	}()
	<-end
	provider.Shutdown(context.Background())
}
