import importlib.util
import io
import sys
import warnings
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray

from gtmsm_env.envs import procedural
from gtmsm_env.envs.files import ImageSourceError, split_of
from gtmsm_env.envs.images import open_images

Image = pytest.importorskip("PIL.Image")

PARTITION = {"000001.jpg": 0, "000002.jpg": 0, "000003.jpg": 1, "000004.jpg": 2, "000005.jpg": 2}
LAYOUTS = ["official", "official zip", "torchvision", "zip", "nested", "flat"]


def jpeg(colour: int, size: tuple[int, int] = (178, 218)) -> bytes:
    """A picture of one colour with a white frame outside the central 148 x 148."""
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    pixels[35:183, 15:163] = colour
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def make_celeba(root: Path, layout: str) -> None:
    """A tiny fake CelebA, picture k of colour 20 k."""
    folder = {"official": "Img/img_align_celeba", "torchvision": "celeba/img_align_celeba", "nested": "img_align_celeba/img_align_celeba"}
    table = {"official": "Eval", "official zip": "Eval", "torchvision": "celeba"}
    files = {name: jpeg(20 * (number + 1)) for number, name in enumerate(PARTITION)}
    if layout.endswith("zip"):
        archive = root / ("Img/img_align_celeba.zip" if "official" in layout else "img_align_celeba.zip")
        archive.parent.mkdir(parents=True, exist_ok=True)
        with ZipFile(archive, "w") as opened:
            for name, data in files.items():
                opened.writestr(f"img_align_celeba/{name}", data)
    else:
        images = root / folder.get(layout, "img_align_celeba")
        images.mkdir(parents=True)
        for name, data in files.items():
            (images / name).write_bytes(data)
    there = root / table.get(layout, ".")
    there.mkdir(parents=True, exist_ok=True)
    if layout == "nested":
        lines = ["image_id,partition", *(f"{name},{part}" for name, part in PARTITION.items())]
        (there / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
    else:
        (there / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in PARTITION.items()))


def make_folder(root: Path, count: int, size: tuple[int, int] = (40, 30)) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (number, 0, 0)).save(root / f"{number:03d}.png")


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


class TestProcedural:
    def test_a_picture_depends_on_its_split_and_number_alone(self) -> None:
        source = open_images(split="test")
        pictures = source.batch([5, 3, 900, 5])
        assert pictures.shape == (4, 32, 32, 3)
        assert pictures.dtype == np.uint8
        assert source.name == "procedural"
        assert source.split == "test"
        fresh = open_images(split="test")
        assert all(np.array_equal(picture, fresh[number]) for picture, number in zip(pictures, [5, 3, 900, 5], strict=True))

    def test_no_two_pictures_of_any_split_are_equal(self) -> None:
        pictures = np.concatenate([open_images(split=split).batch(range(40)) for split in ("train", "validation", "test")])
        assert len(np.unique(pictures.reshape(120, -1), axis=0)) == 120

    @pytest.mark.parametrize("size", [4, 5, 16, 33, 64])
    def test_any_size(self, size: int) -> None:
        pictures = open_images(split="train", image_size=size).batch(range(3))
        assert pictures.shape == (3, size, size, 3)
        assert pictures.std() > 10

    def test_a_size_is_only_a_resolution(self) -> None:
        """Small and large show the same scene: alike once averaged over 2 small pixels, the waves of the finest texture."""
        small = procedural.paint("test", range(12), 32).astype(float).reshape(12, 16, 2, 16, 2, 3).mean(axis=(2, 4))
        large = procedural.paint("test", range(12), 256).astype(float).reshape(12, 16, 16, 16, 16, 3).mean(axis=(2, 4))
        for one, other in zip(small, large, strict=True):
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95

    def test_smooth_as_photographs_are(self) -> None:
        """No per-pixel noise: neighbours resemble each other, and differences grow with distance."""
        pictures = procedural.paint("test", range(100), 32).astype(float)
        near, far = (np.square(pictures[:, :, by:] - pictures[:, :, :-by]).mean() for by in (1, 4))
        assert near < 0.25 * pictures.var()
        assert far > 2 * near

    def test_as_hard_as_the_calibration(self) -> None:
        train, test = (open_images(split=split).batch(range(400)) for split in ("train", "test"))
        figures = benchmark("image_difficulty").difficulty(train, test)
        assert 23.5 < figures["PCA-16"] <= 24.5
        assert figures["PCA-64"] >= 31.5
        assert 10 < figures["copy"] <= 11

    def test_splits_are_bounded_and_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="for folders"):
            open_images(split="all")
        with pytest.raises(IndexError, match="images 0 to 9999"):
            open_images(split="test")[10_000]
        with pytest.raises(IndexError, match="image -1"):
            open_images(split="test")[-1]


class TestCelebA:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout_keeps_the_official_split(self, tmp_path: Path, layout: str) -> None:
        make_celeba(tmp_path, layout)
        for split, colours in (("train", [20, 40]), ("validation", [60]), ("test", [80, 100])):
            source = open_images(str(tmp_path), split=split, image_size=16)
            assert len(source) == len(colours)
            assert source.batch(range(len(source)))[:, 4:-4, 4:-4].mean(axis=(1, 2, 3)) == pytest.approx(colours, abs=2)

    @pytest.mark.parametrize(
        ("layout", "given"),
        [
            ("official", "Img/img_align_celeba"),
            ("torchvision", "celeba"),
            ("torchvision", "celeba/img_align_celeba"),
            ("zip", "img_align_celeba.zip"),
            ("official zip", "Img/img_align_celeba.zip"),
            ("nested", "img_align_celeba"),
            ("nested", "img_align_celeba/img_align_celeba"),
        ],
    )
    def test_the_images_themselves_may_be_given(self, tmp_path: Path, layout: str, given: str) -> None:
        make_celeba(tmp_path, layout)
        assert len(open_images(str(tmp_path / given), split="train")) == 2

    def test_the_face_is_the_central_148_pixels(self, tmp_path: Path) -> None:
        """The white frame around them is gone; twice the size would show it."""
        make_celeba(tmp_path, "flat")
        picture = open_images(str(tmp_path), split="train", image_size=37)[0]
        assert picture.max() < 60

    def test_a_missing_half_says_what_was_looked_for_and_how_to_get_it(self, tmp_path: Path) -> None:
        make_celeba(tmp_path, "flat")
        (tmp_path / "list_eval_partition.txt").rename(tmp_path / "elsewhere.txt")
        with pytest.raises(ImageSourceError, match=r"partition table.*Eval/list_eval_partition.txt.*mmlab"):
            open_images(str(tmp_path), split="train")
        only_table = tmp_path / "only"
        only_table.mkdir()
        (tmp_path / "elsewhere.txt").rename(only_table / "list_eval_partition.txt")
        with pytest.raises(ImageSourceError, match=r"the images cannot be found.*Img/img_align_celeba.zip.*mmlab"):
            open_images(str(only_table), split="train")
        with pytest.raises(ImageSourceError, match="mmlab"):
            open_images(str(tmp_path / "nowhere" / "img_align_celeba.zip"), split="train")

    def test_malformed_tables_and_zips(self, tmp_path: Path) -> None:
        make_celeba(tmp_path, "zip")
        (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg three\n")
        with pytest.raises(ImageSourceError, match=r"malformed.*000002.jpg three.*mmlab"):
            open_images(str(tmp_path), split="train")
        (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
        (tmp_path / "img_align_celeba.zip").write_bytes(b"not a zip")
        with pytest.raises(ImageSourceError, match=r"cannot be read as a zip.*mmlab"):
            open_images(str(tmp_path), split="train")

    def test_missing_and_damaged_images_are_counted_once(self, tmp_path: Path) -> None:
        make_celeba(tmp_path, "nested")
        images = tmp_path / "img_align_celeba" / "img_align_celeba"
        (images / "000001.jpg").unlink()
        with pytest.warns(UserWarning, match=r"^1 image files .* 1 are left"):
            assert len(open_images(str(tmp_path), split="train")) == 1
        (images / "000002.jpg").unlink()
        with pytest.raises(ImageSourceError, match="none of the 2 images"):
            open_images(str(tmp_path), split="train")

    def test_a_damaged_zip_member_is_replaced_with_one_warning(self, tmp_path: Path) -> None:
        make_celeba(tmp_path, "zip")
        archive = tmp_path / "img_align_celeba.zip"
        data = bytearray(archive.read_bytes())
        middle = data.index(b"000004.jpg") + 500
        data[middle : middle + 50] = bytes(50)
        archive.write_bytes(data)
        source = open_images(str(archive), split="test", image_size=16)
        with pytest.warns(UserWarning, match="1 of 2 images read"):
            assert source.batch([0, 1])[:, 4:-4, 4:-4].mean(axis=(1, 2, 3)) == pytest.approx([100, 100], abs=2)

    def test_all_is_refused(self, tmp_path: Path) -> None:
        make_celeba(tmp_path, "flat")
        with pytest.raises(ImageSourceError, match="official splits"):
            open_images(str(tmp_path), split="all")


class TestFolder:
    def test_all_images_are_found_in_order_and_cut_to_their_central_square(self, tmp_path: Path) -> None:
        pixels = np.zeros((20, 60, 3), np.uint8)
        pixels[:, 20:40] = 200
        (tmp_path / "deep").mkdir()
        Image.fromarray(pixels).save(tmp_path / "deep" / "wide.png")
        Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.PNG")
        Image.fromarray(pixels[..., 0]).save(tmp_path / "a_grey.png")
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / "._hidden.png").write_bytes(b"")
        source = open_images(str(tmp_path), split="all", image_size=10)
        assert len(source) == 3
        assert source.batch([0, 1, 2]).min() == 200
        assert source.name == str(tmp_path)

    def test_shrinking_is_antialiased(self, tmp_path: Path) -> None:
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        Image.fromarray(stripes).save(tmp_path / "stripes.png")
        picture = open_images(str(tmp_path), split="all", image_size=16)[0]
        assert np.abs(picture.astype(int) - 127).max() < 20

    def test_the_split_is_stable_disjoint_and_complete(self, tmp_path: Path) -> None:
        make_folder(tmp_path, 60)

        def colours(split: str) -> set[int]:
            source = open_images(str(tmp_path), split=split, image_size=8)
            return set(source.batch(range(len(source)))[:, 0, 0, 0].tolist())

        train, validation, test = colours("train"), colours("validation"), colours("test")
        assert len(train) + len(validation) + len(test) == 60
        assert train | validation | test == colours("all") == set(range(60))
        assert len(train) > 40
        (tmp_path / "000.png").unlink()  # what else is there does not matter
        assert colours("test") == test - {0}
        assert [split_of(f"{number:03d}.png") for number in range(4)] == ["train", "train", "validation", "train"]

    def test_corrupt_images_are_skipped_with_one_warning_that_counts_them(self, tmp_path: Path) -> None:
        make_folder(tmp_path, 5)
        (tmp_path / "000.png").write_bytes((tmp_path / "000.png").read_bytes()[:-20])  # truncated
        (tmp_path / "cut.jpg").write_bytes(jpeg(50)[:-100])
        (tmp_path / "text.jpg").write_text("not an image")
        (tmp_path / "empty.bmp").write_bytes(b"")
        with pytest.warns(UserWarning, match="^4 image files .*corrupt.* 4 are left") as caught:
            source = open_images(str(tmp_path), split="all", image_size=8)
        assert len(caught) == 1
        assert source.batch(range(4))[:, 0, 0, 0].tolist() == [1, 2, 3, 4]

    def test_images_that_turn_out_corrupt_are_replaced_with_one_warning(self, tmp_path: Path) -> None:
        make_folder(tmp_path, 4)
        for name in ("001.png", "003.png"):
            data = bytearray((tmp_path / name).read_bytes())
            data[30:50] = bytes(20)
            (tmp_path / name).write_bytes(data)
        source = open_images(str(tmp_path), split="all", image_size=8)
        with pytest.warns(UserWarning, match="2 of 4 images read") as caught:
            assert source.batch(range(4))[:, 0, 0, 0].tolist() == [0, 2, 2, 0]
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            source.batch([3])

    def test_a_folder_of_corrupt_images_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"nothing")
        with pytest.raises(ImageSourceError, match=r"no whole image \(1 corrupt\).*CelebA.*mmlab"):
            open_images(str(tmp_path), split="all")
        make_folder(tmp_path / "b", 1)
        data = bytearray((tmp_path / "b" / "000.png").read_bytes())
        data[30:50] = bytes(20)
        (tmp_path / "b" / "000.png").write_bytes(data)
        with pytest.raises(ImageSourceError, match="can be decoded"):
            open_images(str(tmp_path / "b"), split="all")[0]

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ImageSourceError, match=r"no folder of images; looked for 'procedural', CelebA.*mmlab"):
            open_images(str(tmp_path / "missing"), split="test")
        with pytest.raises(ImageSourceError, match=r"no whole image \(0 corrupt\)"):
            open_images(str(tmp_path), split="test")
        make_folder(tmp_path, 1)
        with pytest.raises(ImageSourceError, match=r"split 'test'.*split='all'"):
            open_images(str(tmp_path), split="test")

    def test_arguments(self) -> None:
        with pytest.raises(ValueError, match="split must be one of"):
            open_images(split="valid")
        with pytest.raises(ValueError, match="image_size must be at least"):
            open_images(split="test", image_size=3)


def test_the_cache_is_bounded_and_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, 6)
    monkeypatch.setattr("gtmsm_env.envs.images.CACHE_BYTES", 4 * 8 * 8 * 3)
    source = open_images(str(tmp_path), split="all", image_size=8)
    read: list[list[int]] = []
    decode = source._read

    def counted(numbers: list[int]) -> NDArray[np.uint8]:
        read.append(numbers)
        return decode(numbers)

    monkeypatch.setattr(source, "_read", counted)
    source.batch([0, 1, 0, 2])[:] = 99
    assert source.batch([0, 1, 2])[:, 0, 0, 0].tolist() == [0, 1, 2]
    source.batch([3, 4])  # pushes 0 out
    assert source.batch([1, 0])[:, 0, 0, 0].tolist() == [1, 0]
    assert read == [[0, 1, 2], [3, 4], [0]]
    assert len(source._cache) == 4


def test_photographs_are_cut_into_tiles(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    photographs = benchmark("photographs")
    assert {"astronaut", "coffee", "chelsea", "china", "flower"} <= set(photographs.photographs())
    count = photographs.write_tiles(tmp_path / "tiles", tile=32, short_side=64, grey=False)
    source = open_images(str(tmp_path / "tiles"), split="all")
    assert len(source) == count >= 7 * 4
    assert source.batch(range(count)).reshape(count, -1).std(axis=1).mean() > 20
