//! The plainest archive: one file, not compressed.

use bytes::Bytes;

/// Puts the content into an archive under this name, which is ASCII.
pub(super) fn archive(name: &str, content: &[u8]) -> Option<Bytes> {
    let size = u32::try_from(content.len()).ok()?.to_le_bytes();
    let name_length = u16::try_from(name.len()).ok()?.to_le_bytes();
    // Version 1.0, no flags, stored, midnight of 1980-01-01; then CRC-32, both sizes, and the lengths of name and extra field.
    let mut described = Vec::new();
    described.extend([10, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
    described.extend(crc32(content).to_le_bytes());
    described.extend(size);
    described.extend(size);
    described.extend(name_length);
    described.extend([0, 0]);

    let mut archive = b"PK\x03\x04".to_vec();
    archive.extend(&described);
    archive.extend(name.as_bytes());
    archive.extend(content);

    let directory_at = u32::try_from(archive.len()).ok()?;
    archive.extend(b"PK\x01\x02\x0a\x00");
    archive.extend(&described);
    // No comment, first disk, no attributes, at the beginning.
    archive.extend([0; 14]);
    archive.extend(name.as_bytes());

    let directory_size = u32::try_from(archive.len()).ok()? - directory_at;
    archive.extend(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
    archive.extend(directory_size.to_le_bytes());
    archive.extend(directory_at.to_le_bytes());
    archive.extend([0, 0]);
    Some(archive.into())
}

fn crc32(content: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in content {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
