//! Tokens → fewer tokens: what a call's values decide about the text goes away.
//!
//! - an item of an IN, VALUES or ARRAY list that equals the one before it, so `(?, ?, ?)` is `(?)`
//!   and `values (?, now()), (?, now())` is `values (?, now())`;
//! - a statement that equals the one before it (batches);
//! - a sign before a value: `= -5` is `= ?`;
//! - names that a driver makes up: savepoints, cursors, prepared statements;
//! - three dots in place of the rest.
//!
//! One pass with a stack of open brackets; an item is compared when it ends, when what is inside of it
//! is reduced already.

use super::lexer::{Keyword, Kind, Lexer, Token};

/// A statement's tokens, reduced.
pub(super) struct Reduced {
    /// What is left.
    pub(super) tokens: Vec<Token>,
    /// Items of the longest list.
    pub(super) list_len_max: u32,
    /// A bracket or the text itself ended early.
    pub(super) truncated: bool,
}

/// Reads `lexer` to its end.
pub(super) fn reduce(lexer: &mut Lexer<'_>) -> Reduced {
    let mut reducer = Reducer {
        text: lexer.text,
        tokens: Vec::with_capacity(lexer.text.len() / 4 + 4),
        frames: Vec::new(),
        statements: Items::from(0),
        list_len_max: 0,
        cut_at: None,
        ended_open: false,
    };
    while let Some(token) = lexer.next(&reducer.tokens) {
        reducer.push(token);
    }
    reducer.finish()
}

/// At most so many words stand between the first and the last before a made-up name:
/// `fetch forward 100 from c1`.
const WORDS_BEFORE_NAME_MAX: usize = 2;

/// Something open.
struct Frame {
    kind: FrameKind,
    items: Items,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    /// A bracket whose items all count: arguments, columns, a subquery.
    Plain,
    /// `in (…)`, `array[…]`: equal neighbours fold, and it counts as a list.
    List,
    /// A row inside a list: equal neighbours fold.
    Row,
    /// What follows `values`: rows with commas between them and no bracket around.
    Rows,
}

/// Items between separators, as positions in [`Reducer::tokens`].
struct Items {
    /// Where the current one begins.
    current: usize,
    /// Where the one before it begins.
    previous: Option<usize>,
    /// How many there were.
    count: u32,
}

impl Items {
    fn from(current: usize) -> Items {
        Items {
            current,
            previous: None,
            count: 0,
        }
    }

    /// Ends the current item; `tokens` loses it with its separator if it equals the one before.
    fn end(&mut self, tokens: &mut Vec<Token>, equal: impl Fn(&[Token], &[Token]) -> bool) {
        if self.current >= tokens.len() {
            return;
        }
        self.count += 1;
        if let Some(previous) = self.previous {
            let separator = self.current - 1;
            if equal(&tokens[previous..separator], &tokens[self.current..]) {
                tokens.truncate(separator);
                return;
            }
        }
        self.previous = Some(self.current);
    }

    /// Begins the next item after a separator was pushed.
    fn begin(&mut self, tokens: &[Token]) {
        self.current = tokens.len();
    }
}

struct Reducer<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    frames: Vec<Frame>,
    statements: Items,
    list_len_max: u32,
    /// How many tokens there were when three dots came.
    cut_at: Option<usize>,
    /// A statement ended within a bracket.
    ended_open: bool,
}

impl Reducer<'_> {
    fn ends_in_operand(&self) -> bool {
        self.tokens.last().is_some_and(Token::is_operand)
    }

    fn last_is(&self, kind: Kind) -> bool {
        self.tokens.last().is_some_and(|it| it.kind == kind)
    }

    fn last_keyword_is(&self, keyword: Keyword) -> bool {
        self.tokens.last().is_some_and(|it| it.keyword == keyword)
    }

    fn push(&mut self, token: Token) {
        if !matches!(token.kind, Kind::OpenParen | Kind::Comma) && !self.is_row_constructor(&token)
        {
            self.end_rows();
        }
        match token.kind {
            Kind::Word | Kind::Quoted => self.push_word(token),
            Kind::Value => self.push_value(token),
            Kind::Dot => self.push_dot(token),
            Kind::Comma => self.push_comma(token),
            Kind::Semicolon => self.push_semicolon(token),
            Kind::OpenParen | Kind::OpenBracket => self.push_open(token),
            Kind::CloseParen | Kind::CloseBracket => self.push_close(token),
            Kind::Op | Kind::Cast => self.tokens.push(token),
        }
    }

    /// MySQL's `values row(1, 2), row(3, 4)`.
    fn is_row_constructor(&self, token: &Token) -> bool {
        self.frames
            .last()
            .is_some_and(|it| it.kind == FrameKind::Rows)
            && is_word(token, self.text, &["row"])
    }

    fn push_word(&mut self, mut token: Token) {
        if self.last_is(Kind::Dot) {
            token.keyword = Keyword::None;
        }
        if self.is_made_up_name(&token) {
            self.tokens.push(as_value(token));
            return;
        }
        if token.keyword == Keyword::Select
            && let Some(frame) = self.frames.last_mut()
            && frame.items.current == self.tokens.len()
        {
            frame.kind = FrameKind::Plain;
        }
        self.tokens.push(token);
        if token.keyword == Keyword::Values {
            self.frames.push(Frame {
                kind: FrameKind::Rows,
                items: Items::from(self.tokens.len()),
            });
        }
    }

    /// `savepoint sa_1`, `rollback to sa_1`, `release sa_1`, `declare c1 cursor`, `fetch 9 from c1`,
    /// `close c1`, `deallocate a1`: libraries number these.
    fn is_made_up_name(&self, token: &Token) -> bool {
        let (first, last) = match self.tokens.get(self.statements.current..) {
            Some([only]) => return self.is_name_after_first(only, token),
            Some([first, between @ .., last]) if between.len() <= WORDS_BEFORE_NAME_MAX => {
                (first, last)
            }
            _ => return false,
        };
        let is = |token: &Token, words: &[&str]| is_word(token, self.text, words);
        if is(first, &["rollback", "abort"]) {
            return is(last, &["to", "savepoint", "transaction", "tran"])
                && !is(token, &["savepoint", "to", "and"]);
        }
        is(first, &["release"]) && is(last, &["savepoint"])
            || is(first, &["save"]) && is(last, &["transaction", "tran"])
            || is(first, &["deallocate"]) && is(last, &["prepare"])
            || is(first, &["fetch", "move"]) && is(last, &["from", "in"])
    }

    fn is_name_after_first(&self, first: &Token, token: &Token) -> bool {
        let names = [
            "savepoint",
            "release",
            "declare",
            "close",
            "deallocate",
            "prepare",
        ];
        let no_names = ["savepoint", "prepare", "transaction", "all"];
        is_word(first, self.text, &names) && !is_word(token, self.text, &no_names)
    }

    fn push_value(&mut self, token: Token) {
        while self.ends_in_sign() {
            self.tokens.pop();
        }
        self.tokens.push(token);
    }

    /// The last token is a sign, not a subtraction.
    fn ends_in_sign(&self) -> bool {
        let Some((sign, before)) = self.tokens.split_last() else {
            return false;
        };
        sign.kind == Kind::Op
            && matches!(sign.text(self.text), "-" | "+")
            && !before.last().is_some_and(Token::is_operand)
    }

    fn push_dot(&mut self, token: Token) {
        let dots = self.tokens.iter().rev();
        if dots.take_while(|it| it.kind == Kind::Dot).count() < 2 {
            self.tokens.push(token);
            return;
        }
        self.tokens.truncate(self.tokens.len() - 2);
        // `in (?, ...)` says "and so on" about its values; anywhere else the text was cut off.
        if self.last_is(Kind::OpenParen) || self.last_is(Kind::Comma) {
            self.tokens.push(as_value(token));
        }
        self.cut_at = Some(self.tokens.len());
    }

    fn push_comma(&mut self, token: Token) {
        self.end_item();
        self.tokens.push(token);
        if let Some(frame) = self.frames.last_mut() {
            frame.items.begin(&self.tokens);
        }
    }

    fn push_semicolon(&mut self, token: Token) {
        self.close_all();
        self.end_statement();
        if !self.tokens.is_empty() && !self.last_is(Kind::Semicolon) {
            self.tokens.push(token);
        }
        self.statements.begin(&self.tokens);
    }

    fn end_statement(&mut self) {
        let text = self.text;
        self.statements
            .end(&mut self.tokens, |a, b| equal(text, a, b));
    }

    fn push_open(&mut self, token: Token) {
        let at_item_start = |frame: &Frame| {
            frame.kind != FrameKind::Plain && frame.items.current == self.tokens.len()
        };
        let in_list = self.frames.last().is_some_and(at_item_start);
        let kind = if in_list {
            FrameKind::Row
        } else if self.opens_list(&token) {
            FrameKind::List
        } else {
            FrameKind::Plain
        };
        self.tokens.push(token);
        self.frames.push(Frame {
            kind,
            items: Items::from(self.tokens.len()),
        });
    }

    fn opens_list(&self, token: &Token) -> bool {
        match token.kind {
            Kind::OpenParen => self.last_keyword_is(Keyword::In),
            _ => self.last_keyword_is(Keyword::Array) || !self.ends_in_operand(),
        }
    }

    fn push_close(&mut self, token: Token) {
        self.close_frame();
        self.tokens.push(token);
    }

    /// `values` has no closing bracket: anything but rows and commas ends it.
    fn end_rows(&mut self) {
        if self
            .frames
            .last()
            .is_some_and(|it| it.kind == FrameKind::Rows)
        {
            self.close_frame();
        }
    }

    fn end_item(&mut self) {
        let text = self.text;
        if let Some(frame) = self.frames.last_mut()
            && frame.kind != FrameKind::Plain
        {
            frame.items.end(&mut self.tokens, |a, b| equal(text, a, b));
        }
    }

    fn close_frame(&mut self) -> bool {
        self.end_item();
        let Some(frame) = self.frames.pop() else {
            return false;
        };
        if matches!(frame.kind, FrameKind::List | FrameKind::Rows) {
            self.list_len_max = self.list_len_max.max(frame.items.count);
        }
        true
    }

    fn finish(mut self) -> Reduced {
        let cut = self.cut_at == Some(self.tokens.len());
        self.close_all();
        self.end_statement();
        while self.last_is(Kind::Semicolon) {
            self.tokens.pop();
        }
        Reduced {
            tokens: self.tokens,
            list_len_max: self.list_len_max,
            truncated: cut || self.ended_open,
        }
    }

    /// The statement ends, whatever is open.
    fn close_all(&mut self) {
        self.ended_open |= self.frames.iter().any(|it| it.kind != FrameKind::Rows);
        while let Some(frame) = self.frames.last() {
            self.drop_unfinished_item(frame.kind);
            self.close_frame();
        }
    }

    /// `values (?, ?), (?` is the same list as `values (?, ?), (?, ?), (`.
    fn drop_unfinished_item(&mut self, kind: FrameKind) {
        let Some(Frame { items, .. }) = self.frames.last() else {
            return;
        };
        let (Some(previous), current) = (items.previous, items.current) else {
            return;
        };
        if kind == FrameKind::Plain || current == 0 || current > self.tokens.len() {
            return;
        }
        let unfinished = &self.tokens[current..];
        let whole = &self.tokens[previous..current - 1];
        // A whole row is the last of `values`, which nothing closes: it counts.
        let is_row = kind == FrameKind::Rows && whole.len() == unfinished.len();
        if !is_row
            && whole.len() >= unfinished.len()
            && equal(self.text, &whole[..unfinished.len()], unfinished)
        {
            self.tokens.truncate(current - 1);
            while self.tokens.len() > previous && self.last_is(Kind::Comma) {
                self.tokens.pop();
            }
        }
    }
}

fn as_value(token: Token) -> Token {
    Token {
        kind: Kind::Value,
        keyword: Keyword::None,
        ..token
    }
}

fn is_word(token: &Token, text: &str, words: &[&str]) -> bool {
    let word = token.text(text);
    token.kind == Kind::Word && words.iter().any(|it| word.eq_ignore_ascii_case(it))
}

/// The same when printed.
fn equal(text: &str, a: &[Token], b: &[Token]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal_token(text, a, b))
}

fn equal_token(text: &str, a: &Token, b: &Token) -> bool {
    a.kind == b.kind
        && match a.kind {
            Kind::Value => true,
            Kind::Word => a.text(text).eq_ignore_ascii_case(b.text(text)),
            _ => a.text(text) == b.text(text),
        }
}
