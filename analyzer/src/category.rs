//! What kind of time a span's self time is: handler, database, external, …

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
