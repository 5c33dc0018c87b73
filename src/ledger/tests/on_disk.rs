//! The suite over the embedded engine.

use super::*;

type Bench = super::Fixture<Directory>;

suite!();
