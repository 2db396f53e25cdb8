//! One message at a time, each waited for.
//!
//! ```text
//! shop  POST /invite                |------------------------------|
//! shop    publish mails             |-|
//! shop    publish mails                |-|
//! shop    publish mails                   |-|       … and so on
//! ```

use super::{Detect, Detector};
use crate::category::Category;
use crate::finding::{Finding, Severity};
use crate::groups::loops;
use crate::loops::{Sure, Told, failed, is_batch, matters};
use crate::role::{Role, role};
use crate::span::SpanKind;
use crate::{Analysis, Call, Settings};

pub(super) const DETECTOR: Detector = Detector {
    id: "n-plus-one-publish",
    title: "N+1 messages",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
A request publishes many messages or enqueues many jobs to one destination, one after the other, and waits for the \
broker each time.

A broker takes a batch about as quickly as a single message. Sent one by one, each message pays for a round trip and, \
where the broker confirms it, for storing it.

Fix it by sending batches (SendMessageBatch, publish with many messages, addBulk, perform_bulk), by letting the client \
gather messages and waiting for all confirmations once at the end, or by publishing one message that lists what is to \
be done.

How it is found: at least 10 messages to one destination below the same chain of operations of one request, which \
together take at least 20 ms or a tenth of the request, or at least 25 messages.

When it is wrong: Kafka's clients gather messages and send them in the background, so findings there are only \
informational, as they are in consumers and jobs. Batches, failed sends, and receiving or acknowledging messages are \
left out.";

const EXAMPLE: &str = "
shop  POST /newsletters                                                                         |--------------------------------------------------------------|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}   |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}         |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}               |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                     |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                           |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                                 |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                                       |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                                             |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                                                   |---|
shop    publish mails [producer] {messaging.system=rabbitmq, messaging.destination.name=mails}                                                         |---|
";

/// A few messages are how work is handed on: only twice as many repeats as elsewhere are a loop.
const REPEATS_FACTOR: usize = 2;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, settings: &Settings) {
    let any = |_: &Call| true;
    let wanted = |call: &Call| is_candidate(analysis, call);
    let repeats_min = settings.repeats_min.saturating_mul(REPEATS_FACTOR);
    for found in loops(analysis, Category::Messaging, any, wanted, repeats_min) {
        let role = role(analysis, found.entry);
        if role != Role::Upkeep && matters(analysis, &found) {
            findings.push(finding(&Told::of(analysis, &found, role)));
        }
    }
}

fn is_candidate(analysis: &Analysis<'_>, call: &Call) -> bool {
    publishes(analysis, call) && !failed(analysis, call) && !is_batch(analysis, call)
}

/// Not receiving, acknowledging or extending.
fn publishes(analysis: &Analysis<'_>, call: &Call) -> bool {
    let span = analysis.trace.span(call.span);
    let keys = [
        "messaging.operation.type",
        "messaging.operation",
        "messaging.operation.name",
    ];
    match analysis.trace.spans.text(span, &keys) {
        Some(operation) => matches!(operation, "send" | "publish" | "create"),
        None => span.kind == SpanKind::Producer,
    }
}

fn system<'a>(told: &Told<'_, 'a>) -> &'a str {
    let span = told.analysis.trace.span(told.first().span);
    let system = told.analysis.trace.spans.text(span, &["messaging.system"]);
    system.unwrap_or("")
}

fn finding(told: &Told<'_, '_>) -> Finding {
    let mut sure = Sure::at(0.7);
    sure.weigh_loop(told);
    let buffers = system(told) == "kafka";
    if buffers {
        sure.say(
            -0.3,
            "Kafka's client usually gathers messages and sends them in the background",
        );
    }
    let found = told.finding(DETECTOR.id, told.saved_in_batches_ns(), sure);
    Finding {
        title: told.title("messages"),
        severity: match buffers {
            true => Severity::Info,
            false => found.severity,
        },
        statement: None,
        target: Some(told.first().name.to_string()),
        explanation: format!(
            "{} sends {} messages, {}: {}.",
            told.entry().endpoint,
            told.found.calls.len(),
            told.manner(),
            told.numbers(),
        ),
        fix: fix(told),
        ..found
    }
}

fn fix(told: &Told<'_, '_>) -> String {
    if told.is_remote() {
        return format!(
            "Call {} once, with all that is to be sent, and let it send one batch.",
            told.remote_service()
        );
    }
    let fix = match system(told) {
        "kafka" => {
            "Do not wait for each send: hand all messages to the producer, which gathers them (`linger.ms`, `batch.size`), \
             and wait once at the end (`flush()`, or all futures together)."
        }
        "aws_sqs" | "AmazonSQS" => "Send ten messages per call with `SendMessageBatch`.",
        "aws.sns" | "aws_sns" => "Send ten messages per call with `PublishBatch`.",
        "rabbitmq" => {
            "Publish all messages without waiting in between, and wait for the publisher confirms once at the end \
             (`waitForConfirms`, or asynchronous confirms)."
        }
        "gcp_pubsub" => {
            "Hand all messages to the publisher without waiting for each: it sends them in batches; wait for all results \
             at the end."
        }
        "servicebus" | "eventhubs" => {
            "Fill a batch (`CreateMessageBatchAsync`, `CreateBatchAsync`) and send it at once."
        }
        "sidekiq" => "Enqueue all jobs at once with `perform_bulk`.",
        "celery" => {
            "Enqueue one task that takes the list, or split it with `task.chunks(…)`; a `group(…)` still sends a message \
             per task."
        }
        _ => {
            "Send the messages in batches, or send them without waiting in between and wait for all confirmations once at \
             the end. Where one consumer does all the work, one message with the list is enough."
        }
    };
    fix.into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles, line, serial};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    fn publish(attributes: &str) -> String {
        format!("publish mails [producer] {{messaging.destination.name=mails, {attributes}}}")
    }

    fn silent(message: &str) {
        check_silent(ID, &serial("POST /invite", &[message; 12]));
    }

    #[test]
    fn a_message_at_a_time() {
        let publish = publish("messaging.system=aws_sqs");
        check(
            ID,
            &serial("POST /invite", &[&publish; 10]),
            expect![[r#"
            10 × publish mails, one by one
              shop of 105 ms · critical, confidence 0.80: the calls run one after the other
              count 10, window 100 ms, sum 100 ms, saved 85 ms
              n-plus-one-publish shop "POST /invite" "POST /invite" "publish mails"
              path: POST /invite
              explanation: POST /invite sends 10 messages, each after the last one has returned: 10 ms each (median), 100 ms of the request's 105 ms (95 %).
              fix: Send ten messages per call with `SendMessageBatch`.
        "#]],
        );
    }

    #[test]
    fn kafka_gathers_them_itself() {
        let publish = publish("messaging.system=kafka");
        check_titles(
            ID,
            &serial("POST /invite", &[&publish; 30]),
            expect![[r#"
            30 × publish mails, one by one (info)
        "#]],
        );
    }

    #[test]
    fn consumers_that_hand_on_are_information() {
        let publish = publish("messaging.system=rabbitmq");
        check_titles(
            ID,
            &serial("process orders [consumer]", &[&publish; 12]),
            expect![[r#"
                12 × publish mails, one by one (info)
            "#]],
        );
    }

    #[test]
    fn the_consumers_of_a_loop_are_no_loop() {
        let mut text = line("shop", 0, "POST /invite", 0, 30);
        for at in 0..12 {
            text += &line("shop", 1, "publish a [producer]", at, 0);
            text += &line("mail", 2, "process a [consumer]", at, 10);
            text += &line("mail", 3, "publish b [producer]", at, 5);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn nine_are_handed_on() {
        let publish = publish("messaging.system=rabbitmq");
        check_silent(ID, &serial("POST /invite", &[&publish; 9]));
    }

    #[test]
    fn batches_failures_and_receiving_are_none() {
        silent(&publish("messaging.batch.message_count=10"));
        silent(&publish("messaging.system=rabbitmq, error"));
        let client = "poll [client] {messaging.system=aws_sqs, messaging.destination.name=q";
        silent(&format!("{client}, messaging.operation.type=receive}}"));
        silent(&format!("{client}, messaging.operation.type=settle}}"));
    }

    #[test]
    fn quick_and_few_is_no_matter() {
        let publish = publish("messaging.system=rabbitmq");
        let mut text = line("shop", 0, "POST /invite", 0, 500);
        for at in 0..12 {
            text += &line("shop", 1, &publish, at * 30, 1);
        }
        check_silent(ID, &text);
    }
}
