//! Files and standard input, unpacked: what they are is told by their first bytes, not by their names.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::paint::printable;

/// Bytes of all inputs together, unpacked. They are held in memory with some half as much again for what
/// is made of them: 2 GiB, some four million spans, is what a machine with 8 GB can do beside other things.
/// At the bound nothing is analysed: a part of the spans would give wrong numbers.
pub const INPUT_BYTES_MAX: u64 = 2 << 30;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// How standard input is called.
pub const STDIN: &str = "standard input";

/// One input, unpacked.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// How it is called in messages: its path, or `standard input`.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads all of `paths`; `-` is standard input, and so is no path at all if something is piped in.
///
/// # Errors
/// Which input cannot be read or unpacked, or that they are too large together.
pub fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    if paths.is_empty() && io::stdin().is_terminal() {
        bail!(
            "nothing to analyse: name files, or pipe traces in, as in\n  culprit analyze traces.json\n  \
             curl -s localhost:16686/api/traces?service=shop | culprit analyze"
        );
    }
    let stdin = [PathBuf::from("-")];
    let paths = if paths.is_empty() { &stdin } else { paths };
    if paths.iter().filter(|it| is_stdin(it)).count() > 1 {
        bail!("standard input (-) can be read once only");
    }
    let mut room = INPUT_BYTES_MAX;
    let mut inputs = Vec::with_capacity(paths.len());
    for path in paths {
        let input = read(path, room)?;
        room -= input.bytes.len() as u64;
        inputs.push(input);
    }
    Ok(inputs)
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read(path: &Path, room: u64) -> anyhow::Result<Input> {
    if is_stdin(path) {
        let name = STDIN.to_owned();
        let bytes = unpacked(&name, io::stdin().lock(), room)?;
        return Ok(Input { name, bytes });
    }
    let name = printable(&path.display().to_string());
    if path.is_dir() {
        bail!("{name} is a directory; name the files in it: {name}/*");
    }
    let file = File::open(path).with_context(|| format!("{name} cannot be read"))?;
    let bytes = unpacked(&name, file, room)?;
    Ok(Input { name, bytes })
}

/// At most `room` bytes of what `from` holds, decompressed if it is compressed.
fn unpacked(name: &str, from: impl Read, room: u64) -> anyhow::Result<Vec<u8>> {
    let raw = bounded(name, from, room).with_context(|| format!("{name} cannot be read"))?;
    unpack(name, raw, room)
}

/// [`unpacked`] for bytes that are there already.
///
/// # Errors
/// They are compressed and damaged, or too large.
pub fn unpack(name: &str, raw: Vec<u8>, room: u64) -> anyhow::Result<Vec<u8>> {
    let damaged = |how: &str| {
        format!("{name} looks like {how}, and cannot be unpacked: is it damaged or cut off?")
    };
    if raw.starts_with(GZIP) {
        let decoder = flate2::bufread::MultiGzDecoder::new(&raw[..]);
        return bounded(name, decoder, room).with_context(|| damaged("gzip"));
    }
    if raw.starts_with(ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(&raw[..])?;
        return bounded(name, decoder, room).with_context(|| damaged("zstd"));
    }
    Ok(raw)
}

fn bounded(name: &str, from: impl Read, room: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(room + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > room {
        bail!(
            "{name} is too large: at most {} GiB of traces are analysed at once, unpacked; \
             split the input, or send it to `culprit serve`, which has no such bound",
            INPUT_BYTES_MAX >> 30
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compression_is_told_by_the_first_bytes() {
        let zipped = zstd::encode_all(&b"traces"[..], 1).unwrap();
        for packed in [b"traces".to_vec(), gzip(b"traces"), zipped] {
            assert_eq!(unpack("a", packed, 100).unwrap(), b"traces");
        }
        // Several members one behind the other are one file.
        let two = [gzip(b"tra"), gzip(b"ces")].concat();
        assert_eq!(unpack("a", two, 100).unwrap(), b"traces");
    }

    #[test]
    fn what_is_damaged_or_too_large_is_named() {
        let mut cut = gzip(&[7; 1_000]);
        cut.truncate(cut.len() - 9);
        let error = format!("{:#}", unpack("t.gz", cut, 2_000).unwrap_err());
        assert!(error.contains("t.gz looks like gzip"), "{error}");
        let bomb = gzip(&vec![0; 1 << 20]);
        let error = format!("{:#}", unpack("bomb", bomb, 1_000).unwrap_err());
        assert!(error.contains("bomb is too large"), "{error}");
        let error = format!("{:#}", read_all(&["/none/such".into()]).unwrap_err());
        assert!(error.contains("/none/such cannot be read"), "{error}");
    }
}
