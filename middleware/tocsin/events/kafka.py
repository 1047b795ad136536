"""A Kafka topic, through librdkafka."""

from __future__ import annotations

import json
from typing import Any

from tocsin.configuration.events import KafkaTarget
from tocsin.configuration.pairs import read_pairs
from tocsin.errors import ConfigError
from tocsin.events.webhook import JSON_EVENT

ACKNOWLEDGE_TIMEOUT = 30.0  # seconds for one event to be acknowledged


class Kafka:
    """Produces events. Each is acknowledged by all replicas before the next is sent."""

    def __init__(self, target: KafkaTarget) -> None:
        try:
            from confluent_kafka import KafkaException, Producer
        except ImportError:
            raise ConfigError("events: kafka needs its client: pip install 'tocsin[kafka]'") from None
        settings: dict[str, Any] = {"acks": "all", "enable.idempotence": True, "log_level": 3, "client.id": "tocsin"}
        settings |= {**read_pairs(target.settings, "events"), "bootstrap.servers": target.kafka}
        try:
            self._producer = Producer(settings)
        except KafkaException as error:
            raise ConfigError(f"events: {target.settings}: {error.args[0].str()}") from None
        self._topic = target.topic

    def send(self, line: bytes) -> None:
        """Deliver one event. Raises OSError when it is worth trying again."""
        event = json.loads(line)
        outcome: list[Any] = []
        headers = {"content-type": JSON_EVENT}
        body, key = line.rstrip(b"\n"), event["subject"].encode()
        self._producer.produce(
            self._topic, body, key, headers=headers, on_delivery=lambda error, _: outcome.append(error)
        )
        self._producer.flush(ACKNOWLEDGE_TIMEOUT)
        if not outcome:
            self._producer.purge()
            self._producer.flush(1)
            raise OSError(f"kafka: not acknowledged within {ACKNOWLEDGE_TIMEOUT:g} s")
        if outcome[0] is not None:
            raise OSError(f"kafka: {outcome[0]}")

    def close(self) -> None:
        """Nothing is left to flush: every event was acknowledged."""
        self._producer.flush(0)
