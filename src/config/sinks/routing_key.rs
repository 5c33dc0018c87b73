//! Template of a routing key, as in `{type}.{method}`.

use tollgate_plugins::payment::Method;
use tollgate_plugins::settings::{Form, Setting};
use toml::de::DeValue;

use super::event_filter::MAX_TYPE;

/// Maximum length of a routing key in bytes (AMQP's short string).
const MAX_KEY: usize = 255;
/// Maximum length of the name of a merchant or channel.
const MAX_NAME: usize = 63;

/// Template of a routing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingKey(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Type,
    Merchant,
    Method,
    Channel,
    Currency,
}

/// Names in braces with their parts.
const NAMES: [(&str, Part); 5] = [
    ("type", Part::Type),
    ("merchant", Part::Merchant),
    ("method", Part::Method),
    ("channel", Part::Channel),
    ("currency", Part::Currency),
];

/// Values of one event.
#[derive(Clone, Copy, Debug)]
pub struct RoutingValues<'a> {
    /// Type of the event.
    pub event_type: &'a str,
    /// Merchant.
    pub merchant: &'a str,
    /// Payment method.
    pub method: &'a str,
    /// Channel of the payment or refund.
    pub channel: &'a str,
    /// Currency of the amount.
    pub currency: &'a str,
}

impl Default for RoutingKey {
    fn default() -> Self {
        Self(vec![Part::Type])
    }
}

impl RoutingKey {
    /// Returns the routing key of an event, at most 255 bytes.
    pub fn render(&self, values: &RoutingValues<'_>) -> String {
        let text = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Type => values.event_type,
            Part::Merchant => values.merchant,
            Part::Method => values.method,
            Part::Channel => values.channel,
            Part::Currency => values.currency,
        });
        text.collect()
    }

    /// Returns whether the key names what only payments have.
    pub(super) fn is_about_payments(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Method | Part::Currency))
    }

    fn parse(template: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), template);
        while let Some((text, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("a brace that is not closed")?;
            let Some((_, part)) = NAMES.iter().find(|(known, _)| *known == name) else {
                let known = NAMES.map(|(known, _)| format!("{{{known}}}")).join(", ");
                return Err(format!("an unknown name in braces (there are {known})"));
            };
            parts.extend((!text.is_empty()).then(|| Part::Text(text.to_owned())));
            parts.push(part.clone());
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        let has_wrong_text =
            |part: &Part| matches!(part, Part::Text(text) if text.chars().any(|it| it.is_control() || it == '}'));
        if parts.iter().any(has_wrong_text) {
            return Err("a control character, or a brace that was not opened".to_owned());
        }
        let longest: usize = parts.iter().map(Part::max_len).sum();
        if longest > MAX_KEY {
            return Err(format!("a key that may have {longest} bytes; AMQP allows {MAX_KEY}"));
        }
        Ok(Self(parts))
    }
}

impl Part {
    fn max_len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Type => MAX_TYPE,
            Self::Merchant | Self::Channel => MAX_NAME,
            Self::Method => Method::all().map(|method| method.as_str().len()).max().unwrap_or_default(),
            Self::Currency => 3,
        }
    }
}

impl Setting for RoutingKey {
    const EXPECTED: &'static str = "a text with names in braces, as in \"{type}.{method}\"";
    const EXAMPLE: &'static str = "\"{type}.{method}\"";
    fn form() -> Form {
        Form::Text
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        Self::parse(&String::read(value)?)
    }
}
