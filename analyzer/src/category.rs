//! What kind of time a span's self time is: handler, database, external, …
//!
//! Evidence counts in a fixed order (see [`classify`]): a Redis command is a cache's time even
//! though it has a database's attributes.

use crate::Settings;
use crate::facts::Facts;
use crate::log_destination::match_sink;
use crate::span::{Span, SpanKind, Spans};
use crate::trace::{SpanIdx, Trace};

/// The eleven kinds of time a request can be spent on.
///
/// The order is the order of the roll-ups' columns and of every legend; it is stored and never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Category {
    /// The service's own code.
    Handler = 0,
    /// Statements a database works on.
    Database = 1,
    /// Redis, Memcached and the like.
    Cache = 2,
    /// Calls to other services.
    External = 3,
    /// Publishing to and taking from brokers.
    Messaging = 4,
    /// Encoding, decoding, rendering.
    Serialization = 5,
    /// Shipping log lines somewhere while the request waits.
    Logging = 6,
    /// Waiting for a connection of a pool.
    PoolWait = 7,
    /// Opening connections: TCP, TLS, DNS.
    Connect = 8,
    /// A client span's time that its server span does not explain.
    Network = 9,
    /// Time of an entry span in which nothing was instrumented.
    Unattributed = 10,
}

impl Category {
    /// How many there are.
    pub const COUNT: usize = 11;

    /// All of them, in stored order.
    pub const ALL: [Category; Self::COUNT] = [
        Category::Handler,
        Category::Database,
        Category::Cache,
        Category::External,
        Category::Messaging,
        Category::Serialization,
        Category::Logging,
        Category::PoolWait,
        Category::Connect,
        Category::Network,
        Category::Unattributed,
    ];

    /// The name in JSON, URLs, CSS classes and SQL columns: `pool_wait`.
    pub fn id(self) -> &'static str {
        match self {
            Category::Handler => "handler",
            Category::Database => "database",
            Category::Cache => "cache",
            Category::External => "external",
            Category::Messaging => "messaging",
            Category::Serialization => "serialization",
            Category::Logging => "logging",
            Category::PoolWait => "pool_wait",
            Category::Connect => "connect",
            Category::Network => "network",
            Category::Unattributed => "unattributed",
        }
    }

    /// The name for people: `pool wait`.
    pub fn name(self) -> &'static str {
        match self {
            Category::PoolWait => "pool wait",
            other => other.id(),
        }
    }
}

/// Every span's category, in tree order.
pub fn categories(trace: &Trace<'_>, settings: &Settings) -> Vec<Category> {
    categories_seen(trace, settings, |_, _, _| {})
}

/// As [`categories`]. `seen` is told each of them with what the span's attributes say, because
/// reading them is what costs most; of servers' spans nothing was read.
pub(crate) fn categories_seen<'a>(
    trace: &Trace<'a>,
    settings: &Settings,
    mut seen: impl FnMut(SpanIdx, Category, Option<&Facts<'a>>),
) -> Vec<Category> {
    let mut categories: Vec<Category> = Vec::with_capacity(trace.nodes.len());
    for (idx, node) in (0..).zip(&trace.nodes) {
        let span = trace.span(idx);
        if is_served(span) {
            categories.push(Category::Handler);
            seen(idx, Category::Handler, None);
            continue;
        }
        let facts = Facts::of(&trace.spans, span);
        let above = node.parent.map(|it| categories[it as usize]);
        let own = evidence(span, &facts, settings);
        let own = own.filter(|it| !is_transport(*it, above));
        let category = own.or_else(|| inherited(span, above));
        let category = category.unwrap_or(Category::Handler);
        categories.push(category);
        seen(idx, category, Some(&facts));
    }
    categories
}

/// The category of one span by what it says itself.
pub fn classify(spans: &Spans<'_>, span: &Span<'_>, settings: &Settings) -> Category {
    if is_served(span) {
        return Category::Handler;
    }
    let facts = Facts::of(spans, span);
    evidence(span, &facts, settings).unwrap_or(Category::Handler)
}

/// An entry span's own time is its service's, whatever its attributes say about who called.
fn is_served(span: &Span<'_>) -> bool {
    span.kind == SpanKind::Server
}

/// What a span says about its kind of time; `None` if it says nothing. The order of the questions is
/// the order in which their answers count.
fn evidence(span: &Span<'_>, facts: &Facts<'_>, settings: &Settings) -> Option<Category> {
    if let Some(messaging) = messaging(span, facts) {
        return Some(messaging);
    }
    let calls = span.kind == SpanKind::Client || has_client_attributes(span, facts);
    let logs = |facts| match_sink(facts, settings).is_some_and(|it| it.certain);
    if calls && logs(facts) {
        return Some(Category::Logging);
    }
    // Before caches and databases: the span that waits for a connection to Redis has Redis'
    // attributes, too, and only its name tells.
    if let Some(waits) = connection(span.name, span, facts) {
        return Some(waits);
    }
    if is_cache(span.name, facts) {
        return Some(Category::Cache);
    }
    if is_database(span.name, facts) {
        return Some(Category::Database);
    }
    if calls {
        return Some(Category::External);
    }
    if is_serialization(span.name, facts) {
        return Some(Category::Serialization);
    }
    None
}

/// A request inside a call to something else is how that call travels: Elasticsearch's client sends
/// HTTP, DynamoDB's too.
fn is_transport(own: Category, above: Option<Category>) -> bool {
    own == Category::External
        && matches!(
            above,
            Some(Category::Database | Category::Cache | Category::Messaging | Category::Logging)
        )
}

/// Does a span of this category say so itself, or is it a part of the call above it?
pub(crate) fn says_itself(category: Category, span: &Span<'_>, facts: &Facts<'_>) -> bool {
    match category {
        Category::Database => is_database(span.name, facts) && !is_upkeep(span.name),
        Category::Cache => is_cache(span.name, facts),
        Category::Messaging => messaging(span, facts).is_some(),
        _ => span.kind == SpanKind::Client || has_client_attributes(span, facts),
    }
}

/// Spans inside a call that say nothing themselves are part of it: `sql.rows` in a query,
/// `http.send` in a request.
fn inherited(span: &Span<'_>, above: Option<Category>) -> Option<Category> {
    let part = !matches!(span.kind, SpanKind::Server | SpanKind::Consumer);
    above.filter(|it| {
        part && matches!(
            it,
            Category::Database
                | Category::Cache
                | Category::External
                | Category::Messaging
                | Category::Logging
                | Category::Connect
                | Category::PoolWait
        )
    })
}

fn messaging(span: &Span<'_>, facts: &Facts<'_>) -> Option<Category> {
    match span.kind {
        SpanKind::Producer => Some(Category::Messaging),
        // Waiting for messages is the broker's time; handling one is the service's own.
        SpanKind::Consumer => match facts.messaging_operation {
            "receive" | "poll" => Some(Category::Messaging),
            _ => Some(Category::Handler),
        },
        SpanKind::Client if !facts.messaging_system.is_empty() => Some(Category::Messaging),
        _ => None,
    }
}

/// Some instrumentations leave the kind unset; an address or a URL says as much.
fn has_client_attributes(span: &Span<'_>, facts: &Facts<'_>) -> bool {
    span.kind == SpanKind::Unspecified
        && (!facts.url_full.is_empty() || !facts.rpc_system.is_empty())
        && facts.http_route.is_empty()
}

/// Names of spans that wait for a connection of a pool.
const POOL_WAITS: &[&str] = &[
    "pg-pool.connect",
    "generic-pool.acquire",
    "pool.acquire",
    "db.pool.acquire",
    "http.getconn",
    "prisma:engine:connection",
];

/// Names of spans that open a connection, by themselves.
const CONNECTS: &[&str] = &[
    "pg.connect",
    "mysql.connect",
    "mongodb.connect",
    "redis-connect",
    "tcp.connect",
    "tls.connect",
    "dns.lookup",
    "http.dns",
    "http.connect",
    "http.tls",
    "sql.connector.connect",
    "PDO::__construct",
    "PDO::connect",
    "mysqli_connect",
    "mysqli::__construct",
    "prisma:client:connect",
    "TLS client handshake",
];

/// Beginnings of such names that go on with a host.
const CONNECT_BEGINNINGS: &[&str] = &["HTTP connection_setup", "DNS lookup", "socket connect"];

/// The first letters of all the names above.
const CONNECTION_LETTERS: &[u8] = b"DHPTdghmprst";

fn connection(name: &str, span: &Span<'_>, facts: &Facts<'_>) -> Option<Category> {
    let waits_for_source = name.ends_with("DataSource.getConnection");
    let first = name.as_bytes().first().copied().unwrap_or_default();
    if !waits_for_source && !CONNECTION_LETTERS.contains(&first) && name != "connect" {
        // Most names end here, and are not compared with each of the lists.
        return None;
    }
    let waits = waits_for_source
        || POOL_WAITS.contains(&name)
        || name.starts_with("HTTP wait_for_connection");
    let connects = || {
        CONNECTS.contains(&name)
            || CONNECT_BEGINNINGS.iter().any(|it| name.starts_with(it))
            // SQLAlchemy, otelpgx and Ruby's pg call it just that.
            || (name == "connect" && (span.kind == SpanKind::Client || !facts.db_system.is_empty()))
    };
    if waits {
        Some(Category::PoolWait)
    } else {
        connects().then_some(Category::Connect)
    }
}

/// `db.system.name` says a cache.
pub fn is_cache_system(system: &str) -> bool {
    matches!(
        system,
        "redis" | "valkey" | "keydb" | "dragonfly" | "memcached" | "hazelcast" | "ignite"
    )
}

fn is_cache(name: &str, facts: &Facts<'_>) -> bool {
    is_cache_system(facts.db_system)
        || name.starts_with("cache.")
        || name.starts_with("Rails.cache")
        || is_rails_cache(name)
}

/// `cache_read.active_support`.
fn is_rails_cache(name: &str) -> bool {
    name.starts_with("cache_") && name.ends_with(".active_support")
}

/// Beginnings of the names that instrumentations give their statements' spans even if they leave
/// the attributes out.
const DATABASE_BEGINNINGS: &[&str] = &[
    "sql.conn.",
    "sql.stmt.",
    "sql.tx.",
    "sql.rows",
    "PDO::",
    "PDOStatement::",
    "prisma:engine:db_query",
];

fn is_database(name: &str, facts: &Facts<'_>) -> bool {
    !facts.db_system.is_empty()
        || !facts.db_text.is_empty()
        || DATABASE_BEGINNINGS.iter().any(|it| name.starts_with(it))
}

/// What a pool does to a connection that it hands out, without asking the database anything or on its
/// own account: time at the database, but nobody's call.
fn is_upkeep(name: &str) -> bool {
    matches!(name, "sql.conn.reset_session" | "sql.conn.ping")
}

/// Parts of names of spans that encode, decode or render. Case does not matter. No bare `template`
/// or `render`: `EmailTemplate.find` and `prerender queue` are other things.
const SERIALIZATION_PARTS: &[&str] = &[
    "serializ",
    "serialis",
    "marshal",
    "json.dump",
    "json.load",
    "json.encode",
    "json.decode",
    "json.parse",
    "json.stringify",
    "jsonrenderer",
    "jsonparser",
    "to_json",
    "as_json",
    "objectmapper",
    "jackson",
    "protobuf",
    "msgpack",
    "jinja2.render",
    "jinja2.compile",
    "jinja2.load",
    "render_template",
    "render_partial",
    "render_collection",
    "render_layout",
    "render template",
    "template.render",
    "view.render",
    "graphql.parse",
    "graphql.validate",
];

fn is_serialization(name: &str, facts: &Facts<'_>) -> bool {
    // Spring's views: `Render owner/list`.
    !facts.template_name.is_empty() || name.starts_with("Render ") || has_serialization_part(name)
}

fn has_serialization_part(name: &str) -> bool {
    let bytes = name.as_bytes();
    (0..bytes.len()).any(|at| {
        let rest = &bytes[at..];
        may_begin_part(rest)
            && SERIALIZATION_PARTS.iter().any(|part| {
                let beginning = rest.get(..part.len());
                beginning.is_some_and(|it| it.eq_ignore_ascii_case(part.as_bytes()))
            })
    })
}

/// Most positions of most names end here.
fn may_begin_part(rest: &[u8]) -> bool {
    let [first, second, third, ..] = rest else {
        return false;
    };
    let second = second.to_ascii_lowercase();
    let third = third.to_ascii_lowercase();
    match first.to_ascii_lowercase() {
        b's' => (second, third) == (b'e', b'r'),
        b'm' => matches!((second, third), (b'a', b'r') | (b's', b'g')),
        b'j' => matches!((second, third), (b's', b'o') | (b'a', b'c') | (b'i', b'n')),
        b't' => matches!((second, third), (b'o', b'_') | (b'e', b'm')),
        b'a' => (second, third) == (b's', b'_'),
        b'o' => (second, third) == (b'b', b'j'),
        b'p' => (second, third) == (b'r', b'o'),
        b'r' => (second, third) == (b'e', b'n'),
        b'v' => (second, third) == (b'i', b'e'),
        b'g' => (second, third) == (b'r', b'a'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;
    use expect_test::{Expect, expect};

    fn check(drawing: &str, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let trace = Trace::assemble(drawing.spans());
        let lines: Vec<String> = categories(&trace, &Settings::default())
            .into_iter()
            .zip(&trace.spans.spans)
            .map(|(category, span)| format!("{:13} {}\n", category.id(), span.name))
            .collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn python() {
        check(
            r#"
            shop  GET /cart/<int:id>/                                    |------------------|
            shop    GET /cart/<int:id>/ http receive {asgi.event.type=x} |
            shop    connect {db.system=postgresql}                       |
            shop    SELECT shop [client] {db.system=postgresql, db.statement="select 1"} |
            shop    HSET [client] {db.system=redis}                      |
            shop    cart.find [client] {db.system=mongodb}               |
            shop    GET [client] {http.url="http://payments/charge"}     |
            shop    POST [client] {http.url="http://loki/loki/api/v1/push"} |
            shop    jinja2.render                                        |
            shop    page {jinja2.template_name=cart.html}                |
            shop    apply_async/tasks.mail [producer]                    |
            "#,
            expect![[r#"
                handler       GET /cart/<int:id>/
                handler       GET /cart/<int:id>/ http receive
                connect       connect
                cache         HSET
                database      cart.find
                external      GET
                serialization jinja2.render
                serialization page
                messaging     apply_async/tasks.mail
                logging       POST
                database      SELECT shop
            "#]],
        );
    }

    #[test]
    fn node() {
        check(
            "
            shop  GET                                                |------------------|
            shop    middleware - jsonParser                          |
            shop    request handler - /cart                          |----|
            shop      pg-pool.connect [client] {db.system=postgresql} |--|
            shop        pg.connect [client] {db.system=postgresql}   |-|
            shop          tcp.connect                                |
            shop          tls.connect                                |
            shop          dns.lookup                                 |
            shop      redis-connect [client] {db.system=redis}       |
            shop      generic-pool.acquire                           |
            shop      prisma:client:operation                        |---|
            shop        prisma:client:serialize                      |
            shop        prisma:engine:query                          |---|
            shop          prisma:engine:connection                   |
            shop          prisma:engine:db_query [client] {db.query.text=x} |
            shop          prisma:engine:response_json_serialization  |
            shop      graphql.resolve cart.0.item                    |
            ",
            expect![[r#"
                handler       GET
                handler       request handler - /cart
                handler       prisma:client:operation
                handler       prisma:engine:query
                pool_wait     prisma:engine:connection
                serialization prisma:engine:response_json_serialization
                database      prisma:engine:db_query
                serialization prisma:client:serialize
                connect       redis-connect
                pool_wait     generic-pool.acquire
                handler       graphql.resolve cart.0.item
                pool_wait     pg-pool.connect
                connect       pg.connect
                connect       tcp.connect
                connect       tls.connect
                connect       dns.lookup
                serialization middleware - jsonParser
            "#]],
        );
    }

    #[test]
    fn java_go_ruby_net_php() {
        check(
            "
            shop  GET /owners/{id}                                   |------------------|
            shop    OwnerRepository.findById                         |--|
            shop      Session.find Owner                             |--|
            shop        SELECT db.owners [client] {db.system=mysql}  ||
            shop    HikariDataSource.getConnection                   |
            shop    Render owner/list                                |
            shop    sql.conn.query [client] {db.system=mysql}        |--|
            shop      fetch                                          |
            shop    sql.connector.connect [client]                   |
            shop    pool.acquire [client] {db.system=postgresql}     |
            shop    HTTP GET [client] {http.url=http://a/b}          |---|
            shop      http.getconn                                   |
            shop      http.tls                                       |
            shop      http.send                                      |
            shop    Author query                                     |
            shop    render_template.action_view                      |
            shop    cache_read.active_support                        |
            shop    HTTP wait_for_connection a:80                    |
            shop    DNS lookup a                                     |
            shop    PDO::connect [client]                            |
            shop    PDOStatement::fetchAll [client]                  |
            mail    send mail [consumer]                             |
            mail      orders receive [consumer] {messaging.operation=receive} |
            ",
            expect![[r#"
                handler       GET /owners/{id}
                external      HTTP GET
                pool_wait     http.getconn
                connect       http.tls
                external      http.send
                handler       OwnerRepository.findById
                handler       Session.find Owner
                database      SELECT db.owners
                database      sql.conn.query
                database      fetch
                pool_wait     HikariDataSource.getConnection
                serialization Render owner/list
                connect       sql.connector.connect
                pool_wait     pool.acquire
                handler       Author query
                serialization render_template.action_view
                cache         cache_read.active_support
                pool_wait     HTTP wait_for_connection a:80
                connect       DNS lookup a
                connect       PDO::connect
                database      PDOStatement::fetchAll
                handler       send mail
                messaging     orders receive
            "#]],
        );
    }

    #[test]
    fn every_part_of_serialization_is_found_wherever_it_stands() {
        for part in SERIALIZATION_PARTS {
            assert!(has_serialization_part(part), "{part}");
            let inside = format!("shop.{}()", part.to_uppercase());
            assert!(has_serialization_part(&inside), "{inside}");
            assert!(!has_serialization_part(&part[..part.len() - 1]), "{part}");
        }
    }
}
