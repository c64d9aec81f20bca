from __future__ import annotations

import ast
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qp2train.errors import EntryChangedError, ProjectError
from qp2train.qupath.savefile import Stamp, check_unchanged, lock, read_stamped, remove, save


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let the system refuse to write files beyond this size, as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_file_is_replaced_and_the_old_one_kept_as_backup(tmp_path: Path) -> None:
    file = tmp_path / "f"
    save(file, b"one", backup=".bak")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    save(file, b"two", backup=".bak")
    assert (file.read_bytes(), (tmp_path / "f.bak").read_bytes()) == (b"two", b"one")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    file = tmp_path / "f"
    save(file, b"old")
    with room_for(1000), pytest.raises(ProjectError, match=r"f could not be written: .*The old file is as it was"):
        save(file, bytes(2000))
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_at_the_backup_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    file = tmp_path / "f"
    save(file, bytes(2000))
    with room_for(1000), pytest.raises(ProjectError, match="could not be written"):
        save(file, b"new", backup=".bak")
    assert file.read_bytes() == bytes(2000)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ProjectError, match="Permission denied"):
        save(tmp_path / "f", b"")


def test_a_change_meanwhile_is_noticed_a_touch_is_none(tmp_path: Path) -> None:
    file = tmp_path / "f"
    save(file, b"one")
    data, stamp = read_stamped(file)
    assert data == b"one"
    os.utime(file, (1, 1))
    check_unchanged(file, stamp)
    file.write_bytes(b"two")
    for refused in (lambda: save(file, b"mine", expected=stamp), lambda: remove(file, expected=stamp)):
        with pytest.raises(EntryChangedError, match=r"changed since it was read.*Close the image in QuPath"):
            refused()
    assert file.read_bytes() == b"two"
    file.unlink()
    with pytest.raises(EntryChangedError, match="is gone"):
        check_unchanged(file, stamp)


def test_a_file_that_appears_meanwhile_is_noticed(tmp_path: Path) -> None:
    data, stamp = read_stamped(tmp_path / "f")
    assert (data, stamp) == (None, Stamp())
    check_unchanged(tmp_path / "f", stamp)
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(EntryChangedError):
        save(tmp_path / "f", b"mine", expected=stamp)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with lock(file):
        with pytest.raises(EntryChangedError, match="another process is writing"), lock(file, wait_s=0):
            pass
        assert [p.name for p in tmp_path.iterdir()] == ["f.qp2train-lock"]
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    file = tmp_path / "f"
    script = (
        "import os, sys; from pathlib import Path; from qp2train.qupath.savefile import lock\n"
        "with lock(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(file)], cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert (tmp_path / "f.qp2train-lock").exists()
    with lock(file, wait_s=1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_mark_that_nobody_signed_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "f.qp2train-lock").touch()  # killed between making the mark and writing its name into it
    with lock(tmp_path / "f"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    file = tmp_path / "f"
    held = lock(file)
    held.__enter__()
    timer = threading.Timer(0.3, held.__exit__, (None, None, None))
    timer.start()
    with lock(file, wait_s=30):
        assert not timer.is_alive()
    timer.join()


def test_a_crash_at_any_step_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """A child process dies at its 1st, 2nd, … system call that touches the folder; one survives all of them."""
    script = textwrap.dedent("""
        import os, shutil, sys
        from pathlib import Path
        from qp2train.qupath.savefile import lock, save

        folder = Path(sys.argv[1])
        file = folder / "f"

        def die_at(step):
            seen = 0
            def hook(event, args):
                nonlocal seen
                if any(str(folder) in str(a) for a in args):
                    seen += 1
                    if seen == step:
                        os._exit(9)
            sys.addaudithook(hook)

        outcomes = []
        for step in range(1, 40):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            file.write_bytes(b"old")
            child = os.fork()
            if child == 0:
                die_at(step)
                with lock(file):
                    save(file, b"new", backup=".bak")
                os._exit(0)
            died = os.waitpid(child, 0)[1] != 0
            outcomes.append((died, file.read_bytes().decode()))
        print(outcomes)
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    outcomes = ast.literal_eval(done.stdout)
    deaths = [content for died, content in outcomes if died]
    assert len(deaths) >= 8
    assert set(deaths) == {"old", "new"}
    assert outcomes[-1] == (False, "new")
