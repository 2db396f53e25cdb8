//! What names a statement in an address: the beginning of its digest, the same in every culprit that knows it.

use analyzer::Analysis;
use analyzer::trace::SpanIdx;
use collector::store::dictionaries::statement_digest;
use collector::store::statement::StatementKey;

/// Hexadecimal digits of a key.
const KEY_DIGITS: usize = 16;

/// Digits of a whole digest, which stands for its key too.
const DIGEST_DIGITS: usize = 64;

/// Reads a key, a whole digest, or the number that this database knows the statement by. `None` if it is none of
/// these.
pub fn parse(text: &str) -> Option<StatementKey> {
    if !text.is_empty() && text.len() <= 10 && text.bytes().all(|it| it.is_ascii_digit()) {
        return text.parse().ok().map(StatementKey::Id);
    }
    let is_key = matches!(text.len(), KEY_DIGITS | DIGEST_DIGITS);
    if !is_key || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    let key = u64::from_str_radix(&text[..KEY_DIGITS], 16).ok()?;
    Some(StatementKey::Digest(key.to_be_bytes()))
}

/// The page of a normalised statement, whether this database knows it or not.
pub fn href(system: &str, text: &str) -> String {
    let digest = statement_digest(system, text);
    let key: String = digest
        .iter()
        .take(KEY_DIGITS / 2)
        .map(|it| format!("{it:02x}"))
        .collect();
    format!("/statements/{key}")
}

/// The page of the statement that a span sent, if it sent one.
pub fn href_of_span(analysis: &Analysis<'_>, span: SpanIdx) -> Option<String> {
    let sent = |it: &&analyzer::Call| {
        (it.span == span || it.outer == span) && it.statement.is_some() && it.entry.is_some()
    };
    let call = analysis.calls.iter().find(sent)?;
    Some(href(&call.system, &call.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_digests_and_numbers_are_read() {
        let key = StatementKey::Digest([0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71]);
        let cases = [
            ("0a1b2c3d4e5f6071", Some(key)),
            ("0A1B2C3D4E5F6071", Some(key)),
            (&*format!("0a1b2c3d4e5f6071{}", "0".repeat(48)), Some(key)),
            ("42", Some(StatementKey::Id(42))),
            ("9999999999", None),
            ("0a1b2c3d4e5f607", None),
            ("0a1b2c3d4e5f607g", None),
            ("", None),
            ("ééééééé é", None),
            ("-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn an_address_holds_the_digests_beginning() {
        let href = href("postgresql", "select ?");
        let key = href.strip_prefix("/statements/").unwrap();
        let digest = statement_digest("postgresql", "select ?");
        let beginning: [u8; 8] = digest[..8].try_into().unwrap();
        assert_eq!(parse(key), Some(StatementKey::Digest(beginning)));
        assert_ne!(href, super::href("mysql", "select ?"));
    }
}
