"""Models behind TensorFlow Serving, and the client that talks to it."""

from flowzoo.serving.client import Client
from flowzoo.serving.retrying import Retry
from flowzoo.serving.transport import Tls, VersionStatus

__all__ = ["Client", "Retry", "Tls", "VersionStatus"]
