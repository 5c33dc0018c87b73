//! The private key in a PEM file that holds its certificate too.

const BEGIN: &str = "-----BEGIN ";

/// From the first `BEGIN … PRIVATE KEY` line to its `END` line; the whole file when there is no such line. Whatever
/// stands around it (a certificate, the attributes that `openssl pkcs12` writes) is left out.
pub(super) fn private_part(file: &[u8]) -> &[u8] {
    std::str::from_utf8(file).ok().and_then(private_text).map_or(file, str::as_bytes)
}

fn private_text(text: &str) -> Option<&str> {
    let starts = text.match_indices(BEGIN).map(|(at, _)| at);
    let mut blocks = starts.filter_map(|at| text.get(at..));
    let block = blocks.find(|block| label(block).is_some_and(|label| label.ends_with("PRIVATE KEY")))?;
    let end = format!("-----END {}-----", label(block)?);
    let at = block.find(&end)?;
    block.get(..at + end.len())
}

fn label(block: &str) -> Option<&str> {
    block.strip_prefix(BEGIN)?.split_once("-----").map(|(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_private_key_is_left() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
        let certificate = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";
        for file in [
            format!("{certificate}{key}\n"),
            format!("Bag Attributes\n{key}\n{certificate}"),
            format!("{key}\n{certificate}{key}"),
        ] {
            assert_eq!(private_part(file.as_bytes()), key.as_bytes(), "{file}");
        }
        for file in ["", "AAAA", certificate, "-----BEGIN PRIVATE KEY-----\nAAAA", "-----BEGIN ", "-----BEGIN é-----"]
        {
            assert_eq!(private_part(file.as_bytes()), file.as_bytes());
        }
        assert_eq!(private_part(b"\xff\x00"), b"\xff\x00");
    }
}
