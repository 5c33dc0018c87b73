//! Writes a ZIP archive with one uncompressed file.

use bytes::Bytes;

/// Returns a ZIP archive with the content under this ASCII name.
pub(super) fn archive(name: &str, content: &[u8]) -> Option<Bytes> {
    let size = u32::try_from(content.len()).ok()?.to_le_bytes();
    let name_length = u16::try_from(name.len()).ok()?.to_le_bytes();
    // Version 1.0, no flags, stored, 1980-01-01 00:00; then CRC-32, both sizes, and the lengths of name and extra
    // field.
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
    // No comment, first disk, no attributes, offset 0.
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
    fn crc32_of_the_standard_check_input_is_correct() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
