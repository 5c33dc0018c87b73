//! RabbitMQ beside a gateway: a broker as a child process, and a queue with a consumer.

mod process;
mod queue;

pub use self::process::BrokerProcess;
pub use self::queue::{BrokerQueue, Message};
