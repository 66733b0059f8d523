"""The application of Ray Serve: which deployments there are, and how many replicas each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ...errors import RequestError, require_packages

if TYPE_CHECKING:
    from ray.serve import Application

    from ..settings import Settings

T = TypeVar("T")

_PLANS_AT_ONCE = 2
"""Given to one planner: one is made, the next one is there already."""

_LOGGING = {"enable_access_log": False}
"""Ray's would have a line for each call."""

_GRACE_S = 40.0
"""For a front to finish what it took: more than a server takes at most."""


@dataclass(frozen=True)
class Scale:
    """How many replicas. ``most_tails``: up to so many while there is more to do, and no fewer than ``tails``; None for
    always ``tails``. A replica of tails takes as many of Ray's CPUs as it has threads; the others take none."""

    fronts: int = 1
    planners: int = 1
    tails: int = 2
    most_tails: int | None = None

    def __post_init__(self) -> None:
        """Raises:
        RequestError: there would be none of one kind.
        """
        for name, value in {"fronts": self.fronts, "planners": self.planners, "tails": self.tails}.items():
            if value < 1:
                raise RequestError(f"{name} = {value}: give a number above 0")
        if self.most_tails is not None and self.most_tails < self.tails:
            raise RequestError(f"most_tails = {self.most_tails}: it is below tails = {self.tails}")


def application(args: dict[str, Any]) -> Application:
    """The server as an application, for ``serve run qpart_fx.serving.ray:application catalog=/shared/catalog tails=8``
    or a configuration's ``import_path`` and ``args``.

    Args:
        args: fields of :class:`Scale` and of :class:`~qpart_fx.serving.settings.Settings`, as values or as text;
            ``catalog`` has to be among them, a folder that all machines see under this path.

    Raises:
        MissingDependencyError: a package is not installed.
        RequestError: an argument is unknown or makes no sense.
    """
    require_ray()
    from ..settings import Settings

    names = {field.name for field in fields(Scale)}
    scale = _read(Scale, {name: value for name, value in args.items() if name in names})
    settings = _read(Settings, {name: value for name, value in args.items() if name not in names})
    return deployed(settings, scale)


def require_ray() -> None:
    """Before anything is begun.

    Raises:
        MissingDependencyError: a package is not installed.
    """
    require_packages("ray grpc tritonclient prometheus_client torch onnxscript", "serving on Ray", extra="ray")


def deployed(settings: Settings, scale: Scale) -> Application:
    """The application of these settings.

    Raises:
        RequestError: they are none for several processes.
    """
    from ray import serve

    from .replicas import FrontReplica, PlannerReplica, TailsReplica

    settings = _everywhere(settings, scale)
    planner = serve.deployment(
        PlannerReplica, name="Planner", num_replicas=scale.planners, max_ongoing_requests=_PLANS_AT_ONCE,
        ray_actor_options={"num_cpus": 0}, logging_config=_LOGGING,
    ).bind(settings)  # fmt: skip
    replicas: dict[str, Any] = {"num_replicas": scale.tails}
    if scale.most_tails is not None:
        bounds = {"min_replicas": scale.tails, "max_replicas": scale.most_tails}
        replicas = {"autoscaling_config": {**bounds, "target_ongoing_requests": settings.max_batch}}
    tails = serve.deployment(
        TailsReplica, name="Tails", max_ongoing_requests=settings.queue, max_queued_requests=settings.queue,
        ray_actor_options={"num_cpus": settings.threads or 1}, logging_config=_LOGGING, **replicas,
    ).bind(settings, planner)  # fmt: skip
    front: Application = serve.deployment(
        FrontReplica, name="Front", num_replicas=scale.fronts, graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options={"num_cpus": 0}, logging_config=_LOGGING,
    ).bind(settings, planner, tails)  # fmt: skip
    return front


def _everywhere(settings: Settings, scale: Scale) -> Settings:
    """The settings as they mean the same in any process: paths do not depend on where it runs.

    Raises:
        RequestError: they cannot.
    """
    if settings.price_by_load:
        raise RequestError("price_by_load: on Ray more replicas answer to load (most_tails), and prices stay")
    if not settings.port:
        raise RequestError("port = 0: fronts, and those that take their places, listen at one port: give its number")
    if scale.fronts > 1 and settings.metrics_port:
        raise RequestError("metrics_port: several fronts cannot share it; give 0, and the log says where each is")
    given = vars(settings).items()
    paths: dict[str, Any] = {name: value.absolute() for name, value in given if isinstance(value, Path)}
    return replace(settings, **paths)


def _read(cls: type[T], given: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # both are dataclasses
    if unknown := sorted(given.keys() - known):
        raise RequestError(f"there is no argument {unknown[0]!r}; {cls.__name__} has {', '.join(sorted(known))}")
    try:
        return TypeAdapter(cls).validate_python(dict(given))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise RequestError(f"{'.'.join(map(str, found['loc']))}: {found['msg'].lower()}") from None
