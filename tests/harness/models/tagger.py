"""A small WD tagger that can be asked without any training."""

from __future__ import annotations

from pathlib import Path


def make_tagger(folder: Path) -> Path:
    """An ONNX file whose tags answer to the mean of blue, green and red, and to whiteness."""
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir()
    names = ["rating", "1girl", "blue_sky", "^_^", "hatsune_miku"]
    rows = zip(names, [9, 0, 0, 0, 4], strict=True)
    lines = ["tag_id,name,category,count", *(f"{n},{a},{b},9" for n, (a, b) in enumerate(rows))]
    (folder / "selected_tags.csv").write_text("\n".join(lines))
    weight = [0, 0, 1 / 255, 1 / 255, 0, 0, 0, 1 / 255, 0, 0, 0, 0, 0, 0, 1 / 255]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["m", "w"], ["y"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 16, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 5], weight)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder
