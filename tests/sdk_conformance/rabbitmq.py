"""Client of a RabbitMQ broker by PyPI's `pika`: `python rabbitmq.py bind|get|queue|depth|publish`, with a JSON input on stdin
and a JSON result on stdout. The exchange and the queue are durable."""

import json
import sys

import pika

question = json.load(sys.stdin)
command = sys.argv[1]
credentials = pika.PlainCredentials(question.get("user", "guest"), question.get("password", "guest"))
parameters = pika.ConnectionParameters("127.0.0.1", question["port"], credentials=credentials)
connection = pika.BlockingConnection(parameters)
channel = connection.channel()
queue = question["queue"]


def message():
    """Take the next message out of the queue; None if it is empty."""
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    if method is None:
        return None
    return {
        "exchange": method.exchange,
        "routing_key": method.routing_key,
        "message_id": properties.message_id,
        "type": properties.type,
        "timestamp": properties.timestamp,
        "app_id": properties.app_id,
        "content_type": properties.content_type,
        "delivery_mode": properties.delivery_mode,
        "headers": properties.headers or {},
        "body": body.decode(),
    }


result = []
if command == "bind":
    channel.exchange_declare(question["exchange"], "topic", durable=True)
    if "key" in question:
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, question["exchange"], question["key"])
elif command == "queue":
    channel.queue_declare(queue, durable=True, arguments=question.get("arguments"))
elif command == "depth":
    # Messages that no consumer has.
    result = channel.queue_declare(queue, passive=True).method.message_count
elif command == "publish":
    channel.confirm_delivery()
    for sent in question["messages"]:
        properties = pika.BasicProperties(headers=sent["headers"], message_id=sent.get("id"), delivery_mode=2)
        channel.basic_publish("", queue, sent["body"].encode(), properties, mandatory=True)
else:
    result = list(iter(message, None))
connection.close()
# A death record has a time.
print(json.dumps(result, default=str))
