"""The quickstart, run as the README says, on its own texts and on folders that aren't as they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def run(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program in a directory, without any OMNIQ_ variable and without a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
    command = [sys.executable, "-W", "error", QUICKSTART / "main.py", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_it_counts_the_texts_that_come_with_it(tmp_path: Path) -> None:
    ran = run(tmp_path)
    assert ran.returncode == 0, ran.stderr
    names = sorted(path.name for path in (QUICKSTART / "texts").iterdir())
    assert [line.split()[0] for line in ran.stdout.splitlines()[3:-14]] == names
    assert ran.stdout.splitlines()[-10].split()[0] == "the"
    assert ran.stderr.splitlines() == [f"{number}/{len(names)} {name}" for number, name in enumerate(names, 1)]
    assert (tmp_path / ".omniq" / "quickstart.db").exists()


def test_a_file_that_is_no_text_fails_alone(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "cats.txt").write_text("The cat, the other cat and a kitten.", "utf-8")
    (texts / "image.png").write_bytes(b"\x89PNG\r\n")
    (texts / "owls.txt").write_text("Hiboux, chouettes: the owls; l'été", "utf-8")
    ran = run(tmp_path, texts)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == TABLE


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    ran = run(tmp_path, tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"Error: there are no files in {tmp_path}\n"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    ran = run(tmp_path, "nowhere")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Directory 'nowhere' does not exist" in ran.stderr


TABLE = """
file         words  distinct  longest word
--------------------------------------------------
cats.txt         8         6  kitten
image.png   failed  UnicodeDecodeError: 'utf-8' codec can't decode byte 0x89 in position 0: invalid start byte
owls.txt         5         5  chouettes
--------------------------------------------------
2 files         13        10  chouettes

most frequent words
the              3
cat              2
other            1
and              1
a                1
kitten           1
hiboux           1
chouettes        1
owls             1
l'été            1
"""
