"""Sending: to whichever cluster a topic is on now, with retries, batches and back-pressure, the same for every kind of broker."""

from mqadmin_sdk.producing.producer import BatchError, Producer
from mqadmin_sdk.producing.transactions import Transaction, UndecidedError

__all__ = ["BatchError", "Producer", "Transaction", "UndecidedError"]
