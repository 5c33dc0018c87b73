//! The suite over PostgreSQL.

use super::*;

type Bench = super::Fixture<Schema>;

suite!();
