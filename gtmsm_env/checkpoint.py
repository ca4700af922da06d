"""Checkpoints that hold no code: a pair of files, `NAME.safetensors` with the tensors and `NAME.json` with everything else.

The JSON carries the format's name and version, the kind of thing saved, and the SHA-256 of the tensors that belong to it.
Renaming the JSON is the moment a save takes effect, so one interrupted at any point leaves the previous pair or the new one.

A pair that has "rows" in its JSON grows: its tensors have room for more rows than those, which `append_rows` fills without writing what
is there again. Its SHA-256 is that of the tensors' header, which holds a number drawn for this file.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

FORMAT, VERSION = "gtmsm-env", 1
KINDS = ("model", "memory", "training")
RESERVED = ("format", "version", "sha256")  # written by `save_checkpoint`, and not part of the config


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read: what must hold, what was found, and what to do."""


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes `tensors` and `config` as one pair, replacing the previous one whole.

    Args:
        path: the pair's common name, `NAME` or either of its files; missing folders are made.
        tensors: by name, of any shape, type and device; copied to the CPU.
        config: plain JSON (text as keys, tuples come back as lists), with `"kind"` one of "model", "memory", "training".

    Raises:
        CheckpointError: the kind is unknown, the config takes a reserved key or is no JSON, or the files cannot be written.
    """
    tensor_path, json_path = _pair(path)
    _check(config, json_path)
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )
    text = _json(config, hashlib.sha256(data).hexdigest(), json_path)
    try:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        _finish_interrupted_save(tensor_path, json_path)
        _write(_new(tensor_path), data)
        _write(_new(json_path), text)
        _new(json_path).replace(json_path)
        _new(tensor_path).replace(tensor_path)
    except OSError as error:
        raise _unwritable(json_path, error) from error


def save_rows(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], rows: int, config: Mapping[str, Any]) -> None:
    """As `save_checkpoint`, a pair that grows: `tensors` on the CPU, contiguous, of which the first `rows` rows count. No copy is made.

    Raises: CheckpointError as `save_checkpoint` does.
    """
    tensor_path, json_path = _pair(path)
    config = {**config, "rows": rows}
    _check(config, json_path)
    try:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        _finish_interrupted_save(tensor_path, json_path)
        safetensors.torch.save_file(dict(tensors), _new(tensor_path), metadata={"number": uuid.uuid4().hex})
        with _new(tensor_path).open("rb+") as file:
            os.fsync(file.fileno())
        _write(_new(json_path), _json(config, _sha256(_new(tensor_path), config), json_path))
        _new(json_path).replace(json_path)
        _new(tensor_path).replace(tensor_path)
    except OSError as error:
        raise _unwritable(json_path, error) from error


def append_rows(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bool:
    """Writes those rows of `tensors` that a pair which grows does not hold yet behind those it holds.

    False, and nothing is written, if there is no such pair or no room in it. Interrupted, it leaves the pair as it was.
    Raises: CheckpointError if the pair cannot be read or written, has another config, or holds other rows than the first of `tensors`.
    """
    tensor_path, json_path = _pair(path)
    if not json_path.exists():
        return False
    found = _read_config(json_path)
    if any(found.get(key) != value for key, value in config.items()):
        raise CheckpointError(f"What is appended is of one kind with what was saved: {json_path} is not {config}: choose another name.")
    if "rows" not in found:
        return False
    held = found["rows"]  # 1 or more
    try:
        _finish_interrupted_save(tensor_path, json_path)
        with tensor_path.open("rb+") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            rows = {name: tensor.detach().contiguous().numpy().reshape(len(tensor), -1) for name, tensor in tensors.items()}
            if any(len(data) > header[name]["shape"][0] for name, data in rows.items()):
                return False
            for name, data in rows.items():
                file.seek(8 + size + header[name]["data_offsets"][0] + (held - 1) * data[0].nbytes)
                if len(data) < held or file.read(data[0].nbytes) != data[held - 1].tobytes():
                    raise CheckpointError(
                        f"What is appended continues what was saved; row {held} of {name} in {tensor_path} is another: choose another name."
                    )
                data[held:].tofile(file)
            file.flush()
            os.fsync(file.fileno())
        _write(_new(json_path), _json({**config, "rows": len(data)}, found["sha256"], json_path))
        _new(json_path).replace(json_path)
    except OSError as error:
        raise _unwritable(json_path, error) from error
    return True


def _check(config: Mapping[str, Any], json_path: Path) -> None:
    if config.get("kind") not in KINDS:
        raise CheckpointError(f'A checkpoint\'s config names its kind, one of {KINDS}; got {config.get("kind")!r}: add "kind".')
    if taken := [key for key in RESERVED if key in config]:
        raise CheckpointError(f"The keys {RESERVED} belong to the format; the config of {json_path} has {taken}: rename them.")


def _json(config: Mapping[str, Any], sha256: str, json_path: Path) -> bytes:
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, "sha256": sha256, **config}, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"A checkpoint's config is plain JSON; that of {json_path} is not ({error}): save numbers, texts and lists."
        ) from error
    return text.encode() + b"\n"


def _unwritable(json_path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"A checkpoint's folder must be writable; {json_path.parent} is not ({error}): choose another folder.")


def load_checkpoint(
    path: str | os.PathLike[str], kind: str | None = None, mapped: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the config of a pair.

    Args:
        path: the pair's common name, `NAME` or either of its files.
        kind: what the caller can use, "model", "memory" or "training"; None takes any.
        mapped: leave the tensors in the file, from which the system reads what is touched; what is written to them stays in memory.

    Raises:
        CheckpointError: a file is missing, truncated, foreign, of a newer version, of another kind, or not of the same save as the other.
    """
    tensor_path, json_path = _pair(path)
    config = _read_config(json_path)
    if kind not in (None, config["kind"]):
        raise CheckpointError(f"A checkpoint of kind {kind!r} is needed; {json_path} is of kind {config['kind']!r}: name another file.")
    file = _matching_file(tensor_path, config)
    if file is None:
        found = "is cut short, changed, or of another save" if tensor_path.exists() else "does not exist"
        raise CheckpointError(f"{json_path} describes one file of tensors exactly; {tensor_path} {found}: copy or save the pair again.")
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) if mapped else opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"A checkpoint's tensors are in safetensors format; {tensor_path} is not ({error}): save it again."
        ) from error
    return tensors, {key: value for key, value in config.items() if key not in RESERVED}


def check_keys(found: Iterable[str], expected: Iterable[str], where: str) -> None:
    """Checks that a checkpoint holds the expected names, all of them and no others.

    Raises:
        CheckpointError: lists what is missing and what is unexpected in `where`.
    """
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise CheckpointError(
            f"Every name in a checkpoint is needed and none is ignored; {where} misses {missing} and has unexpected {unexpected}: "
            f"load it with the version of gtmsm-env that saved it, or save it again."
        )


def _pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The two files of the checkpoint called `path`."""
    stem = str(path).removesuffix(".safetensors").removesuffix(".json")
    return Path(stem + ".safetensors"), Path(stem + ".json")


def _new(path: Path) -> Path:
    """The name under which a file is written before it takes its place."""
    return path.with_name(path.name + ".new")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # on disk before it is renamed, so that a power cut cannot leave an empty file


def _read_config(path: Path) -> dict[str, Any]:
    """The checked content of a checkpoint's JSON."""
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"A checkpoint is a pair NAME.safetensors and NAME.json; {path} cannot be read ({error}): check the name."
        ) from error
    except ValueError as error:  # no JSON, or no text
        raise CheckpointError(f"A checkpoint's JSON must be whole; {path} is not ({error}): copy or save the pair again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get("version"), int):
        raise CheckpointError(f'A checkpoint says "format": "{FORMAT}" and its version; {path} does not: name a file that gtmsm-env saved.')
    if config["version"] > VERSION:
        raise CheckpointError(
            f"This gtmsm-env reads checkpoints up to version {VERSION}; {path} is of version {config['version']}: "
            f"pip install --upgrade gtmsm-env."
        )
    if config.get("kind") not in KINDS or not isinstance(config.get("sha256"), str):
        raise CheckpointError(f"A checkpoint's JSON has a kind, one of {KINDS}, and a sha256; {path} has not: save it again.")
    return config


def _sha256(path: Path, config: Mapping[str, Any]) -> str:
    """Of all tensors, or of the header of those that grow."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        if "rows" in config:
            return hashlib.sha256(file.read(int.from_bytes(file.read(8), "little"))).hexdigest()
        while part := file.read(1 << 24):
            sha256.update(part)
    return sha256.hexdigest()


def _matching_file(path: Path, config: Mapping[str, Any]) -> Path | None:
    """The tensors that belong to a JSON; an interrupted save may have left them under their temporary name."""
    return next((file for file in (path, _new(path)) if file.exists() and _sha256(file, config) == config["sha256"]), None)


def _finish_interrupted_save(tensor_path: Path, json_path: Path) -> None:
    """Moves tensors whose JSON is already in place to their own name, before the temporary one is written again."""
    try:
        config = _read_config(json_path)
    except CheckpointError:
        return  # nothing good stands there that a new save could lose
    if _new(tensor_path).exists() and _matching_file(tensor_path, config) == _new(tensor_path):
        _new(tensor_path).replace(tensor_path)
