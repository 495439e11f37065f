"""What of a traced 2D network does not lead to its output."""

from __future__ import annotations

from torch import fx

from image2point.lifting.graph import Trace, overwrites


def drop_dead(traced: Trace) -> None:
    """Remove what does not lead to the output; what writes into a value that does lead there stays."""
    alive = set[fx.Node]()

    def take(node: fx.Node) -> None:
        waiting = [node]
        while waiting:
            for each in {waiting.pop()} - alive:
                alive.add(each)
                waiting += each.all_input_nodes

    take(traced.graph.find_nodes(op="output")[0])
    found = True
    while found:
        writers = [
            node
            for node in traced.graph.nodes
            if node not in alive and node.op != "placeholder" and overwrites(traced, node)
            if node.args and node.args[0] in alive
        ]
        for node in writers:
            take(node)
        found = bool(writers)
    for node in reversed(list(traced.graph.nodes)):
        if node not in alive and node.op != "placeholder":
            traced.graph.erase_node(node)
