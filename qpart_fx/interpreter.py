"""Running a graph node by node just as its generated code would."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Interpreter, Node


class PlainInterpreter(Interpreter):
    """An interpreter that keeps every value, and hands lists and dictionaries to the operations as their own copies.

    A graph holds its constants frozen; its generated code makes plain ones, which some functions write to.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.extra_traceback = False

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(thawed(value) for value in args), {name: thawed(value) for name, value in kwargs.items()}


def thawed(value: Any) -> Any:
    """``value`` with plain lists and dictionaries in place of a graph's frozen ones."""
    if type(value).__name__ == "immutable_list":
        return [thawed(item) for item in value]
    if type(value).__name__ == "immutable_dict":
        return {key: thawed(item) for key, item in value.items()}
    return tuple(thawed(item) for item in value) if type(value) is tuple else value
