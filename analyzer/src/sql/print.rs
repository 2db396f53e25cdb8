//! Tokens → text, with one layout for all.

use super::Fingerprint;
use super::lexer::{Dialect, Keyword, Kind, Token};

/// The text of `tokens`, which point into `text`; `false` if it is cut at [`Fingerprint::TEXT_MAX`].
pub(super) fn print(text: &str, tokens: &[Token], dialect: Dialect) -> (String, bool) {
    let mut out = String::with_capacity(text.len().min(Fingerprint::TEXT_MAX));
    for (at, token) in tokens.iter().enumerate() {
        let before = out.len();
        if needs_space(&tokens[..at], token) {
            out.push(' ');
        }
        print_token(&mut out, text, token, dialect);
        if out.len() > Fingerprint::TEXT_MAX {
            out.truncate(before);
            return (out, false);
        }
    }
    (out, true)
}

/// Appends one token.
pub(super) fn print_token(out: &mut String, text: &str, token: &Token, dialect: Dialect) {
    match token.kind {
        Kind::Value => out.push('?'),
        Kind::Word => {
            let begin = out.len();
            out.push_str(token.text(text));
            out[begin..].make_ascii_lowercase();
        }
        Kind::Quoted => print_quoted(out, text, token, dialect.identifier_quote()),
        _ => out.push_str(token.text(text)),
    }
}

/// In the dialect's own quotes, whichever it came in; doubled where they stand inside.
fn print_quoted(out: &mut String, text: &str, token: &Token, quote: char) {
    let was_quote = text[token.end as usize..].chars().next();
    out.push(quote);
    let mut chars = token.text(text).chars();
    while let Some(char) = chars.next() {
        if Some(char) == was_quote {
            chars.next();
        }
        let is_layout = char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
        out.push(if is_layout { ' ' } else { char });
        if char == quote {
            out.push(quote);
        }
    }
    out.push(quote);
}

fn needs_space(before: &[Token], token: &Token) -> bool {
    let Some(last) = before.last() else {
        return false;
    };
    match (last.kind, token.kind) {
        // `[a` would begin a quoted identifier in some dialects; `b[a` would not.
        (Kind::OpenBracket, Kind::Word) => {
            let indexed = before.len().checked_sub(2).map(|it| &before[it]);
            !indexed.is_some_and(Token::is_operand)
        }
        (Kind::OpenParen | Kind::OpenBracket | Kind::Dot | Kind::Cast, _) => false,
        (_, Kind::CloseParen | Kind::CloseBracket | Kind::Comma | Kind::Semicolon) => false,
        // `:` and `::` would become `::` and `:`.
        (Kind::Op, _) => true,
        (_, Kind::Dot | Kind::Cast) => false,
        (_, Kind::OpenParen) => !is_function(before),
        (_, Kind::OpenBracket) => !last.is_operand(),
        _ => true,
    }
}

/// The tokens end in a function's name: a name, but not the table of `insert into authors (…)`.
fn is_function(tokens: &[Token]) -> bool {
    let is_name = |it: &Token| matches!(it.kind, Kind::Word | Kind::Quoted);
    let mut begin = tokens.len();
    while begin > 0 && is_name(&tokens[begin - 1]) {
        begin -= 1;
        match begin.checked_sub(1) {
            Some(dot) if tokens[dot].kind == Kind::Dot => begin = dot,
            _ => break,
        }
    }
    let named = tokens.get(begin).is_some_and(|it| {
        it.kind == Kind::Quoted || matches!(it.keyword, Keyword::None | Keyword::Reserved)
    });
    let after = begin.checked_sub(1).map(|it| tokens[it].keyword);
    named && !matches!(after, Some(Keyword::Into | Keyword::Table))
}
