import hashlib
import json
from pathlib import Path

import pytest
import torch

from gtmsm_env.checkpoint import VERSION, CheckpointError, check_keys, load_checkpoint, save_checkpoint

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7), "mask": torch.tensor([True, False])}
CONFIG = {"kind": "model", "world": {"id": "GTMSM-ImageNavigation-v0", "image_size": 32}, "text": "Übung"}


def edit(path: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "a.b", TENSORS, CONFIG)
    return tmp_path / "a.b"


@pytest.mark.parametrize("name", ["a.b", "a.b.json", "a.b.safetensors"])
def test_what_was_saved_comes_back(saved: Path, name: str) -> None:
    tensors, config = load_checkpoint(saved.with_name(name), kind="model")
    assert config == CONFIG
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    assert sorted(file.name for file in saved.parent.iterdir()) == ["a.b.json", "a.b.safetensors"]


def test_views_and_transposes_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3).requires_grad_()
    save_checkpoint(tmp_path / "x", {"row": base[0], "same": base[0], "transposed": base.T}, {"kind": "memory"})
    tensors, _ = load_checkpoint(tmp_path / "x")
    assert tensors["same"].tolist() == tensors["row"].tolist() == [0, 1, 2]
    assert tensors["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_config_can_be_loaded_and_saved_again(saved: Path) -> None:
    tensors, config = load_checkpoint(saved)
    save_checkpoint(saved, tensors, config | {"kind": "training"})
    assert load_checkpoint(saved, kind="training")[1]["world"] == CONFIG["world"]


def test_folders_are_made(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "runs" / "1" / "model", TENSORS, CONFIG)
    assert load_checkpoint(tmp_path / "runs" / "1" / "model")[1] == CONFIG


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_missing_file(saved: Path, suffix: str) -> None:
    Path(f"{saved}{suffix}").unlink()
    with pytest.raises(CheckpointError, match=rf"a\.b\{suffix} (cannot be read|does not exist)"):
        load_checkpoint(saved)


@pytest.mark.parametrize(("suffix", "message"), [(".json", "must be whole"), (".safetensors", "cut short, changed, or of another save")])
def test_truncated_file(saved: Path, suffix: str, message: str) -> None:
    file = Path(f"{saved}{suffix}")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_changed_tensors(saved: Path) -> None:
    file = Path(f"{saved}.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="cut short, changed, or of another save"):
        load_checkpoint(saved)


def test_tensors_of_another_save(saved: Path) -> None:
    other = saved.with_name("other")
    save_checkpoint(other, {"weight": torch.zeros(2, 3)}, CONFIG)
    Path(f"{other}.safetensors").replace(f"{saved}.safetensors")
    with pytest.raises(CheckpointError, match="of another save"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "content",
    [b"[1, 2]", b'"gtmsm-env"', b'{"weights": 3}', b'{"format": "gtmsm-env", "version": "1"}', b'{"format": "other", "version": 1}'],
)
def test_foreign_json(saved: Path, content: bytes) -> None:
    Path(f"{saved}.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"name a file that gtmsm-env saved"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"\x80\x04\x95 a pickle", b"", b"weights"])
def test_json_that_is_none(saved: Path, content: bytes) -> None:
    Path(f"{saved}.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"must be whole"):
        load_checkpoint(saved)


def test_foreign_tensors_with_a_matching_hash(saved: Path) -> None:
    Path(f"{saved}.safetensors").write_bytes(b"not safetensors")
    edit(Path(f"{saved}.json"), sha256=hashlib.sha256(b"not safetensors").hexdigest())
    with pytest.raises(CheckpointError, match="in safetensors format"):
        load_checkpoint(saved)


def test_newer_version(saved: Path) -> None:
    edit(Path(f"{saved}.json"), version=VERSION + 1, kind="what only the future knows")
    with pytest.raises(CheckpointError, match=rf"up to version {VERSION}; .* is of version {VERSION + 1}: pip install --upgrade"):
        load_checkpoint(saved)


def test_wrong_kind(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"kind 'memory' is needed; .* is of kind 'model'"):
        load_checkpoint(saved, kind="memory")


@pytest.mark.parametrize("changes", [{"kind": "video"}, {"kind": ["model"]}, {"sha256": None}])
def test_json_without_kind_or_hash(saved: Path, changes: dict[str, object]) -> None:
    edit(Path(f"{saved}.json"), **changes)
    with pytest.raises(CheckpointError, match="has a kind, one of"):
        load_checkpoint(saved)


def test_keys_are_strict() -> None:
    check_keys(["a", "b"], ["b", "a"], "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors misses \['b', 'c'\] and has unexpected \['x'\]"):
        check_keys(["a", "x"], ["a", "c", "b"], "model.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "names its kind"),
        ({"kind": "weights"}, "got 'weights'"),
        ({"kind": "model", "version": 3}, r"has \['version'\]"),
        ({"kind": "model", "device": torch.device("cpu")}, "plain JSON"),
        ({"kind": "model", "loss": float("nan")}, "plain JSON"),
    ],
)
def test_a_config_that_cannot_be_saved_leaves_the_previous_pair(saved: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(saved, {}, config)
    assert load_checkpoint(saved)[1] == CONFIG


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="folder must be writable"):
        save_checkpoint(tmp_path / "file" / "model", TENSORS, CONFIG)


class Interrupted(BaseException):
    """Stands for Ctrl-C or a killed process, which no `except Exception` sees."""


@pytest.mark.parametrize("second", range(8))
@pytest.mark.parametrize("first", range(8))
def test_an_interrupted_save_leaves_the_previous_pair_or_the_new_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    """Two saves in a row are cut off before and in the middle of every write, and before and after every rename."""

    def interrupt_at(call: int) -> None:
        calls = iter(range(100))

        def interrupted_write(path: Path, data: bytes) -> None:
            if next(calls) == call:
                raise Interrupted
            path.write_bytes(data[: len(data) // 2])
            if next(calls) == call:
                raise Interrupted
            path.write_bytes(data)

        def interrupted_replace(path: Path, target: Path) -> None:
            if next(calls) == call:
                raise Interrupted
            path.rename(target)
            if next(calls) == call:
                raise Interrupted

        monkeypatch.setattr("gtmsm_env.checkpoint._write", interrupted_write)
        monkeypatch.setattr(Path, "replace", interrupted_replace)

    for count, call in enumerate([first, second], start=1):
        before = load_checkpoint(saved)[1].get("count", 0)
        interrupt_at(call)
        with pytest.raises(Interrupted):
            save_checkpoint(saved, {"count": torch.tensor(count)}, CONFIG | {"count": count})
        monkeypatch.undo()
        tensors, config = load_checkpoint(saved)
        assert config.get("count", 0) in (before, count)
        assert int(tensors.get("count", torch.tensor(0))) == config.get("count", 0)

    save_checkpoint(saved, {"count": torch.tensor(5)}, CONFIG)
    assert int(load_checkpoint(saved)[0]["count"]) == 5
    assert sorted(file.name for file in saved.parent.iterdir()) == ["a.b.json", "a.b.safetensors"]


def test_a_checkpoint_never_holds_a_pickle(saved: Path) -> None:
    data = Path(f"{saved}.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + size]).keys() == TENSORS.keys()  # a JSON header, then raw numbers
    assert len(data) == 8 + size + sum(tensor.nbytes for tensor in TENSORS.values())
