//! Logical calls: one per call that the code made, however many spans its libraries made of it.
//!
//! ```text
//! Author query              |---------|     ActiveRecord's wrapper   ┐
//!   SELECT shop              |-------|      the driver's span        ┘ one call
//! sql.conn.query              |--|                                   ┐
//! sql.rows                        |----|    reading what came back    ┘ one call
//! prisma:client:operation   |---------|     ┐
//!   prisma:engine:query     |--------|      │ one call; with two statements inside,
//!     …:db_query              |--|          ┘ the wrappers are none and it is two
//! ```
//!
//! Whether the category of such a span is the call's is settled before, in [`crate::category`]; here
//! spans are only folded into one another, counted and named.

use crate::category::{self, Category};
use crate::facts::Facts;
use crate::identity::is_entry;
use crate::peer::{Peer, Peers};
use crate::sender;
use crate::span::{Span, SpanKind, Status, Value};
use crate::sql::Fingerprint;
use crate::statements::Statements;
use crate::target::{Target, cut, template};
use crate::trace::{SpanIdx, Trace};
use crate::{Call, Callee};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The spans that may be calls, gathered in tree order.
pub(crate) struct Candidates<'t, 'a> {
    trace: &'t Trace<'a>,
    namer: Namer<'t, 'a>,
    found: Vec<Candidate<'a>>,
    /// The nearest candidate at or above each span, within its service.
    nearest: Vec<Option<u32>>,
    orms: Orms,
}

impl<'t, 'a> Candidates<'t, 'a> {
    /// None yet.
    pub(crate) fn of(trace: &'t Trace<'a>, statements: &'t mut Statements) -> Self {
        Candidates {
            trace,
            namer: Namer { trace, statements },
            found: Vec::new(),
            nearest: Vec::with_capacity(trace.nodes.len()),
            orms: Orms::default(),
        }
    }

    /// Looks at the next span, of which its `category` and its attributes are known; these are not
    /// needed of servers' spans.
    pub(crate) fn add(&mut self, idx: SpanIdx, category: Category, facts: Option<&Facts<'a>>) {
        let above = match self.trace.node(idx).parent {
            Some(parent) if !is_entry(self.trace.span(idx)) => self.nearest[parent as usize],
            _ => None,
        };
        let found = facts.and_then(|facts| self.candidate(idx, category, facts));
        self.nearest.push(match found {
            Some(mut found) => {
                found.above = wrapper_of(&self.found, above, &found);
                if let Some(wrapper) = found.above {
                    let wrapper = &mut self.found[wrapper];
                    wrapper.inside += 1;
                    wrapper.inside_ns = wrapper
                        .inside_ns
                        .saturating_add(self.trace.duration_ns(idx));
                }
                self.found.push(found);
                Some(self.found.len() as u32 - 1)
            }
            None => above,
        });
    }

    /// The logical calls, in tree order, and whom they go to. `categories` and `owners` stand beside the
    /// spans.
    pub(crate) fn calls(
        mut self,
        categories: &[Category],
        owners: &[Option<u32>],
    ) -> (Vec<Call>, Vec<Peer<'a>>) {
        fold(self.trace, categories, &mut self.found);
        let mut calls = Vec::with_capacity(self.found.len());
        let mut siblings = Siblings::default();
        let mut peers = Peers::default();
        for candidate in self.found.iter_mut().filter(|it| it.is_call) {
            let call = self.namer.call(candidate, owners, &mut peers);
            siblings.join(self.trace, &mut calls, call);
        }
        siblings.remove_joined(&mut calls);
        (calls, peers.into_vec())
    }

    fn candidate(
        &mut self,
        idx: SpanIdx,
        category: Category,
        facts: &Facts<'a>,
    ) -> Option<Candidate<'a>> {
        let span = self.trace.span(idx);
        if matches!(span.kind, SpanKind::Server | SpanKind::Consumer) {
            return None;
        }
        let is_orm = self.orms.made(self.trace, span);
        let is_wrapper = is_orm && category == Category::Handler;
        if !is_wrapper && !is_callable(category) {
            return None;
        }
        if !is_wrapper && !category::says_itself(category, span, facts) {
            return None;
        }
        let mut candidate = Candidate {
            span: idx,
            outer: idx,
            said: idx,
            says: match category {
                Category::Database | Category::Cache => !facts.db_text.is_empty(),
                _ => has_target(facts),
            },
            category,
            system: facts.db_system,
            callee: None,
            peer: None,
            is_wrapper,
            is_orm,
            is_batch: facts.db_batch_size > Some(1),
            failed: has_failed(span, facts),
            is_call: !is_wrapper,
            above: None,
            inside: 0,
            inside_ns: 0,
        };
        if !is_wrapper {
            // While the attributes are at hand; nearly every candidate is a call in the end.
            candidate.callee = Some(self.namer.callee(&candidate, facts));
            candidate.peer = Some(Peer::of(category, facts));
        }
        Some(candidate)
    }
}

/// A span that may be a call, or a wrapper of some.
struct Candidate<'a> {
    span: SpanIdx,
    /// Where the wrappers begin that were folded into this one.
    outer: SpanIdx,
    /// The span of `outer..=span` that has the statement or URL.
    said: SpanIdx,
    /// `span` has a statement or URL.
    says: bool,
    category: Category,
    system: &'a str,
    /// What it calls, if it is a call and names it itself.
    callee: Option<Arc<Callee>>,
    /// Whom it calls, likewise.
    peer: Option<Peer<'a>>,
    /// An ORM's span that says nothing of a database: only a wrapper, never a call itself.
    is_wrapper: bool,
    /// An ORM's span: whatever it says, its driver's below it says better.
    is_orm: bool,
    /// Several statements sent together.
    is_batch: bool,
    /// As [`Call::failed`].
    failed: bool,
    is_call: bool,
    /// The candidate around this one that may be its wrapper.
    above: Option<usize>,
    /// How many candidates name this one as `above`, and their time, ns.
    inside: u32,
    inside_ns: u64,
}

/// Many senders set a span's status only when there was no answer at all.
fn has_failed(span: &Span<'_>, facts: &Facts<'_>) -> bool {
    let rpc_failed = |status: Value<'_>| match (status.as_int(), status.as_str()) {
        (Some(code), _) => code != 0,
        (None, Some(name)) => !matches!(name, "" | "OK" | "Ok" | "ok"),
        (None, None) => false,
    };
    span.status == Status::Error
        || facts.http_status.is_some_and(|it| it >= 400)
        || !facts.rpc_system.is_empty() && facts.rpc_status.is_some_and(rpc_failed)
}

impl Candidate<'_> {
    fn statement(&self) -> Option<&Fingerprint> {
        self.callee.as_ref()?.statement.as_ref()
    }
}

fn is_callable(category: Category) -> bool {
    matches!(
        category,
        Category::Database
            | Category::Cache
            | Category::External
            | Category::Messaging
            | Category::Logging
    )
}

pub(crate) fn has_target(facts: &Facts<'_>) -> bool {
    Target::of(facts) != Target::default()
        || !facts.rpc_method.is_empty()
        || !facts.destination.is_empty()
        || !facts.url_template.is_empty()
        || !facts.peer_service.is_empty()
}

/// Scopes of libraries that wrap a database's driver, as they stand in the scope's name.
const ORM_SCOPES: &[&str] = &[
    "hibernate",
    "spring-data",
    "ActiveRecord",
    "activerecord",
    "sequelize",
    "typeorm",
    "prisma",
    "mongoose",
    "EntityFramework",
    "doctrine",
    "eloquent",
    "sqlalchemy",
    "gorm",
    "sea_orm",
    "knex",
];

/// Which scopes are an ORM's: searching a name for all of [`ORM_SCOPES`] is done once for each.
#[derive(Default)]
struct Orms(Vec<Option<bool>>);

impl Orms {
    /// Did an ORM make this span?
    fn made(&mut self, trace: &Trace<'_>, span: &Span<'_>) -> bool {
        // The sequence of Prisma's spans has had more than one scope.
        if matches!(span.name, "prisma:client:operation" | "prisma:engine:query") {
            return true;
        }
        let at = span.scope as usize;
        let Some(scope) = trace.spans.scopes.get(at) else {
            return false;
        };
        if self.0.is_empty() {
            self.0 = vec![None; trace.spans.scopes.len()];
        }
        let is_orm = || ORM_SCOPES.iter().any(|it| scope.name.contains(it));
        *self.0[at].get_or_insert_with(is_orm)
    }
}

/// The candidate around `inner` that may wrap it: an ORM's span, or one for the same system.
fn wrapper_of(
    candidates: &[Candidate<'_>],
    above: Option<u32>,
    inner: &Candidate<'_>,
) -> Option<usize> {
    let above = above? as usize;
    let outer = &candidates[above];
    let same_system =
        outer.system == inner.system || outer.system.is_empty() || inner.system.is_empty();
    let same_kind = outer.category == inner.category && same_system;
    (outer.is_wrapper || inner.is_wrapper || same_kind).then_some(above)
}

/// A wrapper is mostly what it wraps: at least one part in so many of its time. An ORM's is one however
/// much time the ORM takes itself, or a loop's rounds would differ by that.
const COVER_SHARE: u64 = 2;

/// What a span is to the one inside it.
#[derive(PartialEq, Eq)]
enum Around {
    /// A wrapper, or perhaps one.
    Wrapper,
    /// The call itself, which the inner span is a part of.
    Whole,
    /// Another call.
    Apart,
}

/// ```text
/// select posts             |-----------|    GORM's preload: two calls
///   select authors             |----|
/// SELECT                   |-----------|    pgx prepares what it then runs: one call
///   SELECT                  |----|
/// batch start {db.operation.batch.size=20}  one call, too
///   INSERT
/// ```
fn around(trace: &Trace<'_>, outer: &Candidate<'_>, inner: &Candidate<'_>) -> Around {
    if outer.is_batch && outer.category == inner.category {
        return Around::Whole;
    }
    let [Some(around), Some(inside)] = [outer, inner].map(Candidate::statement) else {
        return Around::Wrapper;
    };
    let scope = |it: &Candidate<'_>| {
        let scope = trace.spans.scopes.get(trace.span(it.span).scope as usize);
        scope.map_or("", |it| it.name)
    };
    let is_other = !around.tables.is_empty()
        && !inside.tables.is_empty()
        && (around.kind, &around.tables) != (inside.kind, &inside.tables);
    match (around.text == inside.text, scope(outer) == scope(inner)) {
        (true, true) => Around::Whole,
        // No library wraps its own spans, but a mapper's text is not always quite its driver's.
        (false, true) => Around::Apart,
        _ if is_other => Around::Apart,
        _ => Around::Wrapper,
    }
}

/// Folds wrappers into the one call inside them. A wrapper of several calls is no call itself.
fn fold(trace: &Trace<'_>, categories: &[Category], candidates: &mut [Candidate<'_>]) {
    for at in 0..candidates.len() {
        let Some(above) = candidates[at].above else {
            continue;
        };
        let outer = &candidates[above];
        match around(trace, outer, &candidates[at]) {
            Around::Wrapper => {}
            Around::Apart => continue,
            Around::Whole => {
                let names = !outer.says && outer.said == outer.span && candidates[at].says;
                if names {
                    candidates[above].said = candidates[at].span;
                }
                candidates[above].failed |= candidates[at].failed;
                candidates[at].is_call = false;
                continue;
            }
        }
        // An entry in which nothing was instrumented is nobody's wrapper; that is known only now.
        if outer.is_wrapper && categories[outer.span as usize] != Category::Handler {
            continue;
        }
        let covers = outer.is_orm
            || outer.inside_ns.saturating_mul(COVER_SHARE) >= trace.duration_ns(outer.span);
        if !covers {
            continue;
        }
        let (first, said, only) = (outer.outer, outer.said, outer.inside == 1);
        let failed = outer.failed;
        let said = (outer.says || said != outer.span).then_some(said);
        candidates[above].is_call = false;
        if only {
            let inner = &mut candidates[at];
            inner.outer = first;
            inner.failed |= failed;
            inner.said = if inner.says {
                inner.span
            } else {
                said.unwrap_or(inner.span)
            };
        }
    }
}

/// Says what calls call.
struct Namer<'t, 'a> {
    trace: &'t Trace<'a>,
    statements: &'t mut Statements,
}

impl<'a> Namer<'_, 'a> {
    fn call(
        &mut self,
        candidate: &mut Candidate<'a>,
        owners: &[Option<u32>],
        peers: &mut Peers<'a>,
    ) -> Call {
        let own = candidate.callee.take();
        let mut peer = candidate.peer.take();
        let callee = own.filter(|_| candidate.said == candidate.span);
        let callee = callee.unwrap_or_else(|| {
            let facts = Facts::of(&self.trace.spans, self.trace.span(candidate.said));
            if peer.as_ref().is_none_or(|it| it.name.is_empty()) {
                peer = Some(Peer::of(candidate.category, &facts));
            }
            self.callee(candidate, &facts)
        });
        let peer = peer.unwrap_or_else(|| Peer::of(candidate.category, &Facts::default()));
        Call {
            outer: candidate.outer,
            span: candidate.said,
            entry: owners[candidate.outer as usize].map(|it| it as usize),
            category: candidate.category,
            failed: candidate.failed,
            peer: peers.position(peer),
            callee,
        }
    }

    /// What `candidate` calls, by the attributes of the span that says it.
    fn callee(&mut self, candidate: &Candidate<'a>, facts: &Facts<'a>) -> Arc<Callee> {
        let span = self.trace.span(candidate.said);
        let (key, name) = match candidate.category {
            Category::Database if facts.db_text.is_empty() && !implied(span.name).is_empty() => {
                let system = facts.db_system;
                return self.statements.callee(implied(span.name), system, system);
            }
            Category::Database | Category::Cache if !facts.db_text.is_empty() => {
                let dialect = match facts.db_system {
                    "" => candidate.system,
                    system => system,
                };
                return self
                    .statements
                    .callee(facts.db_text, facts.db_system, dialect);
            }
            Category::Database | Category::Cache => database_names(span, facts),
            Category::Messaging => publish_names(span, facts),
            _ => self.request_names(candidate.span, span, facts),
        };
        self.statements.plain(facts.db_system, &key, &name)
    }

    /// A request to a service: `METHOD host/path/{id}`, or the RPC's method.
    fn request_names(
        &self,
        inner: SpanIdx,
        span: &Span<'a>,
        facts: &Facts<'a>,
    ) -> (String, String) {
        if !facts.rpc_method.is_empty() {
            return rpc_names(facts);
        }
        let target = Target::of(facts);
        let server = self.server(inner);
        let host = self.host(&target, facts, server);
        let path = self.path(&target, facts, server);
        if host.is_empty() && path.is_empty() {
            let name = template(span.name).into_owned();
            return (name.clone(), name);
        }
        let method = match facts.http_method {
            "" => method_in_name(span.name),
            method => method,
        };
        let name = |host: &str| {
            let name = format!("{method} {host}{path}");
            cut(name.trim_start()).to_owned()
        };
        (name(host), name(short_host(host)))
    }

    /// The span of the service that answered, if it reports.
    fn server(&self, client: SpanIdx) -> Option<&Span<'a>> {
        // It is the only child or nearly so; a client span with a crowd below is something else.
        const CHILDREN_MAX: usize = 8;
        let mut children = self.trace.children(client).take(CHILDREN_MAX);
        let server = children.find(|it| self.trace.span(*it).kind == SpanKind::Server);
        server.map(|it| self.trace.span(it))
    }

    fn host(&self, target: &Target<'a>, facts: &Facts<'a>, server: Option<&Span<'a>>) -> &'a str {
        let callee = || match (facts.peer_service, server) {
            ("", Some(server)) => {
                sender::of(&self.trace.senders, server.resource)
                    .service
                    .name
            }
            (peer, _) => peer,
        };
        // Addresses of pods change with every deployment.
        match target.host.parse::<IpAddr>() {
            Ok(_) => Some(callee())
                .filter(|it| !it.is_empty())
                .unwrap_or(target.host),
            Err(_) if target.host.is_empty() => callee(),
            Err(_) => target.host,
        }
    }

    fn path(
        &self,
        target: &Target<'a>,
        facts: &Facts<'a>,
        server: Option<&Span<'a>>,
    ) -> Cow<'a, str> {
        let of_server = || Some(Facts::of(&self.trace.spans, server?).http_route);
        let route = match path_of_template(facts.url_template) {
            "" => of_server().unwrap_or(""),
            template => template,
        };
        match route {
            "" => template(target.path),
            route if route.starts_with('/') => Cow::Borrowed(route),
            route => Cow::Owned(format!("/{route}")),
        }
    }
}

/// `https://host/users/{id}?x` → `/users/{id}`.
fn path_of_template(template: &str) -> &str {
    let path = match template.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => template,
    };
    path.split(['?', '#']).next().unwrap_or("")
}

/// `HTTP GET` and `GET /x` have the method in the name.
fn method_in_name(name: &str) -> &str {
    const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    let mut words = name.split(' ');
    words.find(|it| METHODS.contains(it)).unwrap_or("")
}

/// Inside a cluster, the first label is the service: `payments.default.svc.cluster.local`.
fn short_host(host: &str) -> &str {
    match host.split_once('.') {
        Some((service, rest)) if rest.contains("svc") || rest.ends_with("internal") => service,
        _ => host,
    }
}

fn rpc_names(facts: &Facts<'_>) -> (String, String) {
    let key = match facts.rpc_service {
        service if service.is_empty() || facts.rpc_method.contains('/') => {
            facts.rpc_method.to_owned()
        }
        service => format!("{service}/{}", facts.rpc_method),
    };
    let key = cut(&key).to_owned();
    // `shop.payments.v1.Charge/Create` → `Charge/Create`.
    let service_end = key.find('/').unwrap_or(key.len());
    let short = key[..service_end].rfind('.').map_or(0, |at| at + 1);
    let name = key[short..].to_owned();
    (key, name)
}

fn publish_names(span: &Span<'_>, facts: &Facts<'_>) -> (String, String) {
    let destination = match facts.destination_template {
        "" => template(facts.destination),
        template => Cow::Borrowed(template),
    };
    let name = match &*destination {
        "" => template(span.name).into_owned(),
        destination => format!("publish {destination}"),
    };
    (name.clone(), name)
}

/// The statement behind a call that `database/sql` has a method for; empty if there is none.
fn implied(name: &str) -> &'static str {
    match name {
        "sql.conn.begin_tx" => "begin",
        "sql.tx.commit" => "commit",
        "sql.tx.rollback" => "rollback",
        _ => "",
    }
}

fn database_names(span: &Span<'_>, facts: &Facts<'_>) -> (String, String) {
    let name = match (facts.db_summary, facts.db_operation) {
        ("", "") => template(span.name),
        ("", operation) => match facts.db_collection {
            "" => Cow::Borrowed(operation),
            collection => Cow::Owned(format!("{operation} {collection}")),
        },
        (summary, _) => Cow::Borrowed(summary),
    };
    let name = cut(&name).to_owned();
    (name.clone(), name)
}

/// Calls whose spans stand side by side: `prepare` + `execute`, `execute` + `fetchAll`.
#[derive(Default)]
struct Siblings {
    /// The latest prepared statement under each parent, as an index into the calls.
    prepared: HashMap<Option<SpanIdx>, usize>,
    /// Prepared statements that were executed: indices into the calls.
    joined: Vec<usize>,
}

/// What a call is to its siblings.
enum Part {
    Whole,
    Prepares,
    Executes,
    Fetches,
}

impl Siblings {
    /// Adds `call`, unless it belongs to one before it.
    fn join(&mut self, trace: &Trace<'_>, calls: &mut Vec<Call>, mut call: Call) {
        if call.category != Category::Database {
            calls.push(call);
            return;
        }
        let parent = trace.node(call.outer).parent;
        match part(trace.span(call.outer).name) {
            Part::Fetches if follows_sibling(trace, calls, parent) => return,
            Part::Prepares => {
                self.prepared.insert(parent, calls.len());
            }
            Part::Executes if !self.prepared.is_empty() => {
                if let Some(prepared) = self.prepared.get(&parent) {
                    self.execute(*prepared, &calls[*prepared], &mut call);
                }
            }
            _ => {}
        }
        calls.push(call);
    }

    /// The statement was named when it was prepared; running it is the call.
    fn execute(&mut self, at: usize, prepared: &Call, call: &mut Call) {
        let same = call.statement.is_none() || call.key == prepared.key;
        if !same {
            return;
        }
        if call.statement.is_none() && prepared.statement.is_some() {
            call.span = prepared.span;
            call.callee = prepared.callee.clone();
        }
        if self.joined.last() != Some(&at) {
            self.joined.push(at);
        }
    }

    fn remove_joined(mut self, calls: &mut Vec<Call>) {
        self.joined.sort_unstable();
        let mut at = 0;
        calls.retain(|_| {
            at += 1;
            self.joined.binary_search(&(at - 1)).is_err()
        });
    }
}

fn part(name: &str) -> Part {
    match name {
        "sql.rows" | "PDOStatement::fetchAll" | "PDOStatement::fetch" => Part::Fetches,
        "sql.conn.prepare" | "PDO::prepare" => Part::Prepares,
        "sql.stmt.query" | "sql.stmt.exec" | "PDOStatement::execute" => Part::Executes,
        // Ruby's pg and otelpgx.
        name if name.starts_with("PREPARE") || name.starts_with("prepare ") => Part::Prepares,
        name if name.starts_with("EXECUTE") || name.starts_with("query ") => Part::Executes,
        _ => Part::Whole,
    }
}

/// Is one of the latest database calls a sibling under `parent`? Between it and its rows lies only
/// what is inside it, so a few are enough.
fn follows_sibling(trace: &Trace<'_>, calls: &[Call], parent: Option<SpanIdx>) -> bool {
    const CALLS_MAX: usize = 8;
    let latest = calls.iter().rev().take(CALLS_MAX);
    latest
        .filter(|it| it.category == Category::Database)
        .any(|it| trace.node(it.outer).parent == parent)
}

#[cfg(test)]
mod tests {
    use crate::{Settings, analyze, drawing};
    use expect_test::{Expect, expect};

    /// Each call's category, key and the spans from its outermost to the one that names it.
    fn check(drawing: &str, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let analysis = analyze(drawing.spans(), &Settings::default());
        let mut text = String::new();
        for call in &analysis.calls {
            let name = |idx| analysis.trace.span(idx).name;
            text.push_str(&format!(
                "{} [{}] {}",
                call.category.id(),
                call.key,
                name(call.outer)
            ));
            if call.span != call.outer {
                text.push_str(&format!(" > {}", name(call.span)));
            }
            text.push('\n');
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn an_orm_and_its_driver() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    Author query {scope=OpenTelemetry::Instrumentation::ActiveRecord} |---|
            shop      SELECT shop [client] {db.system=mysql, db.statement="select 1 from authors"}  |-|
            shop    Session.find Owner {scope=io.opentelemetry.hibernate-4.0}            |------|
            shop      SELECT a FROM owners                                               |-|
            shop      SELECT b FROM pets                                                   |-|
            "#,
            expect![[r#"
                database [select ? from authors] Author query > SELECT shop
                database [select a from owners] SELECT a FROM owners
                database [select b from pets] SELECT b FROM pets
            "#]],
        );
    }

    #[test]
    fn prisma_and_mongoose() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    prisma:client:operation                                 |------|
            shop      prisma:client:serialize                               |
            shop      prisma:engine:query                                    |----|
            shop        prisma:engine:connection                             |
            shop        prisma:engine:db_query {db.query.text="SELECT x FROM y"}  |--|
            shop    mongoose.User.find [client] {db.system=mongodb, db.operation=find}   |-----|
            shop      mongodb.find [client] {db.system=mongodb, db.statement="{}", db.operation=find}   |---|
            "#,
            expect![[r#"
                database [select x from y] prisma:client:operation > prisma:engine:db_query
                database [{}] mongoose.User.find > mongodb.find
            "#]],
        );
    }

    #[test]
    fn node_mappers_that_report_beside_their_driver() {
        check(
            r#"
            shop  GET /                                                     |---------------------------|
            shop    Sequelize SELECT [client] {scope=@opentelemetry/instrumentation-sequelize, db.system.name=postgres, db.query.text="SELECT a FROM b WHERE id = 1;"}  |--------|
            shop      pg.query:SELECT shop [client] {scope=@opentelemetry/instrumentation-pg, db.system.name=postgresql, db.query.text="SELECT a FROM b WHERE id = 1;"}        |-|
            shop    find posts [client] {scope=@opentelemetry/instrumentation-typeorm, db.system.name=postgres, db.operation.name=find, db.query.text="{'options':{}}"}  |--------|
            shop      pg-pool.connect [client] {scope=@opentelemetry/instrumentation-pg, db.system.name=postgresql}  |
            shop      pg.query:SELECT shop [client] {scope=@opentelemetry/instrumentation-pg, db.system.name=postgresql, db.query.text="SELECT a FROM posts"}        |-|
            shop    save posts [client] {scope=@opentelemetry/instrumentation-typeorm, db.system.name=postgres, db.operation.name=save, db.query.text="{'entity':{}}"}  |--------|
            shop      pg.query:START shop [client] {scope=@opentelemetry/instrumentation-pg, db.system.name=postgresql, db.query.text="START TRANSACTION"}   ||
            shop      pg.query:INSERT shop [client] {scope=@opentelemetry/instrumentation-pg, db.system.name=postgresql, db.query.text="INSERT INTO posts VALUES ($1)"}     ||
            "#,
            expect![[r#"
                database [select a from b where id = ?] Sequelize SELECT > pg.query:SELECT shop
                database [start transaction] pg.query:START shop
                database [insert into posts values (?)] pg.query:INSERT shop
                database [select a from posts] find posts > pg.query:SELECT shop
            "#]],
        );
    }

    #[test]
    fn a_preload_is_a_call_inside_of_a_call() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    select posts {scope=gorm.io/plugin/opentelemetry, db.system.name=postgresql, db.query.text="SELECT * FROM posts"}    |---------|
            shop      select authors {scope=gorm.io/plugin/opentelemetry, db.system.name=postgresql, db.query.text="SELECT * FROM authors WHERE id IN (1,2)"}  |------|
            "#,
            expect![[r#"
                database [select * from posts] select posts
                database [select * from authors where id in (?)] select authors
            "#]],
        );
    }

    #[test]
    fn pgx_prepares_inside_of_queries_and_sends_batches() {
        check(
            r#"
            shop  GET /                                                     |-------------------|
            shop    pool.acquire [client] {scope=otelpgx, db.system.name=postgresql}  |
            shop    SELECT [client] {scope=otelpgx, db.system.name=postgresql, db.query.text="SELECT a FROM b WHERE c = $1"}   |-------|
            shop      SELECT [client] {scope=otelpgx, db.system.name=postgresql, db.query.text="SELECT a FROM b WHERE c = $1", pgx.prepare_stmt.name=s}   |--|
            shop    batch start [client] {scope=otelpgx, db.system.name=postgresql, db.operation.batch.size=3}   |-------|
            shop      INSERT [client] {scope=otelpgx, db.system.name=postgresql, db.query.text="INSERT INTO d VALUES ($1)"}   ||
            shop      INSERT [client] {scope=otelpgx, db.system.name=postgresql, db.query.text="INSERT INTO d VALUES ($1)"}   ||
            shop      INSERT [client] {scope=otelpgx, db.system.name=postgresql, db.query.text="INSERT INTO d VALUES ($1)"}   ||
            "#,
            expect![[r#"
                database [insert into d values (?)] batch start > INSERT
                database [select a from b where c = ?] SELECT
            "#]],
        );
    }

    #[test]
    fn what_a_go_pool_does_to_connections_is_no_call() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    sql.conn.reset_session [client] {db.system.name=postgresql}  |
            shop    sql.conn.begin_tx [client] {db.system.name=postgresql}       |-|
            shop    sql.conn.exec [client] {db.system.name=postgresql, db.query.text="INSERT INTO a VALUES ($1)"}  |-|
            shop    sql.tx.commit [client] {db.system.name=postgresql}               |-|
            "#,
            expect![[r#"
                database [begin] sql.conn.begin_tx
                database [commit] sql.tx.commit
                database [insert into a values (?)] sql.conn.exec
            "#]],
        );
    }

    #[test]
    fn siblings_of_one_statement() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    sql.conn.query [client] {db.system=mysql, db.statement="select a from b"} |-|
            shop    sql.rows [client] {db.system=mysql}                                         |--|
            shop    PDO::prepare [client] {db.system=mysql, db.statement="select c from d"}  |-|
            shop    PDOStatement::execute [client] {db.system=mysql}                          |-|
            shop    PDOStatement::fetchAll [client] {db.system=mysql}                           |-|
            shop    PDOStatement::execute [client] {db.system=mysql}                              |-|
            "#,
            expect![[r#"
                database [select a from b] sql.conn.query
                database [select c from d] PDOStatement::execute > PDO::prepare
                database [select c from d] PDOStatement::execute > PDO::prepare
            "#]],
        );
    }

    #[test]
    fn requests_to_services() {
        check(
            r#"
            shop      GET /                                                          |---------------------|
            shop        GET [client] {http.url="http://users:80/users/17?page=2"}    |--|
            shop        GET [client] {url.full="http://users/x/17", url.template="/x/{n}", http.request.method=GET}   |--|
            shop        GET [client] {url.full="http://10.0.0.7/people/ann", http.request.method=GET}   |----|
            users         GET /people/:name {http.route=/people/:name}                |--|
            shop        S3.GetObject [client] {rpc.system=aws-api, rpc.service=S3, rpc.method=GetObject}                |--|
            shop          GET [client] {http.url="https://b.s3.amazonaws.com/k"}                 |--|
            shop        Charge/Create [client] {rpc.system=grpc, rpc.service=shop.v1.Charge, rpc.method=Create}           |--|
            shop        orders publish [producer] {messaging.system=kafka, messaging.destination=orders}                     |
            shop        mystery [client]                                                                                     |-|
            "#,
            expect![[r#"
                external [GET users/users/{id}] GET
                external [GET users/people/:name] GET
                external [GET users/x/{n}] GET
                external [GET b.s3.amazonaws.com/k] S3.GetObject > GET
                external [shop.v1.Charge/Create] Charge/Create
                external [mystery] mystery
                messaging [publish orders] orders publish
            "#]],
        );
    }

    #[test]
    fn a_database_reached_over_http_is_one_call() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    search [client] {db.system=elasticsearch, db.operation=search, db.statement="{}"} |------|
            shop      POST [client] {http.url="http://es:9200/items/_search", http.method=POST}  |-|
            shop      POST [client] {http.url="http://es:9200/items/_search", http.method=POST}     |-|
            shop    GET [client] {db.system=redis, db.statement="GET user:17"}      |-|
            "#,
            expect![[r#"
                cache [get user:?] GET
                database [{}] search
            "#]],
        );
    }

    #[test]
    fn retries_are_calls_of_their_own() {
        check(
            r#"
            shop  GET /                                                     |---------------|
            shop    GET [client] {http.url="http://a/b", http.method=GET}   |---------|
            shop      GET [client] {http.url="http://a/b", http.method=GET} |---|
            shop      GET [client] {http.url="http://a/b", http.method=GET}      |---|
            "#,
            expect![[r#"
                external [GET a/b] GET
                external [GET a/b] GET
            "#]],
        );
    }

    #[test]
    fn coverage_counts_what_is_missing() {
        let drawing = drawing::parse(
            r#"
            shop  GET /                                     |---------------|
            shop    SELECT a                                |--|
            shop    SELECT b [client] {db.system=mysql, db.statement=""}   |--|
            shop    SELECT c [client] {db.system=mysql, db.statement="select 'a"}  |--|
            shop    GET [client]                                |--|
            shop    lost {orphan}                                |--|
            "#,
        );
        let coverage = analyze(drawing.spans(), &Settings::default()).coverage;
        assert_eq!((coverage.spans, coverage.orphans), (6, 1));
        assert_eq!(coverage.database_calls, 3);
        assert_eq!(coverage.without_statement, 1);
        assert_eq!(coverage.truncated_statements, 1);
        assert_eq!((coverage.outbound_calls, coverage.without_target), (1, 1));
    }
}
