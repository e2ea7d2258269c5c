"""LightGBM's trees as ONNX, written by hand: every split goes the way LightGBM sends it.

The trees are a `TreeEnsembleRegressor` on float64, so a float32 number is compared with the very
threshold that LightGBM found. ONNX has no splits on sets of categories: one is a chain of equality
tests whose true branches all lead to the same child, which ONNX Runtime merges again.

Sources: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html (version 3) and
`NumericalDecision` and `CategoricalDecision` in LightGBM's `include/LightGBM/tree.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from flywheel.training import TrainingError

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8


def trees_to_onnx(dump: Mapping[str, Any], numbers: int, categories: int) -> bytes:
    """A binary LightGBM model as an ONNX file of the contract in `TrainedModel`.

    Args:
        dump: What `Booster.dump_model` gave; its features are the numbers, then the categories.
        numbers: How many numeric columns there are.
        categories: How many categorical columns there are.

    Raises:
        TrainingError: The model has something that this export does not know.
    """
    from onnx import TensorProto, checker, helper

    sigmoid = dump["objective"].split()
    if sigmoid != ["binary", "sigmoid:1"]:
        raise TrainingError(f"only objective 'binary sigmoid:1' is exported, not {sigmoid}")
    nodes = _Nodes()
    for tree in dump["tree_info"]:
        nodes.add_tree(tree["tree_structure"])
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["cases"],
        ["score"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **nodes.attributes(),
    )
    steps = [
        helper.make_node("Cast", ["numeric"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["categorical"], ["codes"], to=TensorProto.DOUBLE),
        helper.make_node("Concat", ["wide", "codes"], ["cases"], axis=1),
        ensemble,
        helper.make_node("Sigmoid", ["score"], ["probability"]),
    ]
    graph = helper.make_graph(
        steps,
        "gradient_boosting",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", numbers]),
            helper.make_tensor_value_info("categorical", TensorProto.INT64, ["batch", categories]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


@dataclass
class _Nodes:
    """The nodes of all trees, as the parallel lists that the operator wants."""

    tree: int = -1
    mode: list[str] = field(default_factory=list)
    tree_id: list[int] = field(default_factory=list)
    node_id: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    if_true: list[int] = field(default_factory=list)
    if_false: list[int] = field(default_factory=list)
    missing_is_true: list[int] = field(default_factory=list)
    leaf_tree: list[int] = field(default_factory=list)
    leaf_node: list[int] = field(default_factory=list)
    leaf_value: list[float] = field(default_factory=list)
    _next: int = 0

    def add_tree(self, root: Mapping[str, Any]) -> None:
        """Add a tree of the dump."""
        self.tree += 1
        self._next = 0
        # Depth first, parents before children, as LightGBM's trees can be deep: no recursion.
        waiting: list[tuple[Mapping[str, Any], list[tuple[list[int], int]]]] = [(root, [])]
        while waiting:
            node, parents = waiting.pop()
            for branch, at in parents:
                branch[at] = self._next
            if "leaf_value" in node:
                self.leaf_tree.append(self.tree)
                self.leaf_node.append(self._next)
                self.leaf_value.append(float(node["leaf_value"]))
                self._add("LEAF", 0, 0.0, missing_is_true=False)
                continue
            left, right = self._split(node)
            waiting += [(node["right_child"], right), (node["left_child"], left)]

    def _split(
        self, node: Mapping[str, Any]
    ) -> tuple[list[tuple[list[int], int]], list[tuple[list[int], int]]]:
        """Add a split; the places where the ids of its left and its right child belong."""
        feature = node["split_feature"]
        if node["decision_type"] == "==":
            # A missing category, or one that the set lacks, goes right.
            members = [float(code) for code in str(node["threshold"]).split("||")]
            chain = [
                self._add("BRANCH_EQ", feature, code, missing_is_true=False) for code in members
            ]
            for at, following in pairwise(chain):
                self.if_false[at] = self.node_id[following]
            return [(self.if_true, at) for at in chain], [(self.if_false, chain[-1])]
        threshold = float(node["threshold"])
        missing = node["missing_type"]
        if node["decision_type"] != "<=" or missing not in ("None", "NaN"):
            raise TrainingError(
                f"a split {node['decision_type']!r} with missing type {missing!r} is not exported; "
                "train without zero_as_missing"
            )
        # Where training saw no missing value, LightGBM takes one for zero.
        goes_left = node["default_left"] if missing == "NaN" else threshold >= 0
        at = self._add("BRANCH_LEQ", feature, threshold, missing_is_true=goes_left)
        return [(self.if_true, at)], [(self.if_false, at)]

    def _add(self, mode: str, feature: int, value: float, *, missing_is_true: bool) -> int:
        """Add a node; its place in the lists."""
        self.mode.append(mode)
        self.tree_id.append(self.tree)
        self.node_id.append(self._next)
        self.feature.append(feature)
        self.value.append(value)
        self.if_true.append(0)
        self.if_false.append(0)
        self.missing_is_true.append(int(missing_is_true))
        self._next += 1
        return len(self.mode) - 1

    def attributes(self) -> dict[str, Any]:
        """Attributes of the operator."""
        from onnx import TensorProto, helper

        def doubles(name: str, values: list[float]) -> Any:
            return helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], values)

        return {
            "nodes_modes": self.mode,
            "nodes_treeids": self.tree_id,
            "nodes_nodeids": self.node_id,
            "nodes_featureids": self.feature,
            "nodes_values_as_tensor": doubles("nodes_values", self.value),
            "nodes_truenodeids": self.if_true,
            "nodes_falsenodeids": self.if_false,
            "nodes_missing_value_tracks_true": self.missing_is_true,
            "target_treeids": self.leaf_tree,
            "target_nodeids": self.leaf_node,
            "target_ids": [0] * len(self.leaf_node),
            "target_weights_as_tensor": doubles("target_weights", self.leaf_value),
        }
