//! Bytes → tokens, for every dialect at once.
//!
//! Dialects differ in few lexical questions (is `"x"` a string, is `#` a comment, is `?` an
//! operator); [`Dialect`] answers them. Where the system is unknown, the answer is the one that
//! does not show a literal.

/// Which lexical rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    /// PostgreSQL and what speaks its language.
    Postgres,
    /// MySQL and others whose strings stand in double quotes too.
    MySql,
    /// SQL Server: `[identifier]`, `#temporary`.
    SqlServer,
    /// Oracle: `q'[..]'`, `#` inside identifiers.
    Oracle,
    /// ClickHouse: backslashes in strings, `{name:Type}`.
    ClickHouse,
    /// Standard SQL as SQLite, Cassandra, Db2, Trino and H2 understand it.
    Standard,
    /// Not said.
    Unknown,
}

impl Dialect {
    /// The dialect of a `db.system.name`.
    pub(super) fn of(system: &str) -> Dialect {
        match system {
            "postgresql" | "postgres" | "cockroachdb" | "redshift" | "aws.redshift" | "edb"
            | "timescaledb" | "yugabytedb" | "opengauss" | "greenplum" => Dialect::Postgres,
            "mysql" | "mariadb" | "tidb" | "singlestore" | "bigquery" | "gcp.bigquery"
            | "spanner" | "gcp.spanner" | "hive" | "spark" | "databricks" | "mongodb"
            | "elasticsearch" | "opensearch" | "dynamodb" | "aws.dynamodb" | "cosmosdb"
            | "azure.cosmosdb" => Dialect::MySql,
            "mssql" | "microsoft.sql_server" | "sqlserver" | "sybase" => Dialect::SqlServer,
            "oracle" | "oracle.db" => Dialect::Oracle,
            "clickhouse" => Dialect::ClickHouse,
            "sqlite" | "cassandra" | "scylladb" | "db2" | "ibm.db2" | "trino" | "h2" | "derby"
            | "hsqldb" | "duckdb" => Dialect::Standard,
            _ => Dialect::Unknown,
        }
    }

    fn double_quotes_are_strings(self) -> bool {
        self == Dialect::MySql
    }

    fn backslash_escapes(self) -> bool {
        matches!(
            self,
            Dialect::MySql | Dialect::ClickHouse | Dialect::Unknown
        )
    }

    fn nested_comments(self) -> bool {
        matches!(self, Dialect::Postgres | Dialect::SqlServer)
    }

    fn dollar_quotes(self) -> bool {
        matches!(
            self,
            Dialect::Postgres | Dialect::Standard | Dialect::Unknown
        )
    }

    fn hash_in_words(self) -> bool {
        matches!(self, Dialect::SqlServer | Dialect::Oracle)
    }

    /// The quote that surely quotes identifiers here, for those printed with quotes.
    pub(super) fn identifier_quote(self) -> char {
        if self.double_quotes_are_strings() {
            '`'
        } else {
            '"'
        }
    }
}

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A keyword or an identifier whose quotes, if any, made no difference.
    Word,
    /// An identifier that needs its quotes; the token is what stands between them.
    Quoted,
    /// A literal or a placeholder: printed as `?`.
    Value,
    /// An operator or stray character.
    Op,
    /// `::`
    Cast,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// `(`
    OpenParen,
    /// `)`
    CloseParen,
    /// `[` that quotes nothing.
    OpenBracket,
    /// `]`
    CloseBracket,
}

/// The keywords that later steps look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keyword {
    /// An identifier, or a keyword nobody looks at.
    None,
    /// Reserved: an identifier of that name keeps its quotes.
    Reserved,
    /// Reserved, and an expression begins after it: `where`, `and`, `limit`.
    Prefix,
    /// `array`
    Array,
    /// `as`
    As,
    /// `delete`
    Delete,
    /// `distinct`
    Distinct,
    /// `from`
    From,
    /// `in`
    In,
    /// `insert`, `replace`, `merge`
    Insert,
    /// `into`
    Into,
    /// `join`
    Join,
    /// `on`
    On,
    /// `select`
    Select,
    /// `table`
    Table,
    /// `update`
    Update,
    /// `values`
    Values,
    /// `with`
    With,
}

/// A piece of the statement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) keyword: Keyword,
    /// First byte in the statement.
    pub(super) start: u32,
    /// One past the last byte.
    pub(super) end: u32,
}

impl Token {
    /// The piece as sent.
    pub(super) fn text<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..self.end as usize]
    }

    /// A value may stand to the right of an operator after it: `a`, `?`, `)`.
    pub(super) fn is_operand(&self) -> bool {
        match self.kind {
            Kind::Word => matches!(
                self.keyword,
                Keyword::None | Keyword::Reserved | Keyword::Array
            ),
            Kind::Quoted | Kind::Value | Kind::CloseParen | Kind::CloseBracket => true,
            _ => false,
        }
    }
}

/// The longest keyword of [`keyword`], bytes.
const KEYWORD_LEN_MAX: usize = 10;

pub(super) fn keyword(word: &[u8]) -> Keyword {
    let mut lower = [0; KEYWORD_LEN_MAX];
    let Some(lower) = lower.get_mut(..word.len()) else {
        return Keyword::None;
    };
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    match &*lower {
        b"array" => Keyword::Array,
        b"as" => Keyword::As,
        b"delete" => Keyword::Delete,
        b"distinct" => Keyword::Distinct,
        b"from" => Keyword::From,
        b"in" => Keyword::In,
        b"insert" | b"replace" | b"merge" => Keyword::Insert,
        b"into" => Keyword::Into,
        b"join" => Keyword::Join,
        b"on" => Keyword::On,
        b"select" => Keyword::Select,
        b"table" => Keyword::Table,
        b"update" => Keyword::Update,
        b"values" => Keyword::Values,
        b"with" => Keyword::With,
        b"all" | b"and" | b"between" | b"by" | b"call" | b"case" | b"div" | b"do" | b"else"
        | b"escape" | b"except" | b"exec" | b"execute" | b"exists" | b"for" | b"having"
        | b"ilike" | b"intersect" | b"is" | b"like" | b"limit" | b"not" | b"offset" | b"or"
        | b"over" | b"partition" | b"regexp" | b"return" | b"returning" | b"rlike" | b"set"
        | b"then" | b"to" | b"top" | b"union" | b"using" | b"when" | b"where" | b"explain"
        | b"lateral" | b"conflict" => Keyword::Prefix,
        b"any" | b"asc" | b"check" | b"column" | b"constraint" | b"create" | b"cross"
        | b"default" | b"desc" | b"end" | b"false" | b"fetch" | b"foreign" | b"full" | b"grant"
        | b"group" | b"index" | b"inner" | b"key" | b"left" | b"natural" | b"null" | b"only"
        | b"order" | b"outer" | b"primary" | b"references" | b"right" | b"some" | b"true"
        | b"unique" | b"user" | b"window" => Keyword::Reserved,
        _ => Keyword::None,
    }
}

/// Operators of two or three characters, longest first. Characters that are in none of them stand alone.
const OPERATORS: &[&[u8]] = &[
    b"!~~*", b"!~~", b"~~*", b"!~*", b"<=>", b"->>", b"#>>", b"<->", b"<#>", b"-|-", b"<<=",
    b">>=", b"<=", b">=", b"<>", b"!=", b"==", b"||", b"&&", b"->", b"=>", b"#>", b"#-", b"@>",
    b"<@", b"@@", b"@?", b"~~", b"~*", b"!~", b"<<", b">>", b"|/", b"&<", b"&>", b":=", b"**",
];

/// Walks over a statement. Total: any text comes to its end.
pub(super) struct Lexer<'a> {
    pub(super) text: &'a str,
    bytes: &'a [u8],
    at: usize,
    pub(super) dialect: Dialect,
    /// Inside MySQL's `/*! … */`, whose content counts.
    in_versioned_comment: bool,
    /// A literal was seen.
    pub(super) had_literals: bool,
    /// A placeholder was seen.
    pub(super) had_placeholders: bool,
    /// A literal, quoted identifier or comment did not end.
    pub(super) truncated: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, dialect: Dialect) -> Self {
        Lexer {
            text,
            bytes: text.as_bytes(),
            at: 0,
            dialect,
            in_versioned_comment: false,
            had_literals: false,
            had_placeholders: false,
            truncated: text.trim_end().ends_with('…'),
        }
    }

    /// The next token; `tokens` are those before it. What they end in decides whether `?`, `%s`, `.5`
    /// and `@@` are operators or the beginning of something.
    pub(super) fn next(&mut self, tokens: &[Token]) -> Option<Token> {
        let after_operand = tokens.last().is_some_and(Token::is_operand);
        self.skip_layout();
        let first = self.peek(0)?;
        let token = match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => self.word(),
            b'0'..=b'9' => self.number(),
            b'\'' => self.string(self.at, b'\'', self.dialect.backslash_escapes()),
            b'"' if self.dialect.double_quotes_are_strings() => self.string(self.at, b'"', true),
            b'"' | b'`' => self.quoted(first),
            b'[' if self.bracket_quotes(after_operand) => self.quoted(b']'),
            b'(' => self.take(Kind::OpenParen, 1),
            b')' => self.take(Kind::CloseParen, 1),
            b'[' => self.take(Kind::OpenBracket, 1),
            b']' => self.take(Kind::CloseBracket, 1),
            b',' => self.take(Kind::Comma, 1),
            b';' => self.take(Kind::Semicolon, 1),
            b'.' if !after_operand && self.peek_is(1, |it| it.is_ascii_digit()) => self.number(),
            b'.' => self.take(Kind::Dot, 1),
            b'?' => self.question_mark(after_operand),
            b'$' => self.dollar(),
            b':' => self.colon(),
            b'@' => self.at_sign(after_operand),
            b'%' => self.percent(after_operand),
            b'{' => self.brace(),
            b'#' if self.dialect.hash_in_words() => self.word(),
            _ => self.operator(),
        };
        if tokens.is_empty()
            && (first == b'{' && token.kind == Kind::Op || token.kind == Kind::OpenBracket)
        {
            // JSON, whichever system sent it: what stands in double quotes are strings.
            self.dialect = Dialect::MySql;
        }
        Some(token)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn peek_is(&self, ahead: usize, is: impl Fn(u8) -> bool) -> bool {
        self.peek(ahead).is_some_and(is)
    }

    fn take(&mut self, kind: Kind, len: usize) -> Token {
        let start = self.at;
        self.at = (start + len).min(self.bytes.len());
        self.token(kind, start, self.at)
    }

    fn token(&self, kind: Kind, start: usize, end: usize) -> Token {
        Token {
            kind,
            keyword: Keyword::None,
            start: start as u32,
            end: end as u32,
        }
    }

    fn literal(&mut self, start: usize) -> Token {
        self.had_literals = true;
        self.token(Kind::Value, start, self.at)
    }

    fn placeholder(&mut self, len: usize) -> Token {
        self.had_placeholders = true;
        self.take(Kind::Value, len)
    }

    // Layout

    fn skip_layout(&mut self) {
        while let Some(byte) = self.peek(0) {
            match byte {
                0..=b' ' | 0x7f => self.at += 1,
                b'-' if self.at_line_comment() => self.skip_line(),
                b'#' if self.dialect == Dialect::MySql => self.skip_line(),
                b'/' if self.peek(1) == Some(b'*') => self.skip_block_comment(),
                b'*' if self.in_versioned_comment && self.peek(1) == Some(b'/') => {
                    self.in_versioned_comment = false;
                    self.at += 2;
                }
                0x80.. => match self.layout_char(self.at) {
                    Some(char) => self.at += char.len_utf8(),
                    None => return,
                },
                _ => return,
            }
        }
    }

    /// White space, line separators, invisible marks and the ellipsis some senders cut with.
    fn layout_char(&self, at: usize) -> Option<char> {
        let char = self.text[at..].chars().next()?;
        let is_layout = char.is_whitespace()
            || char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}' | '…');
        is_layout.then_some(char)
    }

    fn at_line_comment(&self) -> bool {
        // In MySQL `5--3` is eight: a comment needs white space after its dashes.
        self.peek(1) == Some(b'-')
            && (self.dialect != Dialect::MySql || self.peek(2).is_none_or(|it| it <= b' '))
    }

    fn skip_line(&mut self) {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|it| *it == b'\n');
        self.at += len.unwrap_or(rest.len());
    }

    fn skip_block_comment(&mut self) {
        let mariadb = usize::from(self.peek(2) == Some(b'M'));
        if self.dialect == Dialect::MySql && self.peek(2 + mariadb) == Some(b'!') {
            self.at += 3 + mariadb;
            while self.peek_is(0, |it| it.is_ascii_digit()) {
                self.at += 1;
            }
            self.in_versioned_comment = true;
            return;
        }
        self.at += 2;
        let mut depth = 1;
        while depth > 0 {
            match (self.peek(0), self.peek(1)) {
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(b'/'), Some(b'*')) if self.dialect.nested_comments() => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(_), _) => self.at += 1,
                (None, _) => {
                    self.truncated = true;
                    return;
                }
            }
        }
    }

    // Words

    fn is_word_byte(&self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'$')
            || byte == b'#' && self.dialect.hash_in_words()
    }

    fn word_end(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(byte) = self.bytes.get(at) {
            if self.is_word_byte(*byte) {
                at += 1;
            } else if *byte >= 0x80 {
                if self.layout_char(at).is_some() {
                    break;
                }
                at += self.text[at..].chars().next().map_or(1, char::len_utf8);
            } else {
                break;
            }
        }
        at
    }

    fn word(&mut self) -> Token {
        let start = self.at;
        let end = self.word_end(start);
        let word = &self.bytes[start..end];
        match self.bytes.get(end) {
            Some(b'\'') if word.len() <= 2 => {
                if let Some(token) = self.prefixed_string(start, end) {
                    return token;
                }
            }
            Some(b'&')
                if word.eq_ignore_ascii_case(b"u") && self.bytes.get(end + 1) == Some(&b'\'') =>
            {
                self.at = end + 1;
                return self.string(start, b'\'', false);
            }
            Some(b'-') if word.len() == 8 && is_uuid(&self.bytes[start..]) => {
                self.at = start + UUID_LEN;
                return self.literal(start);
            }
            _ => {}
        }
        self.at = end;
        Token {
            keyword: keyword(word),
            ..self.token(Kind::Word, start, end)
        }
    }

    /// `E'..'`, `N'..'`, `X'..'`, `q'[..]'`: the literal that begins at `start`, its quote at `quote`.
    fn prefixed_string(&mut self, start: usize, quote: usize) -> Option<Token> {
        let mut prefix = [0; 2];
        let prefix = &mut prefix[..quote - start];
        prefix.copy_from_slice(&self.bytes[start..quote]);
        prefix.make_ascii_lowercase();
        self.at = quote;
        let escapes = self.dialect.backslash_escapes();
        match &*prefix {
            b"e" => Some(self.string(start, b'\'', true)),
            b"n" | b"b" | b"x" | b"r" => Some(self.string(start, b'\'', escapes)),
            b"q" | b"nq" if matches!(self.dialect, Dialect::Oracle | Dialect::Unknown) => {
                Some(self.oracle_string(start))
            }
            _ => None,
        }
    }

    fn bracket_quotes(&self, after_operand: bool) -> bool {
        match self.dialect {
            Dialect::SqlServer => true,
            Dialect::Standard | Dialect::Unknown => {
                !after_operand && self.peek_is(1, |it| it.is_ascii_alphabetic() || it == b'_')
            }
            _ => false,
        }
    }

    /// An identifier in quotes. Plain lower-case ones lose the quotes, so that `"users"` is `users`.
    fn quoted(&mut self, close: u8) -> Token {
        let start = self.at + 1;
        let Some(end) = self.find_closing(start, close, false) else {
            // An identifier that never ends may as well be half a literal: not shown.
            self.truncated = true;
            self.at = self.bytes.len();
            return self.token(Kind::Value, start - 1, self.at);
        };
        self.at = end + 1;
        let content = &self.bytes[start..end];
        let kind = if is_plain(content) {
            Kind::Word
        } else {
            Kind::Quoted
        };
        self.token(kind, start, end)
    }

    // Literals

    /// Where `close` stands next from `from` on, a doubled one skipped.
    fn find_closing(&self, from: usize, close: u8, escapes: bool) -> Option<usize> {
        let mut at = from;
        while let Some(byte) = self.bytes.get(at) {
            if *byte == close {
                if self.bytes.get(at + 1) != Some(&close) {
                    return Some(at);
                }
                at += 2;
            } else if *byte == b'\\' && escapes {
                at += 2;
            } else {
                at += 1;
            }
        }
        None
    }

    /// The string whose opening quote is here; the literal begins at `start` if it has a prefix.
    fn string(&mut self, start: usize, quote: u8, escapes: bool) -> Token {
        self.end_literal_at(
            self.find_closing(self.at + 1, quote, escapes)
                .map(|it| it + 1),
        );
        self.literal(start)
    }

    /// `q'[it's]'`: ends with the bracket's partner, or the same character, and a quote.
    fn oracle_string(&mut self, start: usize) -> Token {
        let open = self.peek(1).unwrap_or(b'\'');
        let close = match open {
            b'[' => b']',
            b'(' => b')',
            b'{' => b'}',
            b'<' => b'>',
            same => same,
        };
        let content = self.bytes.get(self.at + 2..).unwrap_or_default();
        let len = content.windows(2).position(|it| it == [close, b'\'']);
        self.end_literal_at(len.map(|it| self.at + 2 + it + 2));
        self.literal(start)
    }

    fn end_literal_at(&mut self, end: Option<usize>) {
        self.truncated |= end.is_none();
        self.at = end.unwrap_or(self.bytes.len());
    }

    /// `12`, `0xff`, `1_000`, `.5`, `1e-9` and whatever letters stick to it (an unquoted UUID).
    fn number(&mut self) -> Token {
        let start = self.at;
        if is_uuid(&self.bytes[start..]) {
            self.at += UUID_LEN;
            return self.literal(start);
        }
        let hex = self.peek(0) == Some(b'0') && self.peek_is(1, |it| matches!(it, b'x' | b'X'));
        loop {
            let sign_of_exponent = |it| matches!(it, b'+' | b'-');
            match self.peek(0) {
                Some(b'e' | b'E')
                    if !hex
                        && self.peek_is(1, sign_of_exponent)
                        && self.peek_is(2, |it| it.is_ascii_digit()) =>
                {
                    self.at += 2
                }
                Some(byte) if byte.is_ascii_alphanumeric() || byte == b'_' => self.at += 1,
                Some(b'.') if self.peek(1) != Some(b'.') => self.at += 1,
                _ => return self.literal(start),
            }
        }
    }

    // Placeholders and operators

    /// A placeholder, or an operator of Postgres: `data ? 'key'`. The latter is printed the same, so it
    /// is a value too; else `a ? ?` would read differently the second time.
    fn question_mark(&mut self, after_operand: bool) -> Token {
        if self.dialect == Dialect::Postgres && after_operand {
            // JDBC doubles the operator so that it is no placeholder.
            self.at += usize::from(self.peek(1) == Some(b'?'));
            let any_or_all =
                matches!(self.peek(1), Some(b'|' | b'&')) && self.peek(2) != self.peek(1);
            return match any_or_all {
                true => self.take(Kind::Op, 2),
                false => self.take(Kind::Value, 1),
            };
        }
        let digits = self.bytes[self.at + 1..].iter();
        let len = digits.take_while(|it| it.is_ascii_digit()).count();
        self.placeholder(1 + len)
    }

    fn dollar(&mut self) -> Token {
        let start = self.at;
        let end = self.word_end(start + 1);
        if self.dialect.dollar_quotes()
            && let Some(tag_len) = dollar_tag_len(&self.bytes[start..])
        {
            let (tag, content) = self.text[start..].split_at(tag_len);
            self.end_literal_at(content.find(tag).map(|it| start + tag_len + it + tag_len));
            return self.literal(start);
        }
        if end > start + 1 {
            return self.placeholder(end - start);
        }
        self.operator()
    }

    fn colon(&mut self) -> Token {
        match self.peek(1) {
            Some(b':') => self.take(Kind::Cast, 2),
            Some(byte) if byte.is_ascii_alphanumeric() || byte == b'_' => {
                let end = self.word_end(self.at + 1);
                self.placeholder(end - self.at)
            }
            _ => self.operator(),
        }
    }

    fn at_sign(&mut self, after_operand: bool) -> Token {
        let is_name = |it: u8| it.is_ascii_alphanumeric() || it == b'_';
        if self.peek_is(1, is_name) {
            let end = self.word_end(self.at + 1);
            return self.placeholder(end - self.at);
        }
        if self.peek(1) == Some(b'@') && self.peek_is(2, is_name) && !after_operand {
            let end = self.word_end(self.at + 2);
            return self.take(Kind::Word, end - self.at);
        }
        self.operator()
    }

    /// `%s`, `%(name)s`, or modulo.
    fn percent(&mut self, after_operand: bool) -> Token {
        if self.peek(1) == Some(b'%') {
            self.at += 1;
            return self.take(Kind::Op, 1);
        }
        let rest = &self.bytes[self.at + 1..];
        let name_len = match rest.first() {
            Some(b'(') => rest.iter().position(|it| *it == b')').map(|it| it + 1),
            _ => Some(0),
        };
        if let Some(len) = name_len
            && matches!(rest.get(len), Some(b's' | b'd' | b'b' | b't'))
            && !rest
                .get(len + 1)
                .is_some_and(|it| self.is_word_byte(*it) || *it >= 0x80)
            && !after_operand
        {
            return self.placeholder(len + 2);
        }
        self.take(Kind::Op, 1)
    }

    /// ClickHouse's `{name:Type}`, a collection of Cassandra's, or a brace.
    fn brace(&mut self) -> Token {
        if self.dialect == Dialect::Standard
            && let Some(end) = self.collection_end()
        {
            let start = self.at;
            self.at = end;
            return self.literal(start);
        }
        let end = self.word_end(self.at + 1);
        let is_named = end > self.at + 1 && self.bytes.get(end) == Some(&b':');
        let len = self.bytes[self.at..].iter().position(|it| *it == b'}');
        match len {
            Some(len) if is_named => self.placeholder(len + 1),
            _ => self.take(Kind::Op, 1),
        }
    }

    /// One past `{'a': 1, 'b': 2}` or `{1, 2}`: its length is data as that of a list. Escapes of ODBC
    /// (`{ts '…'}`) begin with a word; one that begins with a placeholder is as long in every call.
    fn collection_end(&self) -> Option<usize> {
        let mut at = self.at + 1;
        let first = self.bytes[at..].iter().find(|it| **it > b' ')?;
        if !matches!(first, b'\'' | b'0'..=b'9') {
            return None;
        }
        let mut open = 1_usize;
        while open > 0 {
            match self.bytes.get(at)? {
                b'\'' => at = self.find_closing(at + 1, b'\'', false)?,
                b'{' => open += 1,
                b'}' => open -= 1,
                _ => {}
            }
            at += 1;
        }
        Some(at)
    }

    fn operator(&mut self) -> Token {
        // Nearly all operators stand alone: no need to compare them with the list.
        if !self.peek_is(1, |it| b"!#&*-/<=>?@|~%".contains(&it)) {
            return self.take(Kind::Op, 1);
        }
        let rest = &self.bytes[self.at..];
        let known = OPERATORS.iter().find(|it| rest.starts_with(it));
        match known {
            // `@>` and `<@` are operators, `<@p0` is a comparison with a parameter outside of Postgres.
            Some(&b"<@") if self.dialect != Dialect::Postgres => self.take(Kind::Op, 1),
            Some(operator) => self.take(Kind::Op, operator.len()),
            None => self.take(Kind::Op, 1),
        }
    }
}

/// An identifier that means the same without quotes.
fn is_plain(content: &[u8]) -> bool {
    let mut bytes = content.iter();
    bytes
        .next()
        .is_some_and(|it| it.is_ascii_lowercase() || *it == b'_')
        && bytes.all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || *it == b'_')
        && keyword(content) == Keyword::None
}

/// The length of `$$` or `$tag$` if the text begins with one.
fn dollar_tag_len(bytes: &[u8]) -> Option<usize> {
    let name = bytes[1..].iter().position(|it| *it == b'$')?;
    let tag = &bytes[1..1 + name];
    let is_tag = tag
        .iter()
        .all(|it| it.is_ascii_alphanumeric() || *it == b'_' || *it >= 0x80)
        && !tag.first().is_some_and(u8::is_ascii_digit);
    is_tag.then_some(name + 2)
}

const UUID_LEN: usize = 36;

/// Cassandra writes UUIDs without quotes.
fn is_uuid(bytes: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..UUID_LEN) else {
        return false;
    };
    bytes[8] == b'-'
        && bytes.iter().enumerate().all(|(at, it)| match at {
            8 | 13 | 18 | 23 => *it == b'-',
            _ => it.is_ascii_hexdigit(),
        })
}
