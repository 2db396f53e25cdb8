//! Redis, Valkey and Memcached commands → fingerprint: the command, the key's pattern, `?`.
//!
//! `SET session:8f3a2b 42 EX 60` is `set session:? ?`. A key's segments stand between `:`, `/`, `.`,
//! `-` and `|`; those with a digit are ids. Arguments behind the key are never shown.

use super::{Fingerprint, StatementKind};

/// At most so many commands of a pipeline are kept; the rest is `…` and counts as truncated.
const COMMANDS_MAX: usize = 16;

/// A segment this long is no word: tokens and hashes without a digit, bytes.
const SEGMENT_LEN_MAX: usize = 24;

pub(super) fn is_key_value(system: &str) -> bool {
    matches!(
        system,
        "redis" | "valkey" | "keydb" | "dragonfly" | "memcached"
    )
}

/// One command per line; a pipeline's neighbours that look the same are one.
pub(super) fn fingerprint(text: &str) -> Fingerprint {
    let mut commands: Vec<Command> = Vec::new();
    let mut fingerprint = Fingerprint {
        text: String::new(),
        kind: StatementKind::Other,
        tables: Vec::new(),
        had_literals: false,
        had_placeholders: false,
        truncated: text.trim_end().ends_with(['…']) || text.trim_end().ends_with("..."),
        in_list_len: 0,
    };
    // `; ` is how several commands are joined below.
    for line in text
        .split(['\n', ';'])
        .map(|it| it.trim_matches(is_layout))
        .filter(|it| !it.is_empty())
    {
        let command = command(line);
        fingerprint.had_literals |= command.had_literals;
        fingerprint.had_placeholders |= line.contains('?');
        if commands.last().is_some_and(|it| it.text == command.text) {
            continue;
        }
        if commands.len() == COMMANDS_MAX {
            fingerprint.truncated = true;
            break;
        }
        commands.push(command);
    }
    let is_keeping =
        |it: &&Command| !matches!(it.kind, StatementKind::Transaction | StatementKind::Session);
    let main = commands.iter().find(is_keeping).or(commands.first());
    fingerprint.kind = main.map_or(StatementKind::Other, |it| it.kind);
    let texts: Vec<_> = commands.iter().map(|it| it.text.as_str()).collect();
    fingerprint.text = texts.join("; ");
    let cut = fingerprint.text.floor_char_boundary(Fingerprint::TEXT_MAX);
    fingerprint.truncated |= cut < fingerprint.text.len();
    fingerprint.text.truncate(cut);
    fingerprint
}

struct Command {
    text: String,
    kind: StatementKind,
    had_literals: bool,
}

fn is_layout(char: char) -> bool {
    char.is_whitespace() || char.is_control()
}

fn command(line: &str) -> Command {
    let mut words = line.split(is_layout);
    let mut words = words.by_ref().filter(|it| !it.is_empty());
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    let kind = kind(&name);
    let mut text = name;
    let mut had_literals = false;
    if has_key(kind, &text)
        && let Some(key) = words.next()
    {
        text.push(' ');
        had_literals |= push_key(&mut text, key);
    }
    let mut arguments = words.peekable();
    if arguments.peek().is_some() {
        had_literals |= arguments.any(|it| it != "?");
        text.push_str(" ?");
    }
    Command {
        text,
        kind,
        had_literals,
    }
}

/// Passwords, scripts and numbers stand where other commands have their key.
fn has_key(kind: StatementKind, name: &str) -> bool {
    let no_key = [
        "eval", "evalsha", "fcall", "script", "config", "client", "acl", "debug", "info",
    ];
    kind != StatementKind::Session && !no_key.contains(&name)
}

fn kind(command: &str) -> StatementKind {
    use StatementKind::*;
    match command {
        "auth" | "hello" | "ping" | "echo" | "select" | "quit" | "client" | "config" | "info"
        | "command" | "cluster" | "readonly" | "readwrite" | "asking" | "reset" | "role"
        | "version" | "acl" | "script" => Session,
        "multi" | "exec" | "discard" | "watch" | "unwatch" => Transaction,
        "del" | "unlink" | "hdel" | "srem" | "zrem" | "lrem" | "ltrim" | "getdel" | "delete"
        | "flushdb" | "flushall" | "flush_all" => Delete,
        "set" | "setex" | "psetex" | "setnx" | "mset" | "msetnx" | "hset" | "hsetnx" | "hmset"
        | "sadd" | "zadd" | "lpush" | "rpush" | "xadd" | "add" | "replace" | "geoadd" | "pfadd" | "lpushx"
        | "rpushx" | "hsetex" | "json.set" | "set_multi" => {
            Insert
        }
        "incr" | "incrby" | "incrbyfloat" | "decr" | "decrby" | "hincrby" | "append" | "expire"
        | "pexpire" | "expireat" | "persist" | "touch" | "rename" | "getset" | "cas"
        | "prepend" | "zincrby" | "setrange" | "setbit" | "lset" | "linsert" | "smove" | "copy"
        | "hincrbyfloat" | "hexpire" | "xack" | "xclaim" | "incr_multi"
        // What takes something away and returns it.
        | "lpop" | "rpop" | "blpop" | "brpop" | "spop" | "zpopmin" | "zpopmax" | "bzpopmin"
        | "bzpopmax" | "lmove" | "blmove" | "rpoplpush" | "brpoplpush" => Update,
        "get" | "gets" | "mget" | "getex" | "getrange" | "strlen" | "exists" | "ttl" | "pttl"
        | "type" | "hget" | "hmget" | "hgetall" | "hkeys" | "hvals" | "hlen" | "hexists"
        | "lrange" | "lindex" | "llen" | "smembers" | "sismember" | "scard" | "sinter"
        | "sunion" | "sdiff" | "zrange" | "zrangebyscore" | "zrevrange" | "zscore" | "zcard"
        | "zcount" | "zrank" | "keys" | "scan" | "hscan" | "sscan" | "zscan" | "xrange"
        | "xread" | "xreadgroup" | "xlen" | "xrevrange" | "zrevrangebyscore" | "zmscore" | "hstrlen"
        | "smismember" | "georadius" | "get_multi" | "json.get" | "json.mget" | "bitcount" | "getbit" | "geosearch" | "pfcount" | "srandmember" | "dbsize" => {
            Select
        }
        _ => Other,
    }
}

/// Appends the key with its ids as `?`; whether it had any.
fn push_key(out: &mut String, key: &str) -> bool {
    let mut had_ids = false;
    for part in key.split_inclusive([':', '/', '.', '-', '|', ',', '{', '}', '"', '\'']) {
        let segment = part.trim_end_matches([':', '/', '.', '-', '|', ',', '{', '}', '"', '\'']);
        let is_id =
            segment.bytes().any(|it| it.is_ascii_digit()) || segment.len() > SEGMENT_LEN_MAX;
        had_ids |= is_id;
        out.push_str(if is_id { "?" } else { segment });
        out.push_str(&part[segment.len()..]);
    }
    had_ids
}
