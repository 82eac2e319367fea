"""Packages from a tree: dpkg's status files and rpm's sqlite database, as dpkg-query and rpm themselves list them."""

import os
import sqlite3
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.build.packages import read_lock
from harness.build.reference import LOCK
from harness.errors import DamagedImage, HarnessError, MissingFile, UnsupportedImage
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.inspection import inspect
from harness.images.source import open_image
from harness.images.system.packages import Package, find_databases, installed, read_packages
from harness.images.system.rpmdb import Header, parse_header, read_headers
from harness.tools import known_tools, run

BASH = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\nDescription: x\n y\n"
GONE = "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
BASE = "Package: base-files\nArchitecture: arm64\nVersion: 12.4\n"
SPEC = "Name: {}\nVersion: {}\nRelease: 3\nSummary: x\nLicense: x\nBuildArch: noarch\n{}%description\nx\n%files\n"
SPECS = {"alpha": ("1.0", "Epoch: 2\n"), "beta": ("0.9~rc1", "")}

needs_rpm = pytest.mark.skipif(not known_tools()["rpmbuild"].find(), reason="needs rpmbuild to make a true database")


@pytest.fixture
def packages(tmp_path):
    """The packages of a tree with these files (path -> text or bytes), read from a real filesystem."""

    def read(**files):
        files = {path.replace("__", "/"): content for path, content in files.items()}
        return read_packages(tree_of(tmp_path, files))

    return read


def tree_of(tmp_path, files, links=()):
    top, image = tmp_path / "top", tmp_path / "part.img"
    top.mkdir()
    for path, content in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    for path, target in links:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).symlink_to(target)
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", top, image, "16M"])
    return open_files(FileBlock(image))


def test_dpkg_status_lists_what_is_installed_and_not_what_is_remembered(tmp_path):
    tree = tree_of(tmp_path, {"var/lib/dpkg/status": f"{BASH}\n{GONE}\n{BASE}"})
    assert read_packages(tree) == (
        Package("base-files", "12.4", "arm64", "dpkg"),
        Package("bash", "5.2-1", "amd64", "dpkg"),
    )


def test_a_status_file_for_each_package_is_read_too(tmp_path):
    """As in distroless images, where md5sums lie beside it."""
    tree = tree_of(tmp_path, {"var/lib/dpkg/status.d/base": BASE, "var/lib/dpkg/status.d/base.md5sums": "x"})
    assert [package.name for package in read_packages(tree)] == ["base-files"]


def test_a_database_with_two_names_is_read_once(tmp_path):
    """As in ostree images, where /var is made later and the database lies in /usr."""
    links = [("var/lib/dpkg", "../../usr/lib/dpkg-db")]
    tree = tree_of(tmp_path, {"usr/lib/dpkg-db/status": BASH}, links)
    assert [database.path for database in find_databases(tree)] == ["/usr/lib/dpkg-db/status"]


def test_the_reference_image_has_the_packages_of_its_lock(reference):
    locked = [package.name for package in read_lock(reference.path.with_name(LOCK))]
    with open_image(reference.path) as image:
        found = [package.name for package in inspect(image, only=["packages"]).packages]
    assert found == sorted(locked)


@pytest.fixture(scope="module")
def rpm_root(tmp_path_factory):
    """A root whose database rpm itself wrote, with two packages; and what rpm lists."""
    top = tmp_path_factory.mktemp("rpm")
    for name, (version, more) in SPECS.items():
        (top / f"{name}.spec").write_text(SPEC.format(name, version, more))
        run(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}/top", top / f"{name}.spec"])
    rpm = ["rpm", "--root", os.fspath(top / "root"), "--dbpath", "/usr/share/rpm"]
    run([*rpm, "-i", "--nodeps", *sorted((top / "top/RPMS/noarch").iterdir())])
    listed = run([*rpm, "-qa", "--qf", r"%{name} %|epoch?{%{epoch}:}|%{version}-%{release} %{arch}\n"])
    return top / "root/usr/share/rpm", sorted(listed.decode().splitlines())


@needs_rpm
def test_rpm_lists_the_same(rpm_root, tmp_path):
    folder, listed = rpm_root
    files = {f"usr/share/rpm/{path.name}": path.read_bytes() for path in folder.iterdir()}
    found = read_packages(tree_of(tmp_path, files))
    assert [f"{each.name} {each.version} {each.arch}" for each in found] == listed
    assert {each.kind for each in found} == {"rpm"}


@needs_rpm
def test_a_database_with_its_log_written_back_needs_no_log(rpm_root, tmp_path):
    copy = tmp_path / "rpmdb.sqlite"
    for path in rpm_root[0].glob("rpmdb.sqlite*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert sorted(header.name for header in read_headers(copy.read_bytes(), b"", "x")) == list(SPECS)


@pytest.mark.parametrize("name, kind", [("Packages", "Berkeley DB"), ("Packages.db", "ndb")])
def test_older_databases_are_refused_by_name(packages, name, kind):
    with pytest.raises(UnsupportedImage, match=kind):
        packages(**{f"var__lib__rpm__{name}": b"\0" * 100})


def test_a_tree_without_a_database_says_so(packages):
    with pytest.raises(MissingFile, match="no package database"):
        packages(etc__hostname="x")


def test_a_file_that_is_no_database_is_damaged(packages):
    with pytest.raises(DamagedImage, match="no SQLite"):
        packages(**{"usr__share__rpm__rpmdb.sqlite": b"hello"})


def database(tmp_path, *statements):
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(*statement)
    connection.close()
    return path.read_bytes()


def test_a_view_that_never_ends_is_no_table(tmp_path):
    endless = "WITH RECURSIVE n(hnum) AS (SELECT 1 UNION ALL SELECT hnum FROM n)"
    view = f"CREATE VIEW Packages AS {endless} SELECT hnum, x'00' blob FROM n"
    with pytest.raises(DamagedImage, match="without rpm's table"):
        list(read_headers(database(tmp_path, (view,)), b"", "x"))


@pytest.mark.parametrize("blob", [b"", b"\xff" * 8, struct.pack(">II", 1, 0) + bytes(16), "text", None])
def test_a_header_that_claims_too_much_is_damaged(tmp_path, blob):
    raw = database(
        tmp_path,
        ("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)",),
        ("INSERT INTO Packages (blob) VALUES (?)", (blob,)),
    )
    with pytest.raises(DamagedImage):
        list(read_headers(raw, b"", "x"))


def header(*entries, data):
    rows = b"".join(struct.pack(">IIII", *entry) for entry in entries)
    return struct.pack(">II", len(entries), len(data)) + rows + data


def test_a_header_is_read_by_its_tags():
    data = struct.pack(">I", 7) + b"bash\x005.2\x001.el9\0x86_64\0"
    entries = [(1003, 4, 0, 1), (1000, 6, 4, 1), (1001, 6, 9, 1), (1002, 6, 13, 1), (1022, 6, 19, 1), (999, 7, 0, 4)]
    found = parse_header(header(*entries, data=data), "x")
    assert found == Header("bash", "5.2", "1.el9", 7, "x86_64")
    assert found.full_version == "7:5.2-1.el9"


@given(st.binary(max_size=400))
def test_any_bytes_are_a_header_or_damaged(blob):
    try:
        assert parse_header(blob, "x").name is not None
    except HarnessError as error:
        assert str(error)  # noqa: PT017 - either is right


@given(st.text(max_size=200))
def test_any_text_is_a_stanza_or_none(text):
    package = installed(text)
    assert package is None or package.kind == "dpkg"
