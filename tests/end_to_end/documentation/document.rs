//! Text, code blocks and code spans of a README or a configuration file.

use std::collections::BTreeSet;

use super::{is_word, read};

pub(super) struct Block {
    pub(super) language: String,
    pub(super) lines: Vec<String>,
}

/// A file in the parts that the tests look at. Of a configuration file, the code in its comments.
pub(super) struct Document {
    pub(super) text: String,
    pub(super) lines: usize,
    pub(super) blocks: Vec<Block>,
    /// Code in running text.
    pub(super) spans: BTreeSet<String>,
    /// Code after an HTTP status, as in "503 `queue_full`".
    pub(super) after_a_status: BTreeSet<String>,
}

impl Document {
    pub(super) fn read(file: &str) -> Self {
        let text = read(file);
        let (mut blocks, mut prose): (Vec<Block>, _) = (Vec::new(), String::new());
        let mut is_block = false;
        for line in text.lines() {
            if let Some(language) = line.strip_prefix("```") {
                is_block = !is_block;
                if is_block {
                    blocks.push(Block { language: language.to_owned(), lines: Vec::new() });
                }
            } else if is_block {
                blocks.last_mut().unwrap().lines.push(line.to_owned());
            } else {
                prose += line;
                prose.push('\n');
            }
        }
        assert!(!is_block, "{file} ends within a block");
        let parts: Vec<&str> = prose.split('`').collect();
        assert!(parts.len() % 2 == 1, "{file} has a backtick without its end");
        let spans: Vec<_> = (1..parts.len()).step_by(2).map(|at| (parts[at - 1], parts[at])).collect();
        let is_status = |text: &str| {
            let word = text.strip_suffix([' ', '\n']).and_then(|text| text.split([' ', '|', '(', '\n']).next_back());
            word.is_some_and(|word| word.len() == 3 && word.starts_with(['4', '5']) && word.parse::<u16>().is_ok())
        };
        let after_a_status = spans.iter().filter(|(before, code)| is_status(before) && is_word(code));
        Self {
            lines: text.lines().count(),
            after_a_status: after_a_status.map(|(_, code)| (*code).to_owned()).collect(),
            spans: spans.iter().map(|(_, span)| (*span).replace('\n', " ")).collect(),
            blocks,
            text,
        }
    }

    /// Every piece of code: spans, and lines of blocks.
    pub(super) fn code(&self) -> impl Iterator<Item = &str> {
        self.spans.iter().chain(self.blocks.iter().flat_map(|block| &block.lines)).map(String::as_str)
    }

    /// The shell commands, without comments.
    pub(super) fn commands(&self) -> Vec<&str> {
        let shell = self.blocks.iter().filter(|block| block.language == "sh");
        shell.flat_map(|block| &block.lines).map(|line| line.split("  #").next().unwrap_or_default().trim()).collect()
    }

    /// Targets of links within the repository.
    pub(super) fn links(&self) -> Vec<String> {
        let targets = self.text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
    }

    /// The rows of the table whose head contains this text.
    pub(super) fn rows(&self, head: &str) -> Vec<&str> {
        let lines = self.text.lines().skip_while(|line| !(line.starts_with('|') && line.contains(head)));
        lines.skip(2).take_while(|line| line.starts_with('|')).collect()
    }

    /// The code in the table whose head contains this text.
    pub(super) fn table_of(&self, head: &str) -> BTreeSet<String> {
        let rows = self.rows(head);
        let cells = rows.iter().filter_map(|row| row.split('|').nth(2));
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    }

    /// The code in the first column of the table whose head contains this text.
    pub(super) fn first_column(&self, head: &str) -> BTreeSet<String> {
        let rows = self.rows(head);
        let cells = rows.iter().filter_map(|row| row.split('|').nth(1));
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    }
}
