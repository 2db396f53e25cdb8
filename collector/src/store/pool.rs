//! Connections to Postgres, straight or through a pooler that hands out server connections by transaction.
//!
//! Such a pooler (PgBouncer with `pool_mode=transaction`) may run every transaction on another server
//! connection. The driver prepares a statement and runs it in two steps, and names what it prepares; neither
//! survives a change of server connection. So in this mode every statement runs in a transaction of its own
//! or of its caller's, and has no name. Straight connections keep named statements and pay nothing.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement,
    PgTypeInfo,
};
use sqlx::{
    AssertSqlSafe, Connection as _, Either, Execute, Executor, PgConnection, Postgres, Row, SqlStr,
};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After this long without a free connection the caller gets an error instead of waiting on.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A page that asks for more than this gets an error.
const PEOPLES_STATEMENT_TIMEOUT: &str = "15s";

/// How a transaction through a pooler begins; for people with a time limit, which a pooler takes only inside.
const BEGIN: &str = "begin";
const PEOPLES_BEGIN: &str = "begin; set local statement_timeout = '15s'";

/// Rows on their way from a statement to its reader.
const ROWS_UNDER_WAY: usize = 64;

/// A way to a database.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where it is, and who asks.
    pub options: PgConnectOptions,
    /// There is a pooler between that hands out server connections by transaction.
    pub pooled: bool,
    /// Connections at most; beyond it callers wait, at most ten seconds.
    pub connections: u32,
}

/// Connections at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// Somebody works with them.
    pub in_use: u32,
    /// Open and free.
    pub idle: u32,
    /// So many there may be; then callers wait.
    pub most: u32,
}

/// What is known about the server's state by the connections opened to it.
#[derive(Debug)]
struct Health {
    since: Instant,
    /// Milliseconds after `since`; connections older than this are not used again.
    distrusted_until_ms: AtomicU64,
}

/// Connections, opened when needed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: PgPool,
    access: Access,
    begin: &'static str,
    health: Arc<Health>,
}

/// One connection, whatever it is used for.
#[derive(Debug)]
pub struct Connection {
    inner: Inner,
    unnamed: bool,
}

#[derive(Debug)]
enum Inner {
    Plain(PoolConnection<Postgres>),
    Transaction(sqlx::Transaction<'static, Postgres>),
}

/// A transaction; rolled back when dropped.
#[derive(Debug)]
pub struct Transaction(Connection);

/// A connection for a few statements that need no transaction; through a pooler they are one all the same.
#[derive(Debug)]
pub struct Session(Connection);

/// A connection beside the others, for statements that cannot run in a transaction.
#[derive(Debug)]
pub struct Alone(PgConnection);

impl Alone {
    /// Runs one statement as it is, without a transaction or a name, through a pooler too.
    ///
    /// # Errors
    /// Postgres refuses, or the connection broke.
    pub async fn run(&mut self, statement: String) -> Result<(), sqlx::Error> {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        self.0.execute(statement).await?;
        Ok(())
    }
}

impl Access {
    fn connect_options(&self) -> PgConnectOptions {
        let options = self.options.clone().application_name("culprit");
        if self.pooled {
            // Startup parameters that PgBouncer does not know, it refuses.
            options.statement_cache_capacity(0).extra_float_digits(None)
        } else {
            options
        }
    }
}

impl Pool {
    /// Connections for the work of a process. Nothing is connected yet.
    pub fn new(access: &Access) -> Pool {
        Pool::with(access.clone(), access.connect_options(), BEGIN)
    }

    /// Connections for people: at most `connections`, and an end for every statement that takes too long.
    pub fn for_people(&self, connections: u32) -> Pool {
        let access = Access {
            connections,
            ..self.access.clone()
        };
        let mut options = access.connect_options();
        if !access.pooled {
            options = options.options([("statement_timeout", PEOPLES_STATEMENT_TIMEOUT)]);
        }
        Pool::with(access, options, PEOPLES_BEGIN)
    }

    /// As [`Pool::new`], after a look at the server. An answered commit must be on the disk: where the
    /// database does not wait for that by default, these connections do. (Through a pooler they cannot
    /// ask for it; whoever opens the database is warned, see [`super::Store::unsafe_settings`].)
    ///
    /// # Errors
    /// As [`Pool::probe`].
    pub async fn durable(access: &Access) -> Result<Pool, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&access.connect_options()).await?;
        let row = connection
            .fetch_one(sqlx::raw_sql("show synchronous_commit"))
            .await?;
        let commit: String = row.try_get(0)?;
        connection.close().await?;
        let mut access = access.clone();
        if commit == "off" && !access.pooled {
            access.options = access.options.options([("synchronous_commit", "on")]);
        }
        Ok(Pool::new(&access))
    }

    fn with(access: Access, options: PgConnectOptions, begin: &'static str) -> Pool {
        let health = Arc::new(Health {
            since: Instant::now(),
            distrusted_until_ms: AtomicU64::new(0),
        });
        let seen = health.clone();
        let inner = PgPoolOptions::new()
            .max_connections(access.connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A ping before every statement would double the round trips of ingest.
            .test_before_acquire(false)
            .before_acquire(move |_, meta| {
                let trusted = seen.trusts(meta.age);
                Box::pin(async move { Ok(trusted) })
            })
            .connect_lazy_with(options);
        Pool {
            inner,
            access,
            begin,
            health,
        }
    }

    /// Connects once and says at once why that is not possible; the pool itself would try for a while.
    ///
    /// # Errors
    /// Postgres cannot be reached, or refuses.
    pub async fn probe(&self) -> Result<(), sqlx::Error> {
        let connection = PgConnection::connect_with(&self.access.connect_options()).await?;
        connection.close().await
    }

    /// How this pool's database is reached.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        let transaction = if self.access.pooled {
            self.inner.begin_with(self.begin).await?
        } else {
            self.inner.begin().await?
        };
        Ok(Transaction(Connection {
            inner: Inner::Transaction(transaction),
            unnamed: self.access.pooled,
        }))
    }

    /// Begins a transaction that reads, and sees one moment. Its time limit is for its caller to set.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn snapshot(&self) -> Result<Transaction, sqlx::Error> {
        let begin = "begin isolation level repeatable read read only";
        Ok(Transaction(Connection {
            inner: Inner::Transaction(self.inner.begin_with(begin).await?),
            unnamed: self.access.pooled,
        }))
    }

    /// A connection for statements that stand each for itself; [`Session::end`] must follow.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        if self.access.pooled {
            return Ok(Session(self.begin().await?.0));
        }
        Ok(Session(Connection {
            inner: Inner::Plain(self.inner.acquire().await?),
            unnamed: false,
        }))
    }

    /// A connection beside the others, for what cannot run in a transaction; `lock_timeout` bounds how
    /// long it waits for others.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn alone(&self, lock_timeout: &'static str) -> Result<Alone, sqlx::Error> {
        let mut options = self.access.connect_options();
        // A pooler takes no such parameter, and would give it on with the server's connection.
        if !self.access.pooled {
            options = options.options([("lock_timeout", lock_timeout)]);
        }
        Ok(Alone(PgConnection::connect_with(&options).await?))
    }

    /// The connections right now.
    pub fn connections(&self) -> Connections {
        let idle = self.inner.num_idle() as u32;
        Connections {
            in_use: self.inner.size().saturating_sub(idle),
            idle,
            most: self.inner.options().get_max_connections(),
        }
    }

    /// Uses none of the connections opened so far again: their server may have become a replica.
    pub fn reconnect(&self) {
        let now = self.health.since.elapsed().as_millis().max(1) as u64;
        self.health
            .distrusted_until_ms
            .store(now, Ordering::Relaxed);
    }

    /// Closes all connections; waits for those in use.
    pub async fn close(&self) {
        self.inner.close().await;
    }
}

impl Health {
    fn trusts(&self, age: Duration) -> bool {
        let until = self.distrusted_until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let opened = self.since.elapsed().saturating_sub(age);
        opened.as_millis() as u64 > until
    }
}

impl Connection {
    fn raw(&mut self) -> &mut PgConnection {
        match &mut self.inner {
            Inner::Plain(connection) => connection,
            Inner::Transaction(transaction) => transaction,
        }
    }

    async fn commit(self) -> Result<(), sqlx::Error> {
        match self.inner {
            Inner::Plain(_) => Ok(()),
            Inner::Transaction(transaction) => transaction.commit().await,
        }
    }
}

impl Transaction {
    /// What was written is kept.
    ///
    /// # Errors
    /// Postgres refuses, or the connection broke: then it may be kept or not.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }
}

impl Session {
    /// Through a pooler, only now what was written is kept.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn end(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }
}

impl Deref for Transaction {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl Deref for Session {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

/// A statement that is prepared without a name.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// What a statement gives: rows, and how many it touched.
type Step = Either<PgQueryResult, PgRow>;

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.unnamed {
            self.raw().fetch_many(Unnamed(query))
        } else {
            self.raw().fetch_many(query)
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.unnamed {
            self.raw().fetch_optional(Unnamed(query))
        } else {
            self.raw().fetch_optional(query)
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw().prepare_with(sql, parameters)
    }

    fn describe<'e>(
        self,
        sql: SqlStr,
    ) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw().describe(sql)
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.access.pooled {
            in_transaction(self.clone(), query)
        } else {
            (&self.inner).fetch_many(query)
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.access.pooled {
            return (&self.inner).fetch_optional(query);
        }
        let pool = self.clone();
        Box::pin(async move {
            let mut transaction = pool.begin().await?;
            let row = transaction.fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        (&self.inner).prepare_with(sql, parameters)
    }

    fn describe<'e>(
        self,
        sql: SqlStr,
    ) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        (&self.inner).describe(sql)
    }
}

/// One statement in a transaction of its own. The stream ends after the commit, so whoever reads it to its
/// end knows that what was written is kept.
fn in_transaction<'e, 'q: 'e, E>(pool: Pool, query: E) -> BoxStream<'e, Result<Step, sqlx::Error>>
where
    E: 'q + Execute<'q, Postgres>,
{
    let (sender, mut receiver) = tokio::sync::mpsc::channel(ROWS_UNDER_WAY);
    let work = async move {
        let mut transaction = pool.begin().await?;
        {
            let mut steps = transaction.fetch_many(query);
            while let Some(step) = steps.try_next().await? {
                if sender.send(step).await.is_err() {
                    return Ok(());
                }
            }
        }
        transaction.commit().await
    };
    let steps = stream::poll_fn(move |context| receiver.poll_recv(context)).map(Ok);
    let failure = stream::once(work).filter_map(async |done: Result<(), _>| done.err().map(Err));
    stream::select(steps, failure).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_from_before_a_failover_are_not_trusted() {
        let health = Health {
            since: Instant::now() - Duration::from_secs(60),
            distrusted_until_ms: AtomicU64::new(50_000),
        };
        assert!(!health.trusts(Duration::from_secs(20)));
        assert!(health.trusts(Duration::from_secs(5)));
    }

    /// Every statement through a pooler's eyes: what it does is kept when its reader is told, rows come
    /// in order, and an error is an error.
    #[tokio::test]
    async fn a_statement_in_a_transaction_of_its_own() {
        let access = Access {
            options: crate::testing::database().await,
            pooled: true,
            connections: 2,
        };
        let pool = Pool::new(&access);
        let insert = "insert into culprit.meta (key, value) select n::text, '' from generate_series(1, $1) n";
        let done = sqlx::query(insert).bind(500).execute(&pool).await.unwrap();
        assert_eq!(done.rows_affected(), 500);
        let keys: Vec<String> =
            sqlx::query_scalar("select key from culprit.meta where value = $1 order by key::int")
                .bind("")
                .fetch_all(&pool)
                .await
                .unwrap();
        assert_eq!(keys.len(), 500);
        assert_eq!(keys[499], "500");
        let twice = sqlx::query(insert).bind(1).execute(&pool).await;
        assert!(twice.is_err());
        let named: i64 =
            sqlx::query_scalar("select count(*) from pg_prepared_statements where name <> ''")
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!(named, 0);
        let unkept = pool.begin().await.unwrap();
        drop(unkept);
        let timeout: String = sqlx::query_scalar("select current_setting('statement_timeout')")
            .fetch_one(&pool.for_people(1))
            .await
            .unwrap();
        assert_eq!(timeout, PEOPLES_STATEMENT_TIMEOUT);
    }
}
