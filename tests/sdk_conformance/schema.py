"""Validate TOML files with the schemas of `tollgate schema`, as an editor does."""

import datetime
import json
import sys
import tomllib

from jsonschema import Draft202012Validator


def plain(value):
    """Convert TOML times to strings, as editors do."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return value


def files(question):
    verdicts = []
    for file in question["files"]:
        Draft202012Validator.check_schema(file["schema"])
        validator = Draft202012Validator(file["schema"])
        errors = validator.iter_errors(plain(tomllib.loads(file["text"])))
        verdicts.append([f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors])
    return verdicts


print(json.dumps({"files": files}[sys.argv[1]](json.load(sys.stdin))))
