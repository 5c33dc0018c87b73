//! Comparison of the author's page and of the root README with the code: every table names what exists, and nothing is left out.

use std::collections::{BTreeMap, BTreeSet};

use super::read;
use crate::payment::Method;
use crate::provider::ProviderSpec;
use crate::registry::{FILTERS, PROVIDERS};

/// Returns the rows of the table that follows this heading line, each with its cells.
fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| *line != head).skip(2);
    let rows: Vec<_> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "there is no table `{head}`");
    rows
}

/// Returns the code in a cell, as `a` and `b` in "`a`, `b`".
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the code of the first column, with the second column.
fn by_name(text: &str, head: &str) -> BTreeMap<String, String> {
    let rows = table(text, head);
    rows.iter().flat_map(|row| code(&row[0]).into_iter().map(|name| (name, row[1].clone()))).collect()
}

/// Returns the text between the line `start` and the next line `}`.
fn block<'a>(source: &'a str, start: &str) -> &'a str {
    let (_, rest) = source.split_once(start).unwrap_or_else(|| panic!("there is no `{start}`"));
    rest.split_once("\n}\n").unwrap().0
}

/// Returns the functions of a trait; true for those without a default.
fn functions(source: &str, name: &str) -> BTreeMap<String, bool> {
    let body = block(source, &format!("pub trait {name}: Send + Sync {{\n"));
    let mut functions = BTreeMap::new();
    for part in body.split("    fn ").skip(1).flat_map(|part| part.split("    async fn ")) {
        let end = part.find([';', '{']).unwrap();
        functions.insert(part.split('(').next().unwrap().to_owned(), part[end..].starts_with(';'));
    }
    functions
}

fn fields(source: &str, start: &str) -> BTreeSet<String> {
    let lines = block(source, start).lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| !line.starts_with(['/', '#', ' ']));
    lines.filter_map(|line| Some(line.split_once(": ")?.0.rsplit(' ').next()?.to_owned())).collect()
}

fn variants(source: &str, start: &str) -> BTreeSet<String> {
    let lines = block(source, start).lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    lines.map(|line| line.split(['(', ' ', ',']).next().unwrap().to_owned()).collect()
}

fn names(table: &BTreeMap<String, String>) -> BTreeSet<String> {
    table.keys().cloned().collect()
}

#[test]
fn readme_lists_every_function_of_both_traits_as_required_or_not() {
    let readme = read("plugins/README.md");
    for (heading, file, name) in [
        ("### Functions of the trait", "plugins/provider.rs", "Provider"),
        ("## A new filter", "plugins/filter.rs", "Filter"),
    ] {
        let (_, section) = readme.split_once(&format!("{heading}\n")).unwrap();
        let documented = by_name(section, "| function | required | task |");
        let documented: BTreeMap<_, _> =
            documented.into_iter().map(|(name, required)| (name, required == "yes")).collect();
        assert_eq!(documented, functions(&read(file), name), "{name}");
    }
}

#[test]
fn readme_lists_every_field_of_a_registration_as_required_or_not() {
    let source = read("plugins/provider.rs");
    let documented = by_name(&read("plugins/README.md"), "| field | required | meaning |");
    assert_eq!(names(&documented), fields(&source, "pub struct ProviderSpec {\n"));
    let (_, constructor) = source.split_once("    pub const fn new(\n").unwrap();
    let parameters = constructor.split_once("    ) -> Self").unwrap().0.lines();
    let required: BTreeSet<_> = parameters.map(|line| line.trim().split(':').next().unwrap().to_owned()).collect();
    let is_required = |(name, required): (String, String)| (required == "yes").then_some(name);
    assert_eq!(documented.into_iter().filter_map(is_required).collect::<BTreeSet<_>>(), required);
}

#[test]
fn readme_lists_every_error_and_every_result_of_verify() {
    let readme = read("plugins/README.md");
    let errors = by_name(&readme, "| error | code | was it executed? | breaker | next |");
    let source = read("plugins/error.rs");
    assert_eq!(names(&errors), variants(&source, "pub enum Error {\n"));
    for (error, code) in &errors {
        let arms =
            ["(_)", " { .. }", ""].map(|fields| format!("Self::{error}{fields} => \"{}\",", code.trim_matches('`')));
        assert!(arms.iter().any(|arm| source.contains(arm)), "{error} has another code than {code}");
    }
    let mut results = by_name(&readme, "| result | when | effect on an answer | effect on a notification |");
    results.remove("Ok(Verified)").unwrap();
    assert_eq!(names(&results), variants(&read("plugins/provider.rs"), "pub enum BadSignature {\n"));
}

#[test]
fn readme_lists_every_class_and_interface_of_answer_codes() {
    let (readme, source) = (read("plugins/README.md"), read("plugins/provider/answer_codes.rs"));
    let classes = by_name(&readme, "| class | meaning | error |");
    assert_eq!(names(&classes), variants(&source, "pub(super) enum Class {\n"));
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub(super) const "));
    let interfaces =
        constants.filter(|line| line.contains(": &[Interface] ")).map(|line| line.split(':').next().unwrap());
    for interface in interfaces {
        assert!(readme.contains(&format!("`{interface}`")), "{interface}");
    }
}

#[test]
fn readme_lists_every_key_of_golden_files() {
    let (readme, source) = (read("plugins/README.md"), read("plugins/provider/golden.rs"));
    for (head, of) in [
        ("| key | content | written by |", "pub(super) struct Golden {\n"),
        ("| key of `operation` | content |", "pub(super) struct GoldenOperation {\n"),
        ("| key of a message | content |", "pub(super) struct Message {\n"),
    ] {
        assert_eq!(names(&by_name(&readme, head)), fields(&source, of), "{head}");
    }
    let keys = read("plugins/provider/golden/keys.rs");
    for name in ["fn merchant_signer(", "fn provider_signer(", "fn keyring(", "const SECRET:"] {
        let word = name.trim_end_matches(['(', ':']).rsplit(' ').next().unwrap();
        assert!(keys.contains(name) && readme.contains(&format!("`{word}`")), "{name}");
    }
    assert!(read("plugins/provider/v3_scheme/testing.rs").contains("fn check_with_neutral_keys("));
}

#[test]
fn readme_names_readers_of_settings_that_exist() {
    let source = read("plugins/settings.rs");
    for reader in by_name(&read("plugins/README.md"), "| reader | use |").keys() {
        let exists = [format!("    pub fn {reader}("), format!("    pub fn {reader}<")];
        assert!(exists.iter().any(|start| source.contains(start)), "{reader}");
    }
}

#[test]
fn readme_states_the_length_of_the_templates() {
    let rows = table(&read("plugins/README.md"), "| start from | if the protocol is | length without tests |");
    let stated = |row: &[String]| row[2].split(' ').find_map(|word| word.parse::<usize>().ok()).unwrap();
    let sandbox = read(&code(&rows[0][0])[0]);
    let (sandbox, _) = sandbox.split_once("#[cfg(test)]").unwrap();
    assert!(stated(&rows[0]).abs_diff(sandbox.lines().count()) <= 20, "{}", sandbox.lines().count());
}

#[test]
fn readme_methods_are_those_of_the_registry() {
    let rows = table(&read("README.md"), "| method | required | `action` | provider |");
    // The provider `sandbox` is a template: it serves only demonstrations.
    let providers = || PROVIDERS.iter().filter(|spec| spec.name != "sandbox");
    let mut documented = BTreeSet::new();
    for row in &rows {
        let methods = code(&row[0]);
        let named: BTreeSet<_> = providers().map(|spec| spec.name).filter(|name| row[3].contains(name)).collect();
        let serves =
            |spec: &&&ProviderSpec| spec.methods.iter().any(|name| methods.iter().any(|method| method == name));
        let serving: BTreeSet<_> = providers().filter(|spec| serves(&spec)).map(|spec| spec.name).collect();
        assert_eq!(named, serving, "providers of {methods:?}");
        documented.extend(methods);
    }
    let registered: BTreeSet<_> = providers().flat_map(|spec| spec.methods).map(|name| (*name).to_owned()).collect();
    assert_eq!(documented, registered);
    let scanned = Method::all().filter(Method::is_scanned).map(|method| method.as_str());
    for method in scanned {
        let row = rows.iter().find(|row| code(&row[0]).iter().any(|name| name == method)).unwrap();
        assert!(row[1].contains("`payer.auth_code`") && row[2] == "none", "{row:?}");
    }
}

#[test]
fn registered_filters_are_documented_for_operators() {
    let conf = read("conf/README.md");
    for spec in FILTERS {
        assert!(conf.contains(&format!("`{}`", spec.name)), "conf/README.md does not name the filter `{}`", spec.name);
    }
}
