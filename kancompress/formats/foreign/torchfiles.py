"""What `torch.save` writes: zip archives, and the stream of pickles of torch before 1.6.

Both come down to a pickle (see `pickles`) and named runs of bytes, which are read only when a
tensor that is wanted lies in them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import kinds
from kancompress.formats.foreign import pickles
from kancompress.formats.foreign.records import Storage, TensorRecord
from kancompress.formats.foreign.work import Work
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.system.inputs import Data, listed

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LOCAL_HEADER = 30
_ENCRYPTED = 0x2041
_ENTRY = 46  # bytes of a directory's entry without its name
_END = 22  # bytes of the record at a zip archive's end
_LARGE_END = 76  # and of the two that may stand before it, for archives of 4 GB and more
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class TorchFile:
    """The object of a torch file, and a way to the bytes of its storages.

    data    : the file
    work    : what is left of the work that the file may ask for
    storage : begin and end of a storage in the file, whose checksum was right; raises
              InvalidFileError where it is not there
    has     : whether there is such a storage
    tensors, storages : all that the pickle speaks of, also beside the state dict
    A zip archive also has the folder of its records (`root`) and all of them (`contents`).
    """

    container: str
    value: object
    data: Data
    work: Work
    storage: Callable[[Storage], tuple[int, int]]
    has: Callable[[Storage], bool]
    tensors: Sequence[TensorRecord]
    storages: Mapping[str, Storage]
    root: str = ""
    contents: Callable[[], Iterator[tuple[str, memoryview]]] = lambda: iter(())


# --- zip archives --------------------------------------------------------------------------


def read_zip(data: Data, where: str, *, strict: bool = False) -> TorchFile:
    """Read the zip archive that torch has written since 1.6. Raises InvalidFileError.

    strict : refuse what torch passes over: several parts, bytes around the archive, and records
             that are not what the directory says
    """
    records = _records(data, where)
    folders = {name.partition("/")[0] for name in records}
    scripted = {f for f in folders if f"{f}/constants.pkl" in records}
    if scripted or any(name.split("/")[1:2] == ["code"] for name in records):
        raise InvalidFileError(
            Flaw.TORCHSCRIPT,
            f"{where} is a TorchScript archive, a program rather than weights. Save its weights"
            " with torch.save(torch.jit.load(FILE).state_dict(), NEW) and pass that.",
        )
    roots = sorted(f for f in folders if f"{f}/data.pkl" in records)
    if records and not roots and all(name.endswith(".npy") for name in records):
        names = listed([shown(name.removesuffix(".npy"))[1:-1] for name in records])
        raise InvalidFileError(
            Flaw.BAD_ZIP,
            f"{where} holds NumPy arrays ({names}), which are data and no network: there is no"
            " data.pkl of torch.save in it. Give a checkpoint here.",
        )
    if len(roots) != 1:
        raise InvalidFileError(
            Flaw.BAD_ZIP,
            f"{where} is a zip archive, but none that torch.save wrote"
            f" ({'no' if not roots else 'more than one'} data.pkl in it).",
        )
    root = roots[0]
    if f"{root}/byteorder" in records:
        order = bytes(_contents(data, records[f"{root}/byteorder"], where)[:20])
        _check_order(order == b"little", where)
    main = _contents(data, records[f"{root}/data.pkl"], where)
    work = Work(len(main), where)
    reader = pickles.Reader(Data(main))
    loaded = pickles.load(reader, f"{where} (data.pkl)", work, views=False)
    checked: dict[str, tuple[int, int]] = {}

    def storage(wanted: Storage) -> tuple[int, int]:
        name = f"{root}/data/{wanted.key}"
        if name not in records:
            raise InvalidFileError(
                Flaw.BAD_ZIP, f"{where} lacks the record data/{shown(wanted.key)[1:-1]}."
            )
        if name not in checked:
            checked[name] = _checked_place(data, records[name], where)
        return checked[name]

    def contents() -> Iterator[tuple[str, memoryview]]:
        for name, record in records.items():
            yield name, _contents(data, record, where)

    if strict:
        _check_archive(data, records, where)
    return TorchFile(
        container="torch-zip",
        value=loaded.value,
        data=data,
        work=work,
        storage=storage,
        has=lambda wanted: f"{root}/data/{wanted.key}" in records,
        tensors=loaded.tensors,
        storages=loaded.storages,
        root=root,
        contents=contents,
    )


def _records(data: Data, where: str) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(io.BufferedReader(_RawView(data))) as archive:
            listed = archive.infolist()
    except zipfile.BadZipFile:
        if kinds.is_torch_zip(data):
            raise InvalidFileError(
                Flaw.TRUNCATED,
                f"{where} begins as torch.save writes and breaks off after {len(data):,} bytes. It"
                " was not copied whole, or torch.save was interrupted; copy or save it again.",
            ) from None
        raise InvalidFileError(
            Flaw.TRUNCATED,
            f"{where} begins as a zip archive but has no end. It was not copied whole.",
        ) from None
    except (ValueError, OverflowError, NotImplementedError, OSError, EOFError, struct.error):
        raise InvalidFileError(
            Flaw.BAD_ZIP, f"{where}: the zip archive's list of records is damaged."
        ) from None
    records = {info.filename: info for info in listed}
    if len(records) != len(listed):
        raise InvalidFileError(Flaw.BAD_ZIP, f"{where} holds two records of the same name.")
    end = 0
    for info in sorted(listed, key=lambda info: info.header_offset):
        if info.header_offset < end:  # checking each would take more than the file's bytes
            raise InvalidFileError(
                Flaw.BAD_ZIP,
                f"{where}: the record {shown(info.filename)} overlaps the one before it.",
            )
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    return records


def _contents(data: Data, info: zipfile.ZipInfo, where: str) -> memoryview:
    """Bytes of one record, whose checksum is right."""
    begin, end = _place(data, info, where)
    contents = data[begin:end]
    _check_crc(zlib.crc32(contents), info, where)
    return contents


def _checked_place(data: Data, info: zipfile.ZipInfo, where: str) -> tuple[int, int]:
    """Begin and end of one record, whose checksum is right."""
    begin, end = _place(data, info, where)
    crc = 0
    for at in range(begin, end, _BLOCK):
        crc = zlib.crc32(data[at : min(at + _BLOCK, end)], crc)
    _check_crc(crc, info, where)
    return begin, end


def _check_crc(found: int, info: zipfile.ZipInfo, where: str) -> None:
    # torch can be told to write no checksums and then writes 0.
    if info.CRC and found != info.CRC:
        raise InvalidFileError(
            Flaw.CHECKSUM_MISMATCH,
            f"{where}: the record {shown(info.filename)} does not match its checksum. Copy the file"
            " again.",
        )


def _place(data: Data, info: zipfile.ZipInfo, where: str) -> tuple[int, int]:
    """Begin and end of one record: torch stores records without compressing them."""
    name = shown(info.filename)
    is_stored = info.compress_type == zipfile.ZIP_STORED
    if not is_stored or info.flag_bits & _ENCRYPTED or info.compress_size != info.file_size:
        raise InvalidFileError(
            Flaw.BAD_ZIP,
            f"{where}: the record {name} is compressed or encrypted, which torch.save never does.",
        )
    start = max(info.header_offset, 0)
    header = bytes(data[start : start + _LOCAL_HEADER])
    begin = start + _LOCAL_HEADER
    begin += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if header[:4] != b"PK\x03\x04" or begin + info.file_size > len(data):
        raise InvalidFileError(Flaw.BAD_ZIP, f"{where}: the record {name} is not where it should.")
    return begin, begin + info.file_size


def _check_archive(data: Data, records: Mapping[str, zipfile.ZipInfo], where: str) -> None:
    """Refuse an archive of several parts, with bytes around it, or whose records say of themselves
    what its directory does not say."""
    end = bytes(data[max(0, len(data) - _END) :]).ljust(_END)
    signature, *parts, size, begin, comment = struct.unpack("<4sHHHHIIH", end)
    count = min(len(records), 0xFFFF)
    between = len(data) - _END - begin - size
    is_large = 0xFFFFFFFF in (size, begin)  # told by two records before this one
    is_whole = is_large or (
        between in (0, _LARGE_END) and _is_walked(bytes(data[begin : begin + size]), len(records))
    )
    first = min((info.header_offset for info in records.values()), default=0)
    in_one = parts == [0, 0, count, count] and all(
        info.volume in (0, 0xFFFF) for info in records.values()
    )
    if signature != b"PK\x05\x06" or comment or not in_one or first or not is_whole:
        raise InvalidFileError(
            Flaw.BAD_ZIP,
            f"{where}: the zip archive has several parts, a damaged directory or bytes around it.",
        )
    ordered = sorted(records.values(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in ordered[1:]), len(data) if is_large else begin]
    for info, end_of in zip(ordered, ends, strict=True):
        if _place(data, info, where)[1] > end_of or not _says_the_same(data, info):
            raise InvalidFileError(
                Flaw.BAD_ZIP,
                f"{where}: the record {shown(info.filename)} says of itself what the archive's"
                " directory does not.",
            )


def _is_walked(directory: bytes, count: int) -> bool:
    """Whether a directory is so many entries, one behind the other, and nothing else."""
    at = 0
    for _ in range(count):
        if directory[at : at + 4] != b"PK\x01\x02" or len(directory) < at + _ENTRY:
            return False
        at += _ENTRY + sum(struct.unpack("<HHH", directory[at + 28 : at + 34]))
    return at == len(directory)


def _says_the_same(data: Data, info: zipfile.ZipInfo) -> bool:
    """Whether a record's own header has what the directory says of it."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    header = bytes(data[info.header_offset : info.header_offset + _LOCAL_HEADER + len(name)])
    if len(header) < _LOCAL_HEADER + len(name):
        return False
    flags, method = struct.unpack("<HH", header[6:10])
    crc, packed, size, length = struct.unpack("<IIIH", header[14:28])
    later = 0 if flags & 8 else info.CRC  # where they stand behind the contents
    large = 0xFFFFFFFF if info.file_size >= zipfile.ZIP64_LIMIT else info.file_size
    sizes = (0 if flags & 8 else info.file_size, info.file_size, large)
    return (
        (flags, method) == (info.flag_bits, info.compress_type)
        and crc in (later, info.CRC)
        and packed in sizes
        and size in sizes
        and length == len(name)
        and header[_LOCAL_HEADER:] == name
    )


class _RawView(io.RawIOBase):
    """An input as a file that can be sought in, without a copy."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: len(self.data)}[whence]
        if base + offset < 0:
            raise OSError("a position before the beginning")
        self.position = base + offset
        return self.position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self.data[self.position : self.position + len(buffer)]
        buffer[: len(chunk)] = chunk
        self.position += len(chunk)
        return len(chunk)


# --- before 1.6 ----------------------------------------------------------------------------


def read_legacy(data: Data, where: str) -> TorchFile:
    """Read the stream of five pickles and the storages after them. Raises InvalidFileError."""
    reader = pickles.Reader(data)
    work = Work(len(data), where)
    if pickles.load(reader, where, work).value != _MAGIC:
        raise InvalidFileError(
            Flaw.UNKNOWN_FORMAT,
            f"{where} is a pickle, but none that torch.save wrote. Load it where it was made and"
            " save its state dict with torch.save.",
        )
    protocol = pickles.load(reader, where, work).value
    if protocol != _PROTOCOL:
        raise InvalidFileError(
            Flaw.BAD_PICKLE, f"{where} is of another protocol of torch.save than {_PROTOCOL}."
        )
    system = pickles.load(reader, where, work).value
    _check_order(not isinstance(system, dict) or system.get("little_endian") is not False, where)
    main = pickles.load(reader, where, work)
    keys = pickles.load(reader, where, work).value
    found = _runs(data, reader.position, keys, main.storages, where)

    def storage(wanted: Storage) -> tuple[int, int]:
        if wanted.key not in found:
            raise InvalidFileError(
                Flaw.BAD_PICKLE, f"{where} does not hold the storage {shown(wanted.key)}."
            )
        return found[wanted.key]

    return TorchFile(
        container="torch-legacy",
        value=main.value,
        data=data,
        work=work,
        storage=storage,
        has=lambda wanted: wanted.key in found,
        tensors=main.tensors,
        storages=main.storages,
    )


def _runs(
    data: Data, position: int, keys: object, storages: dict[str, Storage], where: str
) -> dict[str, tuple[int, int]]:
    """Begin and end of each storage in the file."""
    if not isinstance(keys, list):
        raise InvalidFileError(Flaw.BAD_PICKLE, f"{where}: the list of storages is none.")
    found: dict[str, tuple[int, int]] = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise InvalidFileError(
                Flaw.BAD_PICKLE, f"{where}: a storage is listed that no tensor is in."
            )
        count = int.from_bytes(data[position : position + 8], "little")
        size = count * storages[key].dtype.itemsize
        if position + 8 + size > len(data):
            raise InvalidFileError(
                Flaw.TRUNCATED,
                f"{where} ends inside its storages. It was not copied whole.",
            )
        found[key] = position + 8, position + 8 + size
        position += 8 + size
    return found


def _check_order(little: bool, where: str) -> None:
    if not little:
        raise InvalidFileError(
            Flaw.UNSUPPORTED_TENSOR,
            f"{where} was written by a machine of the other byte order. Load and save it again"
            " with torch on this kind of machine.",
        )
