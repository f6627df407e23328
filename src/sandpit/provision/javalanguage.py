"""A Java runtime for the Java kernel, from Debian's packages, for the code-interpreter template (code-interpreter 2.13).

The kernel itself, jjava, is one of the locked wheels: a jar. Debian's headless runtime has all it needs, the compiler
(`jdk.jshell`) among it, but there is no `javac`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.provision.debian import PackageCache

_JVM = "/usr/lib/jvm/java-17-openjdk-amd64"
_PACKAGE = "openjdk-17-jre-headless"
_LIBRARIES = ["liblcms2-2"]

KERNEL: dict[str, Any] = {
    # Without the wheel's launcher: that is a second JVM which only starts this one.
    "argv": [
        f"{_JVM}/bin/java", "--add-opens", "jdk.jshell/jdk.jshell=ALL-UNNAMED", "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC", "-jar", "{resource_dir}/jjava.jar", "{connection_file}",
    ],
    "display_name": "Java",
    "language": "java",
    "interrupt_mode": "message",
    "env": {"JAVA_HOME": _JVM},
}  # fmt: skip


def add_java(fs: Path, debian: PackageCache) -> None:
    """Unpack the runtime into a tree that has the libraries of `rlanguage` already. Raises: DebianError, OSError."""
    debian.extract([_PACKAGE], fs)
    debian.extract(_LIBRARIES, fs, only=["./usr/lib/*.so*"])
    (fs / "usr/bin/java").symlink_to(f"{_JVM}/bin/java")
    (fs / "usr/local/share/jupyter/kernels/java/jjava-launcher.jar").unlink()
