"""``qpart serve CATALOG --ray``: the application on a cluster of Ray, or on one that is started for it here."""

from __future__ import annotations

import os
import signal
import threading

from ...errors import RequestError
from ..log import log, start_logging
from ..settings import Settings
from .application import Scale, deployed, require_ray

_NAME = "qpart"

_LEAST_STORE = 200 << 20
"""Bytes of Ray's object store, which large messages and tails go through."""


def serve_on_ray(settings: Settings, scale: Scale, address: str | None = None) -> None:
    """Serve until the process is told to stop, by SIGTERM or SIGINT; what was taken is finished.

    Args:
        address: of a cluster; None for that of RAY_ADDRESS, and if there is none, for one of this machine alone.

    Raises:
        MissingDependencyError: a package is not installed.
        RequestError: the settings cannot be served, or there is no such cluster.
    """
    require_ray()
    import ray
    from ray import serve

    start_logging(settings.log_level)
    application = deployed(settings, scale)
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        if address is None:
            store = max(_LEAST_STORE, 2 * settings.queue_bytes)
            cpus = max(os.cpu_count() or 1, (scale.most_tails or scale.tails) * (settings.threads or 1))
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=store)
        else:
            ray.init(address=address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RequestError(f"Ray: cannot reach {address or 'a cluster of this machine'}: {str(error)[:300]}") from error
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    try:
        serve.start(proxy_location="Disabled")
        try:
            front = serve.run(application, name=_NAME, route_prefix=None)
        except RuntimeError as error:
            raise RequestError(f"Ray: the application does not start: {str(error)[:500]}") from error
        log("info", "serving", host=settings.host, port=front.port.remote().result(), tails=scale.tails)
        told.wait()
        log("info", "stopping")
        serve.delete(_NAME)
    finally:
        if address is None:
            serve.shutdown()
        ray.shutdown()
