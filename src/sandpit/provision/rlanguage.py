"""R and its Jupyter kernel, from Debian's packages, for the code-interpreter template (code-interpreter 2.13).

As everything in that layer they are only unpacked. What their maintainer scripts would have done, and R needs, is done here.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.provision.debian import PackageCache

_PACKAGES = [
    "r-base-core", "r-cran-irkernel", "r-cran-irdisplay", "r-cran-repr", "r-cran-evaluate", "r-cran-pbdzmq",
    "r-cran-jsonlite", "r-cran-base64enc", "r-cran-cli", "r-cran-crayon", "r-cran-digest", "r-cran-ellipsis",
    "r-cran-fansi", "r-cran-fastmap", "r-cran-glue", "r-cran-htmltools", "r-cran-lifecycle", "r-cran-pillar",
    "r-cran-rlang", "r-cran-utf8", "r-cran-uuid", "r-cran-vctrs", "fontconfig-config", "fonts-dejavu-core",
    # R's recommended packages, which its users take for part of it
    "r-cran-boot", "r-cran-class", "r-cran-cluster", "r-cran-codetools", "r-cran-foreign", "r-cran-kernsmooth",
    "r-cran-lattice", "r-cran-mass", "r-cran-matrix", "r-cran-mgcv", "r-cran-nlme", "r-cran-nnet", "r-cran-rpart",
    "r-cran-spatial", "r-cran-survival",
]  # fmt: skip
# Of these only the shared libraries. Tcl, Tk and X11's toolkit are left out: there is no display to draw on.
_LIBRARIES = [
    "libblas3", "liblapack3", "libgfortran5", "libicu72", "libzmq5", "libnorm1", "libpgm-5.3-0", "libsodium23",
    "libcairo2", "libpixman-1-0", "libxcb-render0", "libxcb-shm0", "libxrender1", "libfontconfig1", "libfreetype6",
    "libpng16-16", "libjpeg62-turbo", "libtiff6", "libwebp7", "libjbig0", "liblerc4", "libdeflate0", "libpango-1.0-0",
    "libpangocairo-1.0-0", "libpangoft2-1.0-0", "libharfbuzz0b", "libgraphite2-3", "libfribidi0", "libthai0",
    "libdatrie1", "libxt6",
]  # fmt: skip
_ALTERNATIVES = {"libblas.so.3": "blas", "liblapack.so.3": "lapack"}
"""Libraries that Debian puts in a folder of their own and links to when they are chosen."""


def add_r(fs: Path, debian: PackageCache) -> None:
    """Unpack R into a tree that has the libraries of `interpreter` already. Raises: DebianError, OSError."""
    debian.extract(_PACKAGES, fs)
    debian.extract(_LIBRARIES, fs, only=["./usr/lib/*.so*"])
    shutil.copyfile(fs / "usr/lib/R/etc/Renviron.ucf", fs / "etc/R/Renviron")
    for name, folder in _ALTERNATIVES.items():
        [chosen] = (fs / "usr/lib").glob(f"*/{folder}/{name}")
        (chosen.parent.parent / name).symlink_to(f"{folder}/{name}")
    (fs / "usr/local/lib/R/site-library").mkdir(parents=True)  # where install.packages() puts what users add
    (fs / "var/cache/fontconfig").mkdir(parents=True)
