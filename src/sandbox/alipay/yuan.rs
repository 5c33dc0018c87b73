//! Money as Alipay writes it: yuan as a decimal text with at most two decimals; here it is fen.

/// The most that one trade may be worth: 100,000,000 yuan.
const MOST: u64 = 10_000_000_000;

/// Reads `0.01` to `100000000`.
pub(super) fn fen(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole, 9) || !is_digits(part, 2) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let part = part.parse::<u64>().ok()? * if part.len() == 1 { 10 } else { 1 };
    let fen = whole.parse::<u64>().ok()? * 100 + part;
    (1..=MOST).contains(&fen).then_some(fen)
}

/// Writes fen as `1.00`.
pub(super) fn yuan(fen: u64) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_nothing_else_is_an_amount() {
        for (text, amount) in
            [("0.01", 1), ("1", 100), ("1.5", 150), ("88.88", 8_888), ("100000000", MOST), ("0.29", 29)]
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
