//! Lines and columns of mistakes.

/// Where lines and columns are in a text, noted every so many bytes: a file with many mistakes is not counted anew for each.
pub(super) struct Places(Vec<Place>);

#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    line: usize,
    column: usize,
}

impl Places {
    /// At least so many bytes are between two that are noted.
    const STEP: usize = 1024;

    pub(super) fn of(text: &str) -> Self {
        let mut place = Place { offset: 0, line: 1, column: 1 };
        let mut noted = vec![place];
        for character in text.chars() {
            place.pass(character);
            if noted.last().is_some_and(|last| place.offset >= last.offset + Self::STEP) {
                noted.push(place);
            }
        }
        Self(noted)
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub(super) fn find(&self, text: &str, offset: usize) -> (usize, usize) {
        let after = self.0.partition_point(|place| place.offset <= offset);
        let noted = after.checked_sub(1).and_then(|index| self.0.get(index));
        let mut place = noted.copied().unwrap_or(Place { offset: 0, line: 1, column: 1 });
        for character in text.get(place.offset..).unwrap_or_default().chars() {
            if place.offset + character.len_utf8() > offset {
                break;
            }
            place.pass(character);
        }
        (place.line, place.column)
    }
}

impl Place {
    fn pass(&mut self, character: char) {
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
    fn places_are_counted_as_editors_count() {
        let place = |text: &str, offset| Places::of(text).find(text, offset);
        assert_eq!(place("a\nbc\n", 0), (1, 1));
        assert_eq!(place("a\n付款x", 2 + 6), (2, 3));
        assert_eq!(place("a\n付款x", 3), (2, 1), "inside a character");
        assert_eq!(place("a\n", 99), (2, 1), "behind the end");
    }

    #[test]
    fn place_is_found_from_the_nearest_one_that_was_noted() {
        let text = "付款 = 1\n".repeat(1_000) + &"x".repeat(5_000);
        let places = Places::of(&text);
        let lines = text.lines().count();
        assert!(
            places.0.len() > 5 && places.0.windows(2).all(|pair| pair[1].offset < pair[0].offset + Places::STEP + 4)
        );
        for (line, row) in (1..).zip(text.lines().take(lines - 1)) {
            let start = row.as_ptr() as usize - text.as_ptr() as usize;
            assert_eq!(places.find(&text, start + 6), (line, 3));
        }
        assert_eq!(places.find(&text, text.len() - 1), (1_001, 5_000));
    }
}
