"""The server on Ray, for load that outgrows a machine, and profiles made many at once.

    serve run qpart_fx.serving.ray:application catalog=/shared/catalog tails=8
    qpart serve /shared/catalog --ray --tails 8

``pip install "qpart-fx[ray]"`` brings all it needs. The parts of the server, :mod:`qpart_fx.serving`, become three
deployments of Ray Serve, each with replicas of its own number:

==========  ========================================================================================================
``Front``   listens, as ``qpart serve`` does, for the same devices and the same clients of the Open Inference Protocol
``Tails``   runs tails: what most of the load is
``Planner`` makes plans, heads and tails of profiles
==========  ========================================================================================================

Fronts listen themselves. Ray Serve's own proxy for gRPC passes on neither the metadata before a stream nor deadlines,
and knows no TLS; both protocols need the first two.

Replicas share the catalog as a folder that all machines see. Its files are looked at by their hash when they are read,
may be replaced while the server runs, and are each in a machine's memory once, as the file system keeps them; in Ray's
object store they would have to be put again for every change, and be copied to each process all the same, since nothing
of ours is unpickled.

Replicas may be lost, and more may come, while calls run. A tail is a function of its plan and its message, so a call
whose replica is lost runs on another one; and whoever runs it is told the plan with it. A front that is lost leaves its
port to the others of its machine; where it was the only one, calls wait until another one has started.
"""

from __future__ import annotations

from .application import Scale, application
from .profiling import Job, Outcome, profile_many

__all__ = ["Job", "Outcome", "Scale", "application", "profile_many"]
