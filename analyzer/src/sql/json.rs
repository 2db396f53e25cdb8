//! Commands of MongoDB and Elasticsearch → fingerprint: JSON and what passes for it.
//!
//! `{"find": "users", "filter": {"_id": {"$in": [1, 2]}}, "lsid": …}` is
//! `{"find": "users", "filter": {"_id": {"$in": [?]}}}`: the command first, then keys in order, scalars
//! as `?`, an item that equals the one before it once, and what belongs to the session left out.
//!
//! Senders write extended JSON (`{"$oid": …}`), the shell's (`ObjectId(…)`, bare keys, regular
//! expressions), Python's (single quotes), several documents in a row, `?` where they have sanitised it
//! themselves, and half a document where they have cut it off. All of it comes to its end here.

use super::{Fingerprint, StatementKind};

/// Deeper values are `?`. It bounds the recursion; nobody writes a query of that depth.
const DEPTH_MAX: usize = 32;

/// At most so many keys of an object and items of an array are kept; the rest goes and counts as truncated.
/// With keys of [`NAME_LEN_MAX`], an object of one level fits into a fingerprint's text.
const ITEMS_MAX: usize = 32;

/// At most so many different documents in a row are kept; the rest goes and counts as truncated.
const DOCUMENTS_MAX: usize = 8;

/// Longer keys and names, bytes, are data: `?`.
const NAME_LEN_MAX: usize = 64;

/// Texts that do not fit are printed again with fewer levels.
const SHALLOWER: [usize; 5] = [8, 5, 3, 2, 1];

/// Objects that stand for a scalar in extended JSON, by their first key.
const EXTENDED: &[&str] = &[
    "$binary",
    "$code",
    "$date",
    "$maxKey",
    "$minKey",
    "$numberDecimal",
    "$numberDouble",
    "$numberInt",
    "$numberLong",
    "$oid",
    "$regularExpression",
    "$symbol",
    "$timestamp",
    "$undefined",
    "$uuid",
];

/// What drivers add to every command: it differs from call to call and says nothing about it.
const SESSION_KEYS: &[&str] = &[
    "$audit",
    "$client",
    "$clusterTime",
    "$configServerState",
    "$db",
    "$readPreference",
    "$replData",
    "apiDeprecationErrors",
    "apiStrict",
    "apiVersion",
    "autocommit",
    "lsid",
    "readConcern",
    "startTransaction",
    "txnNumber",
    "writeConcern",
];

/// Systems whose statements are documents.
pub(super) fn is_document_system(system: &str) -> bool {
    is_mongo(system) || matches!(system, "elasticsearch" | "opensearch" | "couchdb")
}

fn is_mongo(system: &str) -> bool {
    matches!(system, "mongodb" | "documentdb" | "aws.documentdb")
}

/// A document, whoever sent it. `{call f(?)}` and `{id:UInt64}` are none.
pub(super) fn is_document(text: &str) -> bool {
    let mut bytes = text.bytes().filter(|it| *it > b' ' && *it != 0x7f);
    match bytes.next() {
        Some(b'{') => matches!(bytes.next(), Some(b'"' | b'}')),
        Some(b'[') => bytes.next() == Some(b'{') && matches!(bytes.next(), Some(b'"' | b'}')),
        _ => false,
    }
}

/// The fingerprint of `text`, if it is a document or a command of `system` in words or in the shell's
/// notation.
pub(super) fn fingerprint(text: &str, system: &str) -> Option<Fingerprint> {
    let first = text.bytes().find(|it| *it > b' ' && *it != 0x7f);
    let is_documents =
        is_document(text) || is_document_system(system) && matches!(first, Some(b'{' | b'['));
    let mut reader = Reader::new(text, is_mongo(system));
    let calls = match is_documents {
        true => vec![Call {
            path: "",
            arguments: reader.documents(),
        }],
        false if is_mongo(system) => reader.shell()?,
        false => return None,
    };
    let mut fingerprint = reader.finish(calls);
    if fingerprint.text.len() > Fingerprint::TEXT_MAX {
        fingerprint.text = fitting(&fingerprint.text, system);
        fingerprint.truncated = true;
    }
    Some(fingerprint)
}

/// A text with so few levels that it is kept: once more through the reader, since what became equal is one.
fn fitting(text: &str, system: &str) -> String {
    for levels in SHALLOWER {
        let mut reader = Reader::new(text, is_mongo(system));
        let documents = reader.documents();
        let mut text = String::new();
        print_list(&mut text, &documents, " ", levels);
        if text.len() <= Fingerprint::TEXT_MAX {
            let mut reader = Reader::new(&text, is_mongo(system));
            let documents = reader.documents();
            let mut again = String::new();
            print_list(&mut again, &documents, " ", DEPTH_MAX + 1);
            return again;
        }
    }
    "{}".to_owned()
}

/// What a value comes to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Value<'a> {
    /// A literal or placeholder.
    Scalar,
    /// A string that may be a name.
    Text(&'a str),
    Object(Vec<(String, Value<'a>)>),
    Array(Vec<Value<'a>>),
}

/// `db.users.find` with its arguments; for documents in a row there is no path.
struct Call<'a> {
    path: &'a str,
    arguments: Vec<Value<'a>>,
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    mongo: bool,
    kind: StatementKind,
    tables: Vec<String>,
    had_literals: bool,
    had_placeholders: bool,
    truncated: bool,
    list_len_max: u32,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, mongo: bool) -> Self {
        Reader {
            text,
            bytes: text.as_bytes(),
            at: 0,
            mongo,
            kind: StatementKind::Other,
            tables: Vec::new(),
            had_literals: false,
            had_placeholders: false,
            truncated: false,
            list_len_max: 0,
        }
    }

    fn finish(self, calls: Vec<Call<'a>>) -> Fingerprint {
        Fingerprint {
            text: print_calls(&calls),
            kind: self.kind,
            tables: self.tables,
            had_literals: self.had_literals,
            had_placeholders: self.had_placeholders,
            truncated: self.truncated,
            in_list_len: self.list_len_max,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_layout(&mut self) {
        loop {
            match self.peek() {
                Some(0..=b' ' | 0x7f) => self.at += 1,
                Some(b'/') if self.bytes.get(self.at + 1) == Some(&b'*') => {
                    let end = self.text[self.at + 2..].find("*/");
                    self.truncated |= end.is_none();
                    self.at = end.map_or(self.bytes.len(), |it| self.at + 2 + it + 2);
                }
                Some(0x80..) => match self.text[self.at..].chars().next() {
                    Some(it) if it.is_whitespace() || it.is_control() || it == '\u{feff}' => {
                        self.at += it.len_utf8();
                    }
                    _ => return,
                },
                _ => return,
            }
        }
    }

    /// Different documents in a row, as in bulk requests.
    fn documents(&mut self) -> Vec<Value<'a>> {
        let mut documents: Vec<Value<'a>> = Vec::new();
        loop {
            self.skip_layout();
            if self.at >= self.bytes.len() {
                return documents;
            }
            let before = self.at;
            if !matches!(self.peek(), Some(b'{' | b'[')) {
                // What stands between documents says nothing: commas, stray brackets, three dots.
                self.truncated |= self.text[self.at..].starts_with(['.', '…']);
                self.at += self.text[self.at..]
                    .chars()
                    .next()
                    .map_or(1, char::len_utf8);
                continue;
            }
            let document = self.value("", 0);
            self.at = self.at.max(before + 1);
            if documents.contains(&document) {
                continue;
            }
            if documents.len() == DOCUMENTS_MAX {
                self.truncated = true;
                return documents;
            }
            documents.push(document);
        }
    }

    /// `db.users.find({…}).limit(5)`, `users.find({…})`, `find users`; nothing else.
    fn shell(&mut self) -> Option<Vec<Call<'a>>> {
        self.skip_layout();
        let path = self.path();
        if command(path).is_some() {
            return self.words(path);
        }
        let (collection, operation) = path.rsplit_once('.')?;
        let collection = collection.strip_prefix("db.").unwrap_or(collection);
        let kind = command(operation)?;
        if !is_name(collection) {
            return None;
        }
        self.kind = kind;
        self.tables.push(collection.to_owned());
        let mut calls = vec![Call {
            path,
            arguments: self.arguments(),
        }];
        while self.peek() == Some(b'.') && calls.len() < ITEMS_MAX {
            self.at += 1;
            let path = self.path();
            if !is_name(path) {
                break;
            }
            calls.push(Call {
                path,
                arguments: self.arguments(),
            });
        }
        self.skip_layout();
        self.truncated |= !matches!(self.peek(), None | Some(b';'));
        Some(calls)
    }

    /// `find users {…}`: the command, the collection, documents.
    fn words(&mut self, path: &'a str) -> Option<Vec<Call<'a>>> {
        let start = self.at - path.len();
        self.skip_layout();
        let collection = self.path();
        self.kind = command(path)?;
        let mut end = start + path.len();
        if is_name(collection) {
            self.tables.push(collection.to_owned());
            end = self.at;
        } else if !collection.is_empty() {
            return None;
        }
        self.skip_layout();
        // Only what prints as it stands: another layout would be another text the second time.
        let words = &self.text[start..end];
        let is_plain =
            words.len() == path.len() || words.len() == path.len() + 1 + collection.len();
        if !is_plain || !matches!(self.peek(), None | Some(b'{')) {
            return None;
        }
        let arguments = self.documents();
        let mut calls = vec![Call {
            path: words,
            arguments: Vec::new(),
        }];
        if !arguments.is_empty() {
            calls.push(Call {
                path: "",
                arguments,
            });
        }
        Some(calls)
    }

    fn path(&mut self) -> &'a str {
        let rest = &self.bytes[self.at..];
        let is_part =
            |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'.' | b'$' | b'-');
        let len = rest
            .iter()
            .position(|it| !is_part(it))
            .unwrap_or(rest.len());
        self.at += len;
        &self.text[self.at - len..self.at]
    }

    /// `({…}, 5)`
    fn arguments(&mut self) -> Vec<Value<'a>> {
        if self.peek() != Some(b'(') {
            return Vec::new();
        }
        self.at += 1;
        self.items(b')', "")
    }

    /// A value below `key`. Moves on, unless it is at the end or before a closing bracket.
    fn value(&mut self, key: &str, depth: usize) -> Value<'a> {
        match self.peek() {
            None => {
                self.truncated = true;
                Value::Scalar
            }
            Some(b'{' | b'[') if depth >= DEPTH_MAX => self.nested(),
            Some(b'{') => self.object(key, depth),
            Some(b'[') => {
                self.at += 1;
                Value::Array(self.items_at(b']', key, depth + 1))
            }
            Some(quote @ (b'"' | b'\'')) => self.string(quote),
            Some(b'/') => self.regular_expression(),
            Some(b')' | b']' | b'}' | b',' | b':') => Value::Scalar,
            Some(_) => self.word(depth),
        }
    }

    fn items(&mut self, close: u8, key: &str) -> Vec<Value<'a>> {
        self.items_at(close, key, 1)
    }

    /// Items up to `close`; equal neighbours are one.
    fn items_at(&mut self, close: u8, key: &str, depth: usize) -> Vec<Value<'a>> {
        let mut items: Vec<Value<'a>> = Vec::new();
        let mut count: u32 = 0;
        loop {
            self.skip_separators();
            match self.peek() {
                None => {
                    self.truncated = true;
                    break;
                }
                Some(it) if it == close => {
                    self.at += 1;
                    break;
                }
                // Another bracket's: whoever opened it goes on with it.
                Some(b')' | b']' | b'}') => break,
                Some(b'.') if self.text[self.at..].starts_with("...") => {
                    self.at += 3;
                    self.truncated = true;
                    continue;
                }
                Some(_) => {}
            }
            let item = match self.value(key, depth) {
                // Names stand below keys only.
                Value::Text(_) => Value::Scalar,
                item => item,
            };
            count += 1;
            if items.last() == Some(&item) {
                continue;
            }
            match items.len() < ITEMS_MAX {
                true => items.push(item),
                false => self.truncated = true,
            }
        }
        if items.len() == 1 && close == b']' {
            self.list_len_max = self.list_len_max.max(count);
        }
        items
    }

    fn skip_separators(&mut self) {
        loop {
            self.skip_layout();
            match self.peek() {
                Some(b',' | b':') => self.at += 1,
                _ => return,
            }
        }
    }

    fn object(&mut self, parent: &str, depth: usize) -> Value<'a> {
        self.at += 1;
        let mut entries: Vec<(String, Value<'a>)> = Vec::new();
        let mut command_key = None;
        let mut is_first = true;
        while let Some((key, value)) = self.entry(depth) {
            if std::mem::take(&mut is_first) && self.mongo && depth == 0 && parent.is_empty() {
                command_key = self.command_key(&key, &value);
            }
            let value = self.named(parent, &key, value, command_key.as_deref());
            let entry = (key, value);
            let is_session = self.mongo && depth == 0 && SESSION_KEYS.contains(&entry.0.as_str());
            if is_session || entries.contains(&entry) {
                continue;
            }
            match entries.len() < ITEMS_MAX {
                true => entries.push(entry),
                false => self.truncated = true,
            }
        }
        let is_extended = |it: &(String, Value<'_>)| EXTENDED.contains(&it.0.as_str());
        // A whole document stays one, so that its fingerprint is read as it was.
        if !parent.is_empty() && entries.iter().any(is_extended) {
            return Value::Scalar;
        }
        entries.sort_by(|a, b| {
            let is_command = |it: &str| command_key.as_deref() == Some(it);
            (!is_command(&a.0), &a.0, &a.1).cmp(&(!is_command(&b.0), &b.0, &b.1))
        });
        Value::Object(entries)
    }

    /// The next key with its value; `None` behind the last.
    fn entry(&mut self, depth: usize) -> Option<(String, Value<'a>)> {
        loop {
            self.skip_separators();
            match self.peek() {
                None => {
                    self.truncated = true;
                    return None;
                }
                Some(b'}') => {
                    self.at += 1;
                    return None;
                }
                Some(b')' | b']') => return None,
                // No key: its value is skipped.
                Some(b'{' | b'[' | b'/') => drop(self.value("?", depth + 1)),
                Some(_) => {
                    let key = self.key()?;
                    self.skip_layout();
                    if self.peek() != Some(b':') {
                        if self.at >= self.bytes.len() {
                            // Half a key may be half of anything.
                            self.truncated = true;
                            return None;
                        }
                        continue;
                    }
                    self.at += 1;
                    self.skip_layout();
                    let value = self.value(&key, depth + 1);
                    return Some((key, value));
                }
            }
        }
    }

    /// The key that begins here; `None` if the text ends in it.
    fn key(&mut self) -> Option<String> {
        let raw = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => match self.quoted(quote) {
                Some(raw) => raw,
                None => {
                    self.truncated = true;
                    return None;
                }
            },
            _ => self.bare(),
        };
        if raw.starts_with("...") || raw.starts_with('…') {
            self.truncated = true;
        }
        Some(key_pattern(raw))
    }

    /// What stands between quotes, which are passed; `None` if they do not close: then it is at the end.
    fn quoted(&mut self, quote: u8) -> Option<&'a str> {
        let start = self.at + 1;
        let mut at = start;
        while let Some(byte) = self.bytes.get(at) {
            match *byte {
                b'\\' => at += 2,
                it if it == quote => {
                    self.at = at + 1;
                    return Some(&self.text[start..at]);
                }
                _ => at += 1,
            }
        }
        self.at = self.bytes.len();
        None
    }

    /// A word without quotes; at least one character.
    fn bare(&mut self) -> &'a str {
        let start = self.at;
        let rest = &self.text[start..];
        let is_end = |it: char| it.is_whitespace() || it.is_control() || ",:{}[]()\"'".contains(it);
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let len = rest[first..]
            .find(is_end)
            .map_or(rest.len(), |it| first + it);
        self.at = start + len;
        &rest[..len]
    }

    fn string(&mut self, quote: u8) -> Value<'a> {
        match self.quoted(quote) {
            Some("?") => {
                self.had_placeholders = true;
                Value::Scalar
            }
            Some(text) => {
                self.had_literals = true;
                Value::Text(text)
            }
            None => {
                (self.had_literals, self.truncated) = (true, true);
                Value::Scalar
            }
        }
    }

    fn regular_expression(&mut self) -> Value<'a> {
        if self.quoted(b'/').is_none() {
            self.truncated = true;
        }
        while self.peek().is_some_and(|it| it.is_ascii_alphabetic()) {
            self.at += 1;
        }
        self.had_literals = true;
        Value::Scalar
    }

    /// A number, `null`, `?`, `ObjectId(…)`, `new Date(…)`.
    fn word(&mut self, depth: usize) -> Value<'a> {
        let word = self.bare();
        if word == "new" {
            self.skip_layout();
        }
        if word.starts_with("...") || word.starts_with('…') {
            self.truncated = true;
        } else if word.starts_with('?') {
            self.had_placeholders = true;
        } else {
            self.had_literals = true;
        }
        if word == "new" && self.peek().is_some_and(|it| it.is_ascii_alphabetic()) {
            self.bare();
        }
        if self.peek() == Some(b'(') {
            match depth < DEPTH_MAX {
                true => {
                    self.at += 1;
                    self.items_at(b')', "?", depth + 1);
                }
                false => drop(self.nested()),
            }
        }
        Value::Scalar
    }

    /// Passes everything up to the bracket that closes the one here.
    fn nested(&mut self) -> Value<'a> {
        let mut open = 0_usize;
        self.had_literals = true;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' | b'[' | b'(' => open += 1,
                b'}' | b']' | b')' => open = open.saturating_sub(1),
                b'"' | b'\'' => {
                    self.quoted(byte);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return Value::Scalar;
            }
        }
        self.truncated = true;
        Value::Scalar
    }

    /// `key` makes a document a command if it comes first: notes what it does and to what.
    fn command_key(&mut self, key: &str, value: &Value<'_>) -> Option<String> {
        self.kind = command(key)?;
        if let Value::Text(name) = value {
            self.note_table(name);
        }
        Some(key.to_owned())
    }

    fn note_table(&mut self, name: &str) {
        if is_name(name)
            && !self.tables.iter().any(|it| it == name)
            && self.tables.len() < ITEMS_MAX
        {
            self.tables.push(name.to_owned());
        }
    }

    /// A text stays if it names a collection or an index where such a name stands.
    fn named(
        &mut self,
        parent: &str,
        key: &str,
        value: Value<'a>,
        command_key: Option<&str>,
    ) -> Value<'a> {
        let Value::Text(name) = value else {
            return value;
        };
        let of_command = command_key == Some(key) || command_key.is_some() && key == "collection";
        let of_stage = self.mongo
            && match parent {
                "$lookup" | "$graphLookup" => key == "from",
                "$unionWith" | "$out" => key == "coll",
                "$merge" => key == "into",
                _ => matches!(key, "$out" | "$merge" | "$unionWith"),
            };
        let names = of_command || of_stage || !self.mongo && key == "_index";
        if !names || !is_name(name) {
            return Value::Scalar;
        }
        self.note_table(name);
        Value::Text(name)
    }
}

/// What the command `name` does, if it is one.
fn command(name: &str) -> Option<StatementKind> {
    use StatementKind::*;
    Some(match name {
        "find"
        | "aggregate"
        | "count"
        | "countDocuments"
        | "estimatedDocumentCount"
        | "distinct"
        | "findOne"
        | "getMore"
        | "mapReduce"
        | "geoNear"
        | "explain" => Select,
        "insert" | "insertOne" | "insertMany" => Insert,
        "update" | "updateOne" | "updateMany" | "replaceOne" | "findAndModify"
        | "findandmodify" | "findOneAndUpdate" | "findOneAndReplace" | "bulkWrite" => Update,
        "delete" | "deleteOne" | "deleteMany" | "remove" | "findOneAndDelete" => Delete,
        "create" | "createIndexes" | "createIndex" | "drop" | "dropIndexes" | "dropDatabase"
        | "collMod" | "renameCollection" | "listCollections" | "listIndexes" => Ddl,
        "commitTransaction" | "abortTransaction" => Transaction,
        "hello" | "isMaster" | "ismaster" | "ping" | "buildInfo" | "saslStart" | "saslContinue"
        | "endSessions" | "killCursors" | "getParameter" | "serverStatus" => Session,
        _ => return None,
    })
}

/// A name that somebody chose, not a program: no secret, no id.
fn is_name(text: &str) -> bool {
    let is_char = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'.' | b'-' | b'$');
    text.len() <= NAME_LEN_MAX
        && text.bytes().all(is_char)
        && text
            .bytes()
            .next()
            .is_some_and(|it| it.is_ascii_alphabetic() || it == b'_')
        && !is_generated(text)
}

/// More digits than a version or a year has: an id.
fn is_generated(text: &str) -> bool {
    const DIGITS_MAX: usize = 4;
    text.bytes().filter(u8::is_ascii_digit).count() > DIGITS_MAX
}

/// A key with the parts that are data as `?`: an array's index, an id, a name longer than names are.
fn key_pattern(key: &str) -> String {
    let is_char = |it: char| it.is_alphanumeric() || "_.$@*/^+#? -".contains(it);
    if key.is_empty()
        || key.len() > NAME_LEN_MAX
        || !key.chars().all(is_char)
        || key.rfind('@') > Some(0)
    {
        return "?".to_owned();
    }
    let is_data =
        |it: &str| is_generated(it) || !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
    let parts = key.split('.').map(|it| if is_data(it) { "?" } else { it });
    let pattern = parts.collect::<Vec<_>>().join(".");
    match pattern.bytes().any(|it| it.is_ascii_alphabetic())
        || pattern.chars().any(char::is_alphabetic)
    {
        true => pattern,
        false => "?".to_owned(),
    }
}

fn print_calls(calls: &[Call<'_>]) -> String {
    let mut out = String::new();
    for (at, call) in calls.iter().enumerate() {
        let is_words = call.path.contains(' ') || at == 0 && command(call.path).is_some();
        if is_words {
            out.push_str(call.path);
        } else if call.path.is_empty() {
            out.push_str(if at > 0 { " " } else { "" });
            print_list(&mut out, &call.arguments, " ", DEPTH_MAX + 1);
        } else {
            out.push_str(if at > 0 { "." } else { "" });
            out.push_str(call.path);
            out.push('(');
            print_list(&mut out, &call.arguments, ", ", DEPTH_MAX + 1);
            out.push(')');
        }
    }
    out
}

fn print_list(out: &mut String, values: &[Value<'_>], separator: &str, levels: usize) {
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        print_value(out, value, levels);
    }
}

fn print_value(out: &mut String, value: &Value<'_>, levels: usize) {
    match value {
        Value::Object(entries) if levels > 0 => {
            out.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                out.push_str(if at > 0 { ", \"" } else { "\"" });
                out.push_str(key);
                out.push_str("\": ");
                print_value(out, value, levels - 1);
            }
            out.push('}');
        }
        Value::Array(items) if levels > 0 => {
            out.push('[');
            print_list(out, items, ", ", levels);
            out.push(']');
        }
        Value::Text(name) => {
            out.push('"');
            out.push_str(name);
            out.push('"');
        }
        _ => out.push('?'),
    }
}
