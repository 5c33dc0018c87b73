//! The suite over the embedded engine.

use super::*;

type Fixture = super::Fixture<Directory>;

suite!();
