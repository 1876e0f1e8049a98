"""Which queue a worker serves, under which name, and how its Redis is reached: the first settings of `config`."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from rollstream.transport.redis.access import DEFAULT_URL, MOST_REPLICAS, RedisAccess

from . import config_rules


def new_consumer_name() -> str:
    """A name unique to this start of the process, so that a restarted worker does not own its old entries."""
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}-{secrets.token_hex(3)}"


class QueueSettings(BaseSettings):
    """The part of `WorkerSettings` that says where jobs come from."""

    policy: str = Field(description="The policy whose queue is served, such as math-7b.")
    redis: str = Field(
        DEFAULT_URL,
        repr=False,
        description="Redis URL: redis://, rediss:// or unix://; for a Redis Cluster, "
        "redis+cluster://host:port,host:port, any of its nodes; with Sentinels, "
        "redis+sentinel://host:26379,host:26379/service.",
    )
    redis_ca: Path | None = Field(
        None,
        description="PEM file of the CAs that may have signed Redis' certificate, for rediss://; default: this "
        "system's. It is read again when it changes, like the next two.",
    )
    redis_cert: Path | None = Field(None, description="PEM file of our certificate, where Redis asks for one.")
    redis_key: Path | None = Field(
        None, description="PEM file of the key of --redis-cert, if it is not in the same file."
    )
    redis_password_file: Path | None = Field(
        None,
        description="File with the password, which no list of processes shows; it is read for every new connection, "
        "so the password may change while workers run.",
    )
    redis_sentinel_password_file: Path | None = Field(
        None,
        description="File with the password of the Sentinels themselves; it is read for every new connection to one.",
    )
    redis_wait: int = Field(
        0, ge=0, le=MOST_REPLICAS, description="Replicas of Redis that must have an answer before it counts."
    )
    partitions: int = Field(1, ge=1, le=1024, description="Partitions of the policy; the same at every producer.")
    consumer: str = Field(
        default_factory=new_consumer_name,
        description="Name in the consumer group; default: host, pid and a random tail.",
    )

    @field_validator("policy", "consumer")
    @classmethod
    def _usable_in_keys(cls, value: str) -> str:
        return config_rules.name(value)

    @field_validator("redis")
    @classmethod
    def _readable(cls, value: str) -> str:
        return config_rules.redis_url(value)

    @field_validator(
        "redis_ca", "redis_cert", "redis_key", "redis_password_file", "redis_sentinel_password_file", mode="before"
    )
    @classmethod
    def _named(cls, value: object) -> object:
        """A variable without a value, as compose files pass it, names no file."""
        return value or None

    @property
    def access(self) -> RedisAccess:
        """What Redis is reached with."""
        return RedisAccess(
            url=self.redis,
            ca=self.redis_ca,
            cert=self.redis_cert,
            key=self.redis_key,
            password_file=self.redis_password_file,
            sentinel_password_file=self.redis_sentinel_password_file,
            wait=self.redis_wait,
        )
