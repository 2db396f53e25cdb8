//! Who may send: a bearer token on every request, if tokens are set at all.
//!
//! Only hashes are kept, and every one of them is compared to its last byte, so neither memory nor
//! time tells a token.

use anyhow::Context;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// Shorter tokens can be tried out; `openssl rand -hex 32` gives 64 characters.
const TOKEN_CHARACTERS_MIN: usize = 16;

/// The tokens that may send.
pub struct Tokens {
    hashes: Vec<[u8; 32]>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.hashes.len())
    }
}

impl Tokens {
    /// One token a line, or after a comma, as it is or as `sha256:` and its hash in hexadecimal;
    /// `#` begins a comment.
    ///
    /// # Errors
    /// A token that is too short or no hash, named by its position and not by itself; or none.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().map(|it| it.split('#').next().unwrap_or(it));
        let tokens = lines.flat_map(|it| it.split(',')).map(str::trim);
        let hashes: Vec<_> = tokens
            .filter(|it| !it.is_empty())
            .enumerate()
            .map(|(at, token)| hash_of(token).with_context(|| format!("token {}", at + 1)))
            .collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(!hashes.is_empty(), "no token is in there");
        Ok(Self { hashes })
    }

    /// Whether a request with these headers may send; why not, for its sender.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let header = headers
            .get(AUTHORIZATION)
            .ok_or("a bearer token is needed")?;
        let token = bearer(header.as_bytes()).ok_or("authorization is not \"Bearer TOKEN\"")?;
        if self.contains(token) {
            Ok(())
        } else {
            Err("the bearer token is not valid")
        }
    }

    fn contains(&self, token: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let same = self.hashes.iter().map(|it| is_same(it, &hash));
        same.fold(false, |any, same| any | same)
    }
}

/// Takes as long for hashes that differ in the first byte as for those that differ in the last.
fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differences) == 0
}

fn hash_of(token: &str) -> anyhow::Result<[u8; 32]> {
    if let Some(hash) = token.strip_prefix("sha256:") {
        let bytes = hash.as_bytes().chunks(2).map(|pair| {
            let digits = str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        let hash = bytes.and_then(|it| it.try_into().ok());
        return hash.context("sha256: and 64 hexadecimal digits are expected");
    }
    anyhow::ensure!(
        token.len() >= TOKEN_CHARACTERS_MIN,
        "fewer than {TOKEN_CHARACTERS_MIN} characters can be guessed"
    );
    Ok(Sha256::digest(token).into())
}

/// The token of `Bearer TOKEN`; the scheme's name is case-insensitive (RFC 9110).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn check(tokens: &str, header: Option<&str>) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        Tokens::parse(tokens).unwrap().check(&headers)
    }

    #[test]
    fn n13_s15_only_a_listed_token_may_send() {
        let hash = Sha256::digest(TOKEN)
            .into_iter()
            .map(|it| format!("{it:02x}"));
        let hashed = format!("sha256:{}", hash.collect::<String>());
        for tokens in [
            TOKEN,
            &hashed,
            "another-token-of-ours, 0123456789abcdef",
            "# rotated in May\nanother-token-of-ours # old\n\n 0123456789abcdef \n",
        ] {
            for header in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
                assert_eq!(check(tokens, Some(header)), Ok(()), "{tokens} {header}");
            }
            for header in [
                None,
                Some(""),
                Some("Bearer"),
                Some("Bearer "),
                Some("Basic 0123456789abcdef"),
                Some("Bearer 0123456789abcdeg"),
                Some("Bearer 0123456789abcde"),
                Some("Bearer 0123456789abcdef0"),
                Some(&format!("Bearer {hashed}")),
            ] {
                assert!(check(tokens, header).is_err(), "{tokens} {header:?}");
            }
        }
    }

    #[test]
    fn s15_tokens_that_can_be_guessed_are_refused_and_never_shown() {
        for text in [
            "",
            "\n# nothing\n",
            "short",
            "sha256:12",
            "sha256:é",
            TOKEN.split_at(15).0,
        ] {
            let error = format!("{:#}", Tokens::parse(text).unwrap_err());
            assert!(text.len() < 5 || !error.contains(text), "{error}");
        }
        let tokens = Tokens::parse(TOKEN).unwrap();
        assert_eq!(format!("{tokens:?}"), "1 tokens");
    }
}
