//! The suite over PostgreSQL.

use super::*;

type Fixture = super::Fixture<Schema>;

suite!();
