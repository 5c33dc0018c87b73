//! Line index of a text: converts byte offsets to lines and columns.

/// Positions at regular intervals, so that a text with many errors is not scanned from its start for each of them.
pub(super) struct LineIndex(Vec<Position>);

#[derive(Clone, Copy)]
struct Position {
    offset: usize,
    line: usize,
    column: usize,
}

impl LineIndex {
    /// Minimum distance in bytes between two indexed positions.
    const STEP: usize = 1024;

    pub(super) fn of(text: &str) -> Self {
        let mut position = Position { offset: 0, line: 1, column: 1 };
        let mut indexed = vec![position];
        for character in text.chars() {
            position.advance(character);
            if indexed.last().is_some_and(|last| position.offset >= last.offset + Self::STEP) {
                indexed.push(position);
            }
        }
        Self(indexed)
    }

    /// Returns line and column of a byte offset, both from 1, the column in characters.
    pub(super) fn find(&self, text: &str, offset: usize) -> (usize, usize) {
        let after = self.0.partition_point(|position| position.offset <= offset);
        let indexed = after.checked_sub(1).and_then(|index| self.0.get(index));
        let mut position = indexed.copied().unwrap_or(Position { offset: 0, line: 1, column: 1 });
        for character in text.get(position.offset..).unwrap_or_default().chars() {
            if position.offset + character.len_utf8() > offset {
                break;
            }
            position.advance(character);
        }
        (position.line, position.column)
    }
}

impl Position {
    fn advance(&mut self, character: char) {
        self.offset += character.len_utf8();
        match character {
            '\n' => (self.line, self.column) = (self.line + 1, 1),
            _ => self.column += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_as_editors_count() {
        let position = |text: &str, offset| LineIndex::of(text).find(text, offset);
        assert_eq!(position("a\nbc\n", 0), (1, 1));
        assert_eq!(position("a\n付款x", 2 + 6), (2, 3));
        assert_eq!(position("a\n付款x", 3), (2, 1), "inside a character");
        assert_eq!(position("a\n", 99), (2, 1), "behind the end");
    }

    #[test]
    fn position_is_found_from_the_nearest_indexed_one() {
        let text = "付款 = 1\n".repeat(1_000) + &"x".repeat(5_000);
        let index = LineIndex::of(&text);
        let lines = text.lines().count();
        assert!(
            index.0.len() > 5 && index.0.windows(2).all(|pair| pair[1].offset < pair[0].offset + LineIndex::STEP + 4)
        );
        for (line, row) in (1..).zip(text.lines().take(lines - 1)) {
            let start = row.as_ptr() as usize - text.as_ptr() as usize;
            assert_eq!(index.find(&text, start + 6), (line, 3));
        }
        assert_eq!(index.find(&text, text.len() - 1), (1_001, 5_000));
    }
}
