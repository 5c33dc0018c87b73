//! Lets an operator retry the events of a sink at once, after its fault is repaired.

use http::StatusCode;
use tollgate_gateway::clock;
use tollgate_gateway::operations::Gateway;
use tollgate_ledger::SinkName;

const USAGE: &str = "use POST /merchants/MERCHANT/sinks/SINK/retry, with the names of the merchant's file; the webhook's name is \
                     `webhook`\n";

/// Makes the waiting events of a sink due now. Returns a description of the effect, or the reason of a rejection.
pub(super) async fn retry(gateway: &Gateway, path: &str) -> Result<String, (StatusCode, String)> {
    let (merchant, sink) = named(path).ok_or_else(|| (StatusCode::BAD_REQUEST, USAGE.to_owned()))?;
    let snapshot = gateway.current.load_full();
    let Some(configured) = snapshot.config.merchants.get(merchant) else {
        return Err((StatusCode::NOT_FOUND, format!("there is no merchant `{merchant}`\n")));
    };
    let sinks = configured.sinks.iter().map(|sink| sink.name.as_str());
    let names: Vec<&str> = configured.webhook.iter().map(|_| "webhook").chain(sinks).collect();
    if !names.contains(&sink) {
        let known = names.join(", ");
        return Err((StatusCode::NOT_FOUND, format!("{merchant} has no sink `{sink}`: it has {known}\n")));
    }
    let subscription = SinkName::from(sink).subscription(merchant);
    match gateway.ledger.retry_sink(&subscription, clock::now()).await {
        Ok(waiting) => {
            tracing::warn!(merchant, sink, waiting, "an operator made the waiting events of a sink due now");
            Ok(format!("{waiting} events wait for {sink} of {merchant} and are tried now\n"))
        }
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))),
    }
}

/// Returns the merchant and the sink in a path.
fn named(path: &str) -> Option<(&str, &str)> {
    let (merchant, rest) = path.strip_prefix("/merchants/")?.split_once("/sinks/")?;
    let sink = rest.strip_suffix("/retry")?;
    (![merchant, sink].iter().any(|name| name.is_empty() || name.contains('/'))).then_some((merchant, sink))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_a_retry_names_merchant_and_sink() {
        assert_eq!(named("/merchants/shop/sinks/orders-mq/retry"), Some(("shop", "orders-mq")));
        for other in [
            "/merchants/shop/sinks/orders-mq",
            "/merchants/shop/sinks//retry",
            "/merchants//sinks/a/retry",
            "/merchants/shop/sinks/a/b/retry",
            "/merchants/shop/retry",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
