//! The suite over the embedded engine with tiny WAL segments, so that nearly all rows are read from the tables.

use super::backends::Tables;
use super::*;

type Fixture = super::Fixture<Tables>;

suite!();
