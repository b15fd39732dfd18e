"""Every sound read is read exactly, in a fixed order, from every form."""

from __future__ import annotations

import numpy as np
import pytest
from read_files import (
    CHANNEL,
    VBZ,
    read_id,
    signal,
    some_reads,
    write_multi,
    write_npz,
    write_pod5,
    write_single,
)

from rubicc.errors import UsageError
from rubicc.genomics.reads import Problem, find_files, iter_reads, make_read, sniff

# Samples per read, from the data folder's README.
REAL_FAST5 = {
    "00031f3e-415c-4ab5-9c16-fb6fe45ff519": 29588,
    "002ad0e4-c6bb-4eff-a30f-5fec01475ab8": 72589,
    "002b0891-03bf-4622-ae66-ae6984890ed4": 33530,
    "0059d270-3238-4413-b38b-f588e28326df": 95129,
    "b7096acd-b528-474e-a863-51295d18d3de": 26348,
    "db6b45aa-5d21-45cf-a435-05fb8f12e839": 34188,
    "de1508c4-755b-489e-9ffb-51af35c9a7e6": 19039,
    "0000173c-bf67-44e7-9a9c-1ad0bc728e74": 123627,
    "002fde30-9e23-4125-9eae-d112c18a81a7": 37440,
    "006d1319-2877-4b34-85df-34de7250a47b": 337876,
    "008468c3-e477-46c4-a6e2-7d021a4ebf0b": 206976,
    "009dc9bd-c5f4-487b-ba4c-b9ce7e3a711e": 15643,
}
REAL_MAPPED = {
    "34880f88-4492-452e-84ac-d1cd4bcedac7": 40812,
    "34bebf28-d997-446e-8dda-ce707a266c2d": 33053,
    "69bfff9f-18eb-4aa0-a781-e55dc99674bf": 55228,
    "799a44f9-6c85-4b3c-8722-dc7e38ade6f1": 102870,
    "cb8a6688-0ddb-42ff-ad7e-de004d738790": 149381,
    "db6b45aa-5d21-45cf-a435-05fb8f12e839": 34188,
    "de1508c4-755b-489e-9ffb-51af35c9a7e6": 19039,
}
REAL_POD5 = {
    "0007f755-bc82-432c-82be-76220b107ec5": (105814, 4000),
    "00253bea-7ca0-4c91-9ebd-038b179f01a7": (98741, 4000),
    "003659fb-859f-44a0-b26a-99af3fcfa987": (130807, 4000),
    "005b4004-5885-4021-85b8-ae68781a3f29": (92060, 4000),
    "743c3b2b-3144-49bd-b3ca-aa9707e683de": (358977, 5000),
    "c7eb739e-85ec-44c0-b2a4-a19c7e2debe3": (325740, 5000),
    "926cecd3-8d83-4cf5-ad41-f8a0ee43105c": (381299, 5000),
    "89f5eb62-7b2c-4a77-b330-3b3cdd42b3fd": (359306, 5000),
}

STORAGES = [{}, {"compression": "gzip", "shuffle": True}, {"chunks": (700,), **VBZ}]


@pytest.mark.real_data
def test_all_real_fast5(shared_data) -> None:
    got = {read.read_id: read for read in iter_reads([shared_data / "r9_reads"])}
    assert {name: len(read.signal) for name, read in got.items()} == REAL_FAST5
    read = got["db6b45aa-5d21-45cf-a435-05fb8f12e839"]
    assert (read.channel, read.mux, read.sampling_rate, read.offset) == (69, 3, 4000.0, 12.0)
    mapped = np.load(shared_data / "mapped" / f"{read.read_id}.npz")
    assert np.array_equal(read.signal, mapped["dac"])
    assert read.scale == pytest.approx(float(mapped["range"] / mapped["digitisation"]))


@pytest.mark.real_data
def test_all_real_pod5(shared_data) -> None:
    got = {r.read_id: (len(r.signal), int(r.sampling_rate)) for r in iter_reads([shared_data / "pod5"])}
    assert got == REAL_POD5


@pytest.mark.real_data
def test_all_real_mapped_reads(shared_data) -> None:
    assert {r.read_id: len(r.signal) for r in iter_reads([shared_data / "mapped"])} == REAL_MAPPED


@pytest.mark.real_data
def test_real_npz_of_another_kind_is_refused_by_name(shared_data) -> None:
    problems: list[Problem] = []
    assert list(iter_reads([shared_data / "r10_mapped"], on_problem=problems.append)) == []
    assert [problem.code for problem in problems] == ["RUB-GEN-103"] and "dac" in problems[0].reason


@pytest.mark.parametrize("storage", STORAGES, ids=["plain", "gzip", "vbz"])
@pytest.mark.parametrize("isolate", [True, False])
def test_fast5_round_trip(tmp_path, storage, isolate) -> None:
    reads = some_reads([5000, 1, 701])
    write_multi(tmp_path / "multi.fast5", reads, **storage)
    write_single(tmp_path / "single.fast5", read_id(9), signal(9, 333), **storage)
    got = list(iter_reads([tmp_path], isolate=isolate))
    assert [read.read_id for read in got] == [*reads, read_id(9)]
    for read in got:
        assert read.signal.dtype == np.int16
        assert np.array_equal(read.signal, {**reads, read_id(9): signal(9, 333)}[read.read_id])
        assert read.scale == CHANNEL["range"] / CHANNEL["digitisation"]
    assert (got[0].run_id, got[0].mux, got[0].start_sample, got[0].read_number) == ("run-1", 2, 8000, 7)


@pytest.mark.parametrize("isolate", [True, False])
def test_pod5_round_trip(tmp_path, isolate) -> None:
    reads = some_reads([50_000, 1, 701])
    write_pod5(tmp_path / "x.pod5", reads)
    got = list(iter_reads([tmp_path], isolate=isolate))
    assert [read.read_id for read in got] == list(reads)
    assert all(np.array_equal(read.signal, reads[read.read_id]) for read in got)
    assert (got[0].offset, got[0].channel, got[0].mux, got[0].run_id) == (-230.0, 5, 3, "run-2")
    assert got[0].scale == pytest.approx(0.3655) and got[0].sampling_rate == 4000.0


def test_npz_forms(tmp_path) -> None:
    reads = some_reads([400, 300])
    write_npz(tmp_path / "many.npz", reads, offset=np.array([1.0, 2.0]))
    one = some_reads([200], first=7)
    write_npz(tmp_path / "named_by_file.npz", one, read_id=None, dac_lengths=None)
    got = list(iter_reads([tmp_path]))
    assert [read.read_id for read in got] == [*reads, "named_by_file"]
    assert [read.offset for read in got] == [1.0, 2.0, CHANNEL["offset"]]
    for read, samples in zip(got, [*reads.values(), *one.values()], strict=True):
        assert np.array_equal(read.signal, samples)


def test_simulated_reads_are_read(tmp_path) -> None:
    from rubicc.genomics.simulate import simulate_reads, write_reads

    made = simulate_reads(3, seed=1)
    write_reads(tmp_path / "sim.npz", made)
    got = list(iter_reads([tmp_path]))
    assert [read.read_id for read in got] == [read.read_id for read in made]
    for read, truth in zip(got, made, strict=True):
        assert np.allclose(read.picoampere(), truth.picoampere(), atol=1e-3)


def test_order_is_sorted_and_content_decides(tmp_path) -> None:
    (tmp_path / "b").mkdir()
    write_single(tmp_path / "b" / "z.fast5", read_id(1), signal(1, 50))
    write_single(tmp_path / "c_no_suffix", read_id(2), signal(2, 50))
    write_pod5(tmp_path / "a_wrong.fast5", some_reads([60], first=3))
    (tmp_path / "notes.txt").write_text("not reads")
    write_single(tmp_path / ".hidden.fast5", read_id(4), signal(4, 50))
    files = find_files([tmp_path, tmp_path / "c_no_suffix"])
    assert [path.name for path in files] == ["a_wrong.fast5", "c_no_suffix", "z.fast5"]
    assert sniff(files[0]) == "pod5"
    assert [read.read_id for read in iter_reads([tmp_path])] == [read_id(3), read_id(2), read_id(1)]
    assert [path.name for path in find_files([tmp_path], recursive=False)] == ["a_wrong.fast5", "c_no_suffix"]


@pytest.mark.parametrize("isolate", [True, False])
def test_only_the_wanted_reads(tmp_path, isolate) -> None:
    write_multi(tmp_path / "a.fast5", some_reads([100] * 4))
    write_pod5(tmp_path / "b.pod5", some_reads([100] * 2, first=4))
    write_npz(tmp_path / "c.npz", some_reads([100] * 2, first=6))
    chosen = {read_id(i) for i in (1, 5, 6, 99)}
    got = [read.read_id for read in iter_reads([tmp_path], read_ids=chosen, isolate=isolate)]
    assert got == [read_id(1), read_id(5), read_id(6)]


def test_nothing_to_read_is_a_usage_error(tmp_path) -> None:
    for paths in ([tmp_path / "absent"], [tmp_path]):
        with pytest.raises(UsageError) as caught:
            list(iter_reads(paths))
        assert caught.value.code == "RUB-GEN-100"


def test_picoampere() -> None:
    read = make_read("r", np.array([0, 100], np.int16), offset=10.0, scale=0.5, sampling_rate=4000.0)
    assert read.picoampere().tolist() == [5.0, 55.0]


def test_abandoned_iteration_leaves_no_child(tmp_path) -> None:
    import psutil

    write_multi(tmp_path / "a.fast5", some_reads([1000] * 3))
    reads = iter_reads([tmp_path])
    next(reads)
    children = [child for child in psutil.Process().children() if "read_worker" in " ".join(child.cmdline())]
    assert len(children) == 1
    reads.close()
    assert not children[0].is_running()
