//! The sink against librdkafka's simulated cluster, which can fail in every way that the protocol knows.
#![allow(clippy::unwrap_used, clippy::panic)]

use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Response};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate_config::BrokerAddress;

use super::wire::{FETCH, METADATA, RequestHead, SASL_AUTHENTICATE, Writer};
use super::*;
use crate::delivery::testing::delivery;

const TOPIC: &str = "payments";

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// Returns a cluster with a topic of one partition, whose leader is the first broker.
fn cluster(brokers: i32) -> Cluster {
    let cluster = MockCluster::new(brokers).unwrap();
    cluster.create_topic(TOPIC, 1, brokers).unwrap();
    cluster.partition_leader(TOPIC, 0, Some(1)).unwrap();
    cluster
}

fn addresses(cluster: &Cluster) -> Vec<BrokerAddress> {
    let servers = cluster.bootstrap_servers();
    let split = servers.split(',').map(|server| server.rsplit_once(':').unwrap());
    split.map(|(host, port)| BrokerAddress { host: host.to_owned(), port: port.parse().unwrap() }).collect()
}

fn config(brokers: Vec<BrokerAddress>) -> Arc<KafkaConfig> {
    let topic = TOPIC.to_owned();
    Arc::new(KafkaConfig { brokers, tls: false, authorities: None, sasl: None, topic, structured: false })
}

fn sink(cluster: &Cluster) -> KafkaSink {
    KafkaSink::new(config(addresses(cluster)))
}

fn loopback() -> Vec<IpNet> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

async fn send_within(sink: &KafkaSink, order: &str, allowed: &[IpNet]) -> Result<(), DeliveryError> {
    let mut delivery = delivery(Timestamp::UNIX_EPOCH);
    delivery.event.id = format!("evt_{order}");
    delivery.event.subject.order_id = order.to_owned();
    let event = OutgoingEvent::of(&delivery, "local").unwrap();
    sink.send(&Attempt { event: &event, tries: 0, allowed }).await
}

async fn send(sink: &KafkaSink, order: &str) -> Result<(), DeliveryError> {
    send_within(sink, order, &loopback()).await
}

/// Sends until the cluster has the event. Every failure before must be one that only waits.
async fn send_until_delivered(sink: &KafkaSink, order: &str) {
    loop {
        match send(sink, order).await {
            Ok(()) => return,
            // The pause of the sink lasts a second or longer.
            Err(DeliveryError::NotConnected(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Returns everything that the topic's partition has.
async fn stored(cluster: &Cluster) -> Vec<OwnedMessage> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "test");
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = settings.create().unwrap();
        let timeout = Duration::from_secs(10);
        let (start, end) = consumer.fetch_watermarks(TOPIC, 0, timeout).unwrap();
        let mut partition = TopicPartitionList::new();
        partition.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
        consumer.assign(&partition).unwrap();
        let mut messages: Vec<OwnedMessage> = Vec::new();
        while start + (messages.len() as i64) < end {
            let message = consumer.poll(timeout).expect("a message within the time").unwrap();
            messages.push(message.detach());
        }
        messages
    })
    .await
    .unwrap()
}

fn orders(messages: &[OwnedMessage]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.key().unwrap().to_vec()).unwrap()).collect()
}

fn reason(result: Result<(), DeliveryError>) -> String {
    match result {
        Err(DeliveryError::NotConnected(last)) => last,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn message_has_the_key_the_headers_and_the_value_of_its_event() {
    let cluster = cluster(3);
    let sink = sink(&cluster);
    sink.connect(&loopback()).await.unwrap();
    send(&sink, "o-1").await.unwrap();
    let messages = stored(&cluster).await;
    assert_eq!(orders(&messages), ["shop/o-1"]);
    let headers = messages[0].headers().unwrap();
    let headers: Vec<_> = headers.iter().map(|it| (it.key, std::str::from_utf8(it.value.unwrap()).unwrap())).collect();
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_id", "evt_o-1"),
        ("ce_source", "/tollgate/local/shop"),
        ("ce_type", "payment.succeeded"),
        ("ce_time", "1970-01-01T00:00:00Z"),
        ("ce_subject", "o-1"),
        ("ce_partitionkey", "shop/o-1"),
        ("content-type", "application/json"),
    ];
    assert_eq!(headers, expected);
    let value: serde_json::Value = serde_json::from_slice(messages[0].payload().unwrap()).unwrap();
    assert_eq!((&value["id"], &value["type"]), (&"evt_o-1".into(), &"payment.succeeded".into()));
}

#[tokio::test]
async fn errors_that_pass_by_themselves_are_retried_without_a_repetition() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    send(&sink, "o-1").await.unwrap();
    let errors = [
        Response::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Response::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Response::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Response::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    cluster.request_errors(Api::Produce, &errors);
    send_until_delivered(&sink, "o-2").await;
    send(&sink, "o-3").await.unwrap();
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1", "shop/o-2", "shop/o-3"]);
}

#[tokio::test]
async fn refused_event_is_a_failed_attempt_and_delays_no_other() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    for (response, code) in [
        (Response::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RDKafkaErrorCode::MessageSizeTooLarge),
        (Response::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, RDKafkaErrorCode::PolicyViolation),
    ] {
        cluster.request_errors(Api::Produce, &[response]);
        let refused = send(&sink, "o-1").await;
        assert!(matches!(refused, Err(DeliveryError::Kafka(found)) if found == code), "{refused:?}");
        assert!(!sink.is_paused(), "{code:?}");
    }
    send(&sink, "o-2").await.unwrap();
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-2"]);
}

#[tokio::test]
async fn topic_without_the_right_to_write_is_a_failed_attempt() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    cluster.request_errors(Api::Produce, &[Response::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let refused = send(&sink, "o-1").await;
    assert!(matches!(refused, Err(DeliveryError::Kafka(RDKafkaErrorCode::TopicAuthorizationFailed))), "{refused:?}");
    assert!(!sink.is_paused());
}

#[tokio::test]
async fn restarted_broker_gets_the_waiting_event_once_from_the_same_producer() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    send(&sink, "o-1").await.unwrap();
    let producer = sink.client.lock().clone().unwrap();
    cluster.broker_down(1).unwrap();
    let why = reason(send(&sink, "o-2").await);
    assert!(why.starts_with("127.0.0.1:"), "{why}");
    assert!(sink.is_paused());
    assert_eq!(reason(send(&sink, "o-2").await), why, "nothing is tried during the pause");
    cluster.broker_up(1).unwrap();
    send_until_delivered(&sink, "o-2").await;
    assert!(!sink.is_paused());
    assert!(Arc::ptr_eq(&producer, sink.client.lock().as_ref().unwrap()));
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1", "shop/o-2"]);
}

#[tokio::test]
async fn after_a_pause_one_event_is_tried_and_the_others_wait_for_its_result() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    cluster.broker_down(1).unwrap();
    let why = reason(send(&sink, "o-1").await);
    while sink.is_paused() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut tried = std::pin::pin!(send(&sink, "o-1"));
    tokio::select! {
        biased;
        early = &mut tried => panic!("{early:?}"),
        other = send(&sink, "o-2") => assert_eq!(reason(other), why),
    }
    assert!(sink.is_paused());
    cluster.broker_up(1).unwrap();
    tried.await.unwrap();
    assert!(!sink.is_paused());
    send(&sink, "o-2").await.unwrap();
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1", "shop/o-2"]);
}

#[tokio::test]
async fn events_follow_the_leader_of_the_partition() {
    let cluster = cluster(2);
    let sink = sink(&cluster);
    send(&sink, "o-1").await.unwrap();
    cluster.partition_leader(TOPIC, 0, Some(2)).unwrap();
    send_until_delivered(&sink, "o-2").await;
    cluster.broker_down(1).unwrap();
    send_until_delivered(&sink, "o-3").await;
    cluster.broker_up(1).unwrap();
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1", "shop/o-2", "shop/o-3"]);
}

#[tokio::test]
async fn client_that_the_library_has_ended_is_replaced() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    cluster.request_errors(Api::InitProducerId, &[Response::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
    let why = reason(send(&sink, "o-1").await);
    assert!(why.contains("Cluster authorization failed"), "{why}");
    assert!(sink.client.lock().is_none());
    send_until_delivered(&sink, "o-1").await;
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1"]);
}

#[tokio::test]
async fn producer_that_the_brokers_refuse_is_replaced_and_no_attempt_counts() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    for (number, response) in
        [Response::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Response::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH]
            .into_iter()
            .enumerate()
    {
        let order = format!("o-{number}");
        send_until_delivered(&sink, &order).await;
        cluster.request_errors(Api::Produce, &[response]);
        reason(send(&sink, "refused").await);
        assert!(sink.client.lock().is_none());
    }
    send_until_delivered(&sink, "o-2").await;
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-0", "shop/o-1", "shop/o-2"]);
}

#[tokio::test]
async fn broker_that_does_not_answer_in_time_is_a_failure_and_no_attempt() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    send(&sink, "o-1").await.unwrap();
    cluster.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    reason(send(&sink, "o-2").await);
    assert!(sink.is_paused());
    cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    send_until_delivered(&sink, "o-3").await;
    let orders = orders(&stored(&cluster).await);
    // The broker has stored what it did not confirm. The event is sent again with the same id.
    assert!(orders == ["shop/o-1", "shop/o-2", "shop/o-3"] || orders == ["shop/o-1", "shop/o-3"], "{orders:?}");
}

#[tokio::test]
async fn topic_that_does_not_exist_is_found_by_the_probe() {
    let cluster = cluster(1);
    cluster.topic_error(TOPIC, Response::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let sink = sink(&cluster);
    let missing = sink.connect(&loopback()).await;
    assert!(matches!(missing, Err(DeliveryError::Kafka(RDKafkaErrorCode::UnknownTopicOrPartition))), "{missing:?}");
}

#[tokio::test]
async fn configured_broker_at_an_address_that_is_not_permitted_gets_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sink = KafkaSink::new(config(vec![BrokerAddress { host: "localhost".to_owned(), port }]));
    let why = reason(send_within(&sink, "o-1", &[]).await);
    assert!(why.contains("127.0.0.1 is not a public address"), "{why}");
    let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(accepted.is_err(), "{accepted:?}");
}

/// The cluster names its brokers itself, so that a permitted broker may name any address.
#[tokio::test]
async fn broker_that_the_cluster_names_is_checked_like_a_configured_one() {
    let cluster = cluster(1);
    let broker = addresses(&cluster).remove(0);
    // The permitted broker is at 127.0.0.2; it names 127.0.0.1.
    let front = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = front.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = front.accept().await.unwrap();
            let mut server = TcpStream::connect((broker.host.as_str(), broker.port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let sink = KafkaSink::new(config(vec![BrokerAddress { host: "127.0.0.2".to_owned(), port }]));
    let why = reason(send_within(&sink, "o-1", &["127.0.0.2/32".parse().unwrap()]).await);
    assert!(why.contains("127.0.0.1 is not a public address"), "{why}");
    assert!(stored(&cluster).await.is_empty());
    send_until_delivered(&sink, "o-1").await;
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1"], "permitted since");
}

#[tokio::test]
async fn open_connection_ends_when_its_address_is_permitted_no_more() {
    let cluster = cluster(1);
    let sink = sink(&cluster);
    send(&sink, "o-1").await.unwrap();
    let why = reason(send_within(&sink, "o-2", &[]).await);
    assert!(why.contains("is not a public address"), "{why}");
    assert_eq!(orders(&stored(&cluster).await), ["shop/o-1"]);
}

#[tokio::test]
async fn broker_without_tls_must_be_this_machine_even_if_its_network_is_permitted() {
    let config = config(Vec::new());
    let broker = BrokerAddress { host: "10.1.2.3".to_owned(), port: 9092 };
    let refused = upstream::open(&config, &broker, &["10.0.0.0/8".parse().unwrap()]).await;
    assert!(matches!(refused.map(|_| ()), Err(DeliveryError::Unencrypted(_))));
}

/// Sends a frame to the relay. Returns its answer, or nothing if it closes the connection.
async fn ask(stream: &mut TcpStream, frame: &[u8]) -> Vec<u8> {
    stream.write_all(frame).await.unwrap();
    let Ok(length) = stream.read_u32().await else { return Vec::new() };
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn login(password: &str) -> bytes::Bytes {
    let mut login = Writer::request(RequestHead { key: SASL_AUTHENTICATE, version: 0, correlation_id: 1 });
    login.bytes(sasl::plain_message(relay::USER.as_bytes(), password.as_bytes()).expose());
    login.finish()
}

#[tokio::test]
async fn relay_serves_the_library_alone_and_only_what_a_producer_needs() {
    let cluster = cluster(1);
    let relay = Relay::open(config(addresses(&cluster)), &loopback()).unwrap();
    let connect = async || TcpStream::connect(relay.bootstrap().unwrap()).await.unwrap();
    let request = |key| Writer::request(RequestHead { key, version: 0, correlation_id: 7 }).finish();
    // Without a login, and with a wrong one.
    assert!(ask(&mut connect().await, &request(METADATA)).await.is_empty());
    assert!(ask(&mut connect().await, &login("guess")).await.is_empty());
    let mut stream = connect().await;
    assert_eq!(ask(&mut stream, &login(relay.password())).await[..6], [0, 0, 0, 1, 0, 0]);
    assert!(ask(&mut stream, &request(FETCH)).await.is_empty(), "a producer reads nothing");
}
