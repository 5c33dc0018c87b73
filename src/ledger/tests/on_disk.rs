//! The suite over the embedded engine.

use super::*;

type Bench = super::Bench<Directory>;

suite!();
