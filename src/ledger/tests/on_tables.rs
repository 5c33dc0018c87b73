//! The suite over the embedded engine where hardly anything stays in memory: the log's segments are full at once, and what
//! they held is read from the tables.

use super::backends::Tables;
use super::*;

type Bench = super::Fixture<Tables>;

suite!();
