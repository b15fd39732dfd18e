"""Read files nobody should trust, each with the code it must be refused with and nothing more."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Hostile:
    """``write`` makes the file; reading it gives ``code`` and no read."""

    name: str
    suffix: str
    code: str
    write: Write


CASES: list[Hostile] = []


def case(suffix: str, code: str) -> Callable[[Write], Write]:
    def add(write: Write) -> Write:
        CASES.append(Hostile(write.__name__, suffix, code, write))
        return write

    return add


def _open(path: Path, mode: str = "r+"):
    import vbz_h5py_plugin  # noqa: F401, I001
    import h5py

    return h5py.File(path, mode)


def _one(path: Path, **storage) -> str:
    """A sound multi-read file with one read; the path of its group."""
    write_multi(path, some_reads([4000]), **storage)
    return f"read_{read_id(0)}"


def _replace_signal(path: Path, **dataset) -> None:
    group = _one(path)
    with _open(path) as file:
        del file[group]["Raw"]["Signal"]
        file[group]["Raw"].create_dataset("Signal", **dataset)


# ---- fast5: damage


@case(".fast5", "RUB-GEN-102")
def truncated_hdf5(path):
    _one(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@case(".fast5", "RUB-GEN-101")
def text_named_fast5(path):
    path.write_text("@not HDF5\nACGT\n+\n!!!!\n")


@case(".fast5", "RUB-GEN-101")
def empty_file(path):
    path.write_bytes(b"")


@case(".fast5", "RUB-GEN-102")
def superblock_only(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(88))


@case(".fast5", "RUB-GEN-118")
def hdf5_without_reads(path):
    with _open(path, "w") as file:
        file.create_group("weights")


@case(".fast5", "RUB-GEN-102")
def damaged_vbz_chunk(path):
    group = _one(path, chunks=(4000,), **VBZ)
    with _open(path) as file:
        offset = file[group]["Raw"]["Signal"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 8 : offset + 200] = bytes(192)
    path.write_bytes(data)


# ---- fast5: what is missing or wrong


@case(".fast5", "RUB-GEN-103")
def no_range_attribute(path):
    write_multi(path, some_reads([4000]), channel={k: v for k, v in CHANNEL.items() if k != "range"})


@case(".fast5", "RUB-GEN-103")
def no_channel_group(path):
    group = _one(path)
    with _open(path) as file:
        del file[group]["channel_id"]


@case(".fast5", "RUB-GEN-103")
def no_read_id_in_single(path):
    write_single(path, "x", signal(0, 4000))
    with _open(path) as file:
        del file["Raw/Reads/Read_12"].attrs["read_id"]


@case(".fast5", "RUB-GEN-104")
def zero_digitisation(path):
    write_multi(path, some_reads([4000]), channel={**CHANNEL, "digitisation": 0.0})


@case(".fast5", "RUB-GEN-104")
def sampling_rate_nan(path):
    write_multi(path, some_reads([4000]), channel={**CHANNEL, "sampling_rate": float("nan")})


@case(".fast5", "RUB-GEN-104")
def text_for_a_number(path):
    write_multi(path, some_reads([4000]), channel={**CHANNEL, "offset": b"twelve"})


@case(".fast5", "RUB-GEN-104")
def array_attribute(path):
    write_multi(path, some_reads([4000]), channel={**CHANNEL, "range": np.ones(5000)})


@case(".fast5", "RUB-GEN-105")
def float_signal(path):
    write_multi(path, {read_id(0): np.ones(4000, np.float32)})


@case(".fast5", "RUB-GEN-105")
def two_dimensional_signal(path):
    write_multi(path, {read_id(0): np.ones((40, 100), np.int16)})


@case(".fast5", "RUB-GEN-105")
def signal_is_a_group(path):
    group = _one(path)
    with _open(path) as file:
        del file[group]["Raw"]["Signal"]
        file[group]["Raw"].create_group("Signal")


@case(".fast5", "RUB-GEN-106")
def zero_length_signal(path):
    write_multi(path, {read_id(0): np.zeros(0, np.int16)})


@case(".fast5", "RUB-GEN-110")
def read_id_forges_a_record(path):
    write_single(path, "a\n>forged\nACGT", signal(0, 4000))


# ---- fast5: bombs


@case(".fast5", "RUB-GEN-107")
def declares_a_trillion_samples(path):
    _replace_signal(path, shape=(10**12,), dtype="<i2", chunks=(1 << 20,), compression="gzip")


@case(".fast5", "RUB-GEN-107")
def a_million_chunks(path):
    _replace_signal(path, shape=(4_000_000,), dtype="<i2", chunks=(4,), compression="gzip")


@case(".fast5", "RUB-GEN-107")
def one_chunk_of_gigabytes(path):
    _replace_signal(path, shape=(4000,), maxshape=(None,), dtype="<i2", chunks=(10**9,), compression="gzip")


@case(".fast5", "RUB-GEN-111")
def declared_but_not_stored(path):
    _replace_signal(path, shape=(1_000_000,), dtype="<i2", chunks=(4096,), compression="gzip")


@case(".fast5", "RUB-GEN-111")
def contiguous_but_not_stored(path):
    _replace_signal(path, shape=(1_000_000,), dtype="<i2")


@case(".fast5", "RUB-GEN-111")
def inflating_chunk(path):
    """One chunk of 8,000 bytes whose stored form is 100 kB and inflates to 100 MB."""
    group = _one(path, chunks=(4000,), compression="gzip")
    with _open(path) as file:
        bomb = zlib.compress(bytes(100 << 20), 9)
        file[group]["Raw"]["Signal"].id.write_direct_chunk((0,), bomb)


# ---- fast5: reaching for other files


def _elsewhere(path: Path) -> Path:
    """A sound file beside ``path`` under a name that is not looked at."""
    other = path.with_name("." + path.stem + ".other")
    _one(other)
    return other


@case(".fast5", "RUB-GEN-108")
def external_link_to_read(path):
    import h5py

    other = _elsewhere(path)
    with _open(path, "w") as file:
        file["read_" + read_id(0)] = h5py.ExternalLink(other.name, "/read_" + read_id(0))


@case(".fast5", "RUB-GEN-108")
def external_link_to_signal(path):
    import h5py

    group = _one(path)
    with _open(path) as file:
        del file[group]["Raw"]["Signal"]
        file[group]["Raw"]["Signal"] = h5py.ExternalLink(_elsewhere(path).name, f"/{group}/Raw/Signal")


@case(".fast5", "RUB-GEN-108")
def soft_link_to_signal(path):
    import h5py

    group = _one(path)
    with _open(path) as file:
        file["hidden"] = signal(0, 4000)
        del file[group]["Raw"]["Signal"]
        file[group]["Raw"]["Signal"] = h5py.SoftLink("/hidden")


@case(".fast5", "RUB-GEN-108")
def virtual_dataset(path):
    import h5py

    group = _one(path)
    layout = h5py.VirtualLayout((4000,), "<i2")
    layout[:] = h5py.VirtualSource(_elsewhere(path).name, f"/{group}/Raw/Signal", (4000,))
    with _open(path) as file:
        del file[group]["Raw"]["Signal"]
        file[group]["Raw"].create_virtual_dataset("Signal", layout)


@case(".fast5", "RUB-GEN-108")
def external_storage(path):
    secret = path.with_name("." + path.stem + ".secret")
    secret.write_bytes(b"password" * 1000)
    _replace_signal(path, shape=(4000,), dtype="<i2", external=[(secret.name, 0, 8000)])


@case(".fast5", "RUB-GEN-109")
def unknown_filter(path):
    _one(path, chunks=(4000,), compression="lzf")


# ---- pod5


@case(".pod5", "RUB-GEN-102")
def truncated_pod5(path):
    write_pod5(path, some_reads([4000]))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@case(".pod5", "RUB-GEN-102")
def pod5_signature_only(path):
    path.write_bytes(b"\x8bPOD\r\n\x1a\n" + bytes(64))


@case(".pod5", "RUB-GEN-102")
def pod5_footer_of_noise(path):
    write_pod5(path, some_reads([4000]))
    data = bytearray(path.read_bytes())
    data[-300:-40] = np.random.default_rng(0).bytes(260)
    path.write_bytes(data)


@case(".pod5", "RUB-GEN-106")
def pod5_zero_length_signal(path):
    write_pod5(path, {read_id(0): np.zeros(0, np.int16)})


@case(".pod5", "RUB-GEN-101")
def zip_named_pod5(path):
    path.write_bytes(b"PK\x05\x06" + bytes(18))


# ---- npz


@case(".npz", "RUB-GEN-116")
def pickled_array(path):
    write_npz(path, some_reads([400]), offset=np.array([_Payload(path)], dtype=object))


@case(".npz", "RUB-GEN-103")
def npz_without_signal(path):
    np.savez(path, signal=np.zeros(400, np.float32))


@case(".npz", "RUB-GEN-105")
def npz_float_signal(path):
    write_npz(path, {read_id(0): np.ones(400, np.float32)})


@case(".npz", "RUB-GEN-105")
def npz_lengths_do_not_add_up(path):
    write_npz(path, some_reads([400]), dac_lengths=np.array([401]))


@case(".npz", "RUB-GEN-104")
def npz_ids_do_not_fit(path):
    write_npz(path, some_reads([400]), read_id=np.array(["a", "b"]))


@case(".npz", "RUB-GEN-104")
def npz_zero_digitisation(path):
    write_npz(path, some_reads([400]), digitisation=np.array(0.0))


@case(".npz", "RUB-GEN-102")
def npz_cut_short(path):
    write_npz(path, some_reads([4000]))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@case(".npz", "RUB-GEN-107")
def npz_header_declares_a_trillion(path):
    _npz_with_dac(path, _npy_header("(1000000000000,)"))


@case(".npz", "RUB-GEN-102")
def npz_header_declares_more_than_stored(path):
    _npz_with_dac(path, _npy_header("(50000000,)") + bytes(1000))


@case(".npz", "RUB-GEN-102")
def npz_header_is_no_literal(path):
    _npz_with_dac(path, _npy_header("__import__('os').system('true')"))


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _npz_with_dac(path: Path, dac: bytes) -> None:
    write_npz(path, {read_id(0): signal(0, 400)}, dac=None, dac_lengths=None, read_id=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("dac.npy", dac)


class _Payload:
    """Unpickling it writes a file beside the npz, which the test looks for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path) + ".EXECUTED",)


# ---- not files


@case(".fast5", "RUB-GEN-101")
def named_pipe(path):
    os.mkfifo(path)
