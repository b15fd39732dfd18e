"""External data that reaches outside, lies about its size, or hides."""

from __future__ import annotations

import os

from hostile_onnx_base import case, data_file, external, model, write
from onnx import TensorProto, helper

# --- external data --------------------------------------------------------------------------------------


@case("external-parent", "RUB-IR-042")
def external_parent(folder):
    return write(folder, external("../canary.txt"))


@case("external-nested-parent", "RUB-IR-042")
def external_nested_parent(folder):
    (folder / "sub").mkdir()
    return write(folder, external("sub/../../canary.txt"))


@case("external-absolute", "RUB-IR-042")
def external_absolute(folder):
    return write(folder, external(str(folder.parent / "canary.txt")))


@case("external-symlink", "RUB-IR-042")
def external_symlink(folder):
    (folder / "w.bin").symlink_to(folder.parent / "canary.txt")
    return write(folder, external("w.bin"))


@case("external-symlinked-folder", "RUB-IR-042")
def external_symlinked_folder(folder):
    (folder / "sub").symlink_to(folder.parent)
    return write(folder, external("sub/canary.txt"))


@case("external-hard-link", "RUB-IR-042")
def external_hard_link(folder):
    os.link(folder.parent / "canary.txt", folder / "w.bin")
    return write(folder, external("w.bin"))


@case("external-fifo", "RUB-IR-042")
def external_fifo(folder):
    os.mkfifo(folder / "w.bin")
    return write(folder, external("w.bin"))


@case("external-backslash", "RUB-IR-042")
def external_backslash(folder):
    return write(folder, external("..\\canary.txt"))


@case("external-nul", "RUB-IR-042")
def external_nul(folder):
    return write(folder, external("w.bin\0.txt"))


@case("external-empty-location", "RUB-IR-042")
def external_empty_location(folder):
    return write(folder, external(""))


@case("external-missing", "RUB-IR-042")
def external_missing(folder):
    return write(folder, external("absent.bin"))


@case("external-huge-length", "RUB-IR-042")
def external_huge_length(folder):
    data_file(folder)
    return write(folder, external("w.bin", length="9999999999999"))


@case("external-huge-dims", "RUB-IR-042")
def external_huge_dims(folder):
    data_file(folder)
    return write(folder, external("w.bin", length=str(4 << 30), dims=(1 << 30,)))


@case("external-negative-offset", "RUB-IR-042")
def external_negative_offset(folder):
    data_file(folder)
    return write(folder, external("w.bin", offset="-4"))


@case("external-offset-beyond", "RUB-IR-042")
def external_offset_beyond(folder):
    data_file(folder)
    return write(folder, external("w.bin", offset="8"))


@case("external-offset-words", "RUB-IR-042")
def external_offset_words(folder):
    data_file(folder)
    return write(folder, external("w.bin", offset="0x0"))


@case("external-unknown-key", "RUB-IR-042")
def external_unknown_key(folder):
    data_file(folder)
    return write(folder, external("w.bin", __class__="os"))


@case("external-repeated-key", "RUB-IR-042")
def external_repeated_key(folder):
    data_file(folder)
    proto = external("w.bin")
    proto.graph.initializer[0].external_data.add(key="location", value="../canary.txt")
    return write(folder, proto)


@case("external-in-constant", "RUB-IR-042")
def external_in_constant(folder):
    tensor = external("../canary.txt").graph.initializer[0]
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return write(folder, model(nodes))


@case("external-in-nested-graph", "RUB-IR-042")
def external_in_nested_graph(folder):
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    branch.initializer.append(external(str(folder.parent / "canary.txt")).graph.initializer[0])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    flag = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    return write(folder, model([node], inputs=[helper.make_tensor_value_info("x", 1, [4]), flag]))
