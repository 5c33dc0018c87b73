//! The suite over PostgreSQL.

use super::*;

type Bench = super::Bench<Schema>;

suite!();
