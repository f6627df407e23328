"""What clients expect of the two templates (current-protocol 12.4, legacy-protocol 8, code-interpreter 2.14)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from sandpit.build.layers import Layer, mount_layers, unmount

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., str]


def in_root(lower: list[Layer], work: Path) -> Iterator[Run]:
    """Runs bash login shells as `user` in the image, with a writable layer on top that is thrown away."""
    image, upper, root = work / "image", work / "tmpfs", work / "root"
    for folder in (upper, root):
        folder.mkdir()
    mount_layers(lower, image)
    subprocess.run(["mount", "-t", "tmpfs", "none", upper], check=True)
    for name in ("up", "wk"):
        (upper / name).mkdir()
    options = f"lowerdir={image},upperdir={upper}/up,workdir={upper}/wk"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)

    def run(script: str, *, user: str = "user", shell: tuple[str, ...] = ("/bin/bash", "-l", "-c")) -> str:
        path = "PATH=/given:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        home = f"HOME={'/root' if user == 'root' else f'/home/{user}'}"
        command = ["chroot", f"--userspec={user}", "--groups=", str(root), "/usr/bin/env", "-i", path, home]
        done = subprocess.run([*command, *shell, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        yield run
    finally:
        for point in (root / "dev", root / "proc", root, upper, image):
            unmount(point)


@pytest.fixture(scope="module")
def base(base_layers: list[Layer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield from in_root(base_layers, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def interpreter(interpreter_layers: list[Layer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield from in_root(interpreter_layers, tmp_path_factory.mktemp("interpreter"))


def test_programs(base: Run) -> None:
    names = (
        "aiohttp bash_kernel bokeh bs4 cv2 docx gensim imageio ipykernel IPython joblib jupyter_server "
        "kaleido librosa matplotlib nltk numba numpy openpyxl orjson pandas PIL plotly pytest pytz requests "
        "scipy seaborn skimage sklearn soundfile spacy sympy textblob tornado urllib3 xarray xlrd "
    )
    code = "import importlib.util, sys; print([n for n in sys.argv[1:] if not importlib.util.find_spec(n)])"
    assert interpreter(f"python3 -c '{code}' {names}") == "[]"


def test_compiled_libraries_load(interpreter: Run) -> None:
    code = "import cv2, numpy, pandas, scipy.linalg, soundfile; print(*(m.__version__ for m in (cv2, numpy, pandas)))"
    assert interpreter(f"python3 -c '{code}'") == "4.11.0 2.3.5 2.2.3"


def test_chart_font(interpreter: Run) -> None:
    code = 'import matplotlib; print(matplotlib.rcParams["font.sans-serif"][0])'
    assert interpreter(f"python3 -c '{code}'") == "Noto Sans CJK JP"
    assert interpreter("ls /usr/share/fonts/opentype/noto/").split() == [
        "NotoSansCJK-Bold.ttc",
        "NotoSansCJK-Regular.ttc",
    ]


def test_kernels_and_scripts(interpreter: Run) -> None:
    listed = interpreter("jupyter kernelspec list --json")
    assert '"python3"' in listed
    assert '"bash"' in listed
    assert "/usr/bin/python3" in listed
    assert interpreter("grep -lE '^#!.*python' /usr/local/bin/* | xargs head -qn1 | sort -u") == "#!/usr/bin/python3"
    assert interpreter("find /usr/local -type d ! -perm -0777") == ""


def test_first_import_finds_compiled_files(interpreter: Run) -> None:
    code = "import pandas, os; print(os.path.exists(pandas.__cached__), os.stat(pandas.__cached__).st_uid)"
    assert interpreter(f"python3 -B -c '{code}'") == "True 0"
    stale = "import sys; sys.dont_write_bytecode = True; import pandas, matplotlib"
    assert "matches" in interpreter(f"python3 -v -B -c '{stale}' 2>&1 | grep -m1 'matches.*pandas/__init__.py'")
