"""The server: it answers each device's query with a plan and a head made for it, and finishes its inferences.

    qpart serve CATALOG

``pip install "qpart-fx[serve,torch,onnx]"`` brings all it needs. :mod:`.server` puts the parts together:

========================  ==========================================================================================
:mod:`.catalog`           the folder of profiles, looked at again and again
:mod:`.planner`           plans, heads and tails as bytes, in a process of its own
:mod:`.plans`             each query answered once; heads and tails kept within a limit of memory
:mod:`.records`           what a plan is known by on every server
:mod:`.runner`            who runs tails: this process, or others that it asks
:mod:`.tails`             messages in, values of the model's output out
:mod:`.batching`          a bounded queue, from which calls that can run together are taken together
:mod:`.access`            tokens, which models they open, and how many calls a second
:mod:`.service`           ``qpart.v1.QPart``
:mod:`.oip`               ``inference.GRPCInferenceService``, the Open Inference Protocol
:mod:`.ray`               the same parts as replicas of Ray Serve
========================  ==========================================================================================

What is said on the wire: :mod:`qpart_fx.serving_protocol`.
"""
