//! Splits a key file into blocks: PEM with any text around it, DER, or bare base64.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use memchr::memmem;
use zeroize::Zeroizing;

use super::FileError;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
/// Byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Start of a SEQUENCE of indefinite length, which BER allows and DER forbids.
const OPEN_SEQUENCE: &[u8] = &[0x30, 0x80];
/// Base64 engine that accepts missing padding, because some tools omit it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Maximum number of blocks in a key file.
const MAX_BLOCKS: usize = 2_000;

/// Block of a key file.
pub(super) struct Block {
    /// Label of the `BEGIN` line; `None` for DER.
    pub(super) label: Option<String>,
    pub(super) der: Zeroizing<Vec<u8>>,
    /// True if the block is encrypted in OpenSSL's format before PKCS#8 (`Proc-Type: 4,ENCRYPTED`).
    pub(super) is_old_encryption: bool,
    /// Number of the block in the file, from 1.
    number: usize,
    /// Line of `BEGIN`, from 1.
    line: usize,
    is_only: bool,
}

impl Block {
    /// Returns the error for a damaged block, with the block's position.
    pub(super) fn damaged(&self) -> FileError {
        let advice = "get a new copy of the file and do not change it";
        match &self.label {
            Some(label) => {
                let label = printable(label);
                let position =
                    if self.is_only { String::new() } else { format!("block {} of this file, ", self.number) };
                let message =
                    format!("{position}`BEGIN {label}` in line {}, is damaged: its content cannot be read", self.line);
                FileError::new(message, advice)
            }
            None => FileError::new("this file contains no readable key or certificate, or is damaged", advice),
        }
    }
}

/// Splits a file into its blocks.
pub(super) fn blocks(file: &[u8]) -> Result<Vec<Block>, FileError> {
    if file.iter().all(u8::is_ascii_whitespace) {
        return Err(FileError::bare("this file is empty"));
    }
    // Editors write a byte order mark even before DER.
    if let Some(blocks) = binary(file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file)) {
        return blocks;
    }
    let text = as_text(file);
    if memmem::find(&text, BEGIN).is_some() {
        return pem(&text);
    }
    base64_alone(&text)
}

/// Splits a sequence of DER elements; `None` if the file is text.
fn binary(file: &[u8]) -> Option<Result<Vec<Block>, FileError>> {
    let mut blocks = Vec::new();
    let mut rest = file;
    while let Some(length) = element_length(rest) {
        let Some((element, behind)) = rest.split_at_checked(length) else {
            let advice = "get a new copy of the file, in binary mode";
            return Some(Err(FileError::new("the DER in this file is cut off", advice)));
        };
        blocks.push((None, element.to_vec()));
        rest = behind;
        if blocks.len() > MAX_BLOCKS {
            break;
        }
    }
    if blocks.is_empty() {
        return None;
    }
    if !rest.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        let message = format!("this file has {} bytes after the end of the DER", rest.len());
        return Some(Err(FileError::new(message, "get a new copy of the file, in binary mode")));
    }
    let is_only = blocks.len() == 1;
    let block = |(number, (label, der)): (usize, (Option<String>, Vec<u8>))| Block {
        label,
        der: Zeroizing::new(der),
        is_old_encryption: false,
        number: number + 1,
        line: 1,
        is_only,
    };
    Some(Ok(blocks.into_iter().enumerate().map(block).collect()))
}

/// Returns the length of the DER SEQUENCE at the start, including its header; `None` if there is none. A SEQUENCE of less than
/// 128 bytes (a key of a curve) must end the file, because text may look like one.
pub(super) fn element_length(bytes: &[u8]) -> Option<usize> {
    let (tag, size) = (*bytes.first()?, *bytes.get(1)?);
    let Some(count) = size.checked_sub(0x80).map(usize::from) else {
        let end = usize::from(size) + 2;
        let is_whole = bytes.get(end..).is_some_and(|rest| rest.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        return (tag == 0x30 && is_whole).then_some(end);
    };
    if tag != 0x30 || !(1..=4).contains(&count) {
        return None;
    }
    let length = bytes
        .get(2..2 + count)?
        .iter()
        .try_fold(0usize, |length, byte| length.checked_mul(256)?.checked_add((*byte).into()))?;
    length.checked_add(2 + count)
}

/// Converts a text file to ASCII-compatible bytes: removes the byte order mark and decodes UTF-16.
fn as_text(file: &[u8]) -> Zeroizing<Vec<u8>> {
    let wide = |bytes: &[u8], from: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).filter_map(|pair| <[u8; 2]>::try_from(pair).ok()).map(from);
        // Keys and labels are ASCII. Other characters are only in the text around them.
        Zeroizing::new(units.map(|unit| u8::try_from(unit).unwrap_or(b'?')).collect::<Vec<_>>())
    };
    match file {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => Zeroizing::new(rest.to_vec()),
        [first, 0, second, 0, ..] if first.is_ascii() && second.is_ascii() && *first != 0 => {
            wide(file, u16::from_le_bytes)
        }
        [0, first, 0, second, ..] if first.is_ascii() && second.is_ascii() && *first != 0 => {
            wide(file, u16::from_be_bytes)
        }
        _ => Zeroizing::new(file.to_vec()),
    }
}

fn pem(text: &[u8]) -> Result<Vec<Block>, FileError> {
    let starts: Vec<usize> = memmem::find_iter(text, BEGIN).take(MAX_BLOCKS + 1).collect();
    if starts.len() > MAX_BLOCKS {
        return Err(FileError::bare(format!(
            "this file has more than {MAX_BLOCKS} blocks: it cannot be the right one"
        )));
    }
    let is_only = starts.len() == 1;
    let mut blocks = Vec::with_capacity(starts.len());
    let (mut line, mut counted) = (1, 0);
    for (index, start) in starts.iter().enumerate() {
        line += memchr::memchr_iter(b'\n', text.get(counted..*start).unwrap_or_default()).count();
        counted = *start;
        let end = starts.get(index + 1).copied().unwrap_or(text.len());
        let part = text.get(start + BEGIN.len()..end).unwrap_or_default();
        let cut = |what: &str| {
            let position = if is_only { String::new() } else { format!("block {} of this file, ", index + 1) };
            FileError::new(
                format!("{position}the PEM that begins in line {line} {what}"),
                "get a new, complete copy of the file",
            )
        };
        let label_end = memmem::find(part, DASHES)
            .filter(|at| *at <= 64)
            .ok_or_else(|| cut("is cut off: its BEGIN line has no end"))?;
        let label = String::from_utf8_lossy(part.get(..label_end).unwrap_or_default()).trim().to_owned();
        let body = part.get(label_end + DASHES.len()..).unwrap_or_default();
        let body_end = memmem::find(body, END).ok_or_else(|| cut("is cut off: it has no END line"))?;
        let closing = body.get(body_end + END.len()..).unwrap_or_default();
        if !closing.trim_ascii_start().starts_with(label.as_bytes()) {
            return Err(cut("ends with the END line of another one"));
        }
        let body = body.get(..body_end).unwrap_or_default();
        let is_old_encryption =
            memmem::find(body, b"Proc-Type").is_some() && memmem::find(body, b"ENCRYPTED").is_some();
        let compact = compact(body);
        let der = match STANDARD.decode(&compact).or_else(|_| LENIENT.decode(&compact)) {
            _ if is_old_encryption => Vec::new(),
            Ok(der) if !der.is_empty() => der,
            Ok(_) => return Err(cut("has nothing in it")),
            Err(_) => return Err(cut("is damaged: its content is not base64")),
        };
        blocks.push(Block {
            label: Some(label),
            der: Zeroizing::new(der),
            is_old_encryption,
            number: index + 1,
            line,
            is_only,
        });
    }
    Ok(blocks)
}

/// Returns the base64 of a block without line breaks (including literal `\n`) and without header lines (`Name: value`).
fn compact(body: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut compact = Zeroizing::new(Vec::with_capacity(body.len()));
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.contains(&b':')) {
        let mut bytes = line.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if bytes.peek().is_some_and(|next| matches!(next, b'n' | b'r')) => drop(bytes.next()),
                byte if byte.is_ascii_whitespace() || byte == 0 => {}
                byte => compact.push(byte),
            }
        }
    }
    compact
}

/// Reads a file of bare base64, of DER or of PEM.
fn base64_alone(text: &[u8]) -> Result<Vec<Block>, FileError> {
    let compact = compact(text.trim_ascii());
    let compact = compact.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(&compact);
    let decoded = STANDARD.decode(compact).or_else(|_| LENIENT.decode(compact)).map(Zeroizing::new);
    match decoded {
        Ok(decoded) if memmem::find(&decoded, BEGIN).is_some() => pem(&decoded),
        Ok(decoded) if decoded.starts_with(OPEN_SEQUENCE) => Err(unknown(&decoded)),
        Ok(decoded) => binary(&decoded).unwrap_or_else(|| Err(unknown(text))),
        Err(_) => Err(unknown(text)),
    }
}

/// Returns the error for a file in an unsupported format, with a way to convert it.
fn unknown(text: &[u8]) -> FileError {
    let start = text.trim_ascii_start();
    let starts = |with: &[&str]| with.iter().any(|with| start.starts_with(with.as_bytes()));
    let contains = |what: &str| memmem::find(text, what.as_bytes()).is_some();
    let (message, advice) = match () {
        () if starts(&["ssh-", "ecdsa-sha2-"]) || contains("---- BEGIN SSH2") => {
            ("this is a public key in the form of SSH", "convert it: `ssh-keygen -e -m PKCS8 -f FILE`")
        }
        () if starts(&["PuTTY-User-Key-File"]) => (
            "this is a private key in the form of PuTTY",
            "convert it: `puttygen FILE -O private-openssh -o KEY`, then `ssh-keygen -p -m PKCS8 -f KEY`",
        ),
        () if text.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) => (
            "this is a Java key store (JKS)",
            "convert it: `keytool -importkeystore -srckeystore FILE -destkeystore NEW.p12 -deststoretype PKCS12`",
        ),
        () if text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).starts_with(OPEN_SEQUENCE) => (
            "this is BER with indefinite lengths, as Java's Bouncy Castle writes PFX files",
            "rewrite it: `openssl pkcs12 -in FILE -out KEY.pem` and name KEY.pem",
        ),
        () if contains("<RSAKeyValue") => ("this is a key in the XML form of .NET", "export it as PEM"),
        () if starts(&["<"]) => {
            ("this is a web page or XML, not a key", "the download may have failed; download the file again")
        }
        () if starts(&["{", "["]) => ("this is JSON, not a key", "copy the key from it into a file of its own"),
        () if start.len() > 64
            && starts(&["30"])
            && start.iter().all(|byte| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace()) =>
        {
            ("this is hexadecimal", "convert it: `xxd -r -p FILE > KEY.der`")
        }
        () if contains("BEGIN ") => {
            ("the BEGIN line in this file is damaged", "write five hyphens on both sides: `-----BEGIN …-----`")
        }
        () if contains("-----END ") => ("this PEM has no BEGIN line", "copy the complete file"),
        () if !text.is_ascii() => ("this file is neither text nor DER", "use PEM, DER or base64"),
        () => (
            "this file is damaged or not a key: it is neither PEM nor DER nor the base64 of a key",
            "get a new, complete copy of the file",
        ),
    };
    FileError::new(message, advice)
}

/// Sanitizes a label for messages, because the file may contain anything.
fn printable(label: &str) -> String {
    label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == ' ').take(40).collect()
}
