//! Amounts as Alipay writes them: yuan with at most two decimals. The sandbox uses fen.

/// Maximum amount of a trade: 100,000,000 yuan.
const MAX_AMOUNT: u64 = 10_000_000_000;

/// Parses `0.01` to `100000000`.
pub(super) fn fen(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole, 9) || !is_digits(part, 2) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let part = part.parse::<u64>().ok()? * if part.len() == 1 { 10 } else { 1 };
    let fen = whole.parse::<u64>().ok()? * 100 + part;
    (1..=MAX_AMOUNT).contains(&fen).then_some(fen)
}

/// Formats fen as `1.00`.
pub(super) fn yuan(fen: u64) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yuan_amounts_are_parsed_exactly_and_other_texts_are_rejected() {
        for (text, amount) in
            [("0.01", 1), ("1", 100), ("1.5", 150), ("88.88", 8_888), ("100000000", MAX_AMOUNT), ("0.29", 29)]
        {
            assert_eq!(fen(text), Some(amount), "{text}");
        }
        for text in ["", "0", "0.00", ".5", "1.", "1.234", "-1", "+1", "1e2", "01", "100000000.01", "1,00", " 1", "９"]
        {
            assert_eq!(fen(text), None, "{text}");
        }
        assert_eq!((yuan(1), yuan(100), yuan(8_888)), ("0.01".into(), "1.00".into(), "88.88".into()));
    }
}
