//! `culprit health`: one HTTP request, for health checks where no other client is installed.

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::process::ExitCode;
use std::time::Duration;

/// A healthy process answers much sooner.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Exit code 0 if `url` answers with a success.
///
/// # Errors
/// The URL is none.
pub async fn run(url: &str) -> anyhow::Result<ExitCode> {
    let uri: http::Uri = url.parse()?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let problem = match tokio::time::timeout(TIMEOUT, client.get(uri)).await {
        Ok(Ok(response)) if response.status().is_success() => return Ok(ExitCode::SUCCESS),
        Ok(Ok(response)) => response.status().to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
    };
    eprintln!("culprit: {url}: {problem}");
    Ok(ExitCode::FAILURE)
}
