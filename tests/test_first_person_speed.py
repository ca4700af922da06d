"""The benchmark of first-person frames: our own rows run, small; of other packages' only how they are asked."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from programs import imported

PEER = "from timed import serve\nserve(lambda: print('noise') or (lambda: None))\n"


@pytest.fixture(scope="module")
def speed() -> Iterator[ModuleType]:
    with imported("first_person_speed") as module:
        yield module


def test_our_rows(speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file, threads = tmp_path / "figures.json", torch.get_num_threads()
    small = ["--rows", "2", "--steps", "8", "--rounds", "2", "--seconds", "0.001", "--peers", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["first_person_speed.py", *small])
    try:
        speed.main()
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(file.read_text())["figures"]
    assert list(figures["frames_a_second"]) == [
        speed.VIEWS,
        speed.HALVED[speed.VIEWS],
        speed.PAPER,
        speed.HALVED[speed.PAPER],
        speed.OWN_WORLD,
    ]
    for values in figures["frames_a_second"].values():
        assert len(values) == 2
        assert min(values) > 0
    assert not figures["bars"]
    assert "the labyrinth itself" in capsys.readouterr().out


def test_a_peer_takes_turns_until_it_fails(speed: ModuleType, tmp_path: Path) -> None:
    folder = Path(speed.__file__).parent / "peers"
    programs = {"runs": PEER, "dies": "raise RuntimeError('no screen')"}
    peers = {}
    for name, program in programs.items():
        file = tmp_path / f"{name}.py"
        file.write_text(f"import sys\nsys.path.insert(0, {str(folder)!r})\n{program}")
        peers[name] = speed.Peer(sys.executable, file, {})
    try:
        speeds, unavailable = speed.in_turns(peers, rounds=2, seconds=0.01)
    finally:
        for peer in peers.values():
            peer.close()
    assert list(speeds) == ["runs"]
    assert len(speeds["runs"]) == 2
    assert unavailable == {"dies": "RuntimeError: no screen"}
