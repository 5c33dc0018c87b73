//! `tollgate schema`: prints JSON Schemas of the configuration files, for completion and validation in editors.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tollgate_config::schema::{self, FILES};

use crate::output::say;

/// Kind of configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum File {
    /// tollgate.toml
    Tollgate,
    /// merchants/*.toml
    Merchant,
    /// channels/*.toml
    Channel,
    /// routes.toml
    Routes,
}

impl From<File> for schema::File {
    fn from(file: File) -> Self {
        match file {
            File::Tollgate => Self::Tollgate,
            File::Merchant => Self::Merchant,
            File::Channel => Self::Channel,
            File::Routes => Self::Routes,
        }
    }
}

/// Arguments of `tollgate schema`.
#[derive(Args, Clone, Debug)]
pub(super) struct SchemaArgs {
    /// File to describe
    #[arg(value_enum, required_unless_present = "dir")]
    file: Option<File>,
    /// Write the schema (or all four) to this directory instead of printing it
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Prints a schema, or writes schema files.
pub(super) fn run(arguments: &SchemaArgs) -> Result<(), String> {
    let wanted = arguments.file.map(schema::File::from);
    let Some(dir) = &arguments.dir else {
        wanted.iter().for_each(|file| say!("{:#}", file.schema()));
        return Ok(());
    };
    let cannot = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(dir).map_err(|error| cannot(dir, error))?;
    for file in FILES.into_iter().filter(|file| wanted.is_none_or(|wanted| wanted == *file)) {
        let path = dir.join(format!("{}.schema.json", file.name()));
        std::fs::write(&path, format!("{:#}\n", file.schema())).map_err(|error| cannot(&path, error))?;
        say!("{}", path.display());
    }
    Ok(())
}
