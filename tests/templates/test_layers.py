"""Layers appear whole or not at all, stack, and never touch what is outside."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from sandpit.lib.partials import remove_tree
from sandpit.templates.layers.store import Layer, LayerError, LayerStore, layer_key

if TYPE_CHECKING:
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def make(store: LayerStore, key: str, parent: str | None, files: dict[str, str]) -> Layer:
    def produce(fs: Path) -> None:
        for name, text in files.items():
            (fs / name).parent.mkdir(parents=True, exist_ok=True)
            (fs / name).write_text(text)

    return store.ensure(key, parent=parent, step="test", produce=produce)


def leftovers(store: LayerStore) -> list[Path]:
    return list((store.root / ".tmp").iterdir())


def test_key_depends_on_every_part_and_its_borders() -> None:
    keys = [
        layer_key(None, "s"),
        layer_key("p", "s"),
        layer_key("p", "t"),
        layer_key("p", "s", "ab", "c"),
        layer_key("p", "s", "a", "bc"),
        layer_key("p", "s", b"abc"),
    ]
    assert len(set(keys)) == len(keys)
    assert layer_key("p", "s", "a") == layer_key("p", "s", b"a")


def test_made_once(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    first = make(store, "k", None, {"a": "one"})
    again = make(LayerStore(tmp_path), "k", None, {"a": "two"})
    assert again == first
    assert (again.fs / "a").read_text() == "one"
    assert first.bytes > 0
    assert not leftovers(store)


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)

    def explode(fs: Path) -> None:
        (fs / "half").write_text("done")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.ensure("k", parent=None, step="test", produce=explode)
    assert store.find("k") is None
    assert not leftovers(store)


def test_a_killed_build_is_swept_but_not_a_running_one(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    stale = store.root / ".tmp/dead.x"
    (stale / "fs").mkdir(parents=True)
    with store.building("a", parent=None, step="test") as running:
        assert not stale.exists()
        make(store, "b", None, {})
        assert running.exists()
    assert store.find("a")


def test_the_slower_of_two_builds_gives_way(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    with store.building("k", parent=None, step="slow") as fs:
        (fs / "a").write_text("slow")
        with store.building("k", parent=None, step="fast") as other:
            (other / "a").write_text("fast")
    layer = store.find("k")
    assert layer
    assert (layer.fs / "a").read_text() == "fast"
    assert not leftovers(store)


@pytest.mark.parametrize("key", ["../x", "", ".", "a/b", "a.b"])
def test_keys_are_never_paths(tmp_path: Path, key: str) -> None:
    with pytest.raises(LayerError):
        LayerStore(tmp_path).find(key)


def test_chain_tells_what_is_missing(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    make(store, "top", "gone", {})
    with pytest.raises(LayerError, match="gone is missing"):
        store.chain("top")


@needs_root
def test_removing_never_follows_mounts(tmp_path: Path) -> None:
    precious, tree = tmp_path / "precious", tmp_path / "with space"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (tree / "inside").mkdir(parents=True)
    subprocess.run(["mount", "--bind", precious, tree / "inside"], check=True)
    remove_tree(tree)
    assert not tree.exists()
    assert (precious / "file").read_text() == "kept"


@needs_root
def test_layers_have_no_devices(tmp_path: Path) -> None:
    """What is below dev/ is dropped, as every sandbox has a /dev of its own; elsewhere, devices are refused. Whiteouts stay."""
    store = LayerStore(tmp_path)

    def produce(fs: Path) -> None:
        (fs / "dev/inner").mkdir(parents=True)
        os.mknod(fs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(fs / "dev/inner/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
        os.mknod(fs / "gone", stat.S_IFCHR)
        os.mkfifo(fs / "dev/pipe")

    layer = store.ensure("k", parent=None, step="test", produce=produce)
    assert sorted(path.name for path in layer.fs.rglob("*")) == ["dev", "gone", "inner", "pipe"]

    def hostile(fs: Path) -> None:
        (fs / "srv").mkdir()
        os.mknod(fs / "srv/disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))

    with pytest.raises(LayerError, match="srv/disk"):
        store.ensure("other", parent=None, step="test", produce=hostile)
    assert store.find("other") is None
    assert not leftovers(store)


@needs_root
def test_layers_of_earlier_releases_lose_their_devices(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    layer = make(store, "old", None, {"dev/file": "kept"})
    os.mknod(layer.fs / "dev/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    store.drop_devices()
    assert [path.name for path in (layer.fs / "dev").iterdir()] == ["file"]
