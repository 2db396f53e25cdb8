//! What a span's attributes say, in both generations of the semantic conventions.
//!
//! Senders mix them (`OTEL_SEMCONV_STABILITY_OPT_IN=…/dup` sends both), so the new key is believed
//! first. One pass over the attributes: looking up fifty keys one by one would cost more than the
//! rest of the classification.

use crate::span::{Span, Spans, Value};

/// The attributes the analysis reads. Texts are empty where nothing was said.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Facts<'a> {
    /// `db.system.name`, before that `db.system`; one name for a system that senders call differently.
    pub db_system: &'a str,
    /// `db.query.text`, before that `db.statement`.
    pub db_text: &'a str,
    /// `db.query.summary`.
    pub db_summary: &'a str,
    /// `db.operation.name`, before that `db.operation`.
    pub db_operation: &'a str,
    /// `db.collection.name`, before that `db.sql.table`, `db.mongodb.collection`, …
    pub db_collection: &'a str,
    /// `db.operation.batch.size`: how many statements are sent together.
    pub db_batch_size: Option<i64>,
    /// `db.namespace`, before that `db.name`.
    pub db_namespace: &'a str,
    /// `http.request.method`, before that `http.method`.
    pub http_method: &'a str,
    /// `http.route`.
    pub http_route: &'a str,
    /// `http.response.status_code`, before that `http.status_code`.
    pub http_status: Option<i64>,
    /// `url.full`, before that `http.url`.
    pub url_full: &'a str,
    /// `url.path`, before that `http.target` (which has the query, too).
    pub url_path: &'a str,
    /// `url.template`.
    pub url_template: &'a str,
    /// `server.address`, before that `net.peer.name`, `http.host`, `net.peer.ip`, …
    pub address: &'a str,
    /// `server.port`, before that `net.peer.port`.
    pub port: Option<i64>,
    /// `service.peer.name`, before that `peer.service`.
    pub peer_service: &'a str,
    /// `rpc.system.name`, before that `rpc.system`.
    pub rpc_system: &'a str,
    /// `rpc.service`.
    pub rpc_service: &'a str,
    /// `rpc.method`; by the new conventions it holds the service's name, too: `shop.Cart/Get`.
    pub rpc_method: &'a str,
    /// `rpc.response.status_code` or `rpc.status_code`, before that `rpc.grpc.status_code`; a name
    /// or a number.
    pub rpc_status: Option<Value<'a>>,
    /// `messaging.system`.
    pub messaging_system: &'a str,
    /// `messaging.destination.name`, before that `messaging.destination`.
    pub destination: &'a str,
    /// `messaging.destination.template`.
    pub destination_template: &'a str,
    /// `messaging.operation.type`, before that `messaging.operation`.
    pub messaging_operation: &'a str,
    /// What a worker runs: `celery.task_name`, `messaging.sidekiq.job_class`, …
    pub job: &'a str,
    /// A template's name, such as `jinja2.template_name`.
    pub template_name: &'a str,
}

impl<'a> Facts<'a> {
    /// Reads the attributes of `span`.
    pub fn of(spans: &Spans<'a>, span: &Span<'a>) -> Facts<'a> {
        let mut facts = Facts::default();
        let mut ranks = Ranks::default();
        for attribute in spans.attributes_at(&span.attributes) {
            facts.read(attribute.key, attribute.value, &mut ranks);
        }
        facts
    }

    /// A long match, but the one place where keys are named.
    fn read(&mut self, key: &'a str, value: Value<'a>, ranks: &mut Ranks) {
        // The first byte decides which keys are compared at all.
        match key.as_bytes().first() {
            Some(b'd') => self.read_database(key, value),
            Some(b'h' | b'u') => self.read_http(key, value, ranks),
            Some(b's' | b'n' | b'p') => self.read_peer(key, value, ranks),
            Some(b'r') => self.read_rpc(key, value),
            Some(b'm' | b'c' | b'j') => self.read_messaging(key, value),
            _ => {}
        }
    }

    fn read_database(&mut self, key: &str, value: Value<'a>) {
        match key {
            "db.system.name" => new(&mut self.db_system, system(value)),
            "db.system" => old(&mut self.db_system, system(value)),
            "db.query.text" => new(&mut self.db_text, value),
            "db.statement" => old(&mut self.db_text, value),
            "db.query.summary" => new(&mut self.db_summary, value),
            "db.operation.name" => new(&mut self.db_operation, value),
            "db.operation" => old(&mut self.db_operation, value),
            "db.collection.name" => new(&mut self.db_collection, value),
            "db.sql.table"
            | "db.mongodb.collection"
            | "db.cassandra.table"
            | "db.cosmosdb.container"
            | "db.elasticsearch.path_parts.index" => old(&mut self.db_collection, value),
            "db.operation.batch.size" => self.db_batch_size = value.as_int(),
            "db.namespace" => new(&mut self.db_namespace, value),
            "db.name" => old(&mut self.db_namespace, value),
            _ => {}
        }
    }

    fn read_http(&mut self, key: &str, value: Value<'a>, ranks: &mut Ranks) {
        match key {
            "http.request.method" => new(&mut self.http_method, value),
            "http.method" => old(&mut self.http_method, value),
            "http.route" => new(&mut self.http_route, value),
            "http.response.status_code" => self.http_status = value.as_int(),
            "http.status_code" => self.http_status = self.http_status.or(value.as_int()),
            "url.full" => new(&mut self.url_full, value),
            "http.url" => old(&mut self.url_full, value),
            "url.path" => new(&mut self.url_path, value),
            "http.target" => old(&mut self.url_path, value),
            "url.template" => new(&mut self.url_template, value),
            "http.host" => self.address(2, value, ranks),
            _ => {}
        }
    }

    fn read_peer(&mut self, key: &str, value: Value<'a>, ranks: &mut Ranks) {
        match key {
            "server.address" => self.address(0, value, ranks),
            "server.port" => self.port = value.as_int(),
            "net.peer.name" => self.address(1, value, ranks),
            "net.peer.port" => self.port = self.port.or(value.as_int()),
            "net.peer.ip" | "net.sock.peer.name" => self.address(3, value, ranks),
            "network.peer.address" | "net.sock.peer.addr" => self.address(4, value, ranks),
            "service.peer.name" => new(&mut self.peer_service, value),
            "peer.service" => old(&mut self.peer_service, value),
            _ => {}
        }
    }

    fn read_rpc(&mut self, key: &str, value: Value<'a>) {
        match key {
            "rpc.system.name" => new(&mut self.rpc_system, value),
            "rpc.system" => old(&mut self.rpc_system, value),
            "rpc.service" => new(&mut self.rpc_service, value),
            "rpc.method" => new(&mut self.rpc_method, value),
            "rpc.response.status_code" | "rpc.status_code" => self.rpc_status = Some(value),
            "rpc.grpc.status_code" => self.rpc_status = self.rpc_status.or(Some(value)),
            _ => {}
        }
    }

    fn read_messaging(&mut self, key: &str, value: Value<'a>) {
        match key {
            "messaging.system" => new(&mut self.messaging_system, value),
            "messaging.destination.name" => new(&mut self.destination, value),
            "messaging.destination" => old(&mut self.destination, value),
            "messaging.destination.template" => new(&mut self.destination_template, value),
            "messaging.operation.type" => new(&mut self.messaging_operation, value),
            "messaging.operation" => old(&mut self.messaging_operation, value),
            "celery.task_name"
            | "messaging.sidekiq.job_class"
            | "messaging.active_job.job_class"
            | "code.job.name" => old(&mut self.job, value),
            "jinja2.template_name" => new(&mut self.template_name, value),
            _ => {}
        }
    }

    /// Many keys name the callee; the lower its rank, the better a key's word.
    fn address(&mut self, rank: u8, value: Value<'a>, ranks: &mut Ranks) {
        let text = value.as_str().unwrap_or("");
        if !text.is_empty() && (self.address.is_empty() || rank < ranks.address) {
            self.address = text;
            ranks.address = rank;
        }
    }
}

/// Mappers that pass their own name of the dialect on (Sequelize, TypeORM) say `postgres` where the
/// driver below them says `postgresql`.
fn system(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Str("postgres") => Value::Str("postgresql"),
        _ => value,
    }
}

/// How good the keys were that have been believed so far.
#[derive(Default)]
struct Ranks {
    address: u8,
}

/// A key of the new conventions: whatever an old key said is replaced.
fn new<'a>(fact: &mut &'a str, value: Value<'a>) {
    match value.as_str() {
        Some(text) if !text.is_empty() => *fact = text,
        _ => {}
    }
}

/// A key of the old conventions: it only counts where nothing was said yet.
fn old<'a>(fact: &mut &'a str, value: Value<'a>) {
    if fact.is_empty() {
        *fact = value.as_str().unwrap_or("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;

    fn check(attributes: &str, seen: impl for<'a> Fn(Facts<'a>) -> &'a str, expected: &str) {
        let drawing = drawing::parse(&format!("shop work {{{attributes}}} |--|"));
        let spans = drawing.spans();
        assert_eq!(seen(Facts::of(&spans, &spans.spans[0])), expected);
    }

    #[test]
    fn the_new_key_wins_wherever_it_stands() {
        check("db.system=a, db.system.name=b", |it| it.db_system, "b");
        check("db.system.name=b, db.system=a", |it| it.db_system, "b");
        check("db.system=a", |it| it.db_system, "a");
        check("http.host=a, net.peer.name=b", |it| it.address, "b");
        check("server.address=a, net.peer.name=b", |it| it.address, "a");
    }

    #[test]
    fn status_codes_may_be_text() {
        let drawing = drawing::parse("shop work {http.status_code=\"503\"} |--|");
        let spans = drawing.spans();
        assert_eq!(Facts::of(&spans, &spans.spans[0]).http_status, Some(503));
    }
}
