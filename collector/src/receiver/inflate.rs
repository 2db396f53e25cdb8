//! Content encodings, with the limit where it belongs: on what comes out.
//!
//! A body is inflated piece by piece, and never a piece beyond the limit, so that a small bomb costs
//! what an honest body of the largest size costs.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

use super::admission::Charge;
use super::answer::Answer;

/// zstd frames may ask for a window of up to 2 GiB before their first byte. 16 MiB is what the
/// usual encoders use at their best levels; a frame that wants more is malformed to us.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// OTLP usually shrinks to a sixth or so: room for that is taken at once, which spares copies.
const USUAL_RATIO: usize = 8;

/// How much is inflated between two looks at the limit, bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, of any number of members.
    Gzip,
    /// RFC 1950: HTTP's and gRPC's "deflate" is zlib.
    Deflate,
    /// RFC 8878, of any number of frames.
    Zstd,
}

/// What is understood, for refusals and for gRPC's `grpc-accept-encoding`.
pub(super) const SUPPORTED: &str = "gzip, deflate, zstd, identity";

impl Encoding {
    /// By the name in `Content-Encoding` or `grpc-encoding`; `None` if it is not supported.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Encoding::Identity),
            "gzip" | "x-gzip" => Some(Encoding::Gzip),
            "deflate" => Some(Encoding::Deflate),
            "zstd" => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// The body as it was before it was compressed, at most `bytes_max` bytes. What it takes is
/// charged while it grows.
pub(super) fn inflate(
    encoding: Encoding,
    body: Bytes,
    bytes_max: usize,
    charge: &mut Charge,
) -> Result<Bytes, Answer> {
    let inflated = match encoding {
        Encoding::Identity if body.len() > bytes_max => return Err(Answer::too_large(bytes_max)),
        Encoding::Identity => return Ok(body),
        // Clients compress empty bodies to nothing at all, too.
        _ if body.is_empty() => return Ok(body),
        Encoding::Gzip => {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(&body[..]);
            read_all(&mut decoder, body.len(), bytes_max, charge)
        }
        Encoding::Deflate => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(&body[..]);
            let inflated = read_all(&mut decoder, body.len(), bytes_max, charge)?;
            match decoder.into_inner() {
                [] => Ok(inflated),
                _ => Err(Answer::malformed("deflate: something behind the stream")),
            }
        }
        Encoding::Zstd => match zstd(&body) {
            Ok(mut decoder) => read_all(&mut decoder, body.len(), bytes_max, charge),
            Err(cause) => Err(malformed(&cause)),
        },
    };
    inflated.map(Bytes::from)
}

fn zstd(body: &[u8]) -> io::Result<zstd::stream::read::Decoder<'static, impl BufRead>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn read_all(
    from: &mut impl Read,
    compressed_bytes: usize,
    bytes_max: usize,
    charge: &mut Charge,
) -> Result<Vec<u8>, Answer> {
    let mut inflated = Vec::with_capacity((USUAL_RATIO * compressed_bytes).min(bytes_max));
    loop {
        let before = inflated.len();
        if inflated.capacity() - before < PIECE_BYTES {
            // Twice as much, but never beyond what may be used.
            let more = before.min(bytes_max.saturating_sub(before)) + PIECE_BYTES;
            inflated.reserve_exact(more);
        }
        let mut piece = from.take(PIECE_BYTES as u64);
        let read = piece
            .read_to_end(&mut inflated)
            .map_err(|cause| malformed(&cause))?;
        if read == 0 {
            return Ok(inflated);
        }
        if before + read > bytes_max {
            return Err(Answer::too_large(bytes_max));
        }
        charge.add(read)?;
    }
}

fn malformed(cause: &io::Error) -> Answer {
    Answer::malformed(format!("the body cannot be decompressed: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::admission::Admission;
    use super::*;

    const MAX: usize = 1 << 20;

    fn check(encoding: Encoding, body: &[u8]) -> Result<Bytes, Answer> {
        let admission = Admission::new(8 * MAX);
        let mut charge = admission.charge();
        let result = inflate(encoding, Bytes::copy_from_slice(body), MAX, &mut charge);
        assert!(
            admission.used() <= MAX,
            "{} bytes charged",
            admission.used()
        );
        drop(charge);
        assert_eq!(admission.used(), 0);
        result
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder =
            flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    type Compress = fn(&[u8]) -> Vec<u8>;

    const ALL: [(Encoding, Compress); 3] = [
        (Encoding::Gzip, gzip),
        (Encoding::Deflate, deflate),
        (Encoding::Zstd, zstd_frame),
    ];

    #[test]
    fn c1_c2_every_encoding_comes_back() {
        for size in [0, 1, 1000, PIECE_BYTES, PIECE_BYTES + 1, MAX] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            assert_eq!(check(Encoding::Identity, &bytes).unwrap(), bytes);
            for (encoding, compress) in ALL {
                assert_eq!(
                    check(encoding, &compress(&bytes)).unwrap(),
                    bytes,
                    "{encoding:?}"
                );
            }
        }
    }

    #[test]
    fn c4_c6_bombs_stop_at_the_limit() {
        let bomb = vec![0; 64 * MAX];
        assert!(matches!(
            check(Encoding::Identity, &bomb),
            Err(Answer::TooLarge { .. })
        ));
        for (encoding, compress) in ALL {
            for body in [compress(&bomb), compress(&bomb[..MAX + 1])] {
                let answer = check(encoding, &body);
                assert!(
                    matches!(answer, Err(Answer::TooLarge { .. })),
                    "{encoding:?}"
                );
            }
        }
    }

    #[test]
    fn c5_cut_off_and_corrupt_bodies_are_malformed() {
        let bytes: Vec<u8> = (0..5000u32)
            .flat_map(|it| (it * it).to_le_bytes())
            .collect();
        for (encoding, compress) in ALL {
            let whole = compress(&bytes);
            let mut corrupt = whole.clone();
            let middle = corrupt.len() / 2;
            corrupt[middle] ^= 0x55;
            let trailing = [&whole[..], b"garbage"].concat();
            for body in [
                &whole[..whole.len() - 1],
                &whole[..middle],
                &trailing,
                &corrupt[..],
                b"no",
            ] {
                // A flipped bit in zstd without a checksum may go unnoticed here: protobuf sees it.
                if body == &corrupt[..] && encoding == Encoding::Zstd {
                    continue;
                }
                let answer = check(encoding, body);
                assert!(
                    matches!(answer, Err(Answer::Malformed(_))),
                    "{encoding:?} {answer:?}"
                );
            }
        }
        for (encoding, compress) in [ALL[0], ALL[2]] {
            let members = [compress(b"one "), compress(b"two")].concat();
            assert_eq!(
                check(encoding, &members).unwrap(),
                "one two",
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn c7_zstd_windows_are_bounded() {
        // Magic, a descriptor without content size, a window of 2^27 bytes, a last raw block of 1.
        let frame = b"\x28\xb5\x2f\xfd\x00\x88\x09\x00\x00x";
        assert!(matches!(
            check(Encoding::Zstd, frame),
            Err(Answer::Malformed(_))
        ));
        let honest = b"\x28\xb5\x2f\xfd\x00\x70\x09\x00\x00x";
        assert_eq!(check(Encoding::Zstd, honest).unwrap(), "x");
    }

    #[test]
    fn admission_refuses_what_does_not_fit() {
        let admission = Admission::new(MAX / 2);
        let mut charge = admission.charge();
        let answer = inflate(Encoding::Gzip, gzip(&vec![7; MAX]).into(), MAX, &mut charge);
        assert!(matches!(answer, Err(Answer::Overloaded { .. })));
    }
}
