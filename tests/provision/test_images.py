"""What clients expect of the two templates (current-protocol 12.4, legacy-protocol 8, code-interpreter 2.14)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sandpit.lib import mounts
from sandpit.templates.layers.store import Layer

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., str]


def mounted(stack: ExitStack, point: Path, *arguments: str) -> None:
    """Mount with mount(8) until the stack ends. Raises: subprocess.CalledProcessError."""
    subprocess.run(["mount", *arguments, str(point)], check=True)
    stack.callback(mounts.unmount, point)


def in_root(lower: list[Layer], work: Path) -> Iterator[Run]:
    """Runs bash login shells as `user` in the image, with a writable layer on top that is thrown away."""
    upper, root = work / "tmpfs", work / "root"
    for folder in (upper, root):
        folder.mkdir()

    def run(script: str, *, user: str = "user", shell: tuple[str, ...] = ("/bin/bash", "-l", "-c")) -> str:
        path = "PATH=/given:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        home = f"HOME={'/root' if user == 'root' else f'/home/{user}'}"
        command = ["chroot", f"--userspec={user}", "--groups=", str(root), "/usr/bin/env", "-i", path, home]
        done = subprocess.run([*command, *shell, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ExitStack() as stack:
        mounted(stack, upper, "-t", "tmpfs", "none")
        for name in ("up", "wk"):
            (upper / name).mkdir()
        lowers = ":".join(str(layer.fs) for layer in reversed(lower))
        options = f"lowerdir={lowers},upperdir={upper / 'up'},workdir={upper / 'wk'}"
        mounted(stack, root, "-t", "overlay", "-o", options, "overlay")
        mounted(stack, root / "proc", "-t", "proc", "proc")
        mounted(stack, root / "dev", "--bind", "/dev")
        yield run


@pytest.fixture(scope="module")
def base(base_layers: list[Layer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield from in_root(base_layers, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def interpreter(interpreter_layers: list[Layer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield from in_root(interpreter_layers, tmp_path_factory.mktemp("interpreter"))


def test_programs(base: Run) -> None:
    names = (
        "bash curl wget git jq less nano unzip sudo ps ip tput gcc g++ make python python3 pip node npm npx yarn gh ssh"
    )
    assert base(f"for name in {names}; do command -v $name >/dev/null || echo missing $name; done") == ""
    assert base("git daemon --help >/dev/null 2>&1; test -x $(git --exec-path)/git-daemon && echo yes") == "yes"


def test_they_run(base: Run) -> None:
    assert base("python --version").startswith("Python 3.11")
    assert int(base("node --version").removeprefix("v").partition(".")[0]) >= 20
    assert base("npm --version && yarn --version").splitlines()[1] == "1.22.22"
    assert base("TERM=xterm-256color tput colors") == "256"
    assert base("printf 'int main(){return 0;}' > /tmp/a.c && gcc /tmp/a.c -o /tmp/a && /tmp/a && echo ok") == "ok"


def test_user(base: Run) -> None:
    assert base("id -u; id -gn; echo $HOME; pwd -P >/dev/null; id -nG user").split("\n")[:3] == [
        "1000",
        "user",
        "/home/user",
    ]
    assert "sudo" in base("id -nG user")
    assert base("stat -c %a /home/user /code").split() == ["755", "777"]
    assert base("sudo -n id -u") == "0"


def test_login_shell_keeps_path_and_sets_prompt(base: Run) -> None:
    assert base("echo $PATH").split(":")[-6:] == ["/given", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    assert base('echo $LANG; echo "$PS1"') == "C.UTF-8\n\\w \\$"
    assert base("locale 2>&1 | grep -c 'Cannot'; true") == "0"
    assert base("echo 'export FROM_RC=1' >> ~/.bashrc; bash -l -c 'echo $FROM_RC'") == "1"
    assert base(". /etc/profile; echo $LANG", shell=("/bin/sh", "-c")) == "C.UTF-8"


def test_everybody_installs_below_usr_local(base: Run) -> None:
    assert base("find /usr/local -type d ! -perm -0777") == ""
    assert base("ls /usr/lib/python3*/EXTERNALLY-MANAGED 2>/dev/null; true") == ""
    setup = "from setuptools import setup; setup(name='tinyone', py_modules=['tinyone'])"
    base(f'mkdir -p /tmp/p && cd /tmp/p && echo x=1 > tinyone.py && echo "{setup}" > setup.py')
    base("cd /tmp/p && pip install -q --no-index --no-build-isolation .")
    where = base("cd / && python -c 'import tinyone; print(tinyone.__file__)'")
    assert where.startswith("/usr/local/lib/python3.11/")


def test_is_small_and_clean(base: Run, base_layers: list[Layer]) -> None:
    assert base("ls -A /var/lib/apt/lists") == "partial"
    assert base("find /usr/share/man /usr/share/doc /var/tmp -type f | wc -l") == "0"
    assert base("test -s /etc/machine-id || echo empty") == "empty"
    assert base_layers[0].bytes < 900e6


def test_packages_of_the_data_science_list(interpreter: Run) -> None:
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
