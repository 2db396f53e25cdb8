//! Endpoints that became slower: found, explained, and followed until they are fast again.

pub mod evidence;
